// What requests to /v1/chat/completions and /v1/responses become.
#include <gtest/gtest.h>

#include <utility>

#include "tests/server/openai_ask.h"

namespace packrat::openai {
namespace {

TEST(Chats, MessagesGoToTheTemplate) {
  EXPECT_EQ(
      Calls(Chat(R"({"messages": [
      {"role": "developer", "content": "d"}, {"role": "user", "content": "u", "name": "Ann"},
      {"role": "assistant", "content": null, "refusal": null, "annotations": [], "tool_calls":
       [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
      {"role": "tool", "content": [{"type": "text", "text": "1"}, {"type": "text", "text": "2"}],
       "tool_call_id": "c"}]})")),
      R"(chat { messages { role: "system" content: "d" } messages { role: "user" content: "u" )"
      R"(name: "Ann" } messages { role: "assistant" tool_calls_json: "[{\"id\":\"c\",)"
      R"(\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"{}\"}}]" } )"
      R"(messages { role: "tool" content: "1\n2" tool_call_id: "c" } })");
}

// As clients send it that keep what other servers said.
TEST(Chats, ReasoningGoesToTheTemplate) {
  EXPECT_EQ(Calls(Chat(R"({"messages": [{"role": "assistant", "content": "4",
      "reasoning_content": "2 + 2"}]})")),
            R"(chat { messages { role: "assistant" content: "4" reasoning_content: "2 + 2" } })");
}

TEST(Chats, EveryOptionHasItsPlace) {
  const absl::StatusOr<Ask> ask = Chat(R"({"messages": [{"role": "user", "content": "u"}],
      "max_completion_tokens": 5, "n": 2, "logprobs": true, "top_logprobs": 3, "stop": "x",
      "tools": [{"type": "function", "function": {"name": "f", "parameters": {"b": 1, "a": 2}}}],
      "tool_choice": "auto", "parallel_tool_calls": false, "stream": true,
      "stream_options": {"include_usage": true, "continuous_usage_stats": true},
      "chat_template_kwargs": {"thinking": false}, "add_generation_prompt": false,
      "store": false, "metadata": {"a": "b"}, "service_tier": "auto", "modalities": ["text"]})");
  EXPECT_EQ(Calls(ask),
            R"(sampling { num_logprobs: 3 } stop { strings: "x" max_tokens: 5 } num_choices: 2 )"
            R"(chat { messages { role: "user" content: "u" } tools_json: "[{\"type\":\"function\",)"
            R"(\"function\":{\"name\":\"f\",\"parameters\":{\"b\":1,\"a\":2}}}]" )"
            R"(add_generation_prompt: false template_kwargs_json: "{\"thinking\":false}" })");
  EXPECT_TRUE(ask->form.stream && ask->form.include_usage && ask->form.logprobs);
  EXPECT_EQ(ask->form.num_logprobs, 3);
  EXPECT_EQ(Calls(Chat(R"({"messages": [{"role": "user", "content": "u"}], "logprobs": true,
      "max_tokens": 5, "tool_choice": "none", "tools": [{"type": "function", "function":
      {"name": "f"}}]})")),
            R"(sampling { num_logprobs: 0 } stop { max_tokens: 5 } chat { messages { role: "user" )"
            R"(content: "u" } })");
}

// As variables: gpt-oss's template and others have them.
TEST(Chats, EffortAndVerbosityGoToTheTemplate) {
  const auto kwargs = [](const absl::StatusOr<Ask>& ask) {
    if (!ask.ok()) return Refusal(ask);
    return std::get<v1::GenerateRequest>(ask->calls[0]).chat().template_kwargs_json();
  };
  const auto chat = [&](const std::string& more) {
    return kwargs(Chat(R"({"messages": [{"role": "user", "content": "u"}])" + more + "}"));
  };
  EXPECT_EQ(chat(""), "");
  EXPECT_EQ(chat(R"(, "reasoning_effort": null, "verbosity": null)"), "");
  for (const char* effort : {"none", "minimal", "low", "medium", "high", "xhigh"}) {
    const std::string quoted = absl::StrCat("\"", effort, "\"");
    EXPECT_EQ(chat(", \"reasoning_effort\": " + quoted),
              absl::StrCat("{\"reasoning_effort\":", quoted, "}"));
    EXPECT_EQ(kwargs(Respond(R"({"input": "a", "reasoning": {"summary": "auto", "effort": )" +
                             quoted + "}}")),
              absl::StrCat("{\"reasoning_effort\":", quoted, "}"));
  }
  EXPECT_EQ(chat(R"(, "verbosity": "low", "chat_template_kwargs": {"k": 1}, "reasoning_effort":
                "high")"),
            R"({"k":1,"reasoning_effort":"high","verbosity":"low"})");
  EXPECT_EQ(kwargs(Respond(R"({"input": "a", "text": {"verbosity": "high"}})")),
            R"({"verbosity":"high"})");
  // Twice the same is no contradiction.
  EXPECT_EQ(chat(R"(, "reasoning_effort": "low", "chat_template_kwargs":
                {"reasoning_effort": "low"})"),
            R"({"reasoning_effort":"low"})");
  EXPECT_EQ(chat(R"(, "reasoning_effort": "low", "chat_template_kwargs":
                {"reasoning_effort": "high"})"),
            "400 reasoning_effort: reasoning_effort says something else than "
            "chat_template_kwargs.reasoning_effort; send one of them");
  EXPECT_EQ(chat(R"(, "reasoning_effort": "huge")"),
            R"(400 reasoning_effort: reasoning_effort is "huge"; this server takes "none" or )"
            R"("minimal" or "low" or "medium" or "high" or "xhigh" only)");
}

TEST(Chats, WhatCannotChangeTheAnswerIsTaken) {
  const std::string plain = R"(chat { messages { role: "user" content: "u" } })";
  EXPECT_EQ(Calls(Chat(R"({"messages": [{"role": "user", "content": "u"}], "prediction":
                {"type": "content", "content": "x"}, "prompt_cache_retention": "24h"})")),
            plain);
  EXPECT_EQ(Calls(Respond(R"({"input": "u", "prompt_cache_retention": "in_memory",
                "max_tool_calls": 3, "reasoning": {}})")),
            plain);
}

TEST(Chats, FunctionsAreToolsByNow) {
  EXPECT_EQ(Refusal(Chat(R"({"functions": [{"name": "f"}]})")),
            "400 functions: functions is what tools was before: send tools, and in each the "
            "function");
  for (const char* call : {R"("auto")", R"({"name": "f"})"}) {
    EXPECT_EQ(Refusal(Chat(absl::StrCat(R"({"function_call": )", call, "}"))),
              "400 function_call: function_call is what tool_choice was before: send tools, and "
              "tool_choice");
  }
}

TEST(Chats, RefusalsNameTheMember) {
  const std::pair<const char*, const char*> cases[] = {
      {R"({})", "400 messages: messages is missing"},
      {R"({"messages": []})",
       "400 messages: messages is an empty list; must be a list of one message at least"},
      {R"({"messages": "a"})", R"(400 messages: messages is "a"; must be of type array)"},
      {R"({"messages": [1]})", "400 messages[0]: messages[0] is 1; must be an object"},
      {R"({"messages": [{"content": "a"}]})", "400 messages[0].role: messages[0].role is missing"},
      {R"({"messages": [{"role": "user"}]})",
       "400 messages[0].content: messages[0].content is missing"},
      {R"({"messages": [{"role": 1, "content": "a"}]})",
       "400 messages[0].role: messages[0].role is 1; must be a string"},
      {R"({"messages": [{"role": "user", "content": 1}]})",
       "400 messages[0].content: messages[0].content is 1; must be a string or a list of parts"},
      {R"({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]})",
       R"(400 messages[0].content[0].type: messages[0].content[0].type is "image_url"; this server )"
       "takes text alone"},
      {R"({"messages": [{"role": "user", "content": "a", "audio": {}}]})",
       "400 messages[0].audio: messages[0].audio is not known here"},
      {R"({"tool_choice": "any"})",
       R"(400 tool_choice: tool_choice is "any"; must be "none", "auto", "required" or an object)"},
      {R"({"tool_choice": {"type": "allowed_tools"}})",
       R"(400 tool_choice.type: tool_choice.type is "allowed_tools"; must be "function")"},
      {R"({"tool_choice": {"type": "function"}})",
       "400 tool_choice.function: tool_choice.function is missing"},
      {R"({"tool_choice": {"type": "function", "function": {}}})",
       "400 tool_choice.function.name: tool_choice.function.name is missing"},
      {R"({"tools": [{"type": "web"}]})",
       R"(400 tools[0].type: tools[0].type is "web"; must be "function")"},
      {R"({"tools": [{"type": "function"}]})",
       "400 tools[0].function: tools[0].function is missing"},
      {R"({"store": true})", "400 store: store is true; this server takes false only"},
      {R"({"messages": [{"role": "user", "content": "a"}], "top_logprobs": 1})",
       "400 top_logprobs: top_logprobs can be used with logprobs only"},
      {R"({"max_tokens": 1, "max_completion_tokens": 2})",
       "400 max_completion_tokens: max_completion_tokens says something else than max_tokens; send "
       "one of them"},
      {R"({"logprobs": 1})", "400 logprobs: logprobs is 1; must be of type boolean"},
      {R"({"prompt": "a"})", "400 prompt: Unrecognized request argument supplied: prompt"},
  };
  for (const auto& [body, refusal] : cases) EXPECT_EQ(Refusal(Chat(body)), refusal);
}

TEST(Responses, InputAndInstructionsAreAChat) {
  EXPECT_EQ(Calls(Respond(R"({"input": "a", "instructions": "i", "max_output_tokens": 4})")),
            R"(stop { max_tokens: 4 } chat { messages { role: "system" content: "i" } messages { )"
            R"(role: "user" content: "a" } })");
  EXPECT_EQ(
      Calls(Respond(R"({"input": [{"role": "user", "content": "a"}, {"id": "msg_1",
      "type": "message", "status": "completed", "role": "assistant", "content": [{"type":
      "output_text", "text": "b", "annotations": [], "logprobs": []}]}, {"role": "user", "content":
      [{"type": "input_text", "text": "c"}]}], "instructions": "i"})")),
      R"(chat { messages { role: "system" content: "i" } messages { role: "user" content: "a" )"
      R"(} messages { role: "assistant" content: "b" } messages { role: "user" content: "c" } })");
  EXPECT_EQ(Calls(Respond(R"({"input": "a", "text": {"format": {"type": "text"}},
      "tools": [{"type": "function", "name": "f"}]})")),
            R"(chat { messages { role: "user" content: "a" } )"
            R"(tools_json: "[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]" })");
}

