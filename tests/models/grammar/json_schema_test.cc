// JSON schemas: every sampled text parses and is valid by a validator of the test's own.
#include "models/text/grammar/json_schema.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <optional>
#include <random>
#include <regex>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/models/grammar/grammar_texts.h"

namespace packrat {
namespace {

using Json = nlohmann::json;

size_t Characters(const std::string& text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; });
}

bool IsOf(const Json& value, const std::string& type) {
  if (type == "integer") {
    return value.is_number() && std::floor(value.get<double>()) == value.get<double>();
  }
  if (type == "number") return value.is_number();
  return type == (value.is_object()    ? "object"
                  : value.is_array()   ? "array"
                  : value.is_string()  ? "string"
                  : value.is_boolean() ? "boolean"
                  : value.is_null()    ? "null"
                                       : "");
}

// As the specification has it, of the keywords that the cases below use.
bool Valid(const Json& root, const Json& s, const Json& v) {
  if (s.is_boolean()) return s.get<bool>();
  if (s.value("nullable", false) && v.is_null()) return true;
  const auto valid = [&root](const Json& schema, const Json& value) {
    return Valid(root, schema, value);
  };
  if (s.contains("$ref")) {
    const std::string ref = s["$ref"].get<std::string>().substr(1);
    if (!valid(root.at(Json::json_pointer(ref)), v)) return false;
  }
  if (s.contains("allOf")) {
    for (const Json& part : s["allOf"]) {
      if (!valid(part, v)) return false;
    }
  }
  for (const char* key : {"anyOf", "oneOf"}) {
    if (!s.contains(key)) continue;
    if (std::none_of(s[key].begin(), s[key].end(), [&](const Json& b) { return valid(b, v); })) {
      return false;
    }
  }
  if (s.contains("const") && v != s["const"]) return false;
  if (s.contains("enum") && std::find(s["enum"].begin(), s["enum"].end(), v) == s["enum"].end()) {
    return false;
  }
  if (s.contains("type")) {
    const Json types = s["type"].is_array() ? s["type"] : Json::array({s["type"]});
    if (std::none_of(types.begin(), types.end(), [&](const Json& t) { return IsOf(v, t); })) {
      return false;
    }
  }
  if (v.is_string()) {
    const std::string text = v.get<std::string>();
    if (Characters(text) < s.value("minLength", 0u)) return false;
    if (Characters(text) > s.value("maxLength", ~0u)) return false;
    if (s.contains("pattern") &&
        !std::regex_search(text, std::regex(s["pattern"].get<std::string>()))) {
      return false;
    }
  }
  if (v.is_number()) {
    const auto x = v.get<double>();
    if (s.contains("minimum") && x < s["minimum"]) return false;
    if (s.contains("maximum") && x > s["maximum"]) return false;
    if (s.contains("exclusiveMinimum") && x <= s["exclusiveMinimum"]) return false;
    if (s.contains("exclusiveMaximum") && x >= s["exclusiveMaximum"]) return false;
  }
  if (v.is_array()) {
    if (v.size() < s.value("minItems", 0u) || v.size() > s.value("maxItems", ~0u)) return false;
    const bool old = s.contains("items") && s["items"].is_array();
    const Json prefix = old ? s["items"] : s.value("prefixItems", Json::array());
    const Json rest = s.value(old ? "additionalItems" : "items", Json(true));
    for (size_t i = 0; i < v.size(); ++i) {
      if (!valid(i < prefix.size() ? prefix[i] : rest, v[i])) return false;
    }
  }
  if (v.is_object()) {
    if (v.size() < s.value("minProperties", 0u) || v.size() > s.value("maxProperties", ~0u)) {
      return false;
    }
    for (const Json& name : s.value("required", Json::array())) {
      if (!v.contains(name.get<std::string>())) return false;
    }
    for (const auto& [name, value] : v.items()) {
      const Json& properties = s.value("properties", Json::object());
      const bool listed = properties.contains(name);
      if (!valid(listed ? properties[name] : s.value("additionalProperties", Json(true)), value)) {
        return false;
      }
    }
  }
  return true;
}

