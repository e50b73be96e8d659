// Messages of ours as OpenAI's JSON and events. What the answers must be was written by hand
// (tests/server/openai) and read with the types of the `openai` package.
#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "runtime/retry_after.h"
#include "tests/server/openai_answers.h"

namespace packrat::openai {
namespace {

TEST(Completions, LogprobsInFourLists) {
  Answer answer(Endpoint::kCompletions, R"({"prompt": "The rat", "logprobs": 2})");
  answer
      .Add(R"(token_ids: [4, 5] text: " sat."
              logprobs { logprob: -0.5 top { token_id: 4 logprob: -0.5 piece: " sat" }
                         top { token_id: 3 logprob: -1 piece: " rat" } }
              logprobs { logprob: -1.5 top { token_id: 3 logprob: -0.5 piece: " rat" }
                         top { token_id: 2 logprob: -0.75 piece: "The" } })")
      .Add("token_ids: 6 logprobs { logprob: -2 }")
      .Add(R"(token_ids: 7 text: "€" logprobs { logprob: -0.25 } finished { reason:
              FINISH_REASON_LENGTH usage { prompt_tokens: 3 cached_tokens: 2 completion_tokens: 4 } })");
  EXPECT_EQ(answer.Body(), json::parse(Recorded("completion_logprobs.json")));
}

TEST(Completions, AStreamOfTwoPrompts) {
  Answer answer(Endpoint::kCompletions, R"({"prompt": ["a", "b"], "stream": true,
      "stream_options": {"include_usage": true}})");
  answer.Add(R"(token_ids: 3 text: " rat")", 0)
      .Add(R"(token_ids: 4 text: " sat" finished { reason: FINISH_REASON_EOS usage {
              prompt_tokens: 3 completion_tokens: 2 } })",
           1)
      .Add("token_ids: 6")  // Half a character says nothing yet.
      .Add(R"(finished { reason: FINISH_REASON_LENGTH usage { prompt_tokens: 3
              completion_tokens: 1 } })");
  EXPECT_EQ(Read(answer.Stream()), Read(Recorded("completion_stream.sse")));
}

// What lm-eval reads: token_logprobs[ctxlen:-1], and whether each is the best of its top_logprobs.
constexpr char kScores[] =
    R"(scores { token_id: 3 piece: " rat" logprob: -0.5
               top { token_id: 3 logprob: -0.5 piece: " rat" } }
       scores { token_id: 4 piece: " sat" logprob: -2
               top { token_id: 5 logprob: -0.25 piece: "." } })";
constexpr char kOneMore[] =
    R"(token_ids: 5 text: "." logprobs { logprob: -0.125 top { token_id: 5 logprob: -0.125
       piece: "." } } finished { reason: FINISH_REASON_LENGTH usage { prompt_tokens: 3
       completion_tokens: 1 } })";

TEST(Completions, EchoHasThePromptsScores) {
  const json recorded = json::parse(Recorded("completion_echo.json"));
  for (const char* prompt : {R"([2, 3, 4])", R"("The rat sat")"}) {
    Answer answer(
        Endpoint::kCompletions,
        absl::StrCat(R"({"echo": true, "logprobs": 1, "max_tokens": 1, "prompt": )", prompt, "}"));
    answer.Add(kScores).Add(kOneMore);
    EXPECT_EQ(answer.Body(), recorded);
  }
}

TEST(Completions, EchoInAStreamComesWithTheFirstText) {
  Answer answer(Endpoint::kCompletions,
                R"({"echo": true, "logprobs": 1, "prompt": "The rat sat", "stream": true})");
  answer.Add(kScores);
  EXPECT_EQ(answer.written(), "");
  answer.Add(kOneMore);
  const Events events = Read(answer.Stream());
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[0].second["choices"], json::parse(Recorded("completion_echo.json"))["choices"]);
}

TEST(Completions, EchoOfAScoreAlone) {
  Answer answer(Endpoint::kCompletions,
                R"({"echo": true, "logprobs": 1, "max_tokens": 0, "prompt": [2, 3, 4]})");
  answer.Add(absl::StrCat(kScores, "finished { reason: FINISH_REASON_LENGTH }"));
  const json choice = answer.Body()["choices"][0];
  EXPECT_EQ(choice["text"], "The rat sat");
  EXPECT_EQ(choice["logprobs"]["token_logprobs"], json::parse("[null, -0.5, -2.0]"));
}

