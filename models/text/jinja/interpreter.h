// Walks through a parsed template. One object renders once.
#ifndef PACKRAT_MODELS_TEXT_JINJA_INTERPRETER_H_
#define PACKRAT_MODELS_TEXT_JINJA_INTERPRETER_H_

#include <cstddef>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "models/text/jinja/native.h"
#include "models/text/jinja/syntax.h"
#include "models/text/jinja/template.h"

namespace packrat::jinja {

// Names, and those of the scope around it. A macro sees the scope that it was written in.
struct Scope {
  std::shared_ptr<Scope> parent;
  std::vector<std::pair<std::string, Value>> names;

  void Set(const std::string& name, Value value);
  const Value* Find(absl::string_view name) const;  // Null if there is none.
};

class Interpreter {
 public:
  Interpreter(const Template::Variables& variables, const Template::Limits& limits);
  absl::StatusOr<MarkedText> Run(const Body& body);

 private:
  enum class Flow { kOn, kBreak, kContinue };
  // Statements and expressions inside of one another, macros included: a level takes about 1 KiB of
  // stack.
  static constexpr int kMaxDepth = 600;
  class Deeper {
   public:
    explicit Deeper(Interpreter* interpreter) : interpreter_(interpreter) {
      if (++interpreter_->depth_ > kMaxDepth) interpreter_->budget_.Fail("it goes too deep");
    }
    ~Deeper() { --interpreter_->depth_; }
    Deeper(const Deeper&) = delete;
    Deeper& operator=(const Deeper&) = delete;

   private:
    Interpreter* const interpreter_;
  };

  // --- Statements. ---
  Flow Execute(const Body& body);
  Flow ExecuteOne(const Statement& statement);
  void Write(const MarkedText& text);
  // What a body writes, in a scope of its own.
  Value Capture(const Body& body);
  Flow ExecuteIf(const Statement& statement);
  void ExecuteFor(const Statement& statement);
  void ExecuteSet(const Statement& statement, Value value);
  Flow ExecuteScope(const Statement& statement);
  void ExecuteCallBlock(const Statement& statement);
  // Gives the names one value each, or all of it to a single name.
  void Assign(const std::vector<std::string>& names, const Value& value);
  Value FilterBlock(const Expression& filter, Value text);
  Value MakeMacro(const Macro& macro);

  // --- Expressions. ---
  Value Evaluate(const Expression& e);
  Value EvaluateKind(const Expression& e);
  Value Name(const Expression& e);
  Value Slice(const Expression& e);
  Value Call(const Expression& e, Arguments arguments);
  Value CallMacro(const Function& function, Arguments arguments);
  Value MakeNamespace(const Arguments& arguments);
  Value FilterOrTest(const Expression& e);
  Arguments ArgumentsOf(const Expression& e);
  Value Concat(const Expression& e);
  Value CompareAll(const Expression& e);
  Value Sign(const Expression& e);

  Budget budget_;
  const size_t max_bytes_;
  std::shared_ptr<Scope> scope_;
  MarkedText* out_ = nullptr;
  Value block_text_;
  int depth_ = 0;
  int line_ = 0;  // Of what is executed.
  std::vector<std::unique_ptr<Namespace>> namespaces_;
};

// a + b and its like, for numbers, strings and lists.
Value Calculate(const std::string& name, const Value& a, const Value& b, Budget* budget);

}  // namespace packrat::jinja

#endif  // PACKRAT_MODELS_TEXT_JINJA_INTERPRETER_H_