// Bytes at random, but rather those that end something.
std::optional<std::string> Sample(GrammarTexts* texts, std::mt19937_64* random, size_t most) {
  GrammarAutomaton& automaton = texts->automaton();
  std::string text;
  GrammarAutomaton::State state = automaton.start();
  while (automaton.goes_on(state)) {
    if (automaton.accepts(state) && (*random)() % 3 == 0) break;
    std::vector<uint8_t> bytes, ends;
    for (int byte = 0; byte < 256; ++byte) {
      if (automaton.Next(state, static_cast<uint8_t>(byte)) == GrammarAutomaton::kDead) continue;
      bytes.push_back(static_cast<uint8_t>(byte));
      if (byte == '"' || byte == '}' || byte == ']') ends.push_back(static_cast<uint8_t>(byte));
    }
    EXPECT_FALSE(bytes.empty()) << text;
    if (bytes.empty() || text.size() > most) return std::nullopt;
    const bool end = !ends.empty() && (*random)() % 2 == 0;
    const std::vector<uint8_t>& from = end ? ends : bytes;
    text.push_back(static_cast<char>(from[(*random)() % from.size()]));
    state = automaton.Next(state, static_cast<uint8_t>(text.back()));
  }
  return text;
}

struct Case {
  const char* schema;
  std::vector<const char*> match, refuse;
};