TEST(Completions, TheFirstTokenOfATextMayBeABosWithASpaceBehindIt) {
  Answer answer(Endpoint::kCompletions, R"({"echo": true, "logprobs": 0, "prompt": "rat sat"})");
  answer.Add(kScores).Add(kOneMore);
  const json choice = answer.Body()["choices"][0];
  EXPECT_EQ(choice["text"], "rat sat.");
  EXPECT_EQ(choice["logprobs"]["tokens"], json::parse(R"(["", "rat", " sat", "."])"));
  EXPECT_EQ(choice["logprobs"]["text_offset"], json::parse("[0, 0, 3, 7]"));
}

// A reader looks whether the best of them is the token.
TEST(Completions, ATokenIsOnceAmongTheBest) {
  const auto top = [](const std::string& scores) {
    Answer answer(Endpoint::kCompletions, R"({"echo": true, "logprobs": 2, "prompt": "rat"})");
    answer.Add(scores).Add(kOneMore);
    return answer.Body()["choices"][0]["logprobs"]["top_logprobs"][1].dump();
  };
  // Behind a BOS the text has no space, and its piece has.
  EXPECT_EQ(top(R"(scores { token_id: 3 piece: " rat" logprob: -0.5 top { token_id: 3 logprob: -0.5
                   piece: " rat" } top { token_id: 4 logprob: -1 piece: " sat" } })"),
            R"({" sat":-1.0,"rat":-0.5})");
  // Another token may look like it does there.
  EXPECT_EQ(top(R"(scores { token_id: 3 piece: " rat" logprob: -2 top { token_id: 9 logprob: -1
                   piece: "rat" } top { token_id: 4 logprob: -1.5 piece: " sat" } })"),
            R"({" sat":-1.5,"rat":-2.0})");
}

TEST(Completions, EchoBelongsToEveryChoice) {
  Answer answer(Endpoint::kCompletions,
                R"({"echo": true, "logprobs": 1, "prompt": "The rat sat", "n": 2})");
  answer
      .Add(R"(choice: 1 token_ids: 3 text: " rat" logprobs { logprob: -1 } finished {
              reason: FINISH_REASON_EOS usage { prompt_tokens: 3 completion_tokens: 2 } })")
      .Add(kScores)
      .Add(kOneMore);
  const json body = answer.Body();
  EXPECT_EQ(body["choices"][0], json::parse(Recorded("completion_echo.json"))["choices"][0]);
  EXPECT_EQ(body["choices"][1]["text"], "The rat sat rat");
  EXPECT_EQ(body["choices"][1]["logprobs"]["token_logprobs"],
            json::parse("[null, -0.5, -2.0, -1.0]"));
  EXPECT_EQ(body["choices"][1]["logprobs"]["text_offset"], json::parse("[0, 3, 7, 11]"));
  EXPECT_EQ(body["choices"][1]["finish_reason"], "stop");
  // The prompt counts once.
  EXPECT_EQ(body["usage"]["prompt_tokens"], 3);
  EXPECT_EQ(body["usage"]["completion_tokens"], 3);
}

TEST(Completions, TheBestAreThoseOfTheBestMean) {
  Answer answer(Endpoint::kCompletions, R"({"prompt": "a", "n": 2, "best_of": 3})");
  const char* finished = "finished { reason: FINISH_REASON_EOS usage { completion_tokens: 2 } }";
  answer
      .Add(absl::StrCat(R"(choice: 0 token_ids: 3 text: "worst" logprobs { logprob: -3 })",
                        finished))
      // Its sum is the least, its mean is not.
      .Add(absl::StrCat(R"(choice: 1 token_ids: [3, 3] text: "second" logprobs { logprob: -2 }
                           logprobs { logprob: -2 })",
                        finished))
      .Add(absl::StrCat(R"(choice: 2 token_ids: 3 text: "best" logprobs { logprob: -1 })",
                        finished));
  const json body = answer.Body();
  ASSERT_EQ(body["choices"].size(), 2u);
  EXPECT_EQ(body["choices"][0]["text"], "best");
  EXPECT_EQ(body["choices"][0]["logprobs"], nullptr);
  EXPECT_EQ(body["choices"][1]["text"], "second");
  EXPECT_EQ(body["usage"]["completion_tokens"], 6);
}

