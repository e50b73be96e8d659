#include "models/text/grammar/json_schema.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "models/files/json.h"
#include "models/text/grammar/json_merge.h"
#include "models/text/grammar/json_text.h"
#include "models/text/grammar/regex.h"
#include "models/text/grammar/text_reader.h"

namespace packrat {
namespace {

using Id = GrammarRules::Id;
constexpr int64_t kAny = GrammarRules::kUnbounded;
// Schemas that are read, those that a $ref copies into an allOf included.
constexpr int kMaxSchemas = 20000;
constexpr size_t kMaxExpressions = 400000;
constexpr size_t kMaxNameBytes = 256;  // Of a property beside which others are allowed.

constexpr char kDate[] =
    "\\d{4}-((0[13578]|1[02])-(0[1-9]|[12]\\d|3[01])|(0[469]|11)-(0[1-9]|[12]\\d|30)|"
    "02-(0[1-9]|1\\d|2[0-8]))";
constexpr char kTime[] =
    "([01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d(\\.\\d{1,6})?(Z|[+-]([01]\\d|2[0-3]):[0-5]\\d)";

std::string FormatPattern(const std::string& format) {
  if (format == "date") return kDate;
  if (format == "time") return kTime;
  if (format == "date-time") return absl::StrCat(kDate, "T", kTime);
  if (format == "uuid") return "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}";
  if (format == "ipv4") {
    const std::string part = "(25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)";
    return absl::StrCat(part, "(\\.", part, "){3}");
  }
  if (format == "email") {
    return "[A-Za-z0-9]+([._+-][A-Za-z0-9]+)*@([A-Za-z0-9]+(-[A-Za-z0-9]+)*\\.)+[A-Za-z]{2,24}";
  }
  return "";
}

class SchemaReader {
 public:
  explicit SchemaReader(OrderedJson document) : document_(std::move(document)), json_(&rules_) {}

  absl::StatusOr<GrammarRules> Read() {
    refs_["#"] = rules_.AddRule("#");
    const Id body = Schema(document_, "#", 0);
    if (!status_.ok()) return status_;
    rules_.SetBody(0, body);
    return std::move(rules_);
  }

 private:
  Id Fail(const std::string& path, absl::string_view why) {
    if (status_.ok()) status_ = absl::InvalidArgumentError(absl::StrCat("at ", path, ": ", why));
    return 0;
  }

  // The schema at a pointer; null if there is none.
  const OrderedJson* Find(const std::string& pointer) const {
    const OrderedJson* at = &document_;
    if (pointer == "#") return at;
    if (pointer.rfind("#/", 0) != 0) return nullptr;
    for (const absl::string_view part : absl::StrSplit(absl::string_view(pointer).substr(2), '/')) {
      const std::string name = absl::StrReplaceAll(part, {{"~1", "/"}, {"~0", "~"}});
      size_t index = 0;
      if (at->is_object() && at->contains(name)) {
        at = &at->find(name).value();
      } else if (at->is_array() && absl::SimpleAtoi(name, &index) && index < at->size()) {
        at = &(*at)[index];
      } else {
        return nullptr;
      }
    }
    return at;
  }

  const OrderedJson* Target(const OrderedJson& ref, const std::string& path) {
    const OrderedJson* found = nullptr;
    if (ref.is_string()) found = Find(ref.get<std::string>());
    if (found == nullptr) {
      Fail(path, absl::StrCat("$ref ", Quoted(ref.dump()), " is not a place in this schema"));
    }
    return found;
  }

