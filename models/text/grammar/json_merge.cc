#include "models/text/grammar/json_merge.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/match.h"
#include "absl/strings/str_split.h"

namespace packrat {
namespace {

using Keywords = absl::flat_hash_set<std::string>;

const Keywords& Annotations() {
  static const auto* const kAll = new Keywords(absl::StrSplit(
      "title description default examples example $schema $id $comment $anchor $defs definitions "
      "deprecated readOnly writeOnly contentEncoding contentMediaType discriminator xml "
      "externalDocs",
      ' '));
  return *kAll;
}

const Keywords& Restrictions() {
  static const auto* const kAll = new Keywords(absl::StrSplit(
      "type enum const nullable $ref allOf anyOf oneOf properties required additionalProperties "
      "minProperties maxProperties items prefixItems additionalItems minItems maxItems minLength "
      "maxLength pattern format minimum maximum exclusiveMinimum exclusiveMaximum",
      ' '));
  return *kAll;
}

constexpr absl::string_view kTypes[] = {"object",  "array",   "string", "number",
                                        "integer", "boolean", "null"};

template <class List>
bool Has(const List& list, absl::string_view name) {
  return std::find(std::begin(list), std::end(list), name) != std::end(list);
}

bool MergeProperties(const OrderedJson& part, OrderedJson* base) {
  if (!part.is_object() || !base->is_object()) return false;
  for (const auto& [name, schema] : part.items()) {
    if (!base->contains(name)) {
      (*base)[name] = schema;
    } else if ((*base)[name] != schema) {
      return false;
    }
  }
  return true;
}

bool MergeRequired(const OrderedJson& part, OrderedJson* base) {
  if (!part.is_array() || !base->is_array()) return false;
  for (const OrderedJson& name : part) {
    if (std::find(base->begin(), base->end(), name) == base->end()) base->push_back(name);
  }
  return true;
}

}  // namespace

bool IsAnnotation(absl::string_view keyword) {
  return Annotations().contains(keyword) || absl::StartsWith(keyword, "x-");
}

bool IsKnownKeyword(absl::string_view keyword) {
  return IsAnnotation(keyword) || Restrictions().contains(keyword);
}

bool RestrictsNothing(absl::string_view keyword, const OrderedJson& value) {
  if (keyword == "uniqueItems") return value == OrderedJson(false);
  if (keyword == "unevaluatedProperties" || keyword == "unevaluatedItems") {
    return value == OrderedJson(true);
  }
  return false;
}

std::vector<std::string> ImpliedTypes(const OrderedJson& schema) {
  const std::pair<const char*, std::vector<const char*>> implied[] = {
      {"object",
       {"properties", "required", "additionalProperties", "minProperties", "maxProperties"}},
      {"array", {"items", "prefixItems", "minItems", "maxItems", "additionalItems"}},
      {"string", {"minLength", "maxLength", "pattern", "format"}},
      {"number", {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}}};
  std::vector<std::string> types;
  for (const auto& [type, keys] : implied) {
    const bool any = std::any_of(keys.begin(), keys.end(),
                                 [&](const char* key) { return schema.contains(key); });
    if (any) types.emplace_back(type);
  }
  return types;
}

bool IsType(absl::string_view type) { return Has(kTypes, type); }

bool HasType(const OrderedJson& value, absl::string_view type) {
  if (type == "object") return value.is_object();
  if (type == "array") return value.is_array();
  if (type == "string") return value.is_string();
  if (type == "number") return value.is_number();
  if (type == "integer") {
    return value.is_number_integer() ||
           (value.is_number() && std::floor(value.get<double>()) == value.get<double>());
  }
  if (type == "boolean") return value.is_boolean();
  return value.is_null();
}

void RemoveAnnotations(OrderedJson* schema) {
  std::vector<std::string> keywords;
  for (const auto& [key, value] : schema->items()) {
    if (IsAnnotation(key)) keywords.push_back(key);
  }
  for (const std::string& key : keywords) schema->erase(key);
}

std::string MergeSchema(const OrderedJson& part, OrderedJson* base) {
  if (part.contains("nullable")) return "nullable";  // The others may not be.
  // Which properties and items are beside the listed ones is each part's own affair.
  const std::pair<const char*, const char*> own[] = {{"additionalProperties", "properties"},
                                                     {"items", "prefixItems"},
                                                     {"prefixItems", "items"},
                                                     {"additionalItems", "items"}};
  for (const auto& [beside, listed] : own) {
    const bool apart = (part.contains(beside) && base->contains(listed)) ||
                       (base->contains(beside) && part.contains(listed));
    if (apart) return beside;
  }
  for (const auto& [key, value] : part.items()) {
    if (IsAnnotation(key)) continue;
    if (!base->contains(key)) {
      (*base)[key] = value;
      continue;
    }
    OrderedJson& there = (*base)[key];
    if (there == value) continue;
    const bool merged = (key == "properties" && MergeProperties(value, &there)) ||
                        (key == "required" && MergeRequired(value, &there));
    if (!merged) return key;
  }
  return "";
}

}  // namespace packrat