TEST(Completions, TokensByTheirIds) {
  const std::string message =
      R"(token_ids: 4 text: " sat" logprobs { logprob: -1 top { token_id: 5 logprob: -0.5 } }
         finished {})";
  Context no_tokenizer = Server();
  no_tokenizer.piece = nullptr;
  Answer asked(Endpoint::kCompletions,
               R"({"prompt": [1], "logprobs": 1, "return_tokens_as_token_ids": true})");
  Answer needed(Endpoint::kCompletions, R"({"prompt": [1], "logprobs": 1})", no_tokenizer);
  for (Answer* answer : {&asked, &needed}) {
    const json logprobs = answer->Add(message).Body()["choices"][0]["logprobs"];
    EXPECT_EQ(logprobs["tokens"], json::parse(R"(["token_id:4"])"));
    EXPECT_EQ(logprobs["top_logprobs"],
              json::parse(R"([{"token_id:5": -0.5, "token_id:4": -1.0}])"));
  }
}

TEST(Chats, LogprobsHaveBytes) {
  Answer answer(Endpoint::kChat, R"({"messages": [{"role": "user", "content": "a"}],
      "logprobs": true, "top_logprobs": 2})");
  answer
      .Add(R"(token_ids: 2 text: "The" logprobs { logprob: -0.5
              top { token_id: 2 logprob: -0.5 piece: "The" }
              top { token_id: 3 logprob: -1 piece: " rat" } })")
      .Add(R"(token_ids: [6, 7] text: "€" logprobs { logprob: -1 } logprobs { logprob: -2 }
              finished { reason: FINISH_REASON_STOP_STRING usage { prompt_tokens: 3
              completion_tokens: 4 } })");
  EXPECT_EQ(answer.Body(), json::parse(Recorded("chat_logprobs.json")));
}

TEST(Chats, AStream) {
  Answer answer(Endpoint::kChat, R"({"messages": [{"role": "user", "content": "a"}],
      "logprobs": true, "stream": true})");
  answer.Add(R"(token_ids: 2 text: "The \"rat\"" logprobs { logprob: -0.5 })")
      .Add(R"(text: "." finished { reason: FINISH_REASON_EOS })");
  EXPECT_EQ(Read(answer.Stream()), Read(Recorded("chat_stream.sse")));
}

TEST(Chats, EveryChoiceBeginsAndEnds) {
  Answer answer(Endpoint::kChat, R"({"messages": [{"role": "user", "content": "a"}], "n": 2,
      "stream": true, "stream_options": {"include_usage": true}})");
  answer.Add("choice: 1 text: \"b\" finished { usage { prompt_tokens: 2 completion_tokens: 3 } }")
      .Add("choice: 0 text: \"a\" finished { usage { prompt_tokens: 2 completion_tokens: 4 } }");
  const Events events = Read(answer.Stream());
  ASSERT_EQ(events.size(), 8u);
  EXPECT_EQ(events[0].second["choices"][0]["index"], 0);
  EXPECT_EQ(events[1].second["choices"][0]["index"], 1);
  EXPECT_EQ(events[1].second["choices"][0]["delta"]["role"], "assistant");
  EXPECT_EQ(events[2].second["choices"][0]["index"], 1);
  EXPECT_EQ(events[2].second["choices"][0]["delta"]["content"], "b");
  EXPECT_EQ(events[3].second["choices"][0]["finish_reason"], "stop");
  EXPECT_EQ(events[3].second["usage"], nullptr);
  EXPECT_EQ(events[6].second["choices"], json::array());
  EXPECT_EQ(events[6].second["usage"]["total_tokens"], 9);
}

TEST(Responses, OneObject) {
  Answer answer(Endpoint::kResponses, R"({"input": "a", "instructions": "Be brief.",
      "max_output_tokens": 1, "temperature": 0.5, "metadata": {"a": "b"},
      "include": ["message.output_text.logprobs"]})");
  answer.Add(R"(token_ids: 2 text: "The" logprobs { logprob: -0.5 } finished { reason:
      FINISH_REASON_LENGTH usage { prompt_tokens: 3 cached_tokens: 2 completion_tokens: 1 } })");
  EXPECT_EQ(answer.Body(), json::parse(Recorded("response.json")));
}

// Looking for each among all before it would take hours.
TEST(Responses, AMillionKeysAreRepeatedInNoTime) {
  std::string keys = "\"k\":1";
  for (int i = 0; i < 1000000; ++i) absl::StrAppend(&keys, ",\"", i, "\":1");
  Answer answer(Endpoint::kResponses,
                absl::StrCat(R"({"input": "a", "tools": [{"type": "function", "name": "f",
                    "parameters": {)",
                             keys, "}}]}"));
  answer.Add(R"(token_ids: 2 text: "The" finished { reason: FINISH_REASON_EOS usage {} })");
  EXPECT_EQ(answer.Body()["tools"][0]["parameters"].size(), 1000001u);
}

