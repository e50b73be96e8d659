#include "models/text/grammar/json_schema.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "models/files/json.h"
#include "models/text/grammar/json_merge.h"
#include "models/text/grammar/json_number.h"
#include "models/text/grammar/json_text.h"
#include "models/text/grammar/regex.h"
#include "models/text/grammar/schema_keywords.h"
#include "models/text/grammar/schema_parts.h"
#include "models/text/grammar/text_reader.h"

namespace packrat {
namespace {

using Id = GrammarRules::Id;
// Schemas that are read, those that a $ref copies into an allOf included.
constexpr int kMaxSchemas = 20000;
constexpr size_t kMaxExpressions = 200000;
constexpr size_t kMaxNameBytes = 256;  // Of a property beside which others are allowed.

class SchemaReader {
 public:
  SchemaReader(OrderedJson document, JsonSpacing spacing, GrammarRules* rules)
      : parts_(std::move(document)), rules_(*rules), json_(rules, spacing) {}

  absl::StatusOr<Id> Read() {
    const int root = rules_.AddRule("#");
    refs_["#"] = root;
    const Id body = Schema(parts_.document(), "#", 0);
    if (!status_.ok()) return status_;
    rules_.SetBody(root, body);
    return rules_.Call(root);
  }

 private:
  Id Fail(const std::string& path, absl::string_view why) {
    if (status_.ok()) status_ = absl::InvalidArgumentError(absl::StrCat("at ", path, ": ", why));
    return 0;
  }

  bool Check(const absl::Status& status, const std::string& path) {
    if (!status.ok()) Fail(path, status.message());
    return status.ok();
  }

  Id Reference(const OrderedJson& ref, const std::string& path, int depth) {
    const absl::StatusOr<const OrderedJson*> target = parts_.Target(ref);
    if (!Check(target.status(), path)) return 0;
    const std::string pointer = ref.get<std::string>();
    const auto known = refs_.find(pointer);
    if (known != refs_.end()) return rules_.Call(known->second);
    const int rule = rules_.AddRule(pointer);
    refs_[pointer] = rule;
    rules_.SetBody(rule, Schema(**target, pointer, depth + 1));
    return rules_.Call(rule);
  }

  Id Schema(const OrderedJson& schema, const std::string& path, int depth) {
    if (!status_.ok()) return 0;
    if (depth > kMaxGrammarNesting) {
      return Fail(path, absl::StrCat("schemas nest deeper than ", kMaxGrammarNesting));
    }
    if (++schemas_ > kMaxSchemas || rules_.size() > kMaxExpressions) {
      return Fail(path, "the schema is too large with what its $refs repeat");
    }
    if (schema.is_boolean()) return schema.get<bool>() ? json_.Value() : json_.Nothing();
    if (!schema.is_object()) return Fail(path, "a schema is an object, true or false");
    for (const auto& [key, value] : schema.items()) {
      if (!IsKnownKeyword(key) && !RestrictsNothing(key, value)) {
        return Fail(path, absl::StrCat("keyword ", Quoted(key), " is not supported"));
      }
    }
    if (schema.contains("nullable")) return Nullable(schema, path, depth);
    for (const char* key : {"$ref", "allOf", "anyOf", "oneOf"}) {
      if (schema.contains(key)) return Composed(schema, path, depth);
    }
    if (schema.contains("enum") || schema.contains("const")) return Enumerated(schema, path);
    return Typed(schema, path, depth);
  }

  // As OpenAPI 3.0 has it, where no type is null.
  Id Nullable(const OrderedJson& schema, const std::string& path, int depth) {
    const OrderedJson nullable = *schema.find("nullable");
    if (!nullable.is_boolean()) return Fail(path, "nullable is true or false");
    if (!Check(parts_.Spend(schema), path)) return 0;
    OrderedJson without = schema;
    without.erase("nullable");
    const Id otherwise = Schema(without, path, depth + 1);
    if (!nullable.get<bool>()) return otherwise;
    return rules_.Choice({otherwise, rules_.Literal("null")});
  }

  Id Composed(const OrderedJson& schema, const std::string& path, int depth) {
    const auto has = [&schema](const char* key) { return schema.contains(key) ? 1 : 0; };
    const bool alone =
        has("$ref") + has("allOf") + has("anyOf") + has("oneOf") == 1 && !HasOwnKeywords(schema);
    if (alone && has("$ref")) return Reference(*schema.find("$ref"), path, depth);
    if (alone && !has("allOf")) return Branches(schema, nullptr, path, depth);
    const OrderedJson* all = has("allOf") ? &*schema.find("allOf") : nullptr;
    if (alone && all->is_array() && all->size() == 1) {
      return Schema((*all)[0], path + "/allOf/0", depth + 1);
    }
    // Equal ones are made once: so one may hold itself, as lists and trees do.
    if (!Check(parts_.Spend(schema), path)) return 0;
    const auto [known, first] = combined_.try_emplace(schema.dump(), 0);
    if (!first) return rules_.Call(known->second);
    const int rule = known->second = rules_.AddRule(path);
    rules_.SetBody(rule, Combined(schema, path, depth));
    return rules_.Call(rule);
  }

