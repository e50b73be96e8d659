// The tests of templates: what stands behind `is`.
#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "models/text/jinja/native.h"
#include "models/text/jinja/python_text.h"

namespace packrat::jinja {
namespace {

using Kind = Value::Kind;

template <bool (*Holds)(const Value&)>
Value Simple(const Value& subject, const Arguments& arguments, Budget* budget) {
  const Parameters none(arguments, {}, budget);
  return Value::Bool(Holds(subject));
}

bool Defined(const Value& v) { return !v.IsUndefined(); }
bool IsUndefined(const Value& v) { return v.IsUndefined(); }
bool IsNone(const Value& v) { return v.IsNone(); }
bool IsString(const Value& v) { return v.IsString(); }
bool IsMapping(const Value& v) { return v.IsDict(); }
bool IsNumber(const Value& v) { return v.IsNumber(); }
bool IsInteger(const Value& v) { return v.Is(Kind::kInt); }
bool IsFloat(const Value& v) { return v.Is(Kind::kFloat); }
bool IsBoolean(const Value& v) { return v.Is(Kind::kBool); }
bool IsTrue(const Value& v) { return v.Is(Kind::kBool) && v.boolean(); }
bool IsFalse(const Value& v) { return v.Is(Kind::kBool) && !v.boolean(); }
bool IsCallable(const Value& v) { return v.Is(Kind::kFunction); }
// Whatever has a length and items: dicts and undefined values too.
bool IsSequence(const Value& v) {
  return v.IsString() || v.IsList() || v.IsDict() || v.IsUndefined();
}
bool IsIterable(const Value& v) { return IsSequence(v) || v.Is(Kind::kLoop); }
bool IsLower(const Value& v) {
  if (!v.IsString()) return false;
  const MarkedText& text = v.string();
  return ChangeCase(text, Case::kLower).text() == text.text() &&
         ChangeCase(text, Case::kUpper).text() != text.text();
}
bool IsUpper(const Value& v) {
  if (!v.IsString()) return false;
  const MarkedText& text = v.string();
  return ChangeCase(text, Case::kUpper).text() == text.text() &&
         ChangeCase(text, Case::kLower).text() != text.text();
}

const Value& Only(const Arguments& arguments, Budget* budget) {
  static const Value nothing;
  if (arguments.positional.size() == 1 && arguments.named.empty()) return arguments.positional[0];
  budget->Fail("the test takes one argument");
  return nothing;
}

template <bool equal>
Value IsEqual(const Value& subject, const Arguments& arguments, Budget* budget) {
  if (!budget->Spend(subject.weight())) return Value();
  return Value::Bool(Equal(subject, Only(arguments, budget)) == equal);
}

template <bool (*Holds)(int)>
Value Ordered(const Value& subject, const Arguments& arguments, Budget* budget) {
  int order = 0;
  const Value& other = Only(arguments, budget);
  if (!budget->Spend(subject.weight())) return Value();
  if (Compare(subject, other, &order)) return Value::Bool(Holds(order));
  return budget->Fail(
      absl::StrCat("'", subject.Type(), "' and '", other.Type(), "' cannot be ordered"));
}

bool Less(int order) { return order < 0; }
bool LessOrEqual(int order) { return order <= 0; }
bool Greater(int order) { return order > 0; }
bool GreaterOrEqual(int order) { return order >= 0; }

Value IsIn(const Value& subject, const Arguments& arguments, Budget* budget) {
  return Value::Bool(Contains(Only(arguments, budget), subject, budget));
}

// The remainder of Python's %, which has the sign of the divisor.
Value Divides(const Value& subject, int64_t by, int64_t remainder, Budget* budget) {
  if (!subject.IsInteger()) {
    return budget->Fail(absl::StrCat("the test wants an integer, not ", subject.Type()));
  }
  if (by == 0) return budget->Fail("division by zero");
  if (by == -1) return Value::Bool(remainder == 0);  // INT64_MIN % -1 overflows.
  return Value::Bool(std::abs(subject.integer() % by) == remainder);
}

Value IsEven(const Value& subject, const Arguments&, Budget* budget) {
  return Divides(subject, 2, 0, budget);
}
Value IsOdd(const Value& subject, const Arguments&, Budget* budget) {
  return Divides(subject, 2, 1, budget);
}
Value IsDivisible(const Value& subject, const Arguments& arguments, Budget* budget) {
  return Divides(subject, Parameters(arguments, {"num"}, budget).IntAt(0, 0), 0, budget);
}

// True and none are the same wherever they are; other values are never asked.
Value IsSame(const Value& subject, const Arguments& arguments, Budget* budget) {
  const Value& other = Only(arguments, budget);
  if (!budget->Spend(subject.weight())) return Value();
  return Value::Bool(subject.kind() == other.kind() && Equal(subject, other));
}

Value IsFilter(const Value& subject, const Arguments&, Budget*) {
  return Value::Bool(subject.IsString() && FindFilter(subject.text()) != nullptr);
}
Value IsTest(const Value& subject, const Arguments&, Budget*) {
  return Value::Bool(subject.IsString() && FindTest(subject.text()) != nullptr);
}

constexpr std::pair<absl::string_view, Native> kTests[] = {
    {"!=", IsEqual<false>},
    {"<", Ordered<Less>},
    {"<=", Ordered<LessOrEqual>},
    {"==", IsEqual<true>},
    {">", Ordered<Greater>},
    {">=", Ordered<GreaterOrEqual>},
    {"boolean", Simple<IsBoolean>},
    {"callable", Simple<IsCallable>},
    {"defined", Simple<Defined>},
    {"divisibleby", IsDivisible},
    {"eq", IsEqual<true>},
    {"equalto", IsEqual<true>},
    {"even", IsEven},
    {"false", Simple<IsFalse>},
    {"filter", IsFilter},
    {"float", Simple<IsFloat>},
    {"ge", Ordered<GreaterOrEqual>},
    {"greaterthan", Ordered<Greater>},
    {"gt", Ordered<Greater>},
    {"in", IsIn},
    {"integer", Simple<IsInteger>},
    {"iterable", Simple<IsIterable>},
    {"le", Ordered<LessOrEqual>},
    {"lessthan", Ordered<Less>},
    {"lower", Simple<IsLower>},
    {"lt", Ordered<Less>},
    {"mapping", Simple<IsMapping>},
    {"ne", IsEqual<false>},
    {"none", Simple<IsNone>},
    {"number", Simple<IsNumber>},
    {"odd", IsOdd},
    {"sameas", IsSame},
    {"sequence", Simple<IsSequence>},
    {"string", Simple<IsString>},
    {"test", IsTest},
    {"true", Simple<IsTrue>},
    {"undefined", Simple<IsUndefined>},
    {"upper", Simple<IsUpper>},
};

}  // namespace

Native FindTest(absl::string_view name) {
  const auto* const found = std::find_if(std::begin(kTests), std::end(kTests),
                                         [name](const auto& test) { return test.first == name; });
  return found == std::end(kTests) ? nullptr : found->second;
}

}  // namespace packrat::jinja
