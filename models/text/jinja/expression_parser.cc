#include "models/text/jinja/expression_parser.h"

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace packrat::jinja {
namespace {

using Kind = Expression::Kind;

// Of chains such as a + b + c + ..., which nest without brackets.
constexpr int kMaxDepth = 200;

}  // namespace

ExpressionPtr ExpressionParser::Make(Kind kind) {
  auto made = std::make_unique<Expression>();
  made->kind = kind;
  made->line = tokens_.now().line;
  return made;
}

ExpressionPtr ExpressionParser::Done(ExpressionPtr made) {
  for (const ExpressionPtr& part : made->parts) {
    if (part != nullptr) made->depth = std::max(made->depth, part->depth + 1);
  }
  if (made->depth > kMaxDepth) {
    tokens_.Fail(absl::StrCat("an expression is more than ", kMaxDepth, " levels deep"));
  }
  return made;
}

ExpressionPtr ExpressionParser::Pair(Kind kind, ExpressionPtr a, ExpressionPtr b) {
  ExpressionPtr made = Make(kind);
  made->parts.push_back(std::move(a));
  made->parts.push_back(std::move(b));
  return Done(std::move(made));
}

ExpressionPtr ExpressionParser::Parse(bool with_choice) {
  const TokenStream::Nested nested(&tokens_);
  ExpressionPtr made = tokens_.ok() ? ParseOr() : Make(Kind::kConstant);
  while (with_choice && tokens_.TakeName("if")) {
    ExpressionPtr choice = Make(Kind::kChoice);
    choice->parts.push_back(std::move(made));
    choice->parts.push_back(ParseOr());
    choice->parts.push_back(tokens_.TakeName("else") ? Parse() : nullptr);
    made = Done(std::move(choice));
  }
  return made;
}

ExpressionPtr ExpressionParser::ParseList(bool with_choice) {
  ExpressionPtr first = Parse(with_choice);
  if (!tokens_.IsOperator(",")) return first;
  ExpressionPtr list = Make(Kind::kTuple);
  list->parts.push_back(std::move(first));
  while (tokens_.TakeOperator(",")) {
    if (tokens_.Is(Token::Kind::kVariableEnd) || tokens_.Is(Token::Kind::kBlockEnd) ||
        tokens_.IsOperator(")")) {
      break;
    }
    list->parts.push_back(Parse(with_choice));
  }
  return Done(std::move(list));
}

template <class Operand>
ExpressionPtr ExpressionParser::ParseChain(std::initializer_list<const char*> operators,
                                           Operand operand) {
  ExpressionPtr left = operand();
  while (tokens_.Is(Token::Kind::kOperator) &&
         std::find(operators.begin(), operators.end(), tokens_.now().text) != operators.end()) {
    const std::string name = tokens_.Take().text;
    left = Pair(Kind::kArithmetic, std::move(left), operand());
    left->name = name;
  }
  return left;
}

ExpressionPtr ExpressionParser::ParseOr() {
  ExpressionPtr left = ParseAnd();
  while (tokens_.TakeName("or")) left = Pair(Kind::kOr, std::move(left), ParseAnd());
  return left;
}

ExpressionPtr ExpressionParser::ParseAnd() {
  ExpressionPtr left = ParseNot();
  while (tokens_.TakeName("and")) left = Pair(Kind::kAnd, std::move(left), ParseNot());
  return left;
}

ExpressionPtr ExpressionParser::ParseNot() {
  if (!tokens_.IsName("not")) return ParseComparison();
  const TokenStream::Nested nested(&tokens_);
  ExpressionPtr made = Make(Kind::kNot);
  tokens_.Take();
  made->parts.push_back(tokens_.ok() ? ParseNot() : Make(Kind::kConstant));
  return Done(std::move(made));
}

ExpressionPtr ExpressionParser::ParseComparison() {
  ExpressionPtr first = ParseSum();
  std::vector<std::string> names;
  std::vector<ExpressionPtr> parts;
  while (tokens_.ok()) {
    std::string name;
    const std::string& text = tokens_.now().text;
    if (tokens_.Is(Token::Kind::kOperator) && (text == "==" || text == "!=" || text == "<" ||
                                               text == "<=" || text == ">" || text == ">=")) {
      name = tokens_.Take().text;
    } else if (tokens_.TakeName("in")) {
      name = "in";
    } else if (tokens_.IsName("not") && tokens_.next().kind == Token::Kind::kName &&
               tokens_.next().text == "in") {
      tokens_.Take();
      tokens_.Take();
      name = "not in";
    } else {
      break;
    }
    names.push_back(name);
    parts.push_back(ParseSum());
  }
  if (names.empty()) return first;
  ExpressionPtr made = Make(Kind::kCompare);
  made->names = std::move(names);
  made->parts.push_back(std::move(first));
  std::move(parts.begin(), parts.end(), std::back_inserter(made->parts));
  return Done(std::move(made));
}

ExpressionPtr ExpressionParser::ParseSum() {
  return ParseChain({"+", "-"}, [this] { return ParseConcat(); });
}

ExpressionPtr ExpressionParser::ParseConcat() {
  ExpressionPtr first = ParseProduct();
  if (!tokens_.IsOperator("~")) return first;
  ExpressionPtr made = Make(Kind::kConcat);
  made->parts.push_back(std::move(first));
  while (tokens_.TakeOperator("~")) made->parts.push_back(ParseProduct());
  return Done(std::move(made));
}

ExpressionPtr ExpressionParser::ParseProduct() {
  return ParseChain({"*", "/", "//", "%"}, [this] { return ParsePower(); });
}

ExpressionPtr ExpressionParser::ParsePower() {
  return ParseChain({"**"}, [this] { return ParseUnary(); });
}

ExpressionPtr ExpressionParser::ParseUnary(bool with_filters) {
  ExpressionPtr made;
  if (tokens_.IsOperator("-") || tokens_.IsOperator("+")) {
    const TokenStream::Nested nested(&tokens_);
    made = Make(tokens_.IsOperator("-") ? Kind::kNegative : Kind::kPositive);
    tokens_.Take();
    made->parts.push_back(tokens_.ok() ? ParseUnary(false) : Make(Kind::kConstant));
    made = Done(std::move(made));
  } else {
    made = ParsePostfix(ParsePrimary());
  }
  if (!with_filters) return made;
  while (tokens_.ok()) {
    if (tokens_.IsOperator("|")) {
      made = ParseFilters(std::move(made));
    } else if (tokens_.TakeName("is")) {
      made = ParseTest(std::move(made));
    } else if (tokens_.IsOperator("(")) {
      made = ParsePostfix(std::move(made));
    } else {
      break;
    }
  }
  return made;
}

ExpressionPtr ExpressionParser::ParsePrimary() {
  if (tokens_.IsOperator("(") || tokens_.IsOperator("[") || tokens_.IsOperator("{")) {
    return ParseBracketed();
  }
  return ParseConstant();
}

ExpressionPtr ExpressionParser::ParseConstant() {
  ExpressionPtr made = Make(Kind::kConstant);
  if (tokens_.Is(Token::Kind::kString)) {
    std::string text;  // Strings beside one another are one.
    while (tokens_.Is(Token::Kind::kString)) text += tokens_.Take().text;
    made->constant = Value::Own(text);
  } else if (tokens_.Is(Token::Kind::kInteger)) {
    int64_t number = 0;
    if (!absl::SimpleAtoi(tokens_.now().text, &number)) tokens_.Fail("a number is too large");
    tokens_.Take();
    made->constant = Value::Int(number);
  } else if (tokens_.Is(Token::Kind::kFloat)) {
    double number = 0;
    if (!absl::SimpleAtod(tokens_.Take().text, &number)) tokens_.Fail("a number is too large");
    made->constant = Value::Float(number);
  } else if (tokens_.Is(Token::Kind::kName)) {
    const std::string name = tokens_.Take().text;
    if (name == "true" || name == "True") {
      made->constant = Value::Bool(true);
    } else if (name == "false" || name == "False") {
      made->constant = Value::Bool(false);
    } else if (name == "none" || name == "None") {
      made->constant = Value::None();
    } else {
      made->kind = Kind::kName;
      made->name = name;
    }
  } else {
    tokens_.Fail(absl::StrCat("unexpected '", tokens_.Shown(), "'"));
  }
  return made;
}

// (a), (a, b), [a, b], {a: b}
ExpressionPtr ExpressionParser::ParseBracketed() {
  const std::string open = tokens_.Take().text;
  const char* const close = open == "(" ? ")" : open == "[" ? "]" : "}";
  ExpressionPtr made = Make(open == "{" ? Kind::kDict : open == "[" ? Kind::kList : Kind::kTuple);
  bool comma = false;
  while (tokens_.ok() && !tokens_.IsOperator(close)) {
    made->parts.push_back(Parse());
    if (open == "{") {
      tokens_.Expect(":");
      made->parts.push_back(Parse());
    }
    const bool more = tokens_.TakeOperator(",");
    comma = comma || more;
    if (!more) break;
  }
  tokens_.Expect(close);
  if (open == "(" && !comma && made->parts.size() == 1) return std::move(made->parts[0]);
  return Done(std::move(made));
}

ExpressionPtr ExpressionParser::ParsePostfix(ExpressionPtr made) {
  while (tokens_.ok()) {
    if (tokens_.TakeOperator(".")) {
      ExpressionPtr of = std::move(made);
      if (tokens_.Is(Token::Kind::kInteger)) {
        made = Pair(Kind::kItem, std::move(of), ParseConstant());
      } else {
        made = Make(Kind::kAttribute);
        made->name = tokens_.ExpectName();
        made->parts.push_back(std::move(of));
        made = Done(std::move(made));
      }
    } else if (tokens_.IsOperator("[")) {
      made = ParseItem(std::move(made));
    } else if (tokens_.IsOperator("(")) {
      ExpressionPtr call = Make(Kind::kCall);
      call->parts.push_back(std::move(made));
      ParseArguments(call.get());
      made = Done(std::move(call));
    } else {
      break;
    }
  }
  return made;
}

// [index] or [start:stop:step]
ExpressionPtr ExpressionParser::ParseItem(ExpressionPtr of) {
  tokens_.Expect("[");
  std::vector<ExpressionPtr> parts;
  const auto bound = [&] {
    const bool absent = tokens_.IsOperator(":") || tokens_.IsOperator("]");
    parts.push_back(absent ? nullptr : Parse());
  };
  bound();
  bool slice = false;
  while (parts.size() < 3 && tokens_.TakeOperator(":")) {
    slice = true;
    bound();
  }
  if (!slice && parts[0] == nullptr) tokens_.Fail("an index is missing");
  tokens_.Expect("]");
  if (!slice && parts[0] != nullptr) return Pair(Kind::kItem, std::move(of), std::move(parts[0]));
  ExpressionPtr made = Make(Kind::kSlice);
  made->parts.push_back(std::move(of));
  std::move(parts.begin(), parts.end(), std::back_inserter(made->parts));
  made->parts.resize(4);
  return Done(std::move(made));
}

void ExpressionParser::ParseArguments(Expression* call) {
  tokens_.Expect("(");
  while (tokens_.ok() && !tokens_.IsOperator(")")) {
    if (tokens_.Is(Token::Kind::kName) && tokens_.next().kind == Token::Kind::kOperator &&
        tokens_.next().text == "=") {
      call->names.push_back(tokens_.Take().text);
      tokens_.Take();
    } else if (!call->names.empty()) {
      tokens_.Fail("an argument without a name stands behind one with a name");
    }
    if (tokens_.IsOperator("*") && call->names.empty()) {
      ExpressionPtr spread = Make(Kind::kSpread);
      tokens_.Take();
      spread->parts.push_back(Parse());
      call->parts.push_back(Done(std::move(spread)));
    } else {
      call->parts.push_back(Parse());
    }
    if (!tokens_.TakeOperator(",")) break;
  }
  tokens_.Expect(")");
}

ExpressionPtr ExpressionParser::ParseFilters(ExpressionPtr subject) {
  while (tokens_.TakeOperator("|")) {
    ExpressionPtr filter = Make(Kind::kFilter);
    filter->name = tokens_.ExpectName();
    filter->native = FindFilter(filter->name);
    filter->parts.push_back(std::move(subject));
    if (tokens_.IsOperator("(")) ParseArguments(filter.get());
    subject = Done(std::move(filter));
  }
  return subject;
}

// Behind `is`: a name, and perhaps arguments, of which a single one needs no brackets.
ExpressionPtr ExpressionParser::ParseTest(ExpressionPtr subject) {
  const bool negated = tokens_.TakeName("not");
  ExpressionPtr test = Make(Kind::kTest);
  test->name = tokens_.ExpectName();
  test->native = FindTest(test->name);
  test->parts.push_back(std::move(subject));
  const bool value = tokens_.Is(Token::Kind::kString) || tokens_.Is(Token::Kind::kInteger) ||
                     tokens_.Is(Token::Kind::kFloat) || tokens_.IsOperator("[") ||
                     tokens_.IsOperator("{");
  const bool name = tokens_.Is(Token::Kind::kName) && !tokens_.IsName("else") &&
                    !tokens_.IsName("or") && !tokens_.IsName("and") && !tokens_.IsName("is");
  // `if` ends a test in Jinja's own templates; as an argument it cannot be meant.
  if (tokens_.IsOperator("(")) {
    ParseArguments(test.get());
  } else if (value ||
             (name && !tokens_.IsName("if") && !tokens_.IsName("not") && !tokens_.IsName("in"))) {
    const TokenStream::Nested nested(&tokens_);
    test->parts.push_back(tokens_.ok() ? ParsePostfix(ParsePrimary()) : Make(Kind::kConstant));
  }
  test = Done(std::move(test));
  if (!negated) return test;
  ExpressionPtr made = Make(Kind::kNot);
  made->parts.push_back(std::move(test));
  return Done(std::move(made));
}

}  // namespace packrat::jinja
