#include "models/text/jinja/parser.h"

#include <algorithm>
#include <initializer_list>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "models/text/jinja/expression_parser.h"
#include "models/text/jinja/lexer.h"
#include "models/text/jinja/token_stream.h"

namespace packrat::jinja {
namespace {

using Kind = Statement::Kind;

class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)), expressions_(&tokens_) {}

  absl::StatusOr<Body> Run() {
    Body body = ParseBody({});
    if (!tokens_.ok()) return tokens_.status();
    return body;
  }

 private:
  using Names = std::initializer_list<absl::string_view>;

  bool AtAny(Names names) const {
    return tokens_.Is(Token::Kind::kName) &&
           std::find(names.begin(), names.end(), tokens_.now().text) != names.end();
  }

  // Up to a tag that begins with one of `ends`, or without them up to the template's end. The next
  // token is that name.
  Body ParseBody(Names ends) {
    const TokenStream::Nested nested(&tokens_);
    Body body;
    while (tokens_.ok()) {
      Statement statement;
      statement.line = tokens_.now().line;
      if (tokens_.Is(Token::Kind::kEnd)) {
        if (ends.size() > 0) tokens_.Fail(absl::StrCat("'", *(ends.end() - 1), "' is missing"));
        return body;
      }
      if (tokens_.Is(Token::Kind::kText)) {
        statement.text = MarkedText(tokens_.Take().text, MarkedText::kOwn);
      } else if (tokens_.Is(Token::Kind::kVariableBegin)) {
        tokens_.Take();
        statement.kind = Kind::kOutput;
        statement.value = expressions_.ParseList();
        tokens_.Expect(Token::Kind::kVariableEnd);
      } else {
        tokens_.Take();  // A block begins: the lexer makes nothing else outside of tags.
        if (AtAny(ends)) return body;
        ParseTag(&statement);
      }
      body.push_back(std::move(statement));
    }
    return body;
  }

  // A body, and the rest of the tag that ends it.
  Body ParseBodyTo(absl::string_view end) {
    EndTag();
    Body body = ParseBody({end});
    tokens_.Take();
    EndTag();
    return body;
  }

  void EndTag() { tokens_.Expect(Token::Kind::kBlockEnd); }

  void ParseTag(Statement* statement) {
    const std::string name = tokens_.ExpectName();
    if (name == "for") return ParseFor(statement);
    if (name == "if") return ParseIf(statement);
    if (name == "set") return ParseSet(statement);
    if (name == "macro") return ParseMacro(statement);
    if (name == "call") return ParseCall(statement);
    if (name == "filter") return ParseFilterBlock(statement);
    if (name == "with") return ParseWith(statement);
    if (name == "generation") {  // transformers marks there what the assistant said.
      statement->kind = Kind::kScope;
      statement->bodies.push_back(ParseBodyTo("endgeneration"));
      return;
    }
    if (name == "break" || name == "continue") {
      statement->kind = name == "break" ? Kind::kBreak : Kind::kContinue;
      if (loops_ == 0) tokens_.Fail(absl::StrCat("'", name, "' outside of a loop"));
      return EndTag();
    }
    tokens_.Fail(absl::StrCat("the tag '", name.substr(0, 40), "' is not known here"));
  }

  std::vector<std::string> ParseTargets() {
    std::vector<std::string> names;
    const bool brackets = tokens_.TakeOperator("(");
    do {
      names.push_back(tokens_.ExpectName());
    } while (tokens_.TakeOperator(",") && tokens_.Is(Token::Kind::kName) && !tokens_.IsName("in"));
    if (brackets) tokens_.Expect(")");
    return names;
  }

  void ParseFor(Statement* statement) {
    statement->kind = Kind::kFor;
    statement->names = ParseTargets();
    if (!tokens_.TakeName("in")) tokens_.Fail("'in' is missing");
    statement->value = expressions_.ParseList(/*with_choice=*/false);
    if (tokens_.TakeName("if")) statement->condition = expressions_.Parse();
    if (tokens_.IsName("recursive")) tokens_.Fail("recursive loops are not supported");
    EndTag();
    ++loops_;
    statement->bodies.push_back(ParseBody({"else", "endfor"}));
    --loops_;
    if (tokens_.TakeName("else")) {
      EndTag();
      statement->bodies.push_back(ParseBody({"endfor"}));
    }
    tokens_.Take();
    EndTag();
  }

  void ParseIf(Statement* statement) {
    statement->kind = Kind::kIf;
    statement->conditions.push_back(expressions_.ParseList());
    EndTag();
    while (tokens_.ok()) {
      statement->bodies.push_back(ParseBody({"elif", "else", "endif"}));
      if (tokens_.TakeName("elif")) {
        statement->conditions.push_back(expressions_.ParseList());
        EndTag();
        continue;
      }
      if (tokens_.TakeName("else")) {
        EndTag();
        statement->bodies.push_back(ParseBody({"endif"}));
      }
      tokens_.Take();
      return EndTag();
    }
  }

  void ParseSet(Statement* statement) {
    statement->names = ParseTargets();
    if (statement->names.size() == 1 && tokens_.TakeOperator(".")) {
      statement->attribute = tokens_.ExpectName();
    }
    if (tokens_.TakeOperator("=")) {
      statement->kind = Kind::kSet;
      statement->value = expressions_.ParseList();
      return EndTag();
    }
    statement->kind = Kind::kSetBlock;
    if (tokens_.IsOperator("|")) {
      statement->value = expressions_.ParseFilters(expressions_.Make(Expression::Kind::kBlockText));
    }
    statement->bodies.push_back(ParseBodyTo("endset"));
  }

  void ParseParameters(Macro* macro) {
    tokens_.Expect("(");
    while (tokens_.ok() && !tokens_.IsOperator(")")) {
      macro->parameters.push_back(tokens_.ExpectName());
      if (tokens_.TakeOperator("=")) {
        macro->defaults.push_back(expressions_.Parse());
      } else if (!macro->defaults.empty()) {
        tokens_.Fail("a parameter without a default stands behind one with a default");
      }
      if (!tokens_.TakeOperator(",")) break;
    }
    tokens_.Expect(")");
  }

  // A loop around a macro is not the macro's.
  void ParseMacroBody(Macro* macro, absl::string_view end) {
    const int loops = std::exchange(loops_, 0);
    const size_t begin = tokens_.at();
    macro->body = ParseBodyTo(end);
    macro->takes_more = tokens_.Named("varargs", begin);
    loops_ = loops;
  }

  void ParseMacro(Statement* statement) {
    statement->kind = Kind::kMacro;
    statement->macro = std::make_unique<Macro>();
    statement->macro->name = tokens_.ExpectName();
    ParseParameters(statement->macro.get());
    ParseMacroBody(statement->macro.get(), "endmacro");
  }

  void ParseCall(Statement* statement) {
    statement->kind = Kind::kCallBlock;
    statement->macro = std::make_unique<Macro>();
    statement->macro->name = "caller";
    if (tokens_.IsOperator("(")) ParseParameters(statement->macro.get());
    statement->value = expressions_.Parse();
    if (statement->value->kind != Expression::Kind::kCall) tokens_.Fail("expected a call");
    ParseMacroBody(statement->macro.get(), "endcall");
  }

  // {% filter upper | trim %}: the first stands there without its |.
  void ParseFilterBlock(Statement* statement) {
    statement->kind = Kind::kFilterBlock;
    ExpressionPtr filter = expressions_.Make(Expression::Kind::kFilter);
    filter->name = tokens_.ExpectName();
    filter->native = FindFilter(filter->name);
    filter->parts.push_back(expressions_.Make(Expression::Kind::kBlockText));
    if (tokens_.IsOperator("(")) expressions_.ParseArguments(filter.get());
    statement->value = expressions_.ParseFilters(expressions_.Done(std::move(filter)));
    statement->bodies.push_back(ParseBodyTo("endfilter"));
  }

  void ParseWith(Statement* statement) {
    statement->kind = Kind::kScope;
    while (tokens_.ok() && !tokens_.Is(Token::Kind::kBlockEnd)) {
      if (!statement->names.empty()) tokens_.Expect(",");
      statement->names.push_back(tokens_.ExpectName());
      tokens_.Expect("=");
      statement->conditions.push_back(expressions_.Parse());
    }
    statement->bodies.push_back(ParseBodyTo("endwith"));
  }

  TokenStream tokens_;
  ExpressionParser expressions_;
  int loops_ = 0;
};

}  // namespace

absl::StatusOr<Body> Parse(const std::string& source) {
  absl::StatusOr<std::vector<Token>> tokens = Lex(source);
  if (!tokens.ok()) return tokens.status();
  return Parser(*std::move(tokens)).Run();
}

}  // namespace packrat::jinja