const std::vector<Case>& Cases() {
  static const std::vector<Case> cases = {
      {R"({"type": "object"})",
       {"{}", R"({"a":1})", R"({"a": {"b": [1, 2.5e3, true, null, "\u00e9\n"]}})",
        "{\n  \"a\": 1,\n  \"b\": 2\n}"},
       {"[]", "{", "1", "{\"a\"}", " {}", "{} ", "{\"a\":01}", "{,}", R"({"a":1,})",
        "{\"a\": \"\n\"}", R"({"a":"\ud800"})", "{\"a\":\"\xff\"}", "{\"a\":\"\x7f\xc0\"}"}},
      {"{}", {"1", "null", "[]", "-0.5", "\"\""}, {"", "nul", "+1", "1e", "."}},
      {"true", {"1"}, {""}},
      {R"({"type": "object", "properties": {"b": {"type": "integer"}, "a": {"type": "string"},
           "c": {"type": "null"}}, "required": ["a"], "title": "T", "description": "d"})",
       {R"({"b":1,"a":""})", R"({"a":"x"})", R"({"a":"x","c":null})"},
       {"{}", R"({"b":1})", R"({"a":"x","b":1})", R"({"a":"x","d":1})", R"({"a":1})"}},
      {R"({"properties": {"a": {"const": 1}, "ab": {"const": 2}, "\"": true},
           "additionalProperties": {"type": "boolean"}})",
       {"{}", R"({"a":1})", R"({"ab":2,"abc":true})", R"({"b":false,"":true})", R"({"\"x":true})",
        R"({"\"":[]})"},
       {R"({"a":true})", R"({"ab":true})", R"({"c":1})", R"({"\u0061":true})"}},
      {R"({"properties": {"b": {"const": 1}, "a": {"const": 2}, "ba": {"const": 3}},
           "additionalProperties": {"type": "null"}})",
       {R"({"b":1,"a":2,"ba":3,"c":null})", R"({"a":2,"bb":null,"aa":null})",
        R"({"b":1,"bab":null})"},
       {R"({"b":null})", R"({"a":null})", R"({"ba":null})", R"({"bb":1})"}},
      {R"({"type": "object", "additionalProperties": {"type": "integer"}})",
       {"{}", R"({"x":1,"y":2})"},
       {R"({"x":"1"})"}},
      {R"({"type": "object", "additionalProperties": false})", {"{}"}, {R"({"a":1})"}},
      {R"({"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 3})",
       {"[1,2]", "[1, 2, 3]"},
       {"[]", "[1]", "[1,2,3,4]", "[1,\"2\"]"}},
      {R"({"type": "array", "maxItems": 0})", {"[]"}, {"[1]"}},
      {R"({"prefixItems": [{"type": "string"}, {"type": "boolean"}], "items": {"type": "null"},
           "minItems": 1})",
       {"[\"\"]", "[\"\",true]", "[\"\",true,null,null]"},
       {"[]", "[true]", "[\"\",null]", "[\"\",true,1]"}},
      {R"({"prefixItems": [{"const": 1}, {"const": 2}, {"const": 3}], "items": false,
           "minItems": 2})",
       {"[1,2]", "[1,2,3]"},
       {"[1]", "[1,2,3,4]", "[1,2,4]"}},
      {R"({"prefixItems": [{"const": 1}, {"const": 2}], "minItems": 4, "maxItems": 5})",
       {"[1,2,3,4]", "[1,2,{},[],5]"},
       {"[1,2,3]", "[1,2,3,4,5,6]"}},
      {R"({"type": "string", "minLength": 2, "maxLength": 3})",
       {"\"ab\"", "\"\xc3\xa9\xf0\x9f\x98\x80x\"", R"("\"\\\n")", R"("\u0041b")"},
       {"\"a\"", "\"abcd\"", "\"\""}},
      {R"({"type": "string", "pattern": "^[a-c]+$"})", {"\"abc\""}, {"\"\"", "\"abd\""}},
      {R"({"type": "string", "pattern": "b+"})",
       {"\"abc\"", "\"b\"", R"("\n\"b")"},
       {"\"\"", "\"a\""}},
      {R"({"pattern": "^[\\s\"\\\\]$"})",
       {R"("\n")", R"("\"")", R"("\\")", "\" \""},
       {"\"a\"", R"(""")"}},
      {R"({"enum": ["a", 1, null, {"k": [1]}, "\n"], "type": ["string", "object", "integer"]})",
       {"\"a\"", "1", R"({"k":[1]})", R"("\n")"},
       {"null", "\"b\"", "{}"}},
      {R"({"const": "x", "enum": ["x", "y"]})", {"\"x\""}, {"\"y\""}},
      {R"({"type": "integer", "minimum": -3, "exclusiveMaximum": 120})",
       {"-3", "-1", "0", "7", "99", "119"},
       {"-4", "120", "-0", "00", "1.5", "1000", "-30"}},
      {R"({"type": "integer", "exclusiveMinimum": 99})",
       {"100", "9999999999999999"},
       {"99", "0", "-100"}},
      {R"({"type": "integer", "maximum": -10})", {"-10", "-99", "-123456"}, {"-9", "0", "10"}},
      {R"({"type": "integer", "minimum": 17, "maximum": 1023})",
       {"17", "20", "100", "999", "1000", "1023"},
       {"16", "9", "1024", "2000", "010"}},
      {R"({"type": "integer", "minimum": 0.5, "maximum": 2.5})", {"1", "2"}, {"0", "3"}},
      {R"({"type": ["integer", "null"]})", {"5", "null"}, {"true"}},
      {R"({"type": "number", "minimum": -90, "maximum": 90})",
       {"0", "-0.0", "-90", "-90.00", "89.999999", "90", "90.0", "12.5", "-1.25"},
       {"90.1", "-90.01", "91", "1e1", "-100", "090"}},
      {R"({"type": "number", "minimum": 0, "exclusiveMaximum": 1})",
       {"0", "0.0", "0.5", "0.99999"},
       {"1", "1.0", "-0.1", "-0", "0.99999999999999999999"}},
      {R"({"type": "number", "exclusiveMinimum": 0.25, "maximum": 0.3})",
       {"0.250001", "0.26", "0.3", "0.30", "0.2999"},
       {"0.25", "0.2500", "0.2", "0.31", "0.301", "0", "0.", "1"}},
      {R"({"exclusiveMinimum": -2.5, "exclusiveMaximum": -1e-3})",
       {"-2.4999", "-2", "-1.0", "-0.0011", "-0.5"},
       {"-2.5", "-0.001", "-0.0005", "-0", "0", "-2.50", "-3", "1"}},
      {R"({"type": "number", "minimum": 1.5})",
       {"1.5", "1.75", "2", "9999999999999999.5", "10.0"},
       {"1.4", "1", "-2", "1.49999"}},
      {R"({"type": "number", "maximum": 1e15})",
       {"1000000000000000", "-9.5"},
       {"1000000000000001"}},
      {R"({"type": "integer", "minimum": -7, "exclusiveMinimum": -7.5, "maximum": 3,
           "exclusiveMaximum": 3})",
       {"-7", "2"},
       {"-8", "3"}},
      {R"({"type": "number", "exclusiveMaximum": 0})",
       {"-0.001", "-1", "-5.5"},
       {"0", "-0", "-0.0", "0.0", "1"}},
      // What a double would round to the bound.
      {R"({"type": "number", "exclusiveMaximum": 0.5, "minimum": 0})",
       {"0.49999999999999", "0"},
       {"0.49999999999999999", "0.5"}},
      {R"({"type": "string", "pattern": "^\\S+$"})",
       {"\"a\"", "\"\xc3\xa9\""},
       {"\"\xc2\xa0\"", "\"\xe2\x80\x83\"", "\"\xef\xbb\xbf\"", "\"a b\""}},
      {R"({"type": "string", "nullable": true})", {"null", "\"a\""}, {"1"}},
      {R"({"nullable": false, "type": "integer"})", {"1"}, {"null"}},
      {R"({"nullable": true, "enum": ["a"]})", {"null", "\"a\""}, {"\"b\""}},
      {R"({"nullable": true, "allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"type": "null"},
           "b": {}}, "x-order": 3, "discriminator": {"propertyName": "kind"}})",
       {"null"},
       {"1"}},
      {R"({"items": [{"const": 1}, {"const": 2}], "additionalItems": {"type": "null"}})",
       {"[]", "[1]", "[1,2]", "[1,2,null]"},
       {"[2]", "[1,2,3]"}},
      {R"({"type": "object", "required": ["a"]})",
       {R"({"a":1})", R"({"a":[],"b":2})"},
       {"{}", R"({"b":1})"}},
      {R"({"properties": {"b": {"const": 1}}, "required": ["a", "b"],
           "additionalProperties": {"type": "string"}})",
       {R"({"b":1,"a":"x"})", R"({"b":1,"a":"x","c":""})"},
       {R"({"b":1})", R"({"b":1,"a":2})", R"({"b":1,"a":"x","c":1})"}},
      {R"({"type": "object", "minProperties": 1, "maxProperties": 2,
           "additionalProperties": {"type": "integer"}})",
       {R"({"a":1})", R"({"a":1,"b":2})"},
       {"{}", R"({"a":1,"b":2,"c":3})"}},
      {R"({"maxProperties": 0})", {"{}"}, {R"({"a":1})"}},
      {R"({"properties": {"a": true, "b": true}, "required": ["a"], "minProperties": 1,
           "maxProperties": 2})",
       {R"({"a":1})", R"({"a":1,"b":2})"},
       {"{}"}},
      {R"({"type": "array", "uniqueItems": false, "items": {"const": 1}})", {"[1,1]"}, {"[2]"}},
      {R"({"const": 2.0, "type": "integer"})", {"2.0"}, {"3"}},
      {R"({"type": "string", "pattern": ""})", {"\"\"", "\"a\""}, {"1"}},
      {R"({"type": "integer", "format": "int64"})", {"7"}, {"\"7\""}},
      {R"({"type": "string", "format": "duration"})",
       {"\"P1Y2M3DT4H5M6S\"", "\"PT36H\"", "\"P4W\"", "\"P1M\"", "\"PT1M30S\""},
       {"\"P\"", "\"PT\"", "\"P1YT\"", "\"P1Y2D\"", "\"1D\"", "\"PT1H5S\"", "\"P1W2D\""}},
      {R"({"type": "string", "format": "hostname"})",
       {"\"a.example-host.org\"", "\"localhost\""},
       {"\"\"", "\"-a\"", "\"a-\"", "\"a..b\"", "\"a--b\"", "\".\""}},
      {R"({"type": "string", "format": "ipv6"})",
       {"\"::\"", "\"::1\"", "\"1::\"", "\"1:2:3:4:5:6:7:8\"", "\"fe80::a:b\"",
        "\"1:2:3:4:5:6:7::\"", "\"::2:3:4:5:6:7:8\""},
       {"\"\"", "\":\"", "\"1:2:3:4:5:6:7\"", "\"1:2:3:4:5:6:7:8:9\"", "\"1::2::3\"",
        "\"1:2:3:4::5:6:7:8\"", "\"12345::\""}},
      {R"({"type": "string", "format": "uri"})",
       {"\"https://example.org/a/b.html?x=1&y=2#top\"", "\"http://localhost:8080\""},
       {"\"example.org\"", "\"https://\"", "\"https://a b\"", "\"http://a:/\""}},
      {R"({"type": "number"})", {"-1.25E+10", "0", "3e5"}, {"01", "1.", ".5", "NaN"}},
      {R"({"anyOf": [{"type": "string"}, {"type": "integer"}], "default": null})",
       {"\"\"", "3"},
       {"null"}},
      {R"({"type": "object", "properties": {"k": {"type": "integer"}}, "required": ["k"],
           "oneOf": [{"properties": {"a": {"const": 1}}, "required": ["a"]},
                     {"properties": {"b": {"const": 2}}, "required": ["b"]}]})",
       {R"({"k":1,"a":1})", R"({"k":1,"b":2})"},
       {R"({"k":1})", R"({"a":1})"}},
      {R"({"allOf": [{"$ref": "#/$defs/base"}, {"properties": {"y": {"type": "null"}}}],
           "$defs": {"base": {"type": "object", "properties": {"x": {"type": "integer"}},
                              "required": ["x"]}}})",
       {R"({"x":1,"y":null})", R"({"x":1})"},
       {R"({"y":null})"}},
      {R"({"$ref": "#/definitions/tree", "definitions": {"tree": {"type": "object",
           "properties": {"v": {"type": "integer"},
                          "kids": {"type": "array", "items": {"$ref": "#/definitions/tree"}}},
           "required": ["v"]}}})",
       {R"({"v":1})", R"({"v":1,"kids":[{"v":2,"kids":[]},{"v":3}]})"},
       {R"({"kids":[]})", R"({"v":1,"kids":[{}]})"}},
      {R"({"type": "array", "items": {"$ref": "#"}})", {"[]", "[[],[[]]]"}, {"[1]"}},
      {R"({"type": "string", "format": "date-time"})",
       {"\"2026-11-26T20:44:00Z\"", "\"0001-01-01T00:00:00Z\"", "\"2024-02-28T00:00:00.5+01:00\""},
       {"\"2026-02-30T00:00:00Z\"", "\"2026-11-26\"", "\"0000-01-01T00:00:00Z\""}},
      {R"({"type": "string", "format": "uuid"})",
       {"\"01234567-89ab-cdef-0123-456789abcdef\""},
       {"\"0123\""}},
      {R"({"type": "string", "format": "ipv4"})", {"\"192.168.0.255\""}, {"\"256.1.1.1\""}},
      {R"({"type": "string", "format": "email"})", {"\"a.b@c-d.org\""}, {"\"a@b\""}},
      {R"({"type": "boolean"})", {"true", "false"}, {"True", "0"}},
  };
  return cases;
}

