// Statements; expressions are in evaluate.cc.
#include "models/text/jinja/interpreter.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace packrat::jinja {
void Scope::Set(const std::string& name, Value value) {
  for (auto& [known, old] : names) {
    if (known != name) continue;
    old = std::move(value);
    return;
  }
  names.emplace_back(name, std::move(value));
}

const Value* Scope::Find(absl::string_view name) const {
  for (const Scope* scope = this; scope != nullptr; scope = scope->parent.get()) {
    for (const auto& [known, value] : scope->names) {
      if (known == name) return &value;
    }
  }
  return nullptr;
}

Interpreter::Interpreter(const Template::Variables& variables, const Template::Limits& limits)
    : budget_(limits.work, limits.max_bytes, limits.now),
      max_bytes_(limits.max_bytes),
      scope_(std::make_shared<Scope>()) {
  scope_->names = variables;
  // What the template sets at its top hides a variable of that name, and does not change it.
  auto top = std::make_shared<Scope>();
  top->parent = scope_;
  scope_ = top;
}

absl::StatusOr<MarkedText> Interpreter::Run(const Body& body) {
  MarkedText out;
  out_ = &out;
  Execute(body);
  if (budget_.ok()) return out;
  if (budget_.raised()) return budget_.status();
  return absl::InvalidArgumentError(absl::StrCat("line ", line_, ": ", budget_.status().message()));
}

Interpreter::Flow Interpreter::Execute(const Body& body) {
  const Deeper deeper(this);
  for (const Statement& statement : body) {
    if (!budget_.Spend(1)) return Flow::kOn;
    line_ = statement.line;
    const Flow flow = ExecuteOne(statement);
    if (!budget_.ok() || flow != Flow::kOn) return flow;
  }
  return Flow::kOn;
}

void Interpreter::Write(const MarkedText& text) {
  if (out_->size() + text.size() > max_bytes_) {
    budget_.Fail(absl::StrCat("it writes more than ", max_bytes_, " bytes"));
  } else if (budget_.Spend(text.size() / 16)) {
    out_->Append(text);
  }
}

Interpreter::Flow Interpreter::ExecuteOne(const Statement& statement) {
  switch (statement.kind) {
    case Statement::Kind::kText:
      Write(statement.text);
      break;
    case Statement::Kind::kOutput: {
      const Value value = Evaluate(*statement.value);
      if (budget_.ok()) Write(Shown(value, &budget_));
      break;
    }
    case Statement::Kind::kFor:
      ExecuteFor(statement);
      break;
    case Statement::Kind::kIf:
      return ExecuteIf(statement);
    case Statement::Kind::kSet:
      ExecuteSet(statement, Evaluate(*statement.value));
      break;
    case Statement::Kind::kSetBlock: {
      Value text = Capture(statement.bodies[0]);
      if (statement.value != nullptr) text = FilterBlock(*statement.value, std::move(text));
      ExecuteSet(statement, std::move(text));
      break;
    }
    case Statement::Kind::kMacro:
      scope_->Set(statement.macro->name, MakeMacro(*statement.macro));
      break;
    case Statement::Kind::kCallBlock:
      ExecuteCallBlock(statement);
      break;
    case Statement::Kind::kFilterBlock: {
      const Value text = FilterBlock(*statement.value, Capture(statement.bodies[0]));
      if (budget_.ok()) Write(Shown(text, &budget_));
      break;
    }
    case Statement::Kind::kScope:
      return ExecuteScope(statement);
    case Statement::Kind::kBreak:
      return Flow::kBreak;
    case Statement::Kind::kContinue:
      return Flow::kContinue;
  }
  return Flow::kOn;
}

Value Interpreter::Capture(const Body& body) {
  MarkedText text;
  MarkedText* const outer = std::exchange(out_, &text);
  auto scope = std::make_shared<Scope>();
  scope->parent = scope_;
  std::shared_ptr<Scope> around = std::exchange(scope_, scope);
  Execute(body);
  scope_ = std::move(around);
  out_ = outer;
  return budget_.Text(std::move(text));
}

Interpreter::Flow Interpreter::ExecuteIf(const Statement& statement) {
  for (size_t i = 0; i < statement.conditions.size(); ++i) {
    const bool holds = Evaluate(*statement.conditions[i]).Truth();
    if (!budget_.ok()) return Flow::kOn;
    if (holds) return Execute(statement.bodies[i]);
  }
  if (statement.bodies.size() == statement.conditions.size()) return Flow::kOn;
  return Execute(statement.bodies.back());
}

void Interpreter::Assign(const std::vector<std::string>& names, const Value& value) {
  if (names.size() == 1) return scope_->Set(names[0], value);
  const List items = ItemsOf(value, &budget_);
  if (!budget_.ok()) return;
  if (items.size() != names.size()) {
    budget_.Fail(
        absl::StrCat(items.size(), " values cannot be unpacked into ", names.size(), " names"));
    return;
  }
  for (size_t i = 0; i < names.size(); ++i) scope_->Set(names[i], items[i]);
}