TEST(Responses, EventsInTheirOrder) {
  Answer answer(Endpoint::kResponses, R"({"input": "a", "stream": true})");
  answer.Add(R"(token_ids: 2 text: "The")")
      .Add("token_ids: 6")
      .Add(R"(token_ids: 3 text: " rat" finished { reason: FINISH_REASON_EOS usage {
              prompt_tokens: 3 completion_tokens: 2 } })");
  EXPECT_EQ(Read(answer.Stream()), Read(Recorded("response_stream.sse")));
}

TEST(Streams, AFailureIsAnEvent) {
  const absl::Status status = absl::InternalError("the state is not finite");
  const json error = json::parse(R"({"error": {"message": "the state is not finite", "type":
      "server_error", "param": null, "code": null}})");
  Answer completion(Endpoint::kCompletions, R"({"prompt": "a", "stream": true})");
  EXPECT_EQ(Read(completion.Add("text: \"a\"").Fail(status))[1].second, error);
  Answer chat(Endpoint::kChat,
              R"({"messages": [{"role": "user", "content": "a"}], "stream": true})");
  EXPECT_EQ(Read(chat.Fail(status))[1].second, error);
  Answer response(Endpoint::kResponses, R"({"input": "a", "stream": true})");
  const auto [type, failed] = Read(response.Fail(status)).back();
  EXPECT_EQ(type, "response.failed");
  EXPECT_EQ(failed["response"]["status"], "failed");
  EXPECT_EQ(failed["response"]["error"]["code"], "server_error");
  EXPECT_EQ(failed["sequence_number"], 2);
}

TEST(Texts, InvalidBytesNeverLeave) {
  v1::GenerateResponse message;
  message.set_text("a\xff\xe2\x82z");
  message.mutable_finished();
  for (const char* stream : {"false", "true"}) {
    for (const auto& [endpoint, body] :
         {std::pair(Endpoint::kCompletions, "\"prompt\": \"a\""),
          std::pair(Endpoint::kChat, R"("messages": [{"role": "user", "content": "a"}])"),
          std::pair(Endpoint::kResponses, "\"input\": \"a\"")}) {
      const absl::StatusOr<Ask> ask =
          ParseAsk(endpoint, absl::StrCat("{", body, ", \"stream\": ", stream, "}"), Server());
      ASSERT_TRUE(ask.ok()) << ask.status();
      const auto writer = MakeAnswerWriter(ask->form, Server(), "r1", 0);
      std::string written = writer->Begin();
      written += writer->Add(0, message);
      written += writer->Finish();
      EXPECT_NE(written.find("\"a\xef\xbf\xbd\xef\xbf\xbdz\""), std::string::npos) << written;
    }
  }
}

TEST(Models, OneWithItsName) {
  const json model = json::parse(R"({"id": "rat", "object": "model", "created": 1600000000,
      "owned_by": "packrat", "max_model_len": 4096})");
  EXPECT_EQ(json::parse(ListModels(Server())),
            (json{{"object", "list"}, {"data", json::array({model})}}));
  EXPECT_EQ(json::parse(*GetModel(Server(), "rat")), model);
  EXPECT_EQ(json::parse(MakeErrorAnswer(GetModel(Server(), "cat").status()).body),
            json::parse(R"({"error": {"message": "model is \"cat\"; this server has rat", "type":
                "invalid_request_error", "param": "model", "code": "model_not_found"}})"));
}

json ErrorOf(const absl::Status& status, const NameList& names = {}) {
  return json::parse(MakeErrorAnswer(InNames(names, status)).body)["error"];
}

TEST(Errors, StatusesHaveTheirCodes) {
  const std::pair<absl::Status, int> cases[] = {
      {absl::InvalidArgumentError("x"), 400}, {absl::FailedPreconditionError("x"), 400},
      {absl::UnauthenticatedError("x"), 401}, {absl::NotFoundError("x"), 404},
      {absl::AbortedError("x"), 409},         {absl::ResourceExhaustedError("x"), 429},
      {absl::InternalError("x"), 500},        {absl::UnknownError("x"), 500},
      {absl::UnavailableError("x"), 503},     {absl::DeadlineExceededError("x"), 504},
  };
  for (const auto& [status, http] : cases) {
    EXPECT_EQ(MakeErrorAnswer(status).http_status, http) << status;
    EXPECT_EQ(ErrorOf(status)["message"], "x");
  }
  EXPECT_EQ(ErrorOf(absl::UnauthenticatedError("x"))["code"], "invalid_api_key");
}