TEST(JsonSchemaTest, TextsOfEachSchemaAreValid) {
  std::mt19937_64 random(1);
  int sampled = 0;
  for (const Case& c : Cases()) {
    auto grammar = Compile(ParseJsonSchema(c.schema));
    ASSERT_TRUE(grammar.ok()) << c.schema << grammar.status();
    GrammarTexts texts(*std::move(grammar));
    const Json schema = Json::parse(c.schema);
    for (const char* text : c.match) {
      EXPECT_TRUE(texts.Matches(text)) << c.schema << text;
      EXPECT_TRUE(Valid(schema, schema, Json::parse(text))) << c.schema << text;
    }
    for (const char* text : c.refuse) EXPECT_FALSE(texts.Matches(text)) << c.schema << text;
    for (int i = 0; i < 60; ++i) {
      const auto text = Sample(&texts, &random, 2000);
      if (!text.has_value()) continue;
      ++sampled;
      const Json value = Json::parse(*text, nullptr, /*allow_exceptions=*/false);
      ASSERT_FALSE(value.is_discarded()) << c.schema << *text;
      ASSERT_TRUE(Valid(schema, schema, value)) << c.schema << *text;
    }
  }
  EXPECT_GT(sampled, 1500);
}

// Every integer near the bounds, against arithmetic.
TEST(JsonSchemaTest, IntegersBetweenBounds) {
  std::mt19937_64 random(2);
  for (int round = 0; round < 150; ++round) {
    const int spread = round % 2 == 0 ? 30 : 3000;
    const int low = static_cast<int>(random() % spread) - spread / 2;
    const int high = low + static_cast<int>(random() % spread);
    auto grammar = Compile(ParseJsonSchema(
        absl::StrCat(R"({"type": "integer", "minimum": )", low, R"(, "maximum": )", high, "}")));
    ASSERT_TRUE(grammar.ok()) << grammar.status();
    GrammarTexts texts(*std::move(grammar));
    for (int x = low - 40; x <= high + 40; ++x) {
      ASSERT_EQ(texts.Matches(absl::StrCat(x)), low <= x && x <= high) << low << " " << high << x;
    }
  }
}

