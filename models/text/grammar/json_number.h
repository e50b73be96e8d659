// Rules for JSON numbers between bounds.
#ifndef PACKRAT_MODELS_TEXT_GRAMMAR_JSON_NUMBER_H_
#define PACKRAT_MODELS_TEXT_GRAMMAR_JSON_NUMBER_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"
#include "models/text/grammar/grammar_rules.h"

namespace packrat {

// A number as its decimal digits, so that nothing is rounded.
struct DecimalBound {
  // Together with the digits of the fraction at most so many are told apart by a double.
  static constexpr int kMostDigits = 15;

  bool negative = false;
  bool exclusive = false;
  int64_t whole = 0;     // At most 1e15.
  std::string fraction;  // Without zeros at its end.
};

// Of a number as JSON writes it; none if it has too many digits.
std::optional<DecimalBound> ParseDecimal(absl::string_view text);

// Numbers without an exponent from one bound to the other, with so few digits that a reader that
// rounds them to a double finds them within the bounds. None if there is no such number.
std::optional<GrammarRules::Id> NumberBetween(const std::optional<DecimalBound>& low,
                                              const std::optional<DecimalBound>& high,
                                              GrammarRules* rules);

// Whole numbers from `low`, which is not negative, to `high`; without `high` of at most 16 digits.
GrammarRules::Id NaturalBetween(int64_t low, std::optional<int64_t> high, GrammarRules* rules);

}  // namespace packrat

#endif  // PACKRAT_MODELS_TEXT_GRAMMAR_JSON_NUMBER_H_