  Id Reference(const OrderedJson& ref, const std::string& path, int depth) {
    const OrderedJson* target = Target(ref, path);
    if (target == nullptr) return 0;
    const std::string pointer = ref.get<std::string>();
    const auto known = refs_.find(pointer);
    if (known != refs_.end()) return rules_.Call(known->second);
    const int rule = rules_.AddRule(pointer);
    refs_[pointer] = rule;
    rules_.SetBody(rule, Schema(*target, pointer, depth + 1));
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
      if (!IsKnownKeyword(key)) {
        return Fail(path, absl::StrCat("keyword ", Quoted(key), " is not supported"));
      }
    }
    for (const char* key : {"$ref", "allOf", "anyOf", "oneOf"}) {
      if (schema.contains(key)) return Composed(schema, path, depth);
    }
    if (schema.contains("enum") || schema.contains("const")) return Enumerated(schema, path);
    return Typed(schema, path, depth);
  }

  // What stands beside $ref, allOf, anyOf and oneOf, and they themselves, made one schema.
  Id Composed(const OrderedJson& schema, const std::string& path, int depth) {
    OrderedJson base = OrderedJson::object();
    int parts = 0;
    const auto merge = [&](const OrderedJson& part) {
      ++parts;
      if (!part.is_object()) return Fail(path, "allOf takes objects only"), false;
      const std::string conflict = MergeSchema(part, &base);
      if (conflict.empty()) return true;
      Fail(path, absl::StrCat(conflict, " of what is combined here cannot be combined"));
      return false;
    };
    OrderedJson own = schema;
    for (const char* key : {"$ref", "allOf", "anyOf", "oneOf"}) own.erase(key);
    RemoveAnnotations(&own);
    if (schema.contains("$ref")) {
      const OrderedJson& ref = *schema.find("$ref");
      if (own.empty() && !schema.contains("allOf") && !schema.contains("anyOf") &&
          !schema.contains("oneOf")) {
        return Reference(ref, path, depth);
      }
      const OrderedJson* target = Target(ref, path);
      if (target == nullptr || !merge(*target)) return 0;
    }
    if (schema.contains("allOf")) {
      const OrderedJson& all = *schema.find("allOf");
      if (!all.is_array() || all.empty()) return Fail(path, "allOf is a list of schemas");
      for (const OrderedJson& part : all) {
        if (!merge(part)) return 0;
      }
    }
    // Behind what it is based on, so that its own properties come last.
    if (!own.empty() && !merge(own)) return 0;
    const bool any = schema.contains("anyOf"), one = schema.contains("oneOf");
    if (any && one) return Fail(path, "anyOf and oneOf beside each other are not supported");
    if (!any && !one) return Schema(base, path, depth + 1);
    const char* const key = any ? "anyOf" : "oneOf";
    const OrderedJson& branches = *schema.find(key);
    if (!branches.is_array() || branches.empty()) {
      return Fail(path, absl::StrCat(key, " is a list of schemas"));
    }
    std::vector<Id> ways;
    for (size_t i = 0; i < branches.size() && status_.ok(); ++i) {
      const std::string at = absl::StrCat(path, "/", key, "/", i);
      if (parts == 0) {
        ways.push_back(Schema(branches[i], at, depth + 1));
        continue;
      }
      OrderedJson whole = base;
      if (!branches[i].is_object()) return Fail(at, "beside other keywords it must be an object");
      const std::string conflict = MergeSchema(branches[i], &whole);
      if (!conflict.empty()) {
        return Fail(at, absl::StrCat(conflict, " of what is combined here cannot be combined"));
      }
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
    std::vector<std::string> types;
    if (!ReadTypes(schema, path, &types)) return 0;
    std::vector<Id> ways;
    for (const OrderedJson& value : values) {
      if (schema.contains("const") && value != *schema.find("const")) continue;
      const bool typed = std::any_of(types.begin(), types.end(), [&value](const std::string& type) {
        return HasType(value, type);
      });
      if (types.empty() || typed) ways.push_back(rules_.Literal(value.dump()));
    }
    if (ways.empty()) return Fail(path, "no value of enum or const has the type");
    return rules_.Choice(std::move(ways));
  }

  bool ReadTypes(const OrderedJson& schema, const std::string& path,
                 std::vector<std::string>* types) {
    if (!schema.contains("type")) return true;
    OrderedJson list = *schema.find("type");
    if (!list.is_array()) list = OrderedJson::array({list});
    for (const OrderedJson& type : list) {
      if (!type.is_string() || !IsType(type.get<std::string>())) {
        Fail(path, absl::StrCat("type ", Quoted(type.dump()), " is not one"));
        return false;
      }
      types->push_back(type.get<std::string>());
    }
    if (types->empty()) Fail(path, "type is an empty list");
    return status_.ok();
  }

  Id Typed(const OrderedJson& schema, const std::string& path, int depth) {
    std::vector<std::string> types;
    if (!ReadTypes(schema, path, &types)) return 0;
    const auto implies = [&](const char* type, std::initializer_list<const char*> keys) {
      for (const char* key : keys) {
        if (!schema.contains(key)) continue;
        types.push_back(type);
        return;
      }
    };
    if (types.empty()) {
      implies("object", {"properties", "required", "additionalProperties"});
      implies("array", {"items", "prefixItems", "minItems", "maxItems"});
      implies("string", {"minLength", "maxLength", "pattern", "format"});
      for (const char* key : {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}) {
        if (schema.contains(key))
          return Fail(path, absl::StrCat(key, " needs \"type\": \"integer\""));
      }
      if (types.empty()) return json_.Value();
    }
    std::vector<Id> ways;
    for (const std::string& type : types) {
      if (type == "object") {
        ways.push_back(Object(schema, path, depth));
      } else if (type == "array") {
        ways.push_back(Array(schema, path, depth));
      } else if (type == "string") {
        ways.push_back(String(schema, path));
      } else if (type == "integer") {
        ways.push_back(Integer(schema, path));
      } else if (type == "number") {
        for (const char* key : {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}) {
          if (schema.contains(key)) {
            return Fail(path, absl::StrCat(key, " is supported for integers only"));
          }
        }
        ways.push_back(json_.Number());
      } else if (type == "boolean") {
        ways.push_back(rules_.Choice({rules_.Literal("true"), rules_.Literal("false")}));
      } else {
        ways.push_back(rules_.Literal("null"));
      }
    }
    return rules_.Choice(std::move(ways));
  }

  // A count that a keyword gives, in [0, kMaxRepeat]; `otherwise` if it is not there.
  int64_t Count(const OrderedJson& schema, const char* key, int64_t otherwise,
                const std::string& path) {
    if (!schema.contains(key)) return otherwise;
    const OrderedJson& value = *schema.find(key);
    if (value.is_number_unsigned() && value.get<uint64_t>() <= uint64_t{kMaxRepeat}) {
      return value.get<int64_t>();
    }
    Fail(path, absl::StrCat(key, " is ", Quoted(value.dump()), "; range [0, ", kMaxRepeat, "]"));
    return 0;
  }

  Id String(const OrderedJson& schema, const std::string& path) {
    const int64_t min = Count(schema, "minLength", 0, path);
    const int64_t max = Count(schema, "maxLength", kAny, path);
    if (!status_.ok()) return 0;
    if (max != kAny && max < min) return Fail(path, "maxLength is less than minLength");
    const bool pattern = schema.contains("pattern"), format = schema.contains("format");
    if (!pattern && !format) return json_.String(min, max);
    if ((pattern && format) || min > 0 || max != kAny) {
      return Fail(path, "of pattern, format and minLength with maxLength one is supported");
    }
    const char* const key = pattern ? "pattern" : "format";
    const OrderedJson& value = *schema.find(key);
    if (!value.is_string()) return Fail(path, absl::StrCat(key, " is a string"));
    const std::string written = value.get<std::string>();
    const std::string regex = pattern ? written : FormatPattern(written);
    if (format && regex.empty()) {
      return Fail(path, absl::StrCat("format ", Quoted(written),
                                     " is not supported; date, time, date-time, email, ipv4 and "
                                     "uuid are"));
    }
    RegexOptions options;
    options.search = pattern;
    options.characters = [this](const CharacterSet& set, GrammarRules*) {
      return json_.Character(set);
    };
    const absl::StatusOr<Id> inside = AddRegex(regex, options, &rules_);
    if (!inside.ok()) return Fail(path, absl::StrCat("pattern: ", inside.status().message()));
    return json_.Quoted(*inside);
  }

  // A bound of integers. False: it is there and is none.
  bool Bound(const OrderedJson& schema, const std::string& path, bool low,
             std::optional<int64_t>* bound) {
    for (const bool exclusive : {false, true}) {
      const char* const key = low ? (exclusive ? "exclusiveMinimum" : "minimum")
                                  : (exclusive ? "exclusiveMaximum" : "maximum");
      if (!schema.contains(key)) continue;
      const OrderedJson& value = *schema.find(key);
      constexpr auto kMost = static_cast<double>(JsonText::kMaxBound);
      if (!value.is_number() || std::abs(value.get<double>()) > kMost) {
        Fail(path, absl::StrCat(key, " is ", Quoted(value.dump()), "; range [-1e15, 1e15]"));
        return false;
      }
      const auto x = value.get<double>();
      double nearest = low ? std::ceil(x) : std::floor(x);
      if (exclusive && nearest == x) nearest += low ? 1 : -1;
      const auto found = static_cast<int64_t>(nearest);
      const bool stricter = !bound->has_value() || (low ? found > **bound : found < **bound);
      if (stricter) *bound = found;
    }
    return true;
  }

  Id Integer(const OrderedJson& schema, const std::string& path) {
    std::optional<int64_t> low, high;
    if (!Bound(schema, path, true, &low) || !Bound(schema, path, false, &high)) return 0;
    if (low.has_value() && high.has_value() && *low > *high) {
      return Fail(path, "no integer is between minimum and maximum");
    }
    return json_.Integer(low, high);
  }

  Id Array(const OrderedJson& schema, const std::string& path, int depth) {
    const int64_t min = Count(schema, "minItems", 0, path);
    const int64_t max = Count(schema, "maxItems", kAny, path);
    if (!status_.ok()) return 0;
    if (max != kAny && max < min) return Fail(path, "maxItems is less than minItems");
    std::vector<Id> prefix;
    if (schema.contains("prefixItems")) {
      const OrderedJson& list = *schema.find("prefixItems");
      if (!list.is_array()) return Fail(path, "prefixItems is a list of schemas");
      for (size_t i = 0; i < list.size() && status_.ok(); ++i) {
        const Id item = Schema(list[i], absl::StrCat(path, "/prefixItems/", i), depth + 1);
        prefix.push_back(rules_.NewRule("item", item));
      }
    }
    std::optional<Id> item;  // Null: none but those of the prefix.
    if (!schema.contains("items")) {
      item = json_.Value();
    } else if (*schema.find("items") != OrderedJson(false)) {
      const Id one = Schema(*schema.find("items"), path + "/items", depth + 1);
      item = rules_.NewRule(path + "/items", one);
    }
    if (!status_.ok()) return 0;
    if (max == 0) return json_.Enclosed("[]", std::nullopt, true);
    const auto first = static_cast<int64_t>(prefix.size());
    if (!item.has_value() && first < min) return Fail(path, "there are fewer items than minItems");
    if (!item.has_value() && first == 0) return json_.Enclosed("[]", std::nullopt, true);
    // What follows so many items, from the end on: `from` of them are one by one.
    const int64_t from = max == kAny ? first : std::min(first, max);
    Id rest = rules_.Literal("");
    const int64_t one_by_one = std::max<int64_t>(from, 1);
    if (item.has_value() && (max == kAny || max > one_by_one)) {
      rest = rules_.Repeat(json_.Following(*item), std::max<int64_t>(0, min - one_by_one),
                           max == kAny ? kAny : max - one_by_one);
    }
    for (int64_t i = from - 1; i > 0; --i) {
      const Id more = rules_.Sequence({json_.Following(prefix[i]), rest});
      rest = rules_.NewRule("items", i < min ? more : rules_.Optional(more));
    }
    const Id items = rules_.Sequence({from > 0 ? prefix[0] : *item, rest});
    return json_.Enclosed("[]", items, min == 0);
  }

  Id Member(Id name, Id value) {
    return rules_.NewRule("member",
                          rules_.Sequence({name, rules_.Literal(":"), json_.Space(), value}));
  }

  Id Object(const OrderedJson& schema, const std::string& path, int depth) {
    const bool listed = schema.contains("properties"),
               more = schema.contains("additionalProperties");
    if (!listed && !more && !schema.contains("required")) return json_.Object();
    std::set<std::string> required;
    if (schema.contains("required")) {
      for (const OrderedJson& name : *schema.find("required")) {
        if (!name.is_string()) return Fail(path, "required is a list of names");
        required.insert(name.get<std::string>());
      }
    }
    struct Property {
      Id member;
      bool required;
    };
    std::vector<Property> properties;
    std::vector<std::string> names;
    if (listed) {
      const OrderedJson& list = *schema.find("properties");
      if (!list.is_object()) return Fail(path, "properties is an object");
      for (const auto& [name, value] : list.items()) {
        const Id inside = Schema(value, absl::StrCat(path, "/properties/", name), depth + 1);
        if (!status_.ok()) return 0;
        const Id key = rules_.Literal(OrderedJson(name).dump());
        properties.push_back({Member(key, inside), required.erase(name) > 0});
        names.push_back(name);
      }
    }
    if (!required.empty()) {
      return Fail(path, absl::StrCat("required has ", Quoted(*required.begin()),
                                     ", which is not in properties"));
    }
    std::optional<Id> extra;
    if (more && *schema.find("additionalProperties") != OrderedJson(false)) {
      const Id value =
          Schema(*schema.find("additionalProperties"), path + "/additionalProperties", depth + 1);
      for (const std::string& name : names) {
        if (name.size() > kMaxNameBytes) {
          return Fail(path,
                      absl::StrCat("beside additionalProperties a property's name has at most ",
                                   kMaxNameBytes, " bytes"));
        }
      }
      std::sort(names.begin(), names.end());
      if (!status_.ok()) return 0;
      extra = Member(json_.StringBut(names), value);
    }
    // From the last property on: what follows a member, and what can be the first one.
    Id rest = rules_.Literal("");
    Id first = json_.Nothing();
    if (extra.has_value()) {
      rest = rules_.Repeat(json_.Following(*extra), 0, kAny);
      first = rules_.Sequence({*extra, rest});
    }
    bool may_be_empty = true;
    for (size_t i = properties.size(); i > 0; --i) {
      const Property& property = properties[i - 1];
      const Id begin = rules_.Sequence({property.member, rest});
      first = rules_.NewRule(path, property.required ? begin : rules_.Choice({begin, first}));
      const Id next = json_.Following(property.member);
      rest = rules_.NewRule(
          path, rules_.Sequence({property.required ? next : rules_.Optional(next), rest}));
      may_be_empty = may_be_empty && !property.required;
    }
    if (properties.empty() && !extra.has_value()) return json_.Enclosed("{}", std::nullopt, true);
    return json_.Enclosed("{}", first, may_be_empty);
  }

  const OrderedJson document_;
  GrammarRules rules_;
  JsonText json_;
  absl::flat_hash_map<std::string, int> refs_;  // Rules, by what refers to them.
  int schemas_ = 0;
  absl::Status status_;
};

}  // namespace

absl::StatusOr<GrammarRules> ParseJsonSchema(absl::string_view text) {
  absl::Status status = CheckGrammarText(text);
  if (!status.ok()) return status;
  status = ParseJson(text.data(), text.size(), "it").status();
  if (!status.ok()) return status;
  OrderedJson document =
      OrderedJson::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (document.is_discarded()) return absl::InvalidArgumentError("it has a number that is none");
  return SchemaReader(std::move(document)).Read();
}

}  // namespace packrat
