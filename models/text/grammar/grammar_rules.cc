#include "models/text/grammar/grammar_rules.h"

namespace packrat {

GrammarRules::Id GrammarRules::Add(Expression expression) {
  expressions_.push_back(std::move(expression));
  return static_cast<Id>(expressions_.size()) - 1;
}

GrammarRules::Id GrammarRules::Literal(absl::string_view text) {
  Expression e;
  e.kind = Expression::Kind::kLiteral;
  e.literal = std::string(text);
  return Add(std::move(e));
}

GrammarRules::Id GrammarRules::Characters(CharacterSet set) {
  Expression e;
  e.kind = Expression::Kind::kCharacters;
  e.characters = std::move(set);
  return Add(std::move(e));
}

GrammarRules::Id GrammarRules::Sequence(std::vector<Id> parts) {
  if (parts.size() == 1) return parts[0];
  Expression e;
  e.kind = Expression::Kind::kSequence;
  e.parts = std::move(parts);
  return Add(std::move(e));
}

GrammarRules::Id GrammarRules::Choice(std::vector<Id> parts) {
  if (parts.size() == 1) return parts[0];
  Expression e;
  e.kind = Expression::Kind::kChoice;
  e.parts = std::move(parts);
  return Add(std::move(e));
}

GrammarRules::Id GrammarRules::Repeat(Id part, int64_t min, int64_t max) {
  if (min == 1 && max == 1) return part;
  Expression e;
  e.kind = Expression::Kind::kRepeat;
  e.parts = {part};
  e.min = min;
  e.max = max;
  return Add(std::move(e));
}

GrammarRules::Id GrammarRules::Call(int rule) {
  Expression e;
  e.kind = Expression::Kind::kCall;
  e.rule = rule;
  return Add(std::move(e));
}

int GrammarRules::AddRule(std::string name) {
  rules_.push_back({std::move(name)});
  return static_cast<int>(rules_.size()) - 1;
}

GrammarRules::Id GrammarRules::NewRule(std::string name, Id body) {
  const int rule = AddRule(std::move(name));
  SetBody(rule, body);
  return Call(rule);
}

}  // namespace packrat