// Decimals near bounds of all kinds, against arithmetic in whole thousandths.
TEST(JsonSchemaTest, NumbersBetweenBounds) {
  std::mt19937_64 random(4);
  const auto write = [](int thousandths, int digits) {
    const int magnitude = std::abs(thousandths);
    std::string fraction = absl::StrCat(absl::Dec(magnitude % 1000, absl::kZeroPad3));
    fraction.resize(digits, '0');
    return absl::StrCat(thousandths < 0 ? "-" : "", magnitude / 1000, digits > 0 ? "." : "",
                        fraction);
  };
  for (int round = 0; round < 150; ++round) {
    const int spread = round % 3 == 0 ? 40 : round % 3 == 1 ? 4000 : 150000;
    const int low = static_cast<int>(random() % spread) - spread / 2;
    const int high = low + 1 + static_cast<int>(random() % spread);
    const bool has_low = random() % 5 > 0, has_high = random() % 5 > 0 || !has_low;
    const bool open_low = random() % 2 > 0, open_high = random() % 2 > 0;
    Json schema = {{"type", "number"}};
    if (has_low) schema[open_low ? "exclusiveMinimum" : "minimum"] = low / 1000.0;
    if (has_high) schema[open_high ? "exclusiveMaximum" : "maximum"] = high / 1000.0;
    auto grammar = Compile(ParseJsonSchema(schema.dump()));
    ASSERT_TRUE(grammar.ok()) << schema << grammar.status();
    GrammarTexts texts(*std::move(grammar));
    std::vector<int> numbers = {0, low / 1000 * 1000, high / 1000 * 1000, (high / 1000 + 1) * 1000};
    for (int i = 0; i < 40; ++i) {
      numbers.push_back(static_cast<int>(random() % (3 * spread)) - spread * 3 / 2);
    }
    for (int d = -12; d <= 12; ++d) numbers.insert(numbers.end(), {low + d, high + d});
    for (int x : numbers) {
      const bool within = (!has_low || (open_low ? low < x : low <= x)) &&
                          (!has_high || (open_high ? x < high : x <= high));
      const int least = x % 1000 == 0 ? 0 : x % 100 == 0 ? 1 : x % 10 == 0 ? 2 : 3;
      for (const int digits : {least, 3, 5}) {
        ASSERT_EQ(texts.Matches(write(x, digits)), within) << schema << write(x, digits);
      }
    }
  }
}

}  // namespace
}  // namespace packrat
