// Arithmetic as Python's, but for integers beyond 64 bits, which are refused.
#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "models/text/jinja/interpreter.h"

namespace packrat::jinja {
namespace {

Value TooLarge(Budget* budget) { return budget->Fail("a number does not fit into 64 bits"); }

Value Power(int64_t base, int64_t exponent, Budget* budget) {
  int64_t power = 1;
  while (exponent > 0) {
    if (exponent % 2 != 0 && __builtin_mul_overflow(power, base, &power)) return TooLarge(budget);
    exponent /= 2;
    if (exponent > 0 && __builtin_mul_overflow(base, base, &base)) return TooLarge(budget);
  }
  return Value::Int(power);
}

Value Integers(const std::string& name, int64_t a, int64_t b, Budget* budget) {
  int64_t result = 0;
  if (name == "+") {
    if (__builtin_add_overflow(a, b, &result)) return TooLarge(budget);
  } else if (name == "-") {
    if (__builtin_sub_overflow(a, b, &result)) return TooLarge(budget);
  } else if (name == "*") {
    if (__builtin_mul_overflow(a, b, &result)) return TooLarge(budget);
  } else if (name == "**") {
    if (b >= 0) return Power(a, b, budget);
    if (a == 0) return budget->Fail("0 cannot be raised to a negative power");
    return Value::Float(std::pow(static_cast<double>(a), static_cast<double>(b)));
  } else if (b == 0) {
    return budget->Fail("division by zero");
  } else if (name == "/") {
    return Value::Float(static_cast<double>(a) / static_cast<double>(b));
  } else if (b == -1) {  // The lowest number has no opposite.
    return name == "%" ? Value::Int(0) : Integers("-", 0, a, budget);
  } else {
    // Python rounds down, and a remainder has the divisor's sign.
    const int64_t rest = a % b;
    const bool down = rest != 0 && (rest < 0) != (b < 0);
    result = name == "%" ? rest + (down ? b : 0) : a / b - (down ? 1 : 0);
  }
  return Value::Int(result);
}

Value Reals(const std::string& name, double a, double b, Budget* budget) {
  if (name == "+") return Value::Float(a + b);
  if (name == "-") return Value::Float(a - b);
  if (name == "*") return Value::Float(a * b);
  if (name == "**") return Value::Float(std::pow(a, b));
  if (b == 0) return budget->Fail("float division by zero");
  if (name == "/") return Value::Float(a / b);
  double rest = std::fmod(a, b);
  if (rest != 0 && (rest < 0) != (b < 0)) rest += b;
  return Value::Float(name == "%" ? rest : std::floor((a - rest) / b + 0.5));
}

// 'ab' * 3, [1] * 3
Value Repeat(const Value& what, int64_t times, Budget* budget) {
  times = std::max<int64_t>(0, times);
  const size_t each = what.IsString() ? what.string().size() : 16 * what.list().size();
  if (each == 0) return what;
  if (static_cast<uint64_t>(times) > (size_t{1} << 30) / each ||
      !budget->Spend(each * times / 16)) {
    return budget->Fail("a repetition is too long");
  }
  MarkedText text;
  List items;
  for (int64_t i = 0; i < times; ++i) {
    if (what.IsString()) {
      text.Append(what.string());
    } else {
      items.insert(items.end(), what.list().begin(), what.list().end());
    }
  }
  return what.IsString() ? budget->Text(std::move(text)) : budget->Items(std::move(items));
}

}  // namespace

Value Calculate(const std::string& name, const Value& a, const Value& b, Budget* budget) {
  for (const Value* side : {&a, &b}) {
    if (side->IsUndefined()) return budget->Fail(side->undefined_what());
  }
  if (a.IsNumber() && b.IsNumber()) {
    return a.IsInteger() && b.IsInteger() ? Integers(name, a.integer(), b.integer(), budget)
                                          : Reals(name, a.number(), b.number(), budget);
  }
  if (name == "+" && a.IsString() && b.IsString()) {
    MarkedText text = a.string();
    text.Append(b.string());
    return budget->Text(std::move(text));
  }
  if (name == "+" && a.IsList() && b.IsList()) {
    List items = a.list();
    items.insert(items.end(), b.list().begin(), b.list().end());
    return budget->Items(std::move(items));
  }
  if (name == "*") {
    const bool first = a.IsString() || a.IsList();
    const Value& what = first ? a : b;
    const Value& times = first ? b : a;
    if ((what.IsString() || what.IsList()) && times.IsInteger()) {
      return Repeat(what, times.integer(), budget);
    }
  }
  if (name == "+" && a.IsString()) {
    return budget->Fail(absl::StrCat("can only concatenate str (not \"", b.Type(), "\") to str"));
  }
  return budget->Fail(absl::StrCat("unsupported operand type(s) for ", name, ": '", a.Type(),
                                   "' and '", b.Type(), "'"));
}

}  // namespace packrat::jinja
