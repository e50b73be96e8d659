// A parsed template.
#ifndef PACKRAT_MODELS_TEXT_JINJA_SYNTAX_H_
#define PACKRAT_MODELS_TEXT_JINJA_SYNTAX_H_

#include <memory>
#include <string>
#include <vector>

#include "models/text/jinja/native.h"
#include "models/text/jinja/value.h"
#include "models/text/marked_text.h"

namespace packrat::jinja {

struct Expression;
using ExpressionPtr = std::unique_ptr<Expression>;

struct Expression {
  enum class Kind {
    kConstant,
    kName,
    kList,  // parts: items.
    kTuple,
    kDict,       // parts: key, value, key, value ..
    kAttribute,  // parts[0].name
    kItem,       // parts[0][parts[1]]
    kSlice,      // parts[0][parts[1]:parts[2]:parts[3]], each but the first may be null.
    kCall,       // parts[0](..); `names` name the last parts, the others stand before them.
    kSpread,     // *parts[0], among the arguments of a call.
    kFilter,     // parts[0] | name(..), as in a call.
    kTest,       // parts[0] is name(..)
    kBlockText,  // What a filter block wrote.
    kNot,
    kNegative,
    kPositive,
    kArithmetic,  // parts[0] name parts[1]
    kConcat,
    kCompare,  // parts[0] names[0] parts[1] names[1] parts[2] ..
    kAnd,
    kOr,
    kChoice,  // parts[0] if parts[1] else parts[2], which may be null.
  };
  Kind kind = Kind::kConstant;
  int line = 0;
  int depth = 1;
  std::string name;
  Value constant;
  Native native = nullptr;  // Of a filter or test; null if there is none of that name.
  std::vector<ExpressionPtr> parts;
  std::vector<std::string> names;
};

struct Statement;
using Body = std::vector<Statement>;

struct Macro {
  std::string name;
  std::vector<std::string> parameters;
  std::vector<ExpressionPtr> defaults;  // Of the last parameters.
  Body body;
  bool takes_more = false;  // Its body names `varargs`.
};

struct Statement {
  enum class Kind {
    kText,
    kOutput,    // {{ value }}
    kFor,       // names in value if condition; bodies[0], else bodies[1].
    kIf,        // conditions with their bodies; the last body may be else's.
    kSet,       // names = value, or names[0].attribute = value.
    kSetBlock,  // The same, of what bodies[0] writes; `value` filters it, or is null.
    kMacro,
    kCallBlock,    // Calls `value`, with the macro as caller().
    kFilterBlock,  // value: a filter of kBlockText.
    kScope,        // with names = conditions; also {% generation %}.
    kBreak,
    kContinue,
  };
  Kind kind = Kind::kText;
  int line = 0;
  MarkedText text;
  std::vector<std::string> names;
  std::string attribute;
  ExpressionPtr value, condition;
  std::vector<ExpressionPtr> conditions;
  std::vector<Body> bodies;
  std::unique_ptr<Macro> macro;
};

}  // namespace packrat::jinja

#endif  // PACKRAT_MODELS_TEXT_JINJA_SYNTAX_H_