void Interpreter::ExecuteFor(const Statement& statement) {
  auto items = std::make_shared<const List>(ItemsOf(Evaluate(*statement.value), &budget_));
  const std::shared_ptr<Scope> around = scope_;
  const auto enter = [&] {
    scope_ = std::make_shared<Scope>();
    scope_->parent = around;
  };
  if (statement.condition != nullptr) {
    auto kept = std::make_shared<List>();
    for (const Value& item : *items) {
      if (!budget_.Spend(1)) break;
      enter();
      Assign(statement.names, item);
      if (Evaluate(*statement.condition).Truth()) kept->push_back(item);
    }
    items = kept;
  }
  Loop loop;
  loop.items = items;
  for (const Value& item : *items) {
    loop.depth = std::max(loop.depth, item.depth() + 1);
    loop.weight += item.weight();
  }
  for (size_t i = 0; budget_.ok() && i < items->size(); ++i) {
    if (!budget_.Spend(1)) break;
    enter();
    loop.at = i;
    scope_->Set("loop", Value::FromLoop(std::make_shared<const Loop>(loop)));
    Assign(statement.names, (*items)[i]);
    if (!budget_.ok() || Execute(statement.bodies[0]) == Flow::kBreak) break;
  }
  if (items->empty() && statement.bodies.size() > 1 && budget_.ok()) {
    enter();
    Execute(statement.bodies[1]);
  }
  scope_ = around;
}

void Interpreter::ExecuteSet(const Statement& statement, Value value) {
  if (!budget_.ok()) return;
  if (statement.attribute.empty()) return Assign(statement.names, value);
  const Value* target = scope_->Find(statement.names[0]);
  if (target == nullptr || !target->Is(Value::Kind::kNamespace)) {
    budget_.Fail("cannot assign attribute on non-namespace object");
    return;
  }
  target->names()->values[statement.attribute] = std::move(value);
}

Interpreter::Flow Interpreter::ExecuteScope(const Statement& statement) {
  auto scope = std::make_shared<Scope>();
  scope->parent = scope_;
  for (size_t i = 0; i < statement.names.size(); ++i) {
    scope->Set(statement.names[i], Evaluate(*statement.conditions[i]));
  }
  std::shared_ptr<Scope> around = std::exchange(scope_, scope);
  const Flow flow = Execute(statement.bodies[0]);
  scope_ = std::move(around);
  return flow;
}

Value Interpreter::MakeMacro(const Macro& macro) {
  Function function;
  function.name = macro.name;
  function.macro = &macro;
  function.scope = scope_;
  return Value::FromFunction(std::move(function));
}

void Interpreter::ExecuteCallBlock(const Statement& statement) {
  Arguments arguments = ArgumentsOf(*statement.value);
  arguments.named.emplace_back("caller", MakeMacro(*statement.macro));
  const Value text = Call(*statement.value, std::move(arguments));
  if (budget_.ok()) Write(Shown(text, &budget_));
}

Value Interpreter::FilterBlock(const Expression& filter, Value text) {
  Value outer = std::exchange(block_text_, std::move(text));
  Value filtered = Evaluate(filter);
  block_text_ = std::move(outer);
  return filtered;
}

Value Interpreter::CallMacro(const Function& function, Arguments arguments) {
  const Macro& macro = *function.macro;
  auto scope = std::make_shared<Scope>();
  scope->parent = function.scope.lock();
  if (scope->parent == nullptr) return budget_.Fail("a macro is called outside of its block");
  const size_t count = macro.parameters.size();
  const size_t given = std::min(arguments.positional.size(), count);
  for (size_t i = 0; i < given; ++i) scope->Set(macro.parameters[i], arguments.positional[i]);
  if (arguments.positional.size() > count) {
    if (!macro.takes_more) {
      return budget_.Fail(
          absl::StrCat("macro '", macro.name, "' takes not more than ", count, " argument(s)"));
    }
    List more(arguments.positional.begin() + given, arguments.positional.end());
    scope->Set("varargs", budget_.Items(std::move(more)));
  }
  for (auto& [name, value] : arguments.named) {
    const auto known = std::find(macro.parameters.begin(), macro.parameters.end(), name);
    if (known == macro.parameters.end() && name != "caller") {
      return budget_.Fail(
          absl::StrCat("macro '", macro.name, "' takes no keyword argument '", name, "'"));
    }
    if (known != macro.parameters.end() &&
        static_cast<size_t>(known - macro.parameters.begin()) < given) {
      return budget_.Fail(absl::StrCat("macro '", macro.name, "' has two values for '", name, "'"));
    }
    scope->Set(name, std::move(value));
  }
  const Deeper deeper(this);
  if (!budget_.Spend(1 + count)) return Value();
  std::shared_ptr<Scope> around = std::exchange(scope_, scope);
  const int line = line_;
  const size_t required = count - macro.defaults.size();
  for (size_t i = given; i < count; ++i) {
    const auto& names = scope->names;
    const bool named = std::any_of(names.begin(), names.end(), [&](const auto& known) {
      return known.first == macro.parameters[i];
    });
    if (named) continue;
    scope->Set(macro.parameters[i],
               i >= required ? Evaluate(*macro.defaults[i - required])
                             : Value::Undefined(absl::StrCat("parameter '", macro.parameters[i],
                                                             "' was not provided")));
  }
  Value text = budget_.ok() ? Capture(macro.body) : Value();
  if (budget_.ok()) line_ = line;
  scope_ = std::move(around);
  return text;
}

}  // namespace packrat::jinja
