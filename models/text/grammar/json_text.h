// Rules for JSON texts and their parts.
#ifndef PACKRAT_MODELS_TEXT_GRAMMAR_JSON_TEXT_H_
#define PACKRAT_MODELS_TEXT_GRAMMAR_JSON_TEXT_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "models/text/grammar/grammar_rules.h"
#include "models/text/grammar/json_merge.h"
#include "models/text/grammar/json_schema.h"

namespace packrat {

class JsonText {
 public:
  using Id = GrammarRules::Id;
  JsonText(GrammarRules* rules, JsonSpacing spacing) : rules_(*rules), spacing_(spacing) {}

  Id Value();  // Any.
  Id Object();
  Id Array();
  // As it is, which no other value is equal to.
  Id Constant(const OrderedJson& value);
  Id Number();  // At most 16 digits before the point and behind it, an exponent of at most 2.
  // From `low` to `high`, whose magnitude is at most kMaxBound; at most 16 digits.
  static constexpr int64_t kMaxBound = 1000000000000000;
  Id Integer(std::optional<int64_t> low, std::optional<int64_t> high);
  Id String(int64_t min, int64_t max);  // So many characters.
  Id Quoted(Id inside);
  // A character of the set, escaped where it must be: for what is inside of quotes.
  Id Character(const CharacterSet& set);
  // A string that is none of `names`, which are UTF-8, ascend and are distinct.
  Id StringBut(const std::vector<std::string>& names);

  Id Member(Id name, Id value);
  struct Property {
    Id member;
    bool required;
  };
  // The properties in their order; behind them members `other`, where there are such: of these
  // alone from `min` to `max`, if no property is listed. `max` and below: kUnbounded for any
  // number.
  Id ObjectOf(const std::vector<Property>& properties, std::optional<Id> other, int64_t min,
              int64_t max);
  // `prefix`, then `item`, where there are such; none if there cannot be `min`.
  std::optional<Id> ArrayOf(const std::vector<Id>& prefix, std::optional<Id> item, int64_t min,
                            int64_t max);

  Id Nothing() { return rules_.Characters({}); }  // No text matches.

 private:
  // The parts of `items` in brackets: {} or []. `items` is not empty; null: there are none.
  Id Enclosed(absl::string_view brackets, std::optional<Id> items, bool may_be_empty);
  // "," and an item.
  Id Following(Id item);
  // Between parts.
  Id AnySpace();
  Id SpaceInBrackets() { return spacing_ == JsonSpacing::kAny ? AnySpace() : rules_.Literal(""); }
  Id SpaceBehindMark() { return spacing_ == JsonSpacing::kAny ? AnySpace() : rules_.Literal(" "); }
  Id AnyCharacter();
  // From `min` to `max` items, but at least one.
  Id Some(Id item, int64_t min, int64_t max);
  // What follows `at` characters that names [begin, end) have in common.
  Id RestBut(const std::vector<std::vector<uint32_t>>& names, size_t begin, size_t end, size_t at);

  GrammarRules& rules_;
  const JsonSpacing spacing_;
  int value_ = -1;  // Rules that are made when they are first asked for.
  std::optional<Id> space_, character_;
};

}  // namespace packrat

#endif  // PACKRAT_MODELS_TEXT_GRAMMAR_JSON_TEXT_H_
