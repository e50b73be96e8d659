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
  std::string deep = "{}";
  for (int i = 0; i < 40; ++i) deep = R"({"items": )" + deep + "}";
  const std::pair<std::string, const char*> cases[] = {
      {"", "empty"},
      {"{", "it: "},
      {"3", "at #: a schema is an object, true or false"},
      {deep, "levels"},
      {R"({"properties": {"a": {"multipleOf": 2}}})", "at #/properties/a: keyword \"multipleOf\""},
      {R"({"not": {}})", "keyword \"not\""},
      {R"({"patternProperties": {}})", "patternProperties"},
      {R"({"if": {}})", "keyword \"if\""},
      {R"({"uniqueItems": true})", "uniqueItems"},
      {R"({"type": "text"})", "type \"\\\"text\\\"\" is not one"},
      {R"({"type": []})", "type is an empty list"},
      {R"({"enum": []})", "enum is a list"},
      {R"({"enum": [1], "type": "string"})", "no value of enum"},
      {R"({"enum": [1], "minimum": 0})", "minimum beside enum"},
      {R"({"type": "number", "minimum": 0.5, "maximum": 0.4})", "no number is between"},
      {R"({"type": "number", "minimum": 1, "exclusiveMaximum": 1})", "no number is between"},
      {R"({"type": "number", "minimum": -1, "maximum": -2})", "no number is between"},
      {R"({"type": "number", "maximum": 0.1234567890123456})", "with at most 15 digits"},
      {R"({"type": "number", "maximum": "1"})", "maximum is \"\\\"1\\\"\"; range"},
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
      {R"({"type": "string", "minLength": -1})", "range [0, 10000]"},
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
       "nest deeper"},
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
  EXPECT_EQ(Compile(ParseJsonSchema(doubling)).status().code(), absl::StatusCode::kInvalidArgument);

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

}  // namespace
}  // namespace packrat
