// Reads the keywords of one JSON schema that restrict a value of one type. The schemas in them are
// not read here. Errors: INVALID_ARGUMENT with the keyword, without its place.
#ifndef PACKRAT_MODELS_TEXT_GRAMMAR_SCHEMA_KEYWORDS_H_
#define PACKRAT_MODELS_TEXT_GRAMMAR_SCHEMA_KEYWORDS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "models/text/grammar/grammar_rules.h"
#include "models/text/grammar/json_merge.h"
#include "models/text/grammar/json_number.h"

namespace packrat {

// How many there may be; max: kUnbounded for no bound.
struct CountRange {
  int64_t min = 0, max = GrammarRules::kUnbounded;
};

// Of characters, or what a regular expression says.
struct StringKeywords {
  CountRange length;
  std::string regex;    // Empty: none.
  bool search = false;  // It is found anywhere, and does not match the whole.
  std::string keyword;  // Where it comes from.
};
absl::StatusOr<StringKeywords> ReadString(const OrderedJson& schema);

// Of whole numbers; both within JsonText::kMaxBound.
struct IntegerKeywords {
  std::optional<int64_t> low, high;
};
absl::StatusOr<IntegerKeywords> ReadInteger(const OrderedJson& schema);

struct NumberKeywords {
  std::optional<DecimalBound> low, high;
};
absl::StatusOr<NumberKeywords> ReadNumber(const OrderedJson& schema);

// Schemas by where they are: null for what is not there.
struct ArrayKeywords {
  CountRange count;
  const OrderedJson* prefix = nullptr;  // A list.
  const OrderedJson* items = nullptr;   // Of what follows it.
  std::string prefix_key, items_key;    // As they are named there.
};
absl::StatusOr<ArrayKeywords> ReadArray(const OrderedJson& schema);

struct ObjectKeywords {
  struct Property {
    std::string name;
    const OrderedJson* schema;  // Null: any that others may have.
    bool required;
  };
  std::vector<Property> properties;  // In their order.
  // Of properties that are not listed. Null: there are none, as where `properties` stands alone.
  const OrderedJson* others = nullptr;
  CountRange count;  // Of the others, where no property is listed.
};
absl::StatusOr<ObjectKeywords> ReadObject(const OrderedJson& schema);

// Of `type`; empty if it is not there.
absl::StatusOr<std::vector<std::string>> ReadTypes(const OrderedJson& schema);

}  // namespace packrat

#endif  // PACKRAT_MODELS_TEXT_GRAMMAR_SCHEMA_KEYWORDS_H_
