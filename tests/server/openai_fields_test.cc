// The fields that all endpoints of OpenAI's API have, and the description of all fields.
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <set>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/openai/fields.h"
#include "tests/server/openai_ask.h"
#include "tests/server/wire_fields.h"

namespace packrat::openai {
namespace {

constexpr Endpoint kEndpoints[] = {Endpoint::kCompletions, Endpoint::kChat, Endpoint::kResponses};

TEST(Options, UnknownFieldsAreRefusedByName) {
  for (const Endpoint endpoint : kEndpoints) {
    EXPECT_EQ(Refusal(Parse(endpoint, R"({"temprature": 0})")),
              "400 temprature: Unrecognized request argument supplied: temprature");
  }
}

TEST(Options, ConstraintsOfTheText) {
  const std::string json = R"(json_schema: "{\"type\":\"object\"}")";
  const std::string body = R"({"prompt": "a", )";
  EXPECT_EQ(Calls(Complete(body + R"("response_format": {"type": "text"}})")), R"(text: "a")");
  for (const char* option :
       {R"("response_format": {"type": "json_object"})", R"("guided_json": {"type": "object"})",
        R"("response_format": {"type": "json_schema", "json_schema": {"name": "n", "strict": true,
            "schema": {"type": "object"}}})",
        R"("structured_outputs": {"json": {"type": "object"}})",
        R"("json_schema": "{\"type\":\"object\"}")"}) {
    EXPECT_EQ(Calls(Complete(body + option + "}")), "text: \"a\" " + json) << option;
  }
  for (const char* option : {R"("regex": "x+")", R"("guided_regex": "x+")",
                             R"("structured_outputs": {"regex": "x+"})"}) {
    EXPECT_EQ(Calls(Complete(body + option + "}")), R"(text: "a" regex: "x+")") << option;
  }
  EXPECT_EQ(Calls(Complete(body + R"("guided_grammar": "g"})")), R"(text: "a" grammar: "g")");
  EXPECT_EQ(Calls(Respond(R"({"input": "a", "text": {"format": {"type": "json_schema",
                "schema": {}, "json_schema": {}}}})")),
            "refused: text.format.json_schema is not known here");
  EXPECT_EQ(Calls(Respond(R"({"input": "a", "text": {"format": {"type": "json_schema", "name": "n",
      "schema": {"type": "object"}}}})")),
            json + R"( chat { messages { role: "user" content: "a" } })");
  // A text is generated in the order of the schema.
  EXPECT_EQ(Calls(Complete(body + R"("json_schema": {"z": 1, "a": 2}})")),
            R"(text: "a" json_schema: "{\"z\":1,\"a\":2}")");
  const std::pair<const char*, const char*> refused[] = {
      {R"("response_format": {}})", "400 response_format.type: response_format.type is missing"},
      {R"("response_format": {"type": "xml"}})",
       R"(400 response_format.type: response_format.type is "xml"; must be "text", "json_object" or )"
       R"("json_schema")"},
      {R"("response_format": {"type": "text", "schema": {}}})",
       "400 response_format.schema: response_format.schema is not known here"},
      {R"("response_format": {"type": "json_object", "schema": {}}})",
       "400 response_format.schema: response_format.schema is not known here"},
      {R"("response_format": {"type": "json_schema", "schema": {}, "json_schema": {"schema": {}}}})",
       "400 response_format.schema: response_format.schema is not known here"},
      {R"("response_format": {"type": "json_schema", "json_schema": {"schema": {}, "x": 1}}})",
       "400 response_format.json_schema.x: response_format.json_schema.x is not known here"},
      {R"("response_format": {"type": "json_schema"}})",
       "400 response_format.json_schema: response_format.json_schema is missing"},
      {R"("response_format": {"type": "json_schema", "json_schema": {"schema": 1}}})",
       "400 response_format.json_schema.schema: response_format.json_schema.schema is 1; must be "
       "an object"},
      {R"("structured_outputs": {"choice": ["a"]}})",
       "400 structured_outputs.choice: structured_outputs.choice is not known here"},
  };
  for (const auto& [option, refusal] : refused)
    EXPECT_EQ(Refusal(Complete(body + option)), refusal);
}