// One message of the assistant, as a chat has it.
TEST(Responses, CallsAndTheirOutputsComeBack) {
  EXPECT_EQ(Calls(Respond(R"({"input": [{"role": "user", "content": "a"},
      {"role": "assistant", "content": "b"},
      {"type": "function_call", "id": "fc_1", "status": "completed", "call_id": "c", "name": "f",
       "arguments": "{}"},
      {"type": "function_call", "call_id": "d", "name": "g", "arguments": "{\"x\":1}"},
      {"type": "function_call_output", "call_id": "c", "output": "1"},
      {"type": "function_call_output", "call_id": "d", "output": [{"type": "input_text",
       "text": "2"}]}, {"type": "function_call", "call_id": "e", "name": "f", "arguments": "{}"}]})")),
            R"(chat { messages { role: "user" content: "a" } messages { role: "assistant" )"
            R"(content: "b" tool_calls_json: "[{\"id\":\"c\",\"type\":\"function\",\"function\":)"
            R"({\"name\":\"f\",\"arguments\":\"{}\"}},{\"id\":\"d\",\"type\":\"function\",)"
            R"(\"function\":{\"name\":\"g\",\"arguments\":\"{\\\"x\\\":1}\"}}]" } )"
            R"(messages { role: "tool" content: "1" tool_call_id: "c" } messages { role: "tool" )"
            R"(content: "2" tool_call_id: "d" } messages { role: "assistant" tool_calls_json: )"
            R"("[{\"id\":\"e\",\"type\":\"function\",\"function\":{\"name\":\"f\",)"
            R"(\"arguments\":\"{}\"}}]" } })");
}

