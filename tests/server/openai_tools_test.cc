// What tools in requests to /v1/chat/completions and /v1/responses become.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/server/openai_ask.h"

namespace packrat::openai {
namespace {

Context Calling(const char* format) {
  Context context = ContextOf();
  context.tool_format = FindToolFormat(format);
  return context;
}

constexpr char kUser[] = R"("messages": [{"role": "user", "content": "u"}], )";
constexpr char kTools[] =
    R"("tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object",
       "properties": {"a": {"$ref": "#/$defs/x"}, "b": {"type": "string"}}, "$defs":
       {"x": {"const": {"$ref": "#"}}}}}}, {"type": "function", "function": {"name": "g"}}])";

absl::StatusOr<Ask> Choose(const std::string& choice, const char* format = "hermes",
                           const std::string& more = "") {
  const Context context = Calling(format);
  return ParseAsk(Endpoint::kChat,
                  absl::StrCat("{", kUser, kTools, more, ", \"tool_choice\": ", choice, "}"),
                  context);
}

const v1::GenerateRequest& CallOf(const absl::StatusOr<Ask>& ask) {
  static const v1::GenerateRequest& none = *new v1::GenerateRequest;
  EXPECT_TRUE(ask.ok()) << ask.status();
  return ask.ok() ? std::get<v1::GenerateRequest>(ask->calls[0]) : none;
}

TEST(Tools, TextsAreKnownByTheirSchemas) {
  const absl::StatusOr<Ask> ask = ParseAsk(
      Endpoint::kChat, absl::StrCat("{", kUser, R"("tools": [{"type": "function", "function":
          {"name": "f", "parameters": {"properties": {
            "yes": {"type": "string"}, "list": {"type": ["string", "null"]},
            "optional": {"anyOf": [{"type": "string", "format": "uri"}, {"type": "null"}]},
            "values": {"enum": ["1", "2"]}, "reference": {"allOf": [{"$ref": "#/$defs/color"}]},
            "no": {"type": ["string", "integer"]}, "either": {"oneOf": [{"type": "string"}, {}]},
            "mixed": {"enum": ["1", 1]}, "null": {"type": "null"}, "any": {}, "true": true,
            "nowhere": {"$ref": "#/$defs/none"}, "circle": {"$ref": "#/$defs/circle"}},
            "$defs": {"color": {"enum": ["red", null]},
                      "circle": {"$ref": "#/$defs/circle"}}}}}]})"),
      Calling("qwen_xml"));
  ASSERT_TRUE(ask.ok()) << ask.status();
  EXPECT_EQ(ask->form.tools, (ToolCallReader::Tools{{"f",
                                                     {{"yes", false},
                                                      {"list", true},
                                                      {"optional", true},
                                                      {"values", false},
                                                      {"reference", true}}}}));
}

