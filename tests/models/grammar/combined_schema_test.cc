// JSON schemas that are combined of others, and deep ones.
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "models/text/grammar/json_schema.h"
#include "tests/models/grammar/grammar_texts.h"

namespace packrat {
namespace {

struct Case {
  const char* schema;
  std::vector<const char*> match, refuse;
};

TEST(CombinedSchemaTest, PartsAreOneSchema) {
  const Case cases[] = {
      // As pydantic and OpenAI's documents combine definitions.
      {R"({"allOf": [{"$ref": "#/$defs/A"}, {"$ref": "#/$defs/B"}], "$defs": {
           "A": {"type": "object", "properties": {"a": {"type": "null"}}, "required": ["a"]},
           "B": {"allOf": [{"$ref": "#/$defs/C"}], "type": "object",
                 "properties": {"b": {"type": "boolean"}}, "required": ["b"]},
           "C": {"properties": {"c": {"type": "null"}}}}})",
       {R"({"a":null,"c":null,"b":true})", R"({"a":null,"b":false})"},
       {R"({"a":null})", R"({"b":true})", R"({"a":null,"b":null})"}},
      // Beside anyOf, each branch by its place.
      {R"({"type": "object", "properties": {"k": {"type": "null"}}, "required": ["k"],
           "anyOf": [{"$ref": "#/$defs/A"}, {"$ref": "#/$defs/B"}], "$defs": {
           "A": {"properties": {"a": {"type": "null"}}, "required": ["a"]},
           "B": {"properties": {"b": {"type": "null"}}, "required": ["b"]}}})",
       {R"({"k":null,"a":null})", R"({"k":null,"b":null})"},
       {R"({"k":null})", R"({"k":null,"a":null,"b":null})"}},
      // What is combined may hold itself.
      {R"({"$ref": "#/$defs/node", "$defs": {
           "node": {"type": "object", "properties": {"v": {"type": "null"},
             "next": {"title": "Next", "allOf": [{"$ref": "#/$defs/node"}]},
             "more": {"allOf": [{"$ref": "#/$defs/node"}, {"$ref": "#/$defs/w"}]}},
             "required": ["v"]},
           "w": {"properties": {"w": {"type": "null"}}, "required": ["w"]}}})",
       {R"({"v":null})", R"({"v":null,"next":{"v":null,"next":{"v":null}}})",
        R"({"v":null,"more":{"v":null,"more":{"v":null,"w":null},"w":null}})"},
       {R"({"next":{"v":null}})", R"({"v":null,"more":{"v":null}})"}},
      {R"({"allOf": [true]})", {"1", "[]"}, {"x"}},
      // A $ref is a fragment of a URI.
      {R"({"items": {"$ref": "#/$defs/a%20b"}, "$defs": {"a b": {"type": "null"}}})",
       {"[null]"},
       {"[1]"}},
      {R"({"items": {"$ref": "#/$defs%2fa~1%C3%A9%"}, "$defs": {"a/é%": {"type": "null"}}})",
       {"[null]"},
       {"[1]"}},
  };
  for (const Case& c : cases) {
    auto grammar = Compile(ParseJsonSchema(c.schema));
    ASSERT_TRUE(grammar.ok()) << c.schema << grammar.status();
    GrammarTexts texts(*std::move(grammar));
    for (const char* text : c.match) EXPECT_TRUE(texts.Matches(text)) << c.schema << text;
    for (const char* text : c.refuse) EXPECT_FALSE(texts.Matches(text)) << c.schema << text;
  }
}

// The most that OpenAI's API takes, each level an object in a list.
TEST(CombinedSchemaTest, TenLevelsOfObjectsInLists) {
  std::string schema = R"({"type": "null"})", text = "null";
  for (int i = 0; i < 10; ++i) {
    schema = R"({"type": "object", "properties": {"a": {"type": "array", "items": )" + schema +
             R"(}}, "required": ["a"], "additionalProperties": false})";
    text = R"({"a":[)" + text + "]}";
  }
  auto grammar = Compile(ParseJsonSchema(schema));
  ASSERT_TRUE(grammar.ok()) << grammar.status();
  GrammarTexts texts(*std::move(grammar));
  EXPECT_TRUE(texts.Matches(text));
  EXPECT_FALSE(texts.Matches(R"({"a":[)" + text + "]}"));
}

}  // namespace
}  // namespace packrat
