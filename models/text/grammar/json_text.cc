#include "models/text/grammar/json_text.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "models/text/grammar/json_number.h"
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

std::string InLine(const OrderedJson& value) {
  if (!value.is_structured()) return value.dump();
  std::string text;
  for (const auto& [name, part] : value.items()) {
    absl::StrAppend(&text, text.empty() ? "" : ", ",
                    value.is_object() ? OrderedJson(name).dump() + ": " : "", InLine(part));
  }
  return value.is_object() ? absl::StrCat("{", text, "}") : absl::StrCat("[", text, "]");
}

}  // namespace

JsonText::Id JsonText::AnySpace() {
  if (!space_.has_value()) {
    const Id indent = rules_.Repeat(rules_.Characters({{'\t', '\t'}, {' ', ' '}}), 0, 20);
    space_ = rules_.NewRule(
        "space", rules_.Optional(rules_.Choice(
                     {rules_.Literal(" "), rules_.Sequence({rules_.Literal("\n"), indent})})));
  }
  return *space_;
}

JsonText::Id JsonText::Constant(const OrderedJson& value) {
  return rules_.Literal(spacing_ == JsonSpacing::kLine ? InLine(value) : value.dump());
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

JsonText::Id JsonText::Integer(std::optional<int64_t> low, std::optional<int64_t> high) {
  std::vector<Id> ways;
  if (!high.has_value() || *high >= 0)
    ways.push_back(NaturalBetween(std::max<int64_t>(0, low.value_or(0)), high, &rules_));
  if (!low.has_value() || *low < 0) {
    const int64_t nearest = high.has_value() ? std::max<int64_t>(1, -*high) : 1;
    std::optional<int64_t> farthest;
    if (low.has_value()) farthest = -*low;
    ways.push_back(
        rules_.Sequence({rules_.Literal("-"), NaturalBetween(nearest, farthest, &rules_)}));
  }
  return rules_.Choice(std::move(ways));
}

JsonText::Id JsonText::Number() {
  const auto digits = [this](int64_t min, int64_t max) {
    return rules_.Repeat(rules_.Characters({{'0', '9'}}), min, max);
  };
  const Id whole = rules_.Choice(
      {rules_.Literal("0"),
       rules_.Sequence({rules_.Characters({{'1', '9'}}), digits(0, kMaxDigits - 1)})});
  const Id fraction = rules_.Sequence({rules_.Literal("."), digits(1, kMaxDigits)});
  const Id exponent =
      rules_.Sequence({rules_.Characters({{'E', 'E'}, {'e', 'e'}}),
                       rules_.Optional(rules_.Characters({{'+', '+'}, {'-', '-'}})), digits(1, 2)});
  return rules_.Sequence({rules_.Optional(rules_.Literal("-")), whole, rules_.Optional(fraction),
                          rules_.Optional(exponent)});
}

JsonText::Id JsonText::Following(Id item) {
  return rules_.Sequence({rules_.Literal(","), SpaceBehindMark(), item});
}

JsonText::Id JsonText::Enclosed(absl::string_view brackets, std::optional<Id> items,
                                bool may_be_empty) {
  std::vector<Id> parts = {rules_.Literal(brackets.substr(0, 1)), SpaceInBrackets()};
  if (items.has_value()) {
    const Id inside = rules_.Sequence({*items, SpaceInBrackets()});
    parts.push_back(may_be_empty ? rules_.Optional(inside) : inside);
  }
  parts.push_back(rules_.Literal(brackets.substr(1)));
  return rules_.Sequence(std::move(parts));
}

JsonText::Id JsonText::Member(Id name, Id value) {
  return rules_.NewRule("member",
                        rules_.Sequence({name, rules_.Literal(":"), SpaceBehindMark(), value}));
}

JsonText::Id JsonText::Some(Id item, int64_t min, int64_t max) {
  return rules_.Sequence({item, rules_.Repeat(Following(item), std::max<int64_t>(0, min - 1),
                                              max == kAny ? kAny : max - 1)});
}

JsonText::Id JsonText::ObjectOf(const std::vector<Property>& properties, std::optional<Id> other,
                                int64_t min, int64_t max) {
  if (properties.empty()) {
    if (!other.has_value() || max == 0) return Enclosed("{}", std::nullopt, true);
    return Enclosed("{}", Some(*other, min, max), min == 0);
  }
  // From the last property on: what follows a member, and what can be the first one.
  Id rest = rules_.Literal(""), first = Nothing();
  if (other.has_value()) {
    rest = rules_.Repeat(Following(*other), 0, kAny);
    first = Some(*other, 0, kAny);
  }
  bool may_be_empty = true;
  for (size_t i = properties.size(); i > 0; --i) {
    const Property& property = properties[i - 1];
    const Id begin = rules_.Sequence({property.member, rest});
    first = rules_.NewRule("object", property.required ? begin : rules_.Choice({begin, first}));
    const Id next = Following(property.member);
    rest = rules_.NewRule(
        "object", rules_.Sequence({property.required ? next : rules_.Optional(next), rest}));
    may_be_empty = may_be_empty && !property.required;
  }
  return Enclosed("{}", first, may_be_empty);
}

std::optional<JsonText::Id> JsonText::ArrayOf(const std::vector<Id>& prefix, std::optional<Id> item,
                                              int64_t min, int64_t max) {
  if (max == 0) return Enclosed("[]", std::nullopt, true);
  const auto first = static_cast<int64_t>(prefix.size());
  if (!item.has_value() && first < min) return std::nullopt;
  if (first == 0) {
    return item.has_value() ? Enclosed("[]", Some(*item, min, max), min == 0)
                            : Enclosed("[]", std::nullopt, true);
  }
  // What follows so many items, from the end on: `from` of them are one by one.
  const int64_t from = max == kAny ? first : std::min(first, max);
  Id rest = rules_.Literal("");
  if (item.has_value() && (max == kAny || max > from)) {
    rest = rules_.Repeat(Following(*item), std::max<int64_t>(0, min - from),
                         max == kAny ? kAny : max - from);
  }
  for (int64_t i = from - 1; i > 0; --i) {
    const Id more = rules_.Sequence({Following(prefix[i]), rest});
    rest = rules_.NewRule("items", i < min ? more : rules_.Optional(more));
  }
  return Enclosed("[]", rules_.Sequence({prefix[0], rest}), min == 0);
}

JsonText::Id JsonText::Object() { return ObjectOf({}, Member(String(0, kAny), Value()), 0, kAny); }

JsonText::Id JsonText::Array() { return Enclosed("[]", Some(Value(), 0, kAny), true); }

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
