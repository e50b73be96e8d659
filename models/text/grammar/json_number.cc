#include "models/text/grammar/json_number.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace packrat {
namespace {

using Id = GrammarRules::Id;
constexpr int kMaxDigits = 16;

Id Digits(int64_t min, int64_t max, GrammarRules* rules) {
  return rules->Repeat(rules->Characters({{'0', '9'}}), min, max);
}

Id Digit(char first, char last, GrammarRules* rules) {
  return rules->Characters({{static_cast<uint32_t>(first), static_cast<uint32_t>(last)}});
}

// Numbers of as many digits as `low` and `high` have, from one to the other.
Id DigitsBetween(const std::string& low, const std::string& high, GrammarRules* rules) {
  const auto count = static_cast<int64_t>(low.size());
  if (low == std::string(count, '0') && high == std::string(count, '9')) {
    return Digits(count, count, rules);
  }
  const std::string low_rest = low.substr(1), high_rest = high.substr(1);
  if (low[0] == high[0]) {
    return rules->Sequence(
        {Digit(low[0], low[0], rules), DigitsBetween(low_rest, high_rest, rules)});
  }
  // The first digit is the lowest, the highest, or one between them.
  std::vector<Id> ways = {
      rules->Sequence({Digit(low[0], low[0], rules),
                       DigitsBetween(low_rest, std::string(count - 1, '9'), rules)}),
      rules->Sequence({Digit(high[0], high[0], rules),
                       DigitsBetween(std::string(count - 1, '0'), high_rest, rules)})};
  if (low[0] + 1 < high[0]) {
    ways.push_back(rules->Sequence(
        {Digit(static_cast<char>(low[0] + 1), static_cast<char>(high[0] - 1), rules),
         Digits(count - 1, count - 1, rules)}));
  }
  return rules->Choice(std::move(ways));
}

// A fraction whose number is to lie beside a bound that has the same whole part: the digits so far
// are the bound's. Null: it lies within, whatever follows.
class Fraction {
 public:
  Fraction(const DecimalBound* low, const DecimalBound* high, int most_digits, GrammarRules* rules)
      : most_(most_digits), rules_(*rules) {
    all_ = From(low, high, 0);
  }
  // With its point, or nothing where the whole number does.
  std::optional<Id> all() const { return all_; }

 private:
  static char DigitAt(const DecimalBound& bound, size_t at) {
    return at < bound.fraction.size() ? bound.fraction[at] : '0';
  }
  // Whether the number may end with `at` digits of the bounds.
  static bool MayEnd(const DecimalBound* low, const DecimalBound* high, size_t at) {
    if (low != nullptr && (at < low->fraction.size() || low->exclusive)) return false;
    return high == nullptr || at < high->fraction.size() || !high->exclusive;
  }
  // What may follow `at` digits of the bounds; none if nothing may, not even the end.
  std::optional<Id> From(const DecimalBound* low, const DecimalBound* high, int at) {
    // From here on any digits make it larger.
    if (low != nullptr && !low->exclusive && static_cast<size_t>(at) >= low->fraction.size()) {
      low = nullptr;
    }
    std::vector<Id> ways;
    if (MayEnd(low, high, at)) ways.push_back(rules_.Literal(""));
    if (at < most_) {
      for (Id way : Next(low, high, at)) {
        ways.push_back(at > 0 ? way : rules_.Sequence({rules_.Literal("."), way}));
      }
    }
    if (ways.empty()) return std::nullopt;
    return rules_.NewRule("fraction", rules_.Choice(std::move(ways)));
  }
  // With one digit more.
  std::vector<Id> Next(const DecimalBound* low, const DecimalBound* high, int at) {
    const char first = low != nullptr ? DigitAt(*low, at) : '0';
    const char last = high != nullptr ? DigitAt(*high, at) : '9';
    std::vector<Id> ways;
    const auto add = [&](char from, char to, std::optional<Id> rest) {
      if (from <= to && rest.has_value()) {
        ways.push_back(rules_.Sequence({Digit(from, to, &rules_), *rest}));
      }
    };
    if (low != nullptr && high != nullptr && first >= last) {
      if (first == last) add(first, last, From(low, high, at + 1));
      return ways;
    }
    if (low != nullptr) add(first, first, From(low, nullptr, at + 1));
    if (high != nullptr) add(last, last, From(nullptr, high, at + 1));
    add(static_cast<char>(first + (low != nullptr ? 1 : 0)),
        static_cast<char>(last - (high != nullptr ? 1 : 0)), Digits(0, most_ - at - 1, &rules_));
    return ways;
  }

