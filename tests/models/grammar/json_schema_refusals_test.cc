// JSON schemas that are refused, and what would be immense.
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "models/text/grammar/json_schema.h"
#include "tests/models/grammar/grammar_texts.h"

namespace packrat {
namespace {

using ::testing::HasSubstr;

TEST(JsonSchemaRefusalsTest, AreByNameAndPlace) {
  const auto deep = [](int levels) {
    std::string schema = "{}";
    for (int i = 0; i < levels; ++i) schema = R"({"items": )" + schema + "}";
    return schema;
  };
  const std::pair<std::string, const char*> cases[] = {
      {"", "empty"},
      {"{", "it: "},
      {"3", "at #: a schema is an object, true or false"},
      {deep(65), "schemas nest deeper than 64"},
      {deep(127), "schemas nest deeper than 64"},
      {deep(128), "it: nested more than 128 levels deep"},
      {R"({"properties": {"a": {"multipleOf": 2}}})", "at #/properties/a: keyword \"multipleOf\""},
      {R"({"not": {}})", "keyword \"not\""},
      {R"({"patternProperties": {}})", "patternProperties"},
      {R"({"if": {}})", "keyword \"if\""},
      {R"({"uniqueItems": true})", "uniqueItems"},
      {R"({"type": "text"})", "type \"text\" is not one"},
      {R"({"type": []})", "type is an empty list"},
      {R"({"enum": []})", "enum is a list"},
      {R"({"enum": [1], "type": "string"})", "no value of enum"},
      {R"({"enum": [1], "minimum": 0})", "minimum beside enum"},
      {R"({"type": "number", "minimum": 0.5, "maximum": 0.4})", "no number is between"},
      {R"({"type": "number", "minimum": 1, "exclusiveMaximum": 1})", "no number is between"},
      {R"({"type": "number", "minimum": -1, "maximum": -2})", "no number is between"},
      {R"({"type": "number", "maximum": 0.1234567890123456})", "with at most 15 digits"},
      {R"({"type": "number", "maximum": "1"})", "maximum is \"1\"; range"},
      {R"({"type": "integer", "minimum": 2, "exclusiveMinimum": true})", "exclusiveMinimum is"},
      {R"({"nullable": 1})", "nullable is true or false"},
      {R"({"allOf": [{"type": "string", "nullable": true}, {"maxLength": 3}]})",
       "nullable of what is combined"},
      {R"({"items": [true], "prefixItems": [true]})", "items is a list, and prefixItems"},
      {R"({"minProperties": 2})", "minProperties is supported up to 1"},
      {R"({"properties": {"a": true}, "minProperties": 1})", "minProperties beside properties"},
      {R"({"properties": {"a": true, "b": true}, "maxProperties": 1})", "maxProperties beside"},
      {R"({"maxProperties": 1, "minProperties": 2})", "maxProperties is less than minProperties"},
      {R"({"required": "a"})", "required is a list of names"},
      {R"({"type": "integer", "minimum": 5, "maximum": 4})", "no integer is between"},
      {R"({"type": "integer", "minimum": 1e300})", "range [-1e15, 1e15]"},
      {R"({"type": "string", "maxLength": 1000000})", "range [0, 10000]"},
      {R"({"type": "string", "minLength": -1})", "minLength is -1; range [0, 10000]"},
      {R"({"type": "string", "maxLength": 1.5})", "maxLength is 1.5; range [0, 10000]"},
      {R"({"$ref": "#/nowhere"})", "$ref \"#/nowhere\" is not a place in this schema"},
      {R"({"type": "string", "minLength": 3, "maxLength": 2})", "maxLength is less"},
      {R"({"type": "string", "pattern": "a", "maxLength": 2})", "one is supported"},
      {R"-({"type": "string", "pattern": "(?=a)"})-", "pattern: at byte 0: look-around"},
      {R"({"type": "string", "format": "iri"})", "format \"iri\" is not supported"},
      {R"({"required": ["a"], "additionalProperties": false})", "required has \"a\""},
      {R"({"$ref": "#/$defs/x"})", "is not a place in this schema"},
      {R"({"$ref": "http://example.com/x"})", "is not a place in this schema"},
      {R"({"$ref": "#"})", "can begin with itself"},
      {R"({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"})",
       "can begin with itself"},
      {R"({"$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}, {"type": "object"}]}},
           "$ref": "#/$defs/a"})",
       "leads back to where it stands"},
      {R"({"$ref": "#/$defs/a%2fb", "$defs": {"a/b": {}}})", "is not a place in this schema"},
      {R"({"allOf": [{"$ref": "#/$defs/x"}, {}]})", "is not a place in this schema"},
      {R"({"allOf": [{"not": {}}, {}]})", "keyword \"not\" is not supported"},
      {R"({"allOf": [true, {}]})", "what is combined must be objects"},
      {R"({"allOf": [{"type": "string"}, {"type": "integer"}]})", "type of what is combined"},
      {R"({"allOf": [{"properties": {"a": true}, "additionalProperties": false},
                     {"properties": {"b": true}}]})",
       "additionalProperties of what is combined"},
      {R"({"anyOf": [], "title": "x"})", "anyOf is a list"},
      {R"({"anyOf": [{}], "oneOf": [{}]})", "beside each other"},
      // Itself, without an end.
      {R"({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]})",
       "no text matches"},
      {"false", "no text matches"},
  };
  for (const auto& [schema, message] : cases) {
    const auto compiled = Compile(ParseJsonSchema(schema));
    EXPECT_EQ(compiled.status().code(), absl::StatusCode::kInvalidArgument) << schema;
    EXPECT_THAT(compiled.status().message(), HasSubstr(message)) << schema;
  }
}