  // What stands beside $ref, allOf, anyOf and oneOf, and they themselves, made one schema.
  Id Combined(const OrderedJson& schema, const std::string& path, int depth) {
    OrderedJson base = OrderedJson::object();
    if (!Check(parts_.Merge(schema, /*branches=*/false, &base), path)) return 0;
    if (schema.contains("anyOf") || schema.contains("oneOf")) {
      return Branches(schema, &base, path, depth);
    }
    return Schema(base, path, depth + 1);
  }

  // One of those in anyOf or oneOf, each with what is in `base` if that is not null.
  Id Branches(const OrderedJson& schema, const OrderedJson* base, const std::string& path,
              int depth) {
    const bool any = schema.contains("anyOf");
    if (any && schema.contains("oneOf")) {
      return Fail(path, "anyOf and oneOf beside each other are not supported");
    }
    const char* const key = any ? "anyOf" : "oneOf";
    const OrderedJson& branches = *schema.find(key);
    if (!branches.is_array() || branches.empty()) {
      return Fail(path, absl::StrCat(key, " is a list of schemas"));
    }
    std::vector<Id> ways;
    for (size_t i = 0; i < branches.size() && status_.ok(); ++i) {
      const std::string at = absl::StrCat(path, "/", key, "/", i);
      if (base == nullptr) {
        ways.push_back(Schema(branches[i], at, depth + 1));
        continue;
      }
      if (!Check(parts_.Spend(*base), at)) return 0;
      OrderedJson whole = *base;
      if (!Check(parts_.Merge(branches[i], /*branches=*/true, &whole), at)) return 0;
      ways.push_back(Schema(whole, at, depth + 1));
    }
    return rules_.Choice(std::move(ways));
  }

  Id Enumerated(const OrderedJson& schema, const std::string& path) {
    for (const auto& [key, value] : schema.items()) {
      if (key != "enum" && key != "const" && key != "type" && !IsAnnotation(key)) {
        return Fail(path, absl::StrCat(key, " beside enum or const is not supported"));
      }
    }
    OrderedJson values = OrderedJson::array();
    if (schema.contains("enum")) {
      values = *schema.find("enum");
      if (!values.is_array() || values.empty()) return Fail(path, "enum is a list of values");
    } else {
      values.push_back(*schema.find("const"));
    }
    const auto read = ReadTypes(schema);
    if (!read.ok()) return Fail(path, read.status().message());
    const std::vector<std::string>& types = *read;
    std::vector<Id> ways;
    for (const OrderedJson& value : values) {
      if (schema.contains("const") && value != *schema.find("const")) continue;
      const bool typed = std::any_of(types.begin(), types.end(), [&value](const std::string& type) {
        return HasType(value, type);
      });
      if (types.empty() || typed) ways.push_back(json_.Constant(value));
    }
    if (ways.empty()) return Fail(path, "no value of enum or const has the type");
    return rules_.Choice(std::move(ways));
  }

  Id Typed(const OrderedJson& schema, const std::string& path, int depth) {
    const auto read = ReadTypes(schema);
    if (!read.ok()) return Fail(path, read.status().message());
    std::vector<std::string> types = *read;
    if (types.empty()) types = ImpliedTypes(schema);
    if (types.empty()) return json_.Value();
    std::vector<Id> ways;
    for (const std::string& type : types) ways.push_back(OfType(type, schema, path, depth));
    return rules_.Choice(std::move(ways));
  }

  Id OfType(absl::string_view type, const OrderedJson& schema, const std::string& path, int depth) {
    if (type == "object") return Object(schema, path, depth);
    if (type == "array") return Array(schema, path, depth);
    if (type == "string") return String(schema, path);
    if (type == "integer") return Integer(schema, path);
    if (type == "number") return Number(schema, path);
    if (type == "null") return rules_.Literal("null");
    return rules_.Choice({rules_.Literal("true"), rules_.Literal("false")});
  }

