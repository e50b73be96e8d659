// Expressions.
#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "models/text/jinja/interpreter.h"
#include "models/text/jinja/python_text.h"

namespace packrat::jinja {
namespace {

using Kind = Expression::Kind;

// namespace() needs the interpreter, so its name has this for a value and Call() knows it.
Value NewNamespace(const Value&, const Arguments&, Budget*) { return Value(); }

constexpr char kNamespace[] = "namespace";

}  // namespace

Value Interpreter::Evaluate(const Expression& e) {
  const Deeper deeper(this);
  return budget_.Spend(1) ? EvaluateKind(e) : Value();
}

Value Interpreter::EvaluateKind(const Expression& e) {
  switch (e.kind) {
    case Kind::kConstant:
      return e.constant;
    case Kind::kName:
      return Name(e);
    case Kind::kList:
    case Kind::kTuple: {
      List items;
      for (const ExpressionPtr& part : e.parts) items.push_back(Evaluate(*part));
      return budget_.Items(std::move(items), e.kind == Kind::kTuple);
    }
    case Kind::kDict: {
      Dict dict;
      for (size_t i = 0; i + 1 < e.parts.size(); i += 2) {
        const Value key = Evaluate(*e.parts[i]);
        if (!dict.Set(key, Evaluate(*e.parts[i + 1]))) {
          return budget_.Fail(absl::StrCat("unhashable type: '", key.Type(), "'"));
        }
      }
      return budget_.Entries(std::move(dict));
    }
    case Kind::kAttribute: {
      const Value of = Evaluate(*e.parts[0]);
      return budget_.ok() ? Attribute(of, e.name, &budget_) : Value();
    }
    case Kind::kItem: {
      const Value of = Evaluate(*e.parts[0]);
      const Value key = Evaluate(*e.parts[1]);
      return budget_.ok() ? Item(of, key, &budget_) : Value();
    }
    case Kind::kSlice:
      return Slice(e);
    case Kind::kCall:
      return Call(e, ArgumentsOf(e));
    case Kind::kSpread:  // Its call takes it apart.
      break;
    case Kind::kFilter:
    case Kind::kTest:
      return FilterOrTest(e);
    case Kind::kBlockText:
      return block_text_;
    case Kind::kNot:
      return Value::Bool(!Evaluate(*e.parts[0]).Truth());
    case Kind::kNegative:
    case Kind::kPositive:
      return Sign(e);
    case Kind::kArithmetic: {
      const Value a = Evaluate(*e.parts[0]);
      const Value b = Evaluate(*e.parts[1]);
      return budget_.ok() ? Calculate(e.name, a, b, &budget_) : Value();
    }
    case Kind::kConcat:
      return Concat(e);
    case Kind::kCompare:
      return CompareAll(e);
    case Kind::kAnd:
    case Kind::kOr: {
      Value left = Evaluate(*e.parts[0]);
      return left.Truth() == (e.kind == Kind::kOr) ? left : Evaluate(*e.parts[1]);
    }
    case Kind::kChoice:
      if (Evaluate(*e.parts[1]).Truth()) return Evaluate(*e.parts[0]);
      if (e.parts[2] != nullptr) return Evaluate(*e.parts[2]);
      return Value::Undefined("an inline if without else was false");
  }
  return Value();
}

Value Interpreter::Name(const Expression& e) {
  const Value* found = scope_->Find(e.name);
  if (found != nullptr) return *found;
  Function function;
  function.name = e.name;
  function.native = e.name == kNamespace ? NewNamespace : FindGlobal(e.name);
  if (function.native != nullptr) return Value::FromFunction(std::move(function));
  return Value::Undefined(absl::StrCat("'", e.name, "' is undefined"));
}

Value Interpreter::Slice(const Expression& e) {
  const Value of = Evaluate(*e.parts[0]);
  int64_t bounds[3] = {0, 0, 1};
  bool set[3] = {false, false, false};
  for (int i = 0; i < 3; ++i) {
    const Value bound = e.parts[i + 1] == nullptr ? Value::None() : Evaluate(*e.parts[i + 1]);
    if (bound.IsNone()) continue;
    if (!bound.IsInteger()) return budget_.Fail("slice indices must be integers or None");
    bounds[i] = bound.integer();
    set[i] = true;
  }
  if (!budget_.ok()) return Value();
  if (of.IsUndefined()) return budget_.Fail(of.undefined_what());
  if (!of.IsList() && !of.IsString()) {
    return budget_.Fail(absl::StrCat("'", of.Type(), "' object cannot be sliced"));
  }
  const int64_t step = bounds[2];
  if (step == 0) return budget_.Fail("slice step cannot be zero");
  if (!budget_.Spend(of.weight())) return Value();
  std::vector<size_t> starts;
  if (of.IsString()) starts = CharacterStarts(of.text());
  const auto size = static_cast<int64_t>(of.IsList() ? of.list().size() : starts.size() - 1);
  // As Python: negative ones count from the end, and those outside are moved to it.
  const auto place = [&](int i, int64_t otherwise) {
    if (!set[i]) return otherwise;
    int64_t at = bounds[i];
    if (at < 0) at = at < -size ? -1 : at + size;
    return std::clamp<int64_t>(at, step > 0 ? 0 : -1, step > 0 ? size : size - 1);
  };
  const int64_t begin = place(0, step > 0 ? 0 : size - 1);
  const int64_t end = place(1, step > 0 ? size : -1);
  List items;
  MarkedText text;
  for (int64_t at = begin; step > 0 ? at < end : at > end;) {
    if (of.IsList()) {
      items.push_back(of.list()[at]);
    } else {
      text.Append(of.string(), starts[at], starts[at + 1] - starts[at]);
    }
    // It may be anything that 64 bits hold.
    if (step > 0 ? step >= end - at : step <= end - at) break;
    at += step;
  }
  return of.IsList() ? budget_.Items(std::move(items)) : budget_.Text(std::move(text));
}

Arguments Interpreter::ArgumentsOf(const Expression& e) {
  Arguments arguments;
  const size_t named = e.parts.size() - e.names.size();
  for (size_t i = 1; i < e.parts.size(); ++i) {
    if (e.parts[i]->kind == Kind::kSpread) {
      List items = ItemsOf(Evaluate(*e.parts[i]->parts[0]), &budget_);
      std::move(items.begin(), items.end(), std::back_inserter(arguments.positional));
      continue;
    }
    Value value = Evaluate(*e.parts[i]);
    if (i < named) {
      arguments.positional.push_back(std::move(value));
    } else {
      arguments.named.emplace_back(e.names[i - named], std::move(value));
    }
  }
  return arguments;
}

Value Interpreter::Call(const Expression& e, Arguments arguments) {
  const Value callee = Evaluate(*e.parts[0]);
  if (!budget_.ok()) return Value();
  if (callee.IsUndefined()) return budget_.Fail(callee.undefined_what());
  if (!callee.Is(Value::Kind::kFunction)) {
    return budget_.Fail(absl::StrCat("'", callee.Type(), "' object is not callable"));
  }
  const Function& function = callee.function();
  if (function.macro != nullptr) return CallMacro(function, std::move(arguments));
  if (function.native == NewNamespace) return MakeNamespace(arguments);
  return function.native(function.subject, arguments, &budget_);
}

Value Interpreter::MakeNamespace(const Arguments& arguments) {
  auto made = std::make_unique<Namespace>();
  for (const Value& from : arguments.positional) {
    if (!from.IsDict()) return budget_.Fail("namespace() takes a dict, and names");
    for (const auto& [key, value] : from.dict().entries) {
      if (key.IsString()) made->values[key.text()] = value;
    }
  }
  for (const auto& [name, value] : arguments.named) made->values[name] = value;
  if (!budget_.Spend(16 + 4 * made->values.size())) return Value();
  namespaces_.push_back(std::move(made));
  return Value::FromNamespace(namespaces_.back().get());
}

Value Interpreter::FilterOrTest(const Expression& e) {
  const Value subject = Evaluate(*e.parts[0]);
  const Arguments arguments = ArgumentsOf(e);
  if (!budget_.ok()) return Value();
  if (e.native != nullptr) return e.native(subject, arguments, &budget_);
  return budget_.Fail(
      absl::StrCat("No ", e.kind == Kind::kFilter ? "filter" : "test", " named '", e.name, "'."));
}

Value Interpreter::Concat(const Expression& e) {
  MarkedText text;
  for (const ExpressionPtr& part : e.parts) {
    const Value value = Evaluate(*part);
    if (!budget_.ok()) return Value();
    text.Append(Shown(value, &budget_));
  }
  return budget_.Text(std::move(text));
}

Value Interpreter::CompareAll(const Expression& e) {
  Value left = Evaluate(*e.parts[0]);
  for (size_t i = 0; i < e.names.size(); ++i) {
    const std::string& name = e.names[i];
    Value right = Evaluate(*e.parts[i + 1]);
    if (!budget_.Spend(std::min(left.weight(), right.weight()))) return Value();
    bool holds = false;
    if (name == "==" || name == "!=") {
      holds = Equal(left, right) == (name == "==");
    } else if (name == "in" || name == "not in") {
      holds = Contains(right, left, &budget_) == (name == "in");
    } else {
      int order = 0;
      const Value& undefined = left.IsUndefined() ? left : right;
      if (undefined.IsUndefined()) return budget_.Fail(undefined.undefined_what());
      if (!Compare(left, right, &order)) {
        return budget_.Fail(absl::StrCat("'", name, "' not supported between instances of '",
                                         left.Type(), "' and '", right.Type(), "'"));
      }
      holds = name == "<"    ? order < 0
              : name == "<=" ? order <= 0
              : name == ">"  ? order > 0
                             : order >= 0;
    }
    if (!budget_.ok() || !holds) return Value::Bool(false);
    left = std::move(right);
  }
  return Value::Bool(true);
}

Value Interpreter::Sign(const Expression& e) {
  const Value value = Evaluate(*e.parts[0]);
  if (!budget_.ok()) return Value();
  if (value.IsUndefined()) return budget_.Fail(value.undefined_what());
  if (!value.IsNumber()) {
    return budget_.Fail(absl::StrCat("bad operand type for a sign: '", value.Type(), "'"));
  }
  if (e.kind == Kind::kPositive) return value;
  if (!value.IsInteger()) return Value::Float(-value.number());
  return Calculate("-", Value::Int(0), value, &budget_);
}

}  // namespace packrat::jinja
