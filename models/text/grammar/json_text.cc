#include "models/text/grammar/json_text.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "models/text/grammar/text_reader.h"

namespace packrat {
namespace {

constexpr int64_t kAny = GrammarRules::kUnbounded;
constexpr int kMaxDigits = 16;

// Never as they are: quotes, backslash, controls.
CharacterSet Escaped() { return MakeCharacterSet({{0, 0x1f}, {'"', '"'}, {'\\', '\\'}}); }

std::string EscapeOf(uint32_t c) {
  switch (c) {
    case '"':
      return "\\\"";
    case '\\':
      return "\\\\";
    case '\b':
      return "\\b";
    case '\f':
      return "\\f";
    case '\n':
      return "\\n";
    case '\r':
      return "\\r";
    case '\t':
      return "\\t";
    default:
      return absl::StrCat("\\u", absl::Hex(c, absl::kZeroPad4));
  }
}

}  // namespace

JsonText::Id JsonText::Space() {
  if (!space_.has_value()) {
    const Id indent = rules_.Repeat(rules_.Characters({{'\t', '\t'}, {' ', ' '}}), 0, 20);
    space_ = rules_.NewRule(
        "space", rules_.Optional(rules_.Choice(
                     {rules_.Literal(" "), rules_.Sequence({rules_.Literal("\n"), indent})})));
  }
  return *space_;
}

JsonText::Id JsonText::Quoted(Id inside) {
  return rules_.Sequence({rules_.Literal("\""), inside, rules_.Literal("\"")});
}

JsonText::Id JsonText::Character(const CharacterSet& set) {
  std::vector<Id> forms = {rules_.Characters(Intersection(set, Complement(Escaped())))};
  for (const CharacterRange& range : Intersection(set, Escaped())) {
    for (uint32_t c = range.first; c <= range.last; ++c)
      forms.push_back(rules_.Literal(EscapeOf(c)));
  }
  return rules_.Choice(std::move(forms));
}

JsonText::Id JsonText::AnyCharacter() {
  if (!character_.has_value()) {
    const auto digits = [this](CharacterSet first, CharacterSet second) {
      const Id hex = rules_.Characters(MakeCharacterSet({{'0', '9'}, {'A', 'F'}, {'a', 'f'}}));
      return rules_.Sequence(
          {rules_.Characters(std::move(first)), rules_.Characters(std::move(second)), hex, hex});
    };
    // No surrogates: alone they are no characters.
    const Id code = rules_.Choice(
        {digits(MakeCharacterSet({{'0', '9'}, {'A', 'C'}, {'E', 'F'}, {'a', 'c'}, {'e', 'f'}}),
                MakeCharacterSet({{'0', '9'}, {'A', 'F'}, {'a', 'f'}})),
         digits(MakeCharacterSet({{'D', 'D'}, {'d', 'd'}}), {{'0', '7'}})});
    CharacterSet letters;
    for (const char c : {'"', '\\', '/', 'b', 'f', 'n', 'r', 't'}) {
      letters.push_back({static_cast<uint32_t>(c), static_cast<uint32_t>(c)});
    }
    const Id escape = rules_.Sequence(
        {rules_.Literal("\\"), rules_.Choice({rules_.Characters(MakeCharacterSet(letters)),
                                              rules_.Sequence({rules_.Literal("u"), code})})});
    character_ = rules_.NewRule("character",
                                rules_.Choice({rules_.Characters(Complement(Escaped())), escape}));
  }
  return *character_;
}

JsonText::Id JsonText::String(int64_t min, int64_t max) {
  return Quoted(rules_.Repeat(AnyCharacter(), min, max));
}

JsonText::Id JsonText::StringBut(const std::vector<std::string>& names) {
  if (names.empty()) return String(0, kAny);
  std::vector<std::vector<uint32_t>> characters;
  for (const std::string& name : names) {
    characters.emplace_back();
    for (TextReader reader(name); !reader.done();) characters.back().push_back(reader.Character());
  }
  return Quoted(RestBut(characters, 0, characters.size(), 0));
}

JsonText::Id JsonText::RestBut(const std::vector<std::vector<uint32_t>>& names, size_t begin,
                               size_t end, size_t at) {
  std::vector<Id> ways;
  const bool is_name = names[begin].size() == at;  // The shortest comes first.
  if (is_name) {
    ++begin;
  } else {
    ways.push_back(rules_.Literal(""));
  }
  std::vector<CharacterRange> next;
  while (begin < end) {
    const uint32_t c = names[begin][at];
    size_t group = begin;
    while (group < end && names[group][at] == c) ++group;
    next.push_back({c, c});
    ways.push_back(rules_.Sequence({Character({{c, c}}), RestBut(names, begin, group, at + 1)}));
    begin = group;
  }
  ways.push_back(rules_.Sequence({Character(Complement(MakeCharacterSet(std::move(next)))),
                                  rules_.Repeat(AnyCharacter(), 0, kAny)}));
  return rules_.Choice(std::move(ways));
}

JsonText::Id JsonText::Digits(int64_t min, int64_t max) {
  return rules_.Repeat(rules_.Characters({{'0', '9'}}), min, max);
}

JsonText::Id JsonText::DigitsBetween(const std::string& low, const std::string& high) {
  const auto count = static_cast<int64_t>(low.size());
  if (low == std::string(count, '0') && high == std::string(count, '9')) {
    return Digits(count, count);
  }
  const auto one = [this](char first, char last) {
    return rules_.Characters({{static_cast<uint32_t>(first), static_cast<uint32_t>(last)}});
  };
  const std::string low_rest = low.substr(1), high_rest = high.substr(1);
  if (low[0] == high[0]) {
    return rules_.Sequence({one(low[0], low[0]), DigitsBetween(low_rest, high_rest)});
  }
  // The first digit is the lowest, the highest, or one between them.
  std::vector<Id> ways = {
      rules_.Sequence({one(low[0], low[0]), DigitsBetween(low_rest, std::string(count - 1, '9'))}),
      rules_.Sequence(
          {one(high[0], high[0]), DigitsBetween(std::string(count - 1, '0'), high_rest)})};
  if (low[0] + 1 < high[0]) {
    ways.push_back(
        rules_.Sequence({one(static_cast<char>(low[0] + 1), static_cast<char>(high[0] - 1)),
                         Digits(count - 1, count - 1)}));
  }
  return rules_.Choice(std::move(ways));
}

JsonText::Id JsonText::Natural(int64_t low, std::optional<int64_t> high) {
  std::vector<Id> ways;
  int64_t first = low;
  for (int digits = 1; digits <= kMaxDigits; ++digits) {
    int64_t last = 9;
    for (int i = 1; i < digits; ++i) last = last * 10 + 9;
    if (first > last) continue;
    if (high.has_value() && *high < first) break;
    if (high.has_value()) last = std::min(last, *high);
    ways.push_back(DigitsBetween(absl::StrCat(first), absl::StrCat(last)));
    first = last + 1;
  }
  return ways.empty() ? Nothing() : rules_.Choice(std::move(ways));
}

JsonText::Id JsonText::Integer(std::optional<int64_t> low, std::optional<int64_t> high) {
  std::vector<Id> ways;
  if (!high.has_value() || *high >= 0)
    ways.push_back(Natural(std::max<int64_t>(0, low.value_or(0)), high));
  if (!low.has_value() || *low < 0) {
    const int64_t nearest = high.has_value() ? std::max<int64_t>(1, -*high) : 1;
    std::optional<int64_t> farthest;
    if (low.has_value()) farthest = -*low;
    ways.push_back(rules_.Sequence({rules_.Literal("-"), Natural(nearest, farthest)}));
  }
  return rules_.Choice(std::move(ways));
}

JsonText::Id JsonText::Number() {
  const Id whole = rules_.Choice(
      {rules_.Literal("0"),
       rules_.Sequence({rules_.Characters({{'1', '9'}}), Digits(0, kMaxDigits - 1)})});
  const Id fraction = rules_.Sequence({rules_.Literal("."), Digits(1, kMaxDigits)});
  const Id exponent =
      rules_.Sequence({rules_.Characters({{'E', 'E'}, {'e', 'e'}}),
                       rules_.Optional(rules_.Characters({{'+', '+'}, {'-', '-'}})), Digits(1, 2)});
  return rules_.Sequence({rules_.Optional(rules_.Literal("-")), whole, rules_.Optional(fraction),
                          rules_.Optional(exponent)});
}

JsonText::Id JsonText::Following(Id item) {
  return rules_.Sequence({rules_.Literal(","), Space(), item});
}

JsonText::Id JsonText::Enclosed(absl::string_view brackets, std::optional<Id> items,
                                bool may_be_empty) {
  std::vector<Id> parts = {rules_.Literal(brackets.substr(0, 1)), Space()};
  if (items.has_value()) {
    const Id inside = rules_.Sequence({*items, Space()});
    parts.push_back(may_be_empty ? rules_.Optional(inside) : inside);
  }
  parts.push_back(rules_.Literal(brackets.substr(1)));
  return rules_.Sequence(std::move(parts));
}

JsonText::Id JsonText::Object() {
  const Id member = rules_.NewRule(
      "member", rules_.Sequence({String(0, kAny), rules_.Literal(":"), Space(), Value()}));
  return Enclosed("{}", rules_.Sequence({member, rules_.Repeat(Following(member), 0, kAny)}), true);
}

JsonText::Id JsonText::Array() {
  return Enclosed("[]", rules_.Sequence({Value(), rules_.Repeat(Following(Value()), 0, kAny)}),
                  true);
}

JsonText::Id JsonText::Value() {
  if (value_ < 0) {
    value_ = rules_.AddRule("value");
    rules_.SetBody(
        value_, rules_.Choice({Object(), Array(), String(0, kAny), Number(), rules_.Literal("true"),
                               rules_.Literal("false"), rules_.Literal("null")}));
  }
  return rules_.Call(value_);
}

}  // namespace packrat