// Each of 300 alternatives leads to all of them.
TEST(Tools, SchemasThatBranchWithoutEndAreNoTexts) {
  const std::string one = R"({"$ref": "#/$defs/a"},)";
  std::string many;
  for (int i = 0; i < 300; ++i) many += one;
  many.pop_back();
  const absl::StatusOr<Ask> ask =
      ParseAsk(Endpoint::kChat,
               absl::StrCat("{", kUser, R"("tools": [{"type": "function", "function": {"name": "f",
          "parameters": {"properties": {"b": {"$ref": "#/$defs/a"}, "c": {"type": "string"}},
          "$defs": {"a": {"anyOf": [)",
                            many, "]}}}}}]}"),
               Calling("qwen_xml"));
  ASSERT_TRUE(ask.ok()) << ask.status();
  EXPECT_EQ(ask->form.tools, (ToolCallReader::Tools{{"f", {{"c", false}}}}));
}

TEST(Tools, TheirCallsAreLookedForWhereTheFormatIsKnown) {
  const absl::StatusOr<Ask> known = Choose("\"auto\"");
  EXPECT_EQ(CallOf(known).skip_special_tokens(), false);
  EXPECT_TRUE(CallOf(known).has_skip_special_tokens());
  EXPECT_FALSE(CallOf(known).has_grammar());
  EXPECT_EQ(known->form.tools, (ToolCallReader::Tools{{"f", {{"b", false}}}, {"g", {}}}));
  EXPECT_FALSE(known->form.forced_call.has_value());
  const absl::StatusOr<Ask> told = Choose("\"auto\"", "hermes", R"(, "skip_special_tokens": true)");
  EXPECT_TRUE(CallOf(told).skip_special_tokens());
  for (const absl::StatusOr<Ask>& ask : {Choose("\"none\""), Choose("\"auto\"", "unknown")}) {
    EXPECT_FALSE(CallOf(ask).has_skip_special_tokens());
    EXPECT_TRUE(ask->form.tools.empty());
  }
  EXPECT_FALSE(CallOf(Choose("\"none\"")).chat().has_tools_json());
}

TEST(Tools, AForcedCallIsJsonBehindTheFormatsMark) {
  const absl::StatusOr<Ask> any = Choose("\"required\"");
  EXPECT_EQ(any->form.forced_call, "");
  EXPECT_EQ(CallOf(any).chat().answer_prefix(), "<tool_call>\n");
  // References point to where the parameters are now; what only looks like one stays.
  EXPECT_EQ(
      CallOf(any).grammar(),
      R"(root ::= %json-line {"anyOf":[{"type":"object","properties":{"name":{"const":"f"},"arguments":{"type":)"
      R"("object","properties":{"a":{"$ref":"#/anyOf/0/properties/arguments/$defs/x"},"b":)"
      R"({"type":"string"}},"$defs":{"x":{"const":{"$ref":"#"}}}}},"required":["name",)"
      R"("arguments"]},{"type":"object","properties":{"name":{"const":"g"},"arguments":)"
      R"({"type":"object","additionalProperties":false,"properties":{}}},"required":["name",)"
      R"("arguments"]}]})");
  const absl::StatusOr<Ask> named =
      Choose(R"({"type": "function", "function": {"name": "g"}})", "llama");
  EXPECT_EQ(CallOf(named).chat().answer_prefix(), "");
  EXPECT_EQ(
      CallOf(named).grammar(),
      R"(root ::= %json-line {"type":"object","properties":{"name":{"const":"g"},"parameters":{"type":"object",)"
      R"("additionalProperties":false,"properties":{}}},"required":["name","parameters"]})");
  const Context context = Calling("mistral");
  const absl::StatusOr<Ask> response =
      ParseAsk(Endpoint::kResponses, R"({"input": "a", "tools": [{"type": "function", "name": "f",
      "parameters": {"$ref": "#"}}], "tool_choice": {"type": "function", "name": "f"}})",
               context);
  EXPECT_EQ(CallOf(response).chat().answer_prefix(), "[TOOL_CALLS][");
  EXPECT_EQ(
      CallOf(response).grammar(),
      R"(root ::= %json-line {"type":"object","properties":{"name":{"const":"f"},"arguments":{"$ref":)"
      R"("#/properties/arguments"}},"required":["name","arguments"]})");
}

TEST(Tools, AForcedCallIsWhatTheModelWouldWrite) {
  const absl::StatusOr<Ask> any = Choose("\"required\"", "mistral_args");
  EXPECT_EQ(any->form.forced_call, "");
  EXPECT_EQ(CallOf(any).chat().answer_prefix(), "[TOOL_CALLS]");
  EXPECT_EQ(CallOf(any).grammar().substr(0, 24), "root ::= call-0 | call-1");
  // The mark behind the name is in the prompt, and so known by the tokenizer.
  const absl::StatusOr<Ask> named =
      Choose(R"({"type": "function", "function": {"name": "g"}})", "mistral_args");
  EXPECT_EQ(named->form.forced_call, "g[ARGS]");
  EXPECT_EQ(CallOf(named).chat().answer_prefix(), "[TOOL_CALLS]g[ARGS]");
  EXPECT_EQ(
      CallOf(named).grammar(),
      R"(root ::= %json-line {"type":"object","additionalProperties":false,"properties":{}})");
}

// The second has an argument that no Python could have.
constexpr char kTwoWords[] = R"("tools": [{"type": "function", "function": {"name": "f"}},
    {"type": "function", "function": {"name": "g", "parameters": {"properties": {"a b": {}}}}}])";
constexpr char kSchema[] = R"(, "response_format": {"type": "json_schema", "json_schema":
    {"name": "n", "schema": {"type": "object"}}})";

