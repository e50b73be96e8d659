// A grammar as a front end (GBNF, regular expression, JSON schema) builds it: rules, each with an
// expression for its body.
#ifndef PACKRAT_MODELS_TEXT_GRAMMAR_GRAMMAR_RULES_H_
#define PACKRAT_MODELS_TEXT_GRAMMAR_GRAMMAR_RULES_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "models/text/grammar/character_set.h"

namespace packrat {

// Of the text that describes a grammar.
inline constexpr size_t kMaxGrammarBytes = 64 << 10;
// Of a repeat: {m,n}, maxLength, maxItems.
inline constexpr int64_t kMaxRepeat = 10000;
// Of groups, lists and schemas in each other.
inline constexpr int kMaxGrammarNesting = 64;

class GrammarRules {
 public:
  using Id = int32_t;  // Of an expression, which may be used in several places.
  static constexpr int64_t kUnbounded = -1;

  struct Expression {
    enum class Kind { kLiteral, kCharacters, kSequence, kChoice, kRepeat, kCall };
    Kind kind = Kind::kLiteral;
    std::string literal;                // UTF-8, or a special token. Empty: the empty text.
    CharacterSet characters;            // Empty: matches nothing.
    std::vector<Id> parts;              // Of a sequence, a choice; one of a repeat.
    int64_t min = 0, max = kUnbounded;  // Of a repeat.
    int rule = -1;                      // Of a call.
  };
  struct Rule {
    std::string name;  // For messages.
    Id body = -1;
  };

  Id Literal(absl::string_view text);
  Id Characters(CharacterSet set);
  Id Sequence(std::vector<Id> parts);
  Id Choice(std::vector<Id> parts);
  Id Repeat(Id part, int64_t min, int64_t max);
  Id Optional(Id part) { return Repeat(part, 0, 1); }
  Id Call(int rule);

  // The first rule is what a text must match. Each must get a body.
  int AddRule(std::string name);
  void SetBody(int rule, Id body) { rules_[rule].body = body; }
  // A rule that is done, as an expression.
  Id NewRule(std::string name, Id body);

  const Expression& at(Id id) const { return expressions_[id]; }
  const std::vector<Rule>& rules() const { return rules_; }
  size_t size() const { return expressions_.size(); }

 private:
  Id Add(Expression expression);
  std::vector<Expression> expressions_;
  std::vector<Rule> rules_;
};

}  // namespace packrat

#endif  // PACKRAT_MODELS_TEXT_GRAMMAR_GRAMMAR_RULES_H_
