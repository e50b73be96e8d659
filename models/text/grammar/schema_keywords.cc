#include "models/text/grammar/schema_keywords.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "models/files/json.h"
#include "models/text/grammar/json_text.h"
#include "models/text/grammar/schema_formats.h"

namespace packrat {
namespace {

absl::Status Invalid(absl::string_view why) { return absl::InvalidArgumentError(why); }

const OrderedJson* FindOrNull(const OrderedJson& schema, const char* key) {
  const auto found = schema.find(key);
  return found == schema.end() ? nullptr : &*found;
}

absl::StatusOr<int64_t> ReadCount(const OrderedJson& schema, const char* key, int64_t otherwise) {
  const OrderedJson* const value = FindOrNull(schema, key);
  if (value == nullptr) return otherwise;
  if (value->is_number()) {
    const auto count = value->get<double>();
    if (count >= 0 && count <= kMaxRepeat && count == std::floor(count)) {
      return static_cast<int64_t>(count);
    }
  }
  return Invalid(absl::StrCat(key, " is ", Shown(*value), "; range [0, ", kMaxRepeat, "]"));
}

absl::StatusOr<CountRange> ReadCounts(const OrderedJson& schema, const char* min, const char* max) {
  CountRange range;
  const auto least = ReadCount(schema, min, range.min);
  if (!least.ok()) return least.status();
  const auto most = ReadCount(schema, max, range.max);
  if (!most.ok()) return most.status();
  range = {*least, *most};
  if (range.max != GrammarRules::kUnbounded && range.max < range.min) {
    return Invalid(absl::StrCat(max, " is less than ", min));
  }
  return range;
}

// Bounds from below or above; the stricter one where both stand.
absl::StatusOr<std::optional<DecimalBound>> ReadBound(const OrderedJson& schema, const char* key,
                                                      const char* exclusive_key, bool low) {
  std::optional<DecimalBound> bound;
  std::optional<double> strictest;
  for (const bool exclusive : {false, true}) {
    const char* const name = exclusive ? exclusive_key : key;
    const OrderedJson* const value = FindOrNull(schema, name);
    if (value == nullptr) continue;
    std::optional<DecimalBound> read;
    if (value->is_number()) read = ParseDecimal(value->dump());
    if (!read.has_value()) {
      return Invalid(absl::StrCat(name, " is ", Shown(*value),
                                  "; range [-1e15, 1e15], with at most ", DecimalBound::kMostDigits,
                                  " digits"));
    }
    read->exclusive = exclusive;
    const auto x = value->get<double>();
    const bool stricter = !strictest.has_value() || (low ? x >= *strictest : x <= *strictest);
    if (stricter) {
      bound = std::move(read);
      strictest = x;
    }
  }
  return bound;
}

// The nearest whole number within.
int64_t WholeWithin(const DecimalBound& bound, bool low) {
  const bool up = low != bound.negative;  // In magnitude.
  const bool beside = bound.fraction.empty() ? bound.exclusive : up;
  int64_t whole = bound.whole;
  if (beside && (up || bound.fraction.empty())) whole += up ? 1 : -1;
  return bound.negative ? -whole : whole;
}

}  // namespace

absl::StatusOr<std::vector<std::string>> ReadTypes(const OrderedJson& schema) {
  std::vector<std::string> types;
  const OrderedJson* const value = FindOrNull(schema, "type");
  if (value == nullptr) return types;
  const OrderedJson list = value->is_array() ? *value : OrderedJson::array({*value});
  for (const OrderedJson& type : list) {
    if (!type.is_string() || !IsType(type.get<std::string>())) {
      return Invalid(absl::StrCat("type ", Shown(type), " is not one"));
    }
    types.push_back(type.get<std::string>());
  }
  if (types.empty()) return Invalid("type is an empty list");
  return types;
}

absl::StatusOr<StringKeywords> ReadString(const OrderedJson& schema) {
  StringKeywords out;
  const auto length = ReadCounts(schema, "minLength", "maxLength");
  if (!length.ok()) return length.status();
  out.length = *length;
  const OrderedJson *const pattern = FindOrNull(schema, "pattern"), *const format = FindOrNull(
                                                                        schema, "format");
  if (pattern == nullptr && format == nullptr) return out;
  if ((pattern != nullptr && format != nullptr) || out.length.min > 0 ||
      out.length.max != GrammarRules::kUnbounded) {
    return Invalid("of pattern, format and minLength with maxLength one is supported");
  }
  out.search = pattern != nullptr;
  out.keyword = out.search ? "pattern" : "format";
  const OrderedJson& value = out.search ? *pattern : *format;
  if (!value.is_string()) return Invalid(absl::StrCat(out.keyword, " is a string"));
  out.regex = value.get<std::string>();
  if (out.search) {
    // What every string matches; an empty regular expression is none.
    if (out.regex.empty()) out.search = false;
    return out;
  }
  out.regex = FormatRegex(value.get<std::string>());
  if (!out.regex.empty()) return out;
  return Invalid(absl::StrCat("format ", Quoted(value.get<std::string>()), " is not supported; ",
                              FormatNames(), " are"));
}

absl::StatusOr<NumberKeywords> ReadNumber(const OrderedJson& schema) {
  NumberKeywords out;
  auto low = ReadBound(schema, "minimum", "exclusiveMinimum", /*low=*/true);
  if (!low.ok()) return low.status();
  auto high = ReadBound(schema, "maximum", "exclusiveMaximum", /*low=*/false);
  if (!high.ok()) return high.status();
  return NumberKeywords{*std::move(low), *std::move(high)};
}

absl::StatusOr<IntegerKeywords> ReadInteger(const OrderedJson& schema) {
  const auto bounds = ReadNumber(schema);
  if (!bounds.ok()) return bounds.status();
  IntegerKeywords out;
  if (bounds->low.has_value()) out.low = WholeWithin(*bounds->low, /*low=*/true);
  if (bounds->high.has_value()) out.high = WholeWithin(*bounds->high, /*low=*/false);
  if (out.low.has_value() && out.high.has_value() && *out.low > *out.high) {
    return Invalid("no integer is between minimum and maximum");
  }
  return out;
}

absl::StatusOr<ArrayKeywords> ReadArray(const OrderedJson& schema) {
  ArrayKeywords out;
  const auto count = ReadCounts(schema, "minItems", "maxItems");
  if (!count.ok()) return count.status();
  out.count = *count;
  const OrderedJson* const items = FindOrNull(schema, "items");
  // Until draft 2019-09 a list of items was what prefixItems is now.
  const bool old = items != nullptr && items->is_array();
  out.prefix_key = old ? "items" : "prefixItems";
  out.items_key = old ? "additionalItems" : "items";
  if (old && schema.contains("prefixItems")) {
    return Invalid("items is a list, and prefixItems stands beside it");
  }
  out.prefix = FindOrNull(schema, out.prefix_key.c_str());
  out.items = FindOrNull(schema, out.items_key.c_str());
  if (out.prefix != nullptr && !out.prefix->is_array()) {
    return Invalid("prefixItems is a list of schemas");
  }
  return out;
}

absl::StatusOr<ObjectKeywords> ReadObject(const OrderedJson& schema) {
  ObjectKeywords out;
  const OrderedJson *const listed = FindOrNull(schema, "properties"),
                           *const required = FindOrNull(schema, "required"),
                           *const others = FindOrNull(schema, "additionalProperties");
  if (listed != nullptr && !listed->is_object()) return Invalid("properties is an object");
  if (listed != nullptr) {
    for (const auto& [name, value] : listed->items()) {
      out.properties.push_back({name, &value, false});
    }
  }
  static const auto* const kAnything = new OrderedJson(true);
  if (others != nullptr) {
    if (*others != OrderedJson(false)) out.others = others;
  } else if (listed == nullptr) {
    out.others = kAnything;
  }
  if (required != nullptr && !required->is_array()) return Invalid("required is a list of names");
  absl::flat_hash_map<std::string, size_t> places;
  for (size_t i = 0; required != nullptr && i < out.properties.size(); ++i) {
    places[out.properties[i].name] = i;
  }
  for (size_t i = 0; required != nullptr && i < required->size(); ++i) {
    const OrderedJson& name = (*required)[i];
    if (!name.is_string()) return Invalid("required is a list of names");
    const auto [place, added] = places.try_emplace(name.get<std::string>(), out.properties.size());
    if (!added) {
      out.properties[place->second].required = true;
    } else if (others != nullptr && out.others == nullptr) {
      return Invalid(absl::StrCat("required has ", Quoted(name.get<std::string>()),
                                  ", which is not in properties, and there can be no others"));
    } else {
      // It comes behind those that are listed.
      const OrderedJson* const any = out.others != nullptr ? out.others : kAnything;
      out.properties.push_back({name.get<std::string>(), any, true});
    }
  }
  const auto count = ReadCounts(schema, "minProperties", "maxProperties");
  if (!count.ok()) return count.status();
  out.count = *count;
  if (out.properties.empty()) {
    // A name can come twice, and counts once.
    if (out.count.min <= 1 && (out.count.min == 0 || out.others != nullptr)) return out;
    return Invalid("minProperties is supported up to 1, or what required has");
  }
  // What they say must follow from the rest.
  const auto must = std::count_if(out.properties.begin(), out.properties.end(),
                                  [](const auto& property) { return property.required; });
  const auto may = static_cast<int64_t>(out.properties.size());
  if (out.count.min > must) {
    return Invalid(
        "minProperties beside properties is supported up to the number of required ones");
  }
  if (out.count.max != GrammarRules::kUnbounded && (out.others != nullptr || out.count.max < may)) {
    return Invalid(
        "maxProperties beside properties is supported from their number on, and without others");
  }
  out.count = {};
  return out;
}

}  // namespace packrat
