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
      {R"({"tool_choice": "required"})",
       R"(400 tool_choice: tool_choice is "required"; this server takes "none" or "auto" only)"},
      {R"({"tool_choice": {"type": "function"}})",
       R"(400 tool_choice: tool_choice is an object; this server takes "none" or "auto" only)"},
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

TEST(Responses, RefusalsNameTheMember) {
  const std::pair<const char*, const char*> cases[] = {
      {R"({})", "400 input: input is missing"},
      {R"({"input": []})",
       "400 input: input is an empty list; must be a string or a list of one message at least"},
      {R"({"input": [{"type": "function_call"}]})",
       R"(400 input[0].type: input[0].type is "function_call"; this server takes messages alone)"},
      {R"({"input": "a", "previous_response_id": "r"})",
       "400 previous_response_id: previous_response_id is set; this server keeps no responses: "
       "send "
       "the whole conversation as input"},
      {R"({"input": "a", "store": true})",
       "400 store: store is true; this server takes false only"},
      {R"({"input": "a", "include": ["x"]})",
       R"(400 include[0]: include[0] is "x"; must be "message.output_text.logprobs")"},
      {R"({"input": "a", "text": {"verbosity": "low"}})",
       "400 text.verbosity: text.verbosity is not known here"},
      {R"({"input": "a", "truncation": "auto"})",
       R"(400 truncation: truncation is "auto"; this server takes "disabled" only)"},
  };
  for (const auto& [body, refusal] : cases) EXPECT_EQ(Refusal(Respond(body)), refusal);
}

}  // namespace
}  // namespace packrat::openai