// OpenAI's API takes ten levels, each of which may be an object in a list.
TEST(Options, SchemasMayBeAsDeepAsOpenAIsAre) {
  std::string schema = R"({"type":"null"})";
  for (int i = 0; i < 10; ++i) {
    schema = R"({"type":"object","properties":{"a":{"type":"array","items":)" + schema + "}}}";
  }
  const absl::StatusOr<Ask> ask = Chat(R"({"messages": [{"role": "user", "content": "u"}],
      "response_format": {"type": "json_schema", "json_schema": {"schema": )" +
                                       schema + "}}}");
  ASSERT_TRUE(ask.ok()) << ask.status();
  EXPECT_EQ(std::get<v1::GenerateRequest>(ask->calls[0]).json_schema(), schema);
}

// Before memory is taken for what they count.
TEST(Options, CountsAreChecked) {
  for (const char* value : {"-1", "0", "17", "50000000", "1e300", "-2147483648"}) {
    const std::string range =
        absl::StrCat(" is ", OrderedJson::parse(value).dump(), "; range [1, 16]");
    for (const char* name : {"n", "best_of"}) {
      EXPECT_EQ(Refusal(Complete(absl::StrCat(R"({"prompt": "a", ")", name, "\": ", value, "}"))),
                absl::StrCat("400 ", name, ": ", name, range));
    }
    EXPECT_EQ(Refusal(Chat(absl::StrCat(R"({"messages": [{"role": "user", "content": "a"}], "n": )",
                                        value, "}"))),
              absl::StrCat("400 n: n", range));
  }
  EXPECT_EQ(Refusal(Complete(R"({"prompt": "a", "logprobs": 21})")),
            "400 logprobs: logprobs is 21; range [0, 20]");
  EXPECT_EQ(Refusal(Respond(R"({"input": "a", "top_logprobs": -1})")),
            "400 top_logprobs: top_logprobs is -1; range [0, 20]");
  EXPECT_EQ(Refusal(Complete(R"({"prompt": "a", "top_p": 1.5})")),
            "400 top_p: top_p is 1.5; range [0, 1]");
}

// With the limits of OpenAI's API, in characters.
TEST(Options, MetadataIsSmall) {
  const auto with = [](const std::string& key, const std::string& value) {
    return absl::StrCat(R"({"prompt": "a", "metadata": {")", key, R"(": )", value, "}}");
  };
  const auto text = [](int characters) {
    std::string quoted = "\"";
    for (int i = 0; i < characters; ++i) quoted += "é";
    return quoted + "\"";
  };
  EXPECT_EQ(Calls(Complete(with(std::string(64, 'k'), text(512)))), R"(text: "a")");
  EXPECT_EQ(Refusal(Complete(with(std::string(65, 'k'), "\"\""))),
            absl::StrCat("400 metadata.", std::string(65, 'k'), ": metadata.", std::string(65, 'k'),
                         " is a key of 65 characters; range [0, 64]"));
  EXPECT_EQ(Refusal(Complete(with("k", text(513)))),
            "400 metadata.k: metadata.k has 513 characters; range [0, 512]");
  EXPECT_EQ(Refusal(Complete(with("k", "1"))), "400 metadata.k: metadata.k is 1; must be a string");
}

TEST(Options, TopPOfZeroLeavesTheLikeliestToken) {
  for (const char* value : {"0", "0.0", "1e-50"}) {
    const absl::StatusOr<Ask> ask =
        Complete(absl::StrCat(R"({"prompt": "a", "top_p": )", value, "}"));
    const float top_p = std::get<v1::GenerateRequest>(ask->calls[0]).sampling().top_p();
    EXPECT_TRUE(top_p > 0 && top_p < 1e-6f) << value << " became " << top_p;
  }
}

// A value that Field::schema allows.
OrderedJson ExampleOf(const OrderedJson& schema) {
  if (const OrderedJson* taken = Find(schema, "enum")) return (*taken)[0];
  if (const OrderedJson* forms = Find(schema, "oneOf")) return ExampleOf((*forms)[0]);
  const OrderedJson& type = schema.at("type");
  const OrderedJson& first = type.is_array() ? type[0] : type;
  if (first == "string") return "x";
  if (first == "boolean") return true;
  if (first == "array") return OrderedJson::array();
  if (first == "object") return OrderedJson::object();
  return 1;
}

TEST(Fields, TwoFormsOfAnAnswerAreRefusedAsTheyWereSent) {
  const std::string json = R"("response_format": {"type": "json_object"})";
  const std::string user = R"("messages": [{"role": "user", "content": "a"}])";
  EXPECT_EQ(Refusal(Chat("{" + user + R"(, "regex": "a", )" + json + "}")),
            "400 response_format: response_format stands beside regex; send one of them");
  EXPECT_EQ(Refusal(Complete(R"({"prompt": "a", "guided_regex": "a", )" + json + "}")),
            "400 response_format: response_format stands beside guided_regex; send one of them");
  EXPECT_EQ(Refusal(Complete(R"({"prompt": "a", "regex": "a", "guided_grammar": "root ::= 1"})")),
            "400 regex: regex stands beside guided_grammar; send one of them");
  EXPECT_EQ(Refusal(Respond(R"({"input": "a", "regex": "a", "text": {"format": {"type":
                               "json_object"}}})")),
            "400 text.format: text.format stands beside regex; send one of them");
}