constexpr char kUser[] = R"("messages": [{"role": "user", "content": "u"}], )";
constexpr char kTools[] =
    R"("tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object",
       "properties": {"a": {"$ref": "#/$defs/x"}, "b": {"type": "string"}}, "$defs":
       {"x": {"const": {"$ref": "#"}}}}}}, {"type": "function", "function": {"name": "g"}}])";

TEST(Responses, LogprobsAreAskedForInTwoWays) {
  const absl::StatusOr<Ask> included =
      Respond(R"({"input": "a", "include": ["message.output_text.logprobs"]})");
  EXPECT_TRUE(included->form.logprobs);
  EXPECT_EQ(Calls(included),
            R"(sampling { num_logprobs: 0 } chat { messages { role: "user" content: "a" } })");
  const absl::StatusOr<Ask> top = Respond(R"({"input": "a", "top_logprobs": 2})");
  EXPECT_TRUE(top->form.logprobs);
  EXPECT_EQ(top->form.num_logprobs, 2);
}

// As OpenAI's agents SDK sends them, whatever answered before.
TEST(Responses, ReasoningIsPassedOver) {
  const absl::StatusOr<Ask> ask = Respond(R"({"include": ["reasoning.encrypted_content"], "input": [
      {"role": "user", "content": "u"},
      {"type": "reasoning", "id": "r", "summary": [], "content": null, "encrypted_content": "x",
       "status": null},
      {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
      {"type": "reasoning", "id": "r2", "summary": []},
      {"type": "function_call_output", "call_id": "c", "output": "1"}]})");
  ASSERT_TRUE(ask.ok()) << ask.status();
  EXPECT_FALSE(ask->form.logprobs);
  EXPECT_EQ(Calls(ask), Calls(Respond(R"({"input": [{"role": "user", "content": "u"},
      {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
      {"type": "function_call_output", "call_id": "c", "output": "1"}]})")));
}