TEST(Tools, AnAnswerByASchemaMayBeACallInstead) {
  const absl::StatusOr<Ask> any = Choose("\"auto\"", "mistral_args", kSchema);
  EXPECT_FALSE(CallOf(any).has_json_schema());
  EXPECT_EQ(CallOf(any).grammar().substr(0, 82),
            R"(root ::= %json {"type":"object"} | "[TOOL_CALLS]" (call-0 | call-1))"
            "\ncall-0 ::= \"f\"");
  EXPECT_EQ(any->form.tools.size(), 2u);
  EXPECT_FALSE(any->form.forced_call.has_value());
  // Where a call is asked for, the answer that the schema describes comes later.
  const absl::StatusOr<Ask> forced = Choose("\"required\"", "mistral_args", kSchema);
  EXPECT_FALSE(CallOf(forced).has_json_schema());
  EXPECT_EQ(CallOf(forced).grammar(), CallOf(Choose("\"required\"", "mistral_args")).grammar());
  // Without tools, or where nobody knows how the model writes calls, it is the schema alone.
  EXPECT_EQ(CallOf(Choose("\"none\"", "hermes", kSchema)).json_schema(), R"({"type":"object"})");
  EXPECT_EQ(CallOf(Choose("\"auto\"", "unknown", kSchema)).json_schema(), R"({"type":"object"})");
  EXPECT_EQ(Refusal(ParseAsk(Endpoint::kChat, absl::StrCat("{", kUser, kTwoWords, kSchema, "}"),
                             Calling("olmo"))),
            "400 tools[1].function.parameters: tools[1].function.parameters cannot stand beside "
            "response_format: calls of \"g\" cannot be forced in the format olmo: argument \"a b\" "
            "cannot be written there");
}

TEST(Tools, WhatCannotBeForcedIsRefused) {
  EXPECT_EQ(Refusal(Choose("\"required\"", "unknown")),
            "400 tool_choice: tool_choice asks for a call, and neither the model's chat template "
            "nor the server's --tool_format says how it writes one");
  const Context python = Calling("olmo");
  EXPECT_EQ(Refusal(ParseAsk(Endpoint::kChat,
                             absl::StrCat("{", kUser, kTwoWords, R"(, "tool_choice": "required"})"),
                             python)),
            "400 tools[1].function.parameters: tools[1].function.parameters cannot be those of a "
            "call that is asked for: calls of \"g\" cannot be forced in the format olmo: argument "
            "\"a b\" cannot be written there");
  EXPECT_EQ(Refusal(Choose(R"({"type": "function", "function": {"name": "h"}})")),
            "400 tool_choice: tool_choice names h, which is not among tools");
  EXPECT_EQ(Refusal(Choose("\"required\"", "hermes", R"(, "grammar": "root ::= [a]")")),
            "400 tool_choice: tool_choice says something else than grammar; send one of them");
  const Context context = Calling("hermes");
  EXPECT_EQ(Refusal(ParseAsk(Endpoint::kChat,
                             absl::StrCat("{", kUser, "\"tool_choice\": \"required\"}"), context)),
            "400 tool_choice: tool_choice asks for a call, and tools has none");
}