TEST(Fields, WhatComesBehindABodyIsInNoField) {
  EXPECT_EQ(Refusal(Complete(R"({"prompt": "a"}x)")).substr(0, 12), "400 -: the b");
  EXPECT_EQ(Refusal(Complete(R"({"logit_bias": {"1": 1}, "prompt" "a"})")).substr(0, 12),
            "400 prompt: ");
}

// The description is made of the table, and so are the paths: here the table is held against the
// parser. Fields that need others or another value have their own tests.
TEST(Description, ItsFieldsAreThoseOfTheParser) {
  const OrderedJson description = OrderedJson::parse(OpenApi());
  const std::pair<Endpoint, const char*> paths[] = {{Endpoint::kCompletions, "/v1/completions"},
                                                    {Endpoint::kChat, "/v1/chat/completions"},
                                                    {Endpoint::kResponses, "/v1/responses"}};
  for (const auto& [endpoint, path] : paths) {
    const OrderedJson& schema =
        description["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"];
    EXPECT_GT(schema["properties"].size(), 35u) << path;
    for (const auto& [name, field] : schema["properties"].items()) {
      OrderedJson body = {{"session", "s"}, {"stream", true}};
      if (endpoint == Endpoint::kChat) {
        body["messages"] = OrderedJson::parse(R"([{"role": "user", "content": "a"}])");
        body["logprobs"] = true;
      }
      if (endpoint == Endpoint::kResponses) body["input"] = "a";
      OrderedJson example = ExampleOf(field);
      if (name == "model") example = "rat";
      if (name == "messages" || name == "input" || name == "response_format" || name == "echo" ||
          name == "previous_response_id" || name == "conversation" || name == "functions" ||
          name == "function_call") {
        continue;
      }
      body[name] = example;
      const absl::StatusOr<Ask> ask = Parse(endpoint, body.dump());
      EXPECT_TRUE(ask.ok()) << path << " " << name << ": " << ask.status();
      // And a value of another type is not.
      body[name] = example.is_boolean() ? OrderedJson::object() : OrderedJson(true);
      if (Parse(endpoint, body.dump()).ok()) {
        ADD_FAILURE() << path << " " << name << " takes " << body[name];
      }
    }
  }
}

// So that a client, and schemathesis, finds a status that nobody told of.
TEST(Description, EveryOperationSaysHowItFails) {
  const OrderedJson description = OrderedJson::parse(OpenApi());
  const OrderedJson& known = description["components"]["responses"];
  size_t operations = 0;
  for (const auto& [path, methods] : description["paths"].items()) {
    for (const auto& [method, operation] : methods.items()) {
      if (!operation.is_object()) continue;  // Its parameters.
      ++operations;
      const OrderedJson& responses = operation["responses"];
      EXPECT_FALSE(responses.contains("default")) << path;
      EXPECT_TRUE(responses.size() > 1 || path == "/version") << path;
      for (const auto& [status, response] : responses.items()) {
        if (!response.contains("$ref")) continue;
        const std::string name = response["$ref"].get<std::string>().substr(23);
        EXPECT_TRUE(known.contains(name)) << path << " " << name;
      }
    }
  }
  // 13 methods with one request, LoadSession, 8 of other servers' APIs, 4 pages.
  EXPECT_EQ(operations, 26u);
}

TEST(Description, TheCommittedOneIsThis) {
  std::ifstream file("docs/openapi.json");
  EXPECT_EQ(std::string(std::istreambuf_iterator<char>(file), {}), OpenApi()) << "run ./dev docs";
}

// Whoever adds an option to the API decides whether OpenAI's clients have it.
TEST(Description, EveryFieldOfOursHasAPlaceOrAReason) {
  std::set<std::string> ours = FieldsOfARequest();
  for (const char* set_by_readers : {"text",
                                     "tokens.ids",
                                     "num_choices",
                                     "echo_prompt",
                                     "sampling.num_logprobs",
                                     "sampling.top_k",
                                     "sampling.top_p",
                                     "sampling.logit_bias.token_id",
                                     "sampling.logit_bias.bias",
                                     "stop.strings",
                                     "solver.cg_tolerance",
                                     "solver.cg_max_steps",
                                     "chat.messages.role",
                                     "chat.messages.content",
                                     "chat.messages.name",
                                     "chat.messages.tool_calls_json",
                                     "chat.messages.tool_call_id",
                                     "chat.messages.reasoning_content",
                                     "chat.tools_json",
                                     "chat.answer_prefix",
                                     "chat.template_kwargs_json",
                                     "json_schema"}) {
    EXPECT_EQ(ours.erase(set_by_readers), 1u) << set_by_readers;
  }
  for (const char* not_for_openai : {"fork_from", "snapshot"}) {
    EXPECT_EQ(ours.erase(not_for_openai), 1u) << not_for_openai;
  }
  for (const Field& field : Fields()) {
    if (field.path != nullptr) ours.erase(field.path);
  }
  EXPECT_EQ(ours, std::set<std::string>());
}

}  // namespace
}  // namespace packrat::openai
