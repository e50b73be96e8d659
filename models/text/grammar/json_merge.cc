#include "models/text/grammar/json_merge.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
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

constexpr absl::string_view kCombining[] = {"$ref", "allOf", "anyOf", "oneOf"};
constexpr absl::string_view kTypes[] = {"object",  "array",   "string", "number",
                                        "integer", "boolean", "null"};

template <class List>
bool Has(const List& list, absl::string_view name) {
  return std::find(std::begin(list), std::end(list), name) != std::end(list);
}

// In a set: the base may have thousands of names, and get as many in each of many parts.
bool MergeProperties(const OrderedJson& part, OrderedJson* base, size_t* work) {
  if (!part.is_object() || !base->is_object()) return false;
  absl::flat_hash_map<absl::string_view, const OrderedJson*> known;
  for (const auto& [name, schema] : base->items()) known[name] = &schema;
  *work += known.size();
  // What is new waits: the names and schemas of a base that grows would move.
  OrderedJson::object_t added;
  for (const auto& [name, schema] : part.items()) {
    const auto found = known.find(name);
    if (found == known.end()) {
      added.emplace_back(name, schema);
    } else if (*found->second != schema) {
      return false;
    }
  }
  auto& members = base->get_ref<OrderedJson::object_t&>();
  std::move(added.begin(), added.end(), std::back_inserter(members));
  return true;
}

bool MergeRequired(const OrderedJson& part, OrderedJson* base, size_t* work) {
  if (!part.is_array() || !base->is_array()) return false;
  *work += base->size();
  absl::flat_hash_set<std::string> known;
  for (const OrderedJson* list : {static_cast<const OrderedJson*>(base), &part}) {
    for (const OrderedJson& name : *list) {
      if (!name.is_string()) return false;
    }
  }
  for (const OrderedJson& name : *base) known.insert(name.get_ref<const std::string&>());
  for (const OrderedJson& name : part) {
    if (known.insert(name.get_ref<const std::string&>()).second) base->push_back(name);
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

size_t JsonWeight(const OrderedJson& value) {
  constexpr size_t kBytes = 16;  // Of text, that cost what a value does.
  size_t weight = 1;
  if (value.is_string()) weight += value.get_ref<const std::string&>().size() / kBytes;
  if (value.is_array()) {
    for (const OrderedJson& item : value) weight += JsonWeight(item);
  } else if (value.is_object()) {
    for (const auto& [name, item] : value.get_ref<const OrderedJson::object_t&>()) {
      weight += name.size() / kBytes + JsonWeight(item);
    }
  }
  return weight;
}

bool HasOwnKeywords(const OrderedJson& schema) {
  for (const auto& [key, value] : schema.get_ref<const OrderedJson::object_t&>()) {
    if (!IsAnnotation(key) && !Has(kCombining, key)) return true;
  }
  return false;
}

absl::Status MergeSchema(const OrderedJson& part, bool branches, OrderedJson* base, size_t* work) {
  const auto conflict = [](absl::string_view keyword) {
    return absl::InvalidArgumentError(
        absl::StrCat(keyword, " of what is combined here cannot be combined"));
  };
  if (part.contains("nullable")) return conflict("nullable");  // The others may not be.
  // Which properties and items are beside the listed ones is each part's own affair.
  const std::pair<const char*, const char*> own[] = {{"additionalProperties", "properties"},
                                                     {"items", "prefixItems"},
                                                     {"prefixItems", "items"},
                                                     {"additionalItems", "items"}};
  for (const auto& [beside, listed] : own) {
    const bool apart = (part.contains(beside) && base->contains(listed)) ||
                       (base->contains(beside) && part.contains(listed));
    if (apart) return conflict(beside);
  }
  for (const auto& [key, value] : part.get_ref<const OrderedJson::object_t&>()) {
    ++*work;
    if (IsAnnotation(key) || key == "$ref" || key == "allOf" || RestrictsNothing(key, value)) {
      continue;
    }
    if (!branches && (key == "anyOf" || key == "oneOf")) continue;
    // Before it is in the base, which so has few keywords.
    if (!IsKnownKeyword(key)) {
      return absl::InvalidArgumentError(absl::StrCat("keyword ", Quoted(key), " is not supported"));
    }
    *work += JsonWeight(value);
    if (!base->contains(key)) {
      (*base)[key] = value;
      continue;
    }
    OrderedJson& there = (*base)[key];
    if (there == value) continue;
    const bool merged = (key == "properties" && MergeProperties(value, &there, work)) ||
                        (key == "required" && MergeRequired(value, &there, work));
    if (!merged) return conflict(key);
  }
  return absl::OkStatus();
}

}  // namespace packrat
