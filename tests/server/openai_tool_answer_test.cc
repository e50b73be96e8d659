// Calls of tools in OpenAI's answers and events.
#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tests/server/openai_answers.h"

namespace packrat::openai {
namespace {

const Context& Calling() {
  static const Context& context = *[] {
    auto* made = new Context(Server());
    made->tool_format = FindToolFormat("hermes");
    return made;
  }();
  return context;
}

constexpr char kWithTools[] = R"("tools": [{"type": "function", "function": {"name": "f"}}])";
constexpr char kWithResponseTools[] = R"("tools": [{"type": "function", "name": "f"}])";

// A text and two calls, of which the second is cut into messages.
void AddCalls(Answer* answer) {
  answer->Add(R"(token_ids: 2 text: "The\n<tool_" logprobs { logprob: -0.5 })")
      .Add(R"(token_ids: 3 text: "call>{\"name\": \"f\"" logprobs { logprob: -1 })")
      .Add(R"(text: "}</tool_call><tool_call>{\"name\": \"f\", \"arguments\": {\"x")")
      .Add(R"(text: "\": 1")")
      .Add(R"(text: "}}</tool_call>" finished { reason: FINISH_REASON_EOS usage { prompt_tokens: 3
              completion_tokens: 9 } })");
}

TEST(Chats, CallsOfTools) {
  Answer answer(
      Endpoint::kChat,
      absl::StrCat(R"({"messages": [{"role": "user", "content": "a"}], )", kWithTools, "}"),
      Calling());
  AddCalls(&answer);
  const json choice = answer.Body()["choices"][0];
  EXPECT_EQ(choice["finish_reason"], "tool_calls");
  EXPECT_EQ(choice["message"]["content"], "The");
  const json calls = choice["message"]["tool_calls"];
  ASSERT_EQ(calls.size(), 2u);
  EXPECT_EQ(calls[0]["type"], "function");
  EXPECT_EQ(calls[0]["function"], json::parse(R"({"name": "f", "arguments": "{}"})"));
  EXPECT_EQ(calls[1]["function"], json::parse(R"({"name": "f", "arguments": "{\"x\": 1}"})"));
  // Nine letters and digits, each its own.
  EXPECT_NE(calls[0]["id"], calls[1]["id"]);
  for (const json& call : calls) {
    const auto id = call["id"].get<std::string>();
    EXPECT_EQ(id.size(), 9u);
    EXPECT_TRUE(std::all_of(id.begin(), id.end(), absl::ascii_isalnum)) << id;
  }
}

TEST(Chats, OneCallIsToldWhereNoMoreAreWanted) {
  for (const char* stream : {"false", "true"}) {
    Answer answer(Endpoint::kChat,
                  absl::StrCat(R"({"messages": [{"role": "user", "content": "a"}],
                                   "parallel_tool_calls": false, "stream": )",
                               stream, ", ", kWithTools, "}"),
                  Calling());
    AddCalls(&answer);
    const std::string text = stream == std::string("true") ? answer.Stream() : answer.Body().dump();
    EXPECT_TRUE(absl::StrContains(text, "\"tool_calls\"")) << text;
    EXPECT_FALSE(absl::StrContains(text, R"(\"x)")) << "the second call's argument: " << text;
  }
}

