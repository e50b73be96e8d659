// Regular expressions, of which a text must match the whole, or in which it must have a match.
// docs/structured_output.md has what is taken; the rest is refused by name.
#ifndef PACKRAT_MODELS_TEXT_GRAMMAR_REGEX_H_
#define PACKRAT_MODELS_TEXT_GRAMMAR_REGEX_H_

#include <functional>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "models/text/grammar/grammar_rules.h"

namespace packrat {

struct RegexOptions {
  // Anything may come before and behind, but where ^ or $ stands.
  bool search = false;
  // What stands for a character of a set. Null: the character itself.
  std::function<GrammarRules::Id(const CharacterSet& set, GrammarRules* rules)> characters;
};

// Adds an expression to `rules`. INVALID_ARGUMENT says where and why.
absl::StatusOr<GrammarRules::Id> AddRegex(absl::string_view pattern, const RegexOptions& options,
                                          GrammarRules* rules);
absl::StatusOr<GrammarRules> ParseRegex(absl::string_view pattern);

}  // namespace packrat

#endif  // PACKRAT_MODELS_TEXT_GRAMMAR_REGEX_H_