// Small texts that describe something immense.
TEST(JsonSchemaRefusalsTest, LargeOnesAreSmallOrRefused) {
  // Each definition combines the next one twice.
  std::string doubling = R"({"$ref": "#/$defs/d0", "$defs": {)";
  for (int i = 0; i < 30; ++i) {
    absl::StrAppend(&doubling, "\"d", i, "\": {\"anyOf\": [{\"allOf\": [{\"$ref\": \"#/$defs/d",
                    i + 1, "\"}, {\"title\": \"x\"}]}, {\"allOf\": [{\"$ref\": \"#/$defs/d", i + 1,
                    "\"}, {\"title\": \"y\"}]}]},");
  }
  absl::StrAppend(&doubling, R"("d30": {"type": "null"}}})");
  const auto doubled = Compile(ParseJsonSchema(doubling));
  ASSERT_TRUE(doubled.ok()) << doubled.status();
  EXPECT_LT(doubled->nodes().size(), 1000u);

  // And the same without an anyOf between, which is merged alone.
  std::string merged = R"({"$ref": "#/$defs/d0", "type": "object", "$defs": {)";
  for (int i = 0; i < 30; ++i) {
    absl::StrAppend(&merged, "\"d", i, "\": {\"allOf\": [{\"$ref\": \"#/$defs/d", i + 1,
                    "\"}, {\"$ref\": \"#/$defs/d", i + 1, "\"}]},");
  }
  absl::StrAppend(&merged, R"("d30": {"type": "object"}}})");
  EXPECT_THAT(ParseJsonSchema(merged).status().message(), HasSubstr("too large"));

  std::string nested = R"({"type": "string", "minLength": 10000})";
  for (int i = 0; i < 10; ++i)
    nested = R"({"type": "array", "minItems": 5000, "items": )" + nested + "}";
  auto grammar = Compile(ParseJsonSchema(nested));
  if (grammar.ok()) {
    EXPECT_LE(grammar->nodes().size(), static_cast<size_t>(kMaxGrammarNodes));
  }
  // Of many properties the optional ones may be left out in any way.
  std::string wide = R"({"type": "object", "properties": {)";
  for (int i = 0; i < 1000; ++i) absl::StrAppend(&wide, i > 0 ? "," : "", "\"p", i, "\":true");
  auto compiled = Compile(ParseJsonSchema(wide + "}}"));
  ASSERT_TRUE(compiled.ok()) << compiled.status();
  GrammarTexts texts(*std::move(compiled));
  EXPECT_TRUE(texts.Matches(R"({"p3":1,"p998":2})"));
  EXPECT_FALSE(texts.Matches(R"({"p998":1,"p3":2})"));
}

// Of thousands of names each, whose number squared is too many to look at for each branch.
TEST(JsonSchemaRefusalsTest, MergesOfManyNamesAreCounted) {
  const auto names = [](const char* prefix, int count) {
    std::string list;
    for (int i = 0; i < count; ++i) {
      absl::StrAppend(&list, i > 0 ? "," : "", "\"", prefix, absl::Hex(i), "\"");
    }
    return list;
  };
  const auto schema = [&](int count, int branches) {
    std::string text = absl::StrCat(R"({"$defs": {"a": {"type": "string", "required": [)",
                                    names("a", count), R"(]}, "b": {"required": [)",
                                    names("b", count), R"(]}}, "$ref": "#/$defs/a", "anyOf": [)");
    for (int i = 0; i < branches; ++i) {
      absl::StrAppend(&text, i > 0 ? "," : "", R"({"$ref":"#/$defs/b"})");
    }
    return text + "]}";
  };
  EXPECT_THAT(ParseJsonSchema(schema(2900, 500)).status().message(),
              HasSubstr("the schema is too large with what its $refs repeat"));
  const auto one = ParseJsonSchema(schema(2900, 1));
  EXPECT_TRUE(one.ok()) << one.status();
}

}  // namespace
}  // namespace packrat