TEST(Chats, ACallAloneHasNoContent) {
  Answer answer(Endpoint::kChat,
                absl::StrCat(R"({"messages": [{"role": "user", "content": "a"}], "tool_choice":
                                 "required", "n": 2, )",
                             kWithTools, "}"),
                Calling());
  // A forced call begins behind its mark.
  answer
      .Add(R"(text: "{\"name\": \"f\", \"arguments\": {}}" finished { reason: FINISH_REASON_EOS })")
      .Add(
          R"(choice: 1 text: "{\"name\": \"f\", \"arg" finished { reason: FINISH_REASON_LENGTH })");
  const json choices = answer.Body()["choices"];
  EXPECT_EQ(choices[0]["message"]["content"], nullptr);
  EXPECT_EQ(choices[0]["finish_reason"], "tool_calls");
  EXPECT_EQ(choices[1]["message"]["tool_calls"][0]["function"]["arguments"], "");
  EXPECT_EQ(choices[1]["finish_reason"], "length");
  EXPECT_NE(choices[0]["message"]["tool_calls"][0]["id"],
            choices[1]["message"]["tool_calls"][0]["id"]);
}

TEST(Chats, TextThatIsNoCallStaysText) {
  Answer answer(
      Endpoint::kChat,
      absl::StrCat(R"({"messages": [{"role": "user", "content": "a"}], )", kWithTools, "}"),
      Calling());
  answer.Add(R"(text: "<tool_call>{\"name\": \"g\"}" finished { reason: FINISH_REASON_EOS })");
  const json choice = answer.Body()["choices"][0];
  EXPECT_EQ(choice["message"]["content"], "<tool_call>{\"name\": \"g\"}");
  EXPECT_FALSE(choice["message"].contains("tool_calls"));
  EXPECT_EQ(choice["finish_reason"], "stop");
}

TEST(Chats, CallsInAStream) {
  Answer answer(Endpoint::kChat,
                absl::StrCat(R"({"messages": [{"role": "user", "content": "a"}], "stream": true,
                                 "logprobs": true, )",
                             kWithTools, "}"),
                Calling());
  AddCalls(&answer);
  EXPECT_EQ(Read(answer.Stream()), Read(Recorded("chat_calls_stream.sse")));
}

TEST(Responses, CallsOfTools) {
  Answer answer(Endpoint::kResponses, absl::StrCat(R"({"input": "a", )", kWithResponseTools, "}"),
                Calling());
  AddCalls(&answer);
  const json output = answer.Body()["output"];
  ASSERT_EQ(output.size(), 3u);
  EXPECT_EQ(output[0]["content"][0]["text"], "The");
  EXPECT_EQ(output[1]["type"], "function_call");
  EXPECT_EQ(output[1]["arguments"], "{}");
  EXPECT_EQ(output[2]["name"], "f");
  EXPECT_EQ(output[2]["arguments"], R"({"x": 1})");
  EXPECT_NE(output[1]["call_id"], output[2]["call_id"]);
  EXPECT_NE(output[1]["id"], output[2]["id"]);
}

// A token a message: those that only mark a call, or belong to one, have no place for theirs.
TEST(Responses, LogprobsAreOfTheTextAlone) {
  constexpr char kMore[] = R"("include": ["message.output_text.logprobs"], )";
  Answer calls(Endpoint::kResponses,
               absl::StrCat(R"({"input": "a", )", kMore, kWithResponseTools, "}"), Calling());
  calls.Add(R"(token_ids: 2 text: "The" logprobs { logprob: -0.5 })")
      .Add(R"(token_ids: 3 text: "<tool_call>" logprobs { logprob: -1 })")
      .Add(R"(token_ids: 4 text: "{\"name\": \"f\"" logprobs { logprob: -1 })")
      .Add(R"(token_ids: 5 text: ", \"arguments\": " logprobs { logprob: -1 })")
      .Add(R"(token_ids: 6 text: "{\"x\": 1}" logprobs { logprob: -1 })")
      .Add(R"(token_ids: 7 text: "}</tool_call>" logprobs { logprob: -1 })")
      .Add(R"(token_ids: 2 text: "Bye" logprobs { logprob: -0.25 }
              finished { reason: FINISH_REASON_EOS })");
  const json output = calls.Body()["output"];
  ASSERT_EQ(output.size(), 3u) << output;
  EXPECT_EQ(output[2]["content"][0]["text"], "Bye");
  EXPECT_EQ(output[2]["content"][0]["logprobs"].back()["logprob"], -0.25);
  // That of the closing mark, which might have been a text's, is among them.
  EXPECT_EQ(output[2]["content"][0]["logprobs"].size(), 2u);
  EXPECT_EQ(output[0]["content"][0]["text"], "The");
  ASSERT_EQ(output[0]["content"][0]["logprobs"].size(), 1u);
  EXPECT_EQ(output[0]["content"][0]["logprobs"][0]["logprob"], -0.5);
  EXPECT_EQ(output[1]["name"], "f");
  EXPECT_EQ(output[1]["arguments"], R"({"x": 1})");

  for (const bool stream : {false, true}) {
    Answer text(Endpoint::kResponses,
                absl::StrCat(R"({"input": "a", "stream": )", stream ? "true, " : "false, ", kMore,
                             kWithResponseTools, "}"),
                Calling());
    text.Add(R"(token_ids: 2 text: "<tool" logprobs { logprob: -1 })")
        .Add(R"(token_ids: 3 text: "box>" logprobs { logprob: -2 })")
        .Add(R"(token_ids: 4 logprobs { logprob: -3 } finished { reason: FINISH_REASON_EOS })");
    const json whole = stream ? Read(text.Stream()).back().second["response"] : text.Body();
    ASSERT_EQ(whole["output"].size(), 1u);
    const json part = whole["output"][0]["content"][0];
    EXPECT_EQ(part["text"], "<toolbox>");
    ASSERT_EQ(part["logprobs"].size(), 3u);
    for (int i = 0; i < 3; ++i) EXPECT_EQ(part["logprobs"][i]["logprob"], -1 - i);
  }
}

TEST(Responses, CallsInAStream) {
  Answer answer(Endpoint::kResponses,
                absl::StrCat(R"({"input": "a", "stream": true, )", kWithResponseTools, "}"),
                Calling());
  AddCalls(&answer);
  const Events events = Read(answer.Stream());
  std::string types;
  for (size_t i = 0; i < events.size(); ++i) {
    EXPECT_EQ(events[i].second["sequence_number"], i);
    EXPECT_EQ(events[i].second["type"], events[i].first);
    absl::StrAppend(&types, events[i].first.substr(sizeof "response." - 1), " ",
                    events[i].second.value("output_index", -1), "\n");
  }
  EXPECT_EQ(types,
            "created -1\nin_progress -1\noutput_item.added 0\ncontent_part.added 0\n"
            "output_text.delta 0\noutput_text.done 0\ncontent_part.done 0\noutput_item.done 0\n"
            "output_item.added 1\nfunction_call_arguments.delta 1\n"
            "function_call_arguments.done 1\noutput_item.done 1\n"
            "output_item.added 2\nfunction_call_arguments.delta 2\n"
            "function_call_arguments.delta 2\nfunction_call_arguments.delta 2\n"
            "function_call_arguments.done 2\noutput_item.done 2\ncompleted -1\n");
  const json& whole = events.back().second["response"]["output"];
  EXPECT_EQ(events[17].second["item"], whole[2]);
  EXPECT_EQ(events[16].second["arguments"], R"({"x": 1})");
  EXPECT_EQ(events[12].second["item"]["arguments"], "");
  EXPECT_EQ(events[13].second["item_id"], whole[2]["id"]);
}

}  // namespace
}  // namespace packrat::openai