  Id String(const OrderedJson& schema, const std::string& path) {
    const auto read = ReadString(schema);
    if (!read.ok()) return Fail(path, read.status().message());
    if (read->regex.empty()) return json_.String(read->length.min, read->length.max);
    RegexOptions options;
    options.search = read->search;
    options.characters = [this](const CharacterSet& set, GrammarRules*) {
      return json_.Character(set);
    };
    const absl::StatusOr<Id> inside = AddRegex(read->regex, options, &rules_);
    if (inside.ok()) return json_.Quoted(*inside);
    return Fail(path, absl::StrCat(read->keyword, ": ", inside.status().message()));
  }

  Id Integer(const OrderedJson& schema, const std::string& path) {
    const auto read = ReadInteger(schema);
    if (!read.ok()) return Fail(path, read.status().message());
    return json_.Integer(read->low, read->high);
  }

  Id Number(const OrderedJson& schema, const std::string& path) {
    const auto read = ReadNumber(schema);
    if (!read.ok()) return Fail(path, read.status().message());
    if (!read->low.has_value() && !read->high.has_value()) return json_.Number();
    const std::optional<Id> number = NumberBetween(read->low, read->high, &rules_);
    return number.has_value() ? *number : Fail(path, "no number is between minimum and maximum");
  }

  Id Array(const OrderedJson& schema, const std::string& path, int depth) {
    const auto read = ReadArray(schema);
    if (!read.ok()) return Fail(path, read.status().message());
    std::vector<Id> prefix;
    for (size_t i = 0; read->prefix != nullptr && i < read->prefix->size(); ++i) {
      const std::string at = absl::StrCat(path, "/", read->prefix_key, "/", i);
      prefix.push_back(rules_.NewRule("item", Schema((*read->prefix)[i], at, depth + 1)));
      if (!status_.ok()) return 0;
    }
    std::optional<Id> item;  // None but those of the prefix.
    if (read->items == nullptr) {
      item = json_.Value();
    } else if (*read->items != OrderedJson(false)) {
      const std::string at = absl::StrCat(path, "/", read->items_key);
      item = rules_.NewRule(at, Schema(*read->items, at, depth + 1));
    }
    if (!status_.ok()) return 0;
    const std::optional<Id> array = json_.ArrayOf(prefix, item, read->count.min, read->count.max);
    return array.has_value() ? *array : Fail(path, "there are fewer items than minItems");
  }

  Id Object(const OrderedJson& schema, const std::string& path, int depth) {
    const auto read = ReadObject(schema);
    if (!read.ok()) return Fail(path, read.status().message());
    std::vector<JsonText::Property> properties;
    std::vector<std::string> names;
    for (const ObjectKeywords::Property& property : read->properties) {
      const Id value =
          Schema(*property.schema, absl::StrCat(path, "/properties/", property.name), depth + 1);
      if (!status_.ok()) return 0;
      const Id name = rules_.Literal(OrderedJson(property.name).dump());
      properties.push_back({json_.Member(name, value), property.required});
      names.push_back(property.name);
      if (read->others != nullptr && names.back().size() > kMaxNameBytes) {
        return Fail(path, absl::StrCat("beside additionalProperties a property's name has at most ",
                                       kMaxNameBytes, " bytes"));
      }
    }
    std::optional<Id> other;
    if (read->others != nullptr) {
      const Id value = Schema(*read->others, path + "/additionalProperties", depth + 1);
      if (!status_.ok()) return 0;
      std::sort(names.begin(), names.end());
      other = json_.Member(json_.StringBut(names), value);
    }
    return json_.ObjectOf(properties, other, read->count.min, read->count.max);
  }

  SchemaParts parts_;
  GrammarRules& rules_;
  JsonText json_;
  absl::flat_hash_map<std::string, int> refs_;  // Rules, by what refers to them.
  absl::flat_hash_map<std::string, int>
      combined_;  // Of schemas that combine others, by their text.
  int schemas_ = 0;
  absl::Status status_;
};

}  // namespace

absl::StatusOr<GrammarRules::Id> AddJsonSchema(absl::string_view text, JsonSpacing spacing,
                                               GrammarRules* rules) {
  absl::StatusOr<OrderedJson> document = ParseOrderedJson(text, "it", kMaxRequestJsonDepth);
  if (!document.ok()) return document.status();
  return SchemaReader(*std::move(document), spacing, rules).Read();
}

absl::StatusOr<GrammarRules> ParseJsonSchema(absl::string_view text) {
  const absl::Status status = CheckGrammarText(text);
  if (!status.ok()) return status;
  GrammarRules rules;
  const absl::StatusOr<GrammarRules::Id> root = AddJsonSchema(text, JsonSpacing::kAny, &rules);
  if (!root.ok()) return root.status();
  return rules;
}

}  // namespace packrat