// A misspelt one would be written into the prompt, and nobody would know.
TEST(Chats, RolesAreThoseOfTheApiOrOfTheTemplate) {
  Context context = ContextOf();
  context.names_role = [](const std::string& role) { return role == "ipython"; };
  const auto chat = [&context](const std::string& role) {
    return Refusal(ParseAsk(Endpoint::kChat,
                            R"({"messages": [{"role": "user", "content": "a"}, {"role": ")" + role +
                                R"(", "content": "b"}]})",
                            context));
  };
  for (const char* good :
       {"system", "developer", "user", "assistant", "tool", "function", "ipython", "ipython 2"}) {
    EXPECT_EQ(chat(good).substr(0, 10), "accepted: ") << good;
  }
  EXPECT_EQ(chat("usr"),
            "400 messages[1].role: messages[1].role is \"usr\"; must be system, developer, user, "
            "assistant, tool, function or another one that the model's chat template names");
  for (const char* bad : {"User", "user 2", " ipython", ""}) {
    EXPECT_EQ(chat(bad).substr(0, 20), "400 messages[1].role") << bad;
  }
  EXPECT_EQ(Refusal(ParseAsk(Endpoint::kResponses,
                             R"({"instructions": "i", "input": [{"role": "usr", "content": "a"}]})",
                             context))
                .substr(0, 40),
            "400 input[0].role: input[0].role is \"usr");
}

TEST(Responses, RefusalsNameTheMember) {
  const std::pair<const char*, const char*> cases[] = {
      {R"({})", "400 input: input is missing"},
      {R"({"input": []})",
       "400 input: input is an empty list; must be a string or a list of one message at least"},
      {R"({"input": [{"type": "computer_call"}]})",
       R"(400 input[0].type: input[0].type is "computer_call"; this server takes messages, )"
       "function_call and function_call_output"},
      {R"({"input": [{"type": "reasoning", "id": "r"}]})",
       "400 input: input has no message, nor a call or its output"},
      {R"({"input": [{"type": "reasoning", "x": 1}]})",
       "400 input[0].x: input[0].x is not known here"},
      {R"({"input": [{"type": "function_call", "call_id": "c"}]})",
       "400 input[0].name: input[0].name is missing"},
      {R"({"input": [{"type": "function_call", "call_id": 7}]})",
       "400 input[0].call_id: input[0].call_id is 7; must be a string"},
      {R"({"input": [{"type": "function_call_output", "call_id": "c"}]})",
       "400 input[0].output: input[0].output is missing"},
      {R"({"input": [{"type": "function_call_output", "call_id": "c", "x": 1}]})",
       "400 input[0].x: input[0].x is not known here"},
      {R"({"input": "a", "previous_response_id": "r"})",
       "400 previous_response_id: previous_response_id is set; this server keeps no responses: "
       "send "
       "the whole conversation as input"},
      {R"({"input": "a", "conversation": {"id": "c"}})",
       "400 conversation: conversation is set; this server keeps no conversations: send the whole "
       "conversation as input"},
      {R"({"input": "a", "store": true})",
       "400 store: store is true; this server takes false only"},
      {R"({"input": "a", "include": ["x"]})",
       R"(400 include[0]: include[0] is "x"; must be "message.output_text.logprobs" or )"
       R"("reasoning.encrypted_content")"},
      {R"({"input": "a", "text": {"verbosity": "loud"}})",
       R"(400 text.verbosity: text.verbosity is "loud"; this server takes "low" or "medium" or )"
       R"("high" only)"},
      {R"({"input": "a", "reasoning": {"effort": 3}})",
       R"(400 reasoning.effort: reasoning.effort is 3; this server takes "none" or "minimal" or )"
       R"("low" or "medium" or "high" or "xhigh" only)"},
      {R"({"input": "a", "reasoning": {"summary": "detailed"}})",
       R"(400 reasoning.summary: reasoning.summary is "detailed"; this server makes no summaries, )"
       R"(and takes "auto" only)"},
      {R"({"input": "a", "reasoning": {"budget": 1}})",
       "400 reasoning.budget: reasoning.budget is not known here"},
      {R"({"input": "a", "truncation": "auto"})",
       R"(400 truncation: truncation is "auto"; this server takes "disabled" only)"},
  };
  for (const auto& [body, refusal] : cases) EXPECT_EQ(Refusal(Respond(body)), refusal);
}

}  // namespace
}  // namespace packrat::openai
