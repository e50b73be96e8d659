// Expressions of templates, with the precedence that Jinja gives them.
#ifndef PACKRAT_MODELS_TEXT_JINJA_EXPRESSION_PARSER_H_
#define PACKRAT_MODELS_TEXT_JINJA_EXPRESSION_PARSER_H_

#include <initializer_list>

#include "models/text/jinja/syntax.h"
#include "models/text/jinja/token_stream.h"

namespace packrat::jinja {

// After an error of the stream, results have no meaning, but are never null.
class ExpressionParser {
 public:
  explicit ExpressionParser(TokenStream* tokens) : tokens_(*tokens) {}

  // `with_choice`: "a if b else c" is one, outside of brackets too.
  ExpressionPtr Parse(bool with_choice = true);
  // The same, or a list without brackets: a, b
  ExpressionPtr ParseList(bool with_choice = true);
  // (a, b=1) behind what is called, to which they are added.
  void ParseArguments(Expression* call);
  // | name(..), as often as it stands there.
  ExpressionPtr ParseFilters(ExpressionPtr subject);
  ExpressionPtr Make(Expression::Kind kind);
  // Counts the depth of an expression that has all of its parts.
  ExpressionPtr Done(ExpressionPtr made);

 private:
  ExpressionPtr ParseOr();
  ExpressionPtr ParseAnd();
  ExpressionPtr ParseNot();
  ExpressionPtr ParseComparison();
  ExpressionPtr ParseSum();
  ExpressionPtr ParseConcat();
  ExpressionPtr ParseProduct();
  ExpressionPtr ParsePower();
  ExpressionPtr ParseUnary(bool with_filters = true);
  ExpressionPtr ParsePrimary();
  ExpressionPtr ParseConstant();
  ExpressionPtr ParsePostfix(ExpressionPtr made);
  ExpressionPtr ParseItem(ExpressionPtr of);
  ExpressionPtr ParseTest(ExpressionPtr subject);
  ExpressionPtr ParseBracketed();
  template <class Operand>
  ExpressionPtr ParseChain(std::initializer_list<const char*> operators, Operand operand);
  ExpressionPtr Pair(Expression::Kind kind, ExpressionPtr a, ExpressionPtr b);

  TokenStream& tokens_;
};

}  // namespace packrat::jinja

#endif  // PACKRAT_MODELS_TEXT_JINJA_EXPRESSION_PARSER_H_
