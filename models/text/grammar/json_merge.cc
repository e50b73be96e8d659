#include "models/text/grammar/json_merge.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace packrat {
namespace {

constexpr absl::string_view kAnnotations[] = {
    "title",    "description", "default",         "examples",        "example",     "$schema",
    "$id",      "$comment",    "$anchor",         "$defs",           "definitions", "deprecated",
    "readOnly", "writeOnly",   "contentEncoding", "contentMediaType"};

constexpr absl::string_view kRestrictions[] = {
    "type",    "enum",        "const",    "properties", "required",         "additionalProperties",
    "items",   "prefixItems", "minItems", "maxItems",   "minLength",        "maxLength",
    "pattern", "format",      "minimum",  "maximum",    "exclusiveMinimum", "exclusiveMaximum",
    "$ref",    "allOf",       "anyOf",    "oneOf"};

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

bool IsAnnotation(absl::string_view keyword) { return Has(kAnnotations, keyword); }

bool IsKnownKeyword(absl::string_view keyword) {
  return IsAnnotation(keyword) || Has(kRestrictions, keyword);
}

bool IsType(absl::string_view type) { return Has(kTypes, type); }

bool HasType(const OrderedJson& value, absl::string_view type) {
  if (type == "object") return value.is_object();
  if (type == "array") return value.is_array();
  if (type == "string") return value.is_string();
  if (type == "number") return value.is_number();
  if (type == "integer") return value.is_number_integer();
  if (type == "boolean") return value.is_boolean();
  return value.is_null();
}

void RemoveAnnotations(OrderedJson* schema) {
  for (const absl::string_view keyword : kAnnotations) schema->erase(std::string(keyword));
}

std::string MergeSchema(const OrderedJson& part, OrderedJson* base) {
  // Which properties are additional is each part's own affair.
  for (const auto& [one, other] : {std::make_pair(&part, static_cast<const OrderedJson*>(base)),
                                   std::make_pair(static_cast<const OrderedJson*>(base), &part)}) {
    if (one->contains("additionalProperties") && other->contains("properties") && !other->empty()) {
      return "additionalProperties";
    }
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