// A grammar that was made of them names itself alone, and its places are not the client's.
TEST(Tools, ParametersThatNoGrammarTakesAreNamed) {
  const Context context = Calling("hermes");
  const absl::Status compiled =
      absl::InvalidArgumentError("grammar: at byte 20: %json: at #/x: keyword is not supported");
  const auto named = [&](Endpoint endpoint, const std::string& body) {
    const absl::StatusOr<Ask> ask = ParseAsk(endpoint, body, context);
    if (!ask.ok()) return Refusal(ask);
    return Refusal(absl::StatusOr<Ask>(ask->InClientsNames(compiled, 0)));
  };
  const std::string bad = R"({"type": "object", "properties": {"a": {"uniqueItems": true}}})";
  const std::string tools = absl::StrCat(
      R"("tools": [{"type": "function", "function": {"name": "f"}}, {"type": "function",
          "function": {"name": "g", "parameters": )",
      bad, "}}]");
  EXPECT_EQ(
      named(Endpoint::kChat, absl::StrCat("{", kUser, tools, R"(, "tool_choice": "required"})")),
      "400 tools[1].function.parameters: tools[1].function.parameters cannot be those of a "
      "call that is asked for: at #/properties/a: keyword \"uniqueItems\" is not supported");
  EXPECT_EQ(named(Endpoint::kChat, absl::StrCat("{", kUser, tools, kSchema, "}")),
            "400 tools[1].function.parameters: tools[1].function.parameters cannot stand beside "
            "response_format: at #/properties/a: keyword \"uniqueItems\" is not supported");
  EXPECT_EQ(named(Endpoint::kResponses,
                  absl::StrCat(R"({"input": "a", "tools": [{"type": "function", "name": "g",
                      "parameters": )",
                               bad, R"(}], "tool_choice": {"type": "function", "name": "g"}})")),
            "400 tools[0].parameters: tools[0].parameters cannot be those of a call that is asked "
            "for: at #/properties/a: keyword \"uniqueItems\" is not supported");
  // What is not theirs, or of no grammar, stays what it was.
  EXPECT_EQ(
      named(Endpoint::kChat, absl::StrCat("{", kUser, kTools, R"(, "tool_choice": "required"})")),
      "400 tool_choice: tool_choice: at byte 20: %json: at #/x: keyword is not supported");
  EXPECT_EQ(named(Endpoint::kChat, absl::StrCat("{", kUser, R"("grammar": "root ::= 1"})")),
            "400 grammar: grammar: at byte 20: %json: at #/x: keyword is not supported");
}

// As OpenAI's server does, whether or not a call is asked for.
TEST(Tools, FunctionsAreRefusedByMember) {
  const auto refusal = [](const std::string& functions) {
    return Refusal(Chat(absl::StrCat("{", kUser, "\"tools\": [", functions, "]}")));
  };
  const auto tool = [](const std::string& members) {
    return absl::StrCat(R"({"type": "function", "function": {)", members, "}}");
  };
  const std::string field = "400 tools[0].function.", at = "tools[0].function.";
  const std::string longest(64, 'x');
  for (const std::string& good : {std::string("a"), std::string("A-z_09"), longest}) {
    EXPECT_THAT(refusal(tool(absl::StrCat("\"name\": \"", good, "\""))),
                testing::StartsWith("accepted: "));
  }
  for (const std::string& bad : {std::string(), std::string("a b"), std::string("a.b"),
                                 std::string("\xc3\xa9"), longest + "x"}) {
    EXPECT_THAT(
        refusal(tool(absl::StrCat("\"name\": \"", bad, "\""))),
        testing::AllOf(testing::StartsWith(absl::StrCat(field, "name: ", at, "name is \"")),
                       testing::EndsWith("must be 1 to 64 letters (a-z), digits, _ and -")));
  }
  const std::pair<const char*, std::string> cases[] = {
      {R"("name": "f", "parameters": "x")",
       absl::StrCat(field, "parameters: ", at,
                    "parameters is \"x\"; must be an object, a JSON schema")},
      {R"("name": "f", "parameters": [])",
       absl::StrCat(field, "parameters: ", at,
                    "parameters is an empty list; must be an object, a JSON schema")},
      {R"("name": "f", "strict": "x")",
       absl::StrCat(field, "strict: ", at, "strict is \"x\"; must be true or false")},
      {R"("name": "f", "description": 1)",
       absl::StrCat(field, "description: ", at, "description is 1; must be a string")},
  };
  for (const auto& [members, why] : cases) EXPECT_EQ(refusal(tool(members)), why);
  EXPECT_THAT(refusal(tool(R"("name": "f", "parameters": null, "strict": null)")),
              testing::StartsWith("accepted: "));
  const std::string f = tool(R"("name": "f")");
  EXPECT_EQ(refusal(absl::StrCat(f, ", ", tool(R"("name": "g")"), ", ", f)),
            "400 tools[2].function.name: tools[2].function.name is \"f\", as "
            "tools[0].function.name is");
  EXPECT_EQ(Refusal(Respond(R"({"input": "a", "tools": [{"type": "function", "name": "a b"}]})")),
            "400 tools[0].name: tools[0].name is \"a b\"; must be 1 to 64 letters (a-z), digits, _ "
            "and -");
}

}  // namespace
}  // namespace packrat::openai