  const int most_;
  GrammarRules& rules_;
  std::optional<Id> all_;
};

int DigitsOf(int64_t whole) { return static_cast<int>(absl::StrCat(whole).size()); }

// Numbers that are not negative; the signs of the bounds do not count.
std::optional<Id> PositiveBetween(const DecimalBound& low, const std::optional<DecimalBound>& high,
                                  GrammarRules* rules) {
  std::vector<Id> ways;
  const auto add = [&](Id whole, const DecimalBound* from, const DecimalBound* to, int digits) {
    const int most = std::max(0, DecimalBound::kMostDigits - digits);
    const std::optional<Id> fraction = Fraction(from, to, most, rules).all();
    if (fraction.has_value()) ways.push_back(rules->Sequence({whole, *fraction}));
  };
  const auto exactly = [&](int64_t whole) { return rules->Literal(absl::StrCat(whole)); };
  const DecimalBound* const to = high.has_value() ? &*high : nullptr;
  if (to != nullptr && to->whole == low.whole) {
    add(exactly(low.whole), &low, to, DigitsOf(low.whole));
  } else if (to == nullptr || low.whole < to->whole) {
    add(exactly(low.whole), &low, nullptr, DigitsOf(low.whole));
    std::optional<int64_t> last;
    if (to != nullptr) last = to->whole - 1;
    if (!last.has_value() || low.whole < *last) {
      add(NaturalBetween(low.whole + 1, last, rules), nullptr, nullptr,
          DigitsOf(last.value_or(low.whole)));
    }
    if (to != nullptr) add(exactly(to->whole), nullptr, to, DigitsOf(to->whole));
  }
  if (ways.empty()) return std::nullopt;
  return rules->Choice(std::move(ways));
}

}  // namespace

std::optional<DecimalBound> ParseDecimal(absl::string_view text) {
  DecimalBound bound;
  bound.negative = absl::ConsumePrefix(&text, "-");
  const size_t e = text.find_first_of("eE");
  int exponent = 0;
  if (e != absl::string_view::npos) {
    if (!absl::SimpleAtoi(text.substr(e + 1), &exponent) || exponent > 99 || exponent < -99) {
      return std::nullopt;
    }
    text = text.substr(0, e);
  }
  const size_t point = std::min(text.find('.'), text.size());
  std::string digits(text.substr(0, point));
  if (point < text.size()) absl::StrAppend(&digits, text.substr(point + 1));
  // So many of them are before the point.
  const int before = static_cast<int>(point) + exponent;
  if (before < 0) digits.insert(0, -before, '0');
  if (before > static_cast<int>(digits.size())) digits.append(before - digits.size(), '0');
  const size_t whole_digits = std::max(0, before);
  bound.fraction = digits.substr(whole_digits);
  while (!bound.fraction.empty() && bound.fraction.back() == '0') bound.fraction.pop_back();
  std::string whole = digits.substr(0, whole_digits);
  whole.erase(0, std::min(whole.find_first_not_of('0'), whole.size()));
  if (whole.size() > kMaxDigits) return std::nullopt;
  if (!whole.empty() && !absl::SimpleAtoi(whole, &bound.whole)) return std::nullopt;
  const bool too_large = bound.whole > 1000000000000000 ||
                         (bound.whole == 1000000000000000 && !bound.fraction.empty());
  const int all = (bound.fraction.empty() ? 0 : DigitsOf(bound.whole)) +
                  static_cast<int>(bound.fraction.size());
  if (too_large || all > DecimalBound::kMostDigits) return std::nullopt;
  return bound;
}

GrammarRules::Id NaturalBetween(int64_t low, std::optional<int64_t> high, GrammarRules* rules) {
  std::vector<Id> ways;
  int64_t first = low;
  for (int digits = 1; digits <= kMaxDigits; ++digits) {
    int64_t last = 9;
    for (int i = 1; i < digits; ++i) last = last * 10 + 9;
    if (first > last) continue;
    if (high.has_value() && *high < first) break;
    if (high.has_value()) last = std::min(last, *high);
    ways.push_back(DigitsBetween(absl::StrCat(first), absl::StrCat(last), rules));
    first = last + 1;
  }
  return rules->Choice(std::move(ways));
}

std::optional<GrammarRules::Id> NumberBetween(const std::optional<DecimalBound>& low,
                                              const std::optional<DecimalBound>& high,
                                              GrammarRules* rules) {
  const auto is_zero = [](const DecimalBound& b) { return b.whole == 0 && b.fraction.empty(); };
  DecimalBound zero;
  std::vector<Id> ways;
  const bool low_is_negative = !low.has_value() || (low->negative && !is_zero(*low));
  const bool high_is_negative = high.has_value() && high->negative && !is_zero(*high);
  if (!high_is_negative) {
    const auto some = PositiveBetween(low_is_negative ? zero : *low, high, rules);
    if (some.has_value()) ways.push_back(*some);
  }
  if (low_is_negative) {
    DecimalBound nearest = high_is_negative ? *high : zero;
    if (high.has_value() && is_zero(*high)) nearest.exclusive = high->exclusive;
    const auto some = PositiveBetween(nearest, low, rules);
    if (some.has_value()) ways.push_back(rules->Sequence({rules->Literal("-"), *some}));
  }
  if (ways.empty()) return std::nullopt;
  return rules->Choice(std::move(ways));
}

}  // namespace packrat