TEST(Errors, WhoMayComeAgainIsToldWhen) {
  const absl::Status full =
      WithRetryAfter(absl::ResourceExhaustedError("the queue is full"), absl::Seconds(3));
  EXPECT_EQ(MakeErrorAnswer(full).retry_after, absl::Seconds(3));
  EXPECT_EQ(MakeErrorAnswer(absl::UnavailableError("draining")).retry_after, kDefaultRetryAfter);
  EXPECT_FALSE(MakeErrorAnswer(absl::InvalidArgumentError("x")).retry_after.has_value());
}

TEST(Errors, FieldsHaveTheClientsNames) {
  const auto names = [](Endpoint endpoint, const std::string& body) {
    const absl::StatusOr<Ask> ask = ParseAsk(endpoint, body, Server());
    EXPECT_TRUE(ask.ok()) << ask.status();
    return ask->names;
  };
  const NameList text = names(Endpoint::kCompletions, R"({"prompt": "a", "best_of": 16,
      "logit_bias": {"7": 1, "12": 1}})");
  const NameList chat = names(Endpoint::kChat, R"({"messages": [{"role": "user", "content": "a"}],
      "max_completion_tokens": 0, "guided_grammar": "g"})");
  const NameList response = names(Endpoint::kResponses, R"({"input": "a"})");
  const struct {
    const NameList& names;
    const char *ours, *message, *param;
  } cases[] = {
      {text, "sampling.top_p is 2; range (0, 1]", "top_p is 2; range (0, 1]", "top_p"},
      {text, "num_choices is 17; range [1, 16]", "best_of is 17; range [1, 16]", "best_of"},
      {text, "sampling.logit_bias[1] is 12; range [0, 8)", "logit_bias.12 is 12; range [0, 8)",
       "logit_bias.12"},
      {text, "sampling.logit_bias[0].bias is 9", "logit_bias.7 is 9", "logit_bias.7"},
      {text, "sampling.logit_bias has 9 entries", "logit_bias has 9 entries", "logit_bias"},
      {text, "stop.strings[3] has 0 bytes", "stop[3] has 0 bytes", "stop[3]"},
      {text, "tokens.ids[1] is 9; range [0, 8)", "prompt[1] is 9; range [0, 8)", "prompt[1]"},
      {text, "text has 9 bytes; at most 8 (a text)", "prompt has 9 bytes; at most 8 (a text)",
       "prompt"},
      {text, "sampling.allowed_token_ids and sampling.banned_token_ids leave no token to sample",
       "allowed_token_ids and banned_token_ids leave no token to sample", "allowed_token_ids"},
      {text, "solver.cg_tolerance is 1", "solver.cg_tolerance is 1", "solver.cg_tolerance"},
      {text, "session is busy", "session is busy", "session"},
      {text, "stop.max_tokens is 0", "max_tokens is 0", "max_tokens"},
      {chat, "stop.max_tokens is 0", "max_completion_tokens is 0", "max_completion_tokens"},
      {chat, "chat.messages[2].role is empty", "messages[2].role is empty", "messages[2].role"},
      {chat, "chat: there is no template", "messages: there is no template", "messages"},
      {chat, "grammar has no root", "guided_grammar has no root", "guided_grammar"},
      {chat, "sampling.num_logprobs is 21", "logprobs is 21", "logprobs"},
      {response, "chat.messages[2].role is empty", "input[2].role is empty", "input[2].role"},
      {response, "stop.max_tokens is 0", "max_output_tokens is 0", "max_output_tokens"},
  };
  for (const auto& one : cases) {
    const json error = ErrorOf(absl::InvalidArgumentError(one.ours), one.names);
    EXPECT_EQ(error["message"], one.message);
    EXPECT_EQ(error["param"], one.param) << one.ours;
  }
  EXPECT_EQ(ErrorOf(absl::UnavailableError("the text is lost"), text)["param"], nullptr);
  EXPECT_EQ(ErrorOf(absl::InvalidArgumentError("prompt has 9 tokens; range [1, 7] (max_context 8)"),
                    text)["code"],
            "context_length_exceeded");
  EXPECT_EQ(ErrorOf(absl::InvalidArgumentError("prompt has 0 tokens; range [1, 7] (max_context 8)"),
                    text)["code"],
            nullptr);
  const absl::Status full =
      WithRetryAfter(absl::ResourceExhaustedError("stop.max_tokens is 9"), absl::Seconds(3));
  EXPECT_EQ(MakeErrorAnswer(InNames(text, full)).retry_after, absl::Seconds(3));
}

}  // namespace
}  // namespace packrat::openai
