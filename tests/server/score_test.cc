// Score, echo_prompt and num_choices over gRPC: several requests of the engine in one stream.
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "gtest/gtest.h"
#include "tests/server/generate.h"
#include "tests/server/test_server.h"

namespace packrat {
namespace {

// What came of each choice.
struct Scored {
  std::vector<v1::TokenScore> scores;
  std::vector<int32_t> ids;
  std::string text;
  int finished = 0;
  v1::Finished last;
};
struct Answer {
  grpc::Status status;
  std::map<int32_t, Scored> choices;
};

Answer Read(grpc::ClientReader<v1::GenerateResponse>* reader) {
  Answer answer;
  v1::GenerateResponse message;
  while (reader->Read(&message)) {
    Scored& to = answer.choices[message.choice()];
    EXPECT_EQ(to.finished, 0) << "a message after the last of choice " << message.choice();
    to.scores.insert(to.scores.end(), message.scores().begin(), message.scores().end());
    to.ids.insert(to.ids.end(), message.token_ids().begin(), message.token_ids().end());
    to.text += message.text();
    if (!message.has_finished()) continue;
    ++to.finished;
    to.last = message.finished();
  }
  answer.status = reader->Finish();
  return answer;
}

Answer Score(v1::Inference::Stub* stub, const v1::ScoreRequest& request) {
  grpc::ClientContext context;
  return Read(stub->Score(&context, request).get());
}

Answer Choices(v1::Inference::Stub* stub, const v1::GenerateRequest& request) {
  grpc::ClientContext context;
  return Read(stub->Generate(&context, request).get());
}

v1::ScoreRequest Of(const std::vector<int32_t>& prompt,
                    const std::vector<std::vector<int32_t>>& candidates) {
  v1::ScoreRequest request;
  request.mutable_tokens()->mutable_ids()->Assign(prompt.begin(), prompt.end());
  for (const auto& ids : candidates) {
    request.add_candidates()->mutable_tokens()->mutable_ids()->Assign(ids.begin(), ids.end());
  }
  return request;
}

// By the fake model, whatever the server says.
void ExpectScores(const FakeModel& model, const Scored& got, std::vector<int32_t> text,
                  const std::vector<int32_t>& tokens) {
  ASSERT_EQ(got.scores.size(), tokens.size());
  double sum = 0;
  bool greedy = true;
  for (size_t i = 0; i < tokens.size(); ++i) {
    const std::vector<float> logits = model.LogitsAfter(text);
    double mass = 0;
    for (float x : logits) mass += std::exp(static_cast<double>(x));
    const double logprob = logits[tokens[i]] - std::log(mass);
    EXPECT_EQ(got.scores[i].token_id(), tokens[i]);
    EXPECT_NEAR(got.scores[i].logprob(), logprob, 2e-6);
    EXPECT_GT(got.scores[i].entropy(), 0);
    EXPECT_GE(got.scores[i].margin(), 0);
    greedy = greedy && got.scores[i].best_token_id() == tokens[i];
    sum += logprob;
    text.push_back(tokens[i]);
  }
  const v1::ScoreSum& score = got.last.score();
  EXPECT_EQ(score.tokens(), static_cast<int>(tokens.size()));
  EXPECT_NEAR(score.logprob(), sum, 2e-6 * static_cast<double>(tokens.size()));
  EXPECT_NEAR(score.perplexity(), std::exp(-sum / static_cast<double>(tokens.size())),
              1e-5 * score.perplexity());
  EXPECT_EQ(score.greedy(), greedy);
  EXPECT_EQ(got.finished, 1);
  EXPECT_EQ(got.last.usage().completion_tokens(), 0);
  EXPECT_TRUE(got.ids.empty());
}

TEST(Score, EachCandidateIsScoredAfterThePrompt) {
  TestServer server;
  auto stub = StubFor(server);
  const std::vector<int32_t> prompt = {5, 6, 7, 8, 9};
  std::vector<std::vector<int32_t>> candidates = {{10}, {10, 11, 12}, {99}};
  candidates.push_back(server.model().GreedyAfter(prompt, 6));
  for (int i = 0; i < 60; ++i) candidates.push_back({i + 10, 3, i + 20});
  v1::ScoreRequest request = Of(prompt, candidates);
  request.set_num_logprobs(2);
  const Answer answer = Score(stub.get(), request);
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  ASSERT_EQ(answer.choices.size(), candidates.size());
  for (size_t i = 0; i < candidates.size(); ++i) {
    SCOPED_TRACE(i);
    const Scored& got = answer.choices.at(static_cast<int32_t>(i));
    ExpectScores(server.model(), got, prompt, candidates[i]);
    for (const v1::TokenScore& score : got.scores) {
      ASSERT_EQ(score.top_size(), 2);
      EXPECT_EQ(score.top(0).token_id(), score.best_token_id());
      EXPECT_NEAR(score.margin(), score.top(0).logprob() - score.top(1).logprob(), 1e-5);
    }
  }
  EXPECT_TRUE(answer.choices.at(3).last.score().greedy());
  EXPECT_FALSE(answer.choices.at(1).last.score().greedy());
  EXPECT_TRUE(Eventually([&] { return server.StateBytesUsed() == 0; }));
  // A call is counted once gRPC is done with it, which may be after its client has everything.
  EXPECT_TRUE(Eventually([&] {
    return server.Metric("packrat_calls_total{model=\"fake\",call=\"Score\",status=\"OK\"}") == 1;
  }));
  EXPECT_EQ(server.Metric("packrat_scored_tokens_total"), 1 + 3 + 1 + 6 + 60 * 3);
}

TEST(Score, WithoutCandidatesThePromptIsScored) {
  TestServer server;
  std::vector<int32_t> text = {5};
  for (int i = 0; i < 100; ++i) text.push_back(3 + i * 7 % 80);
  const Answer answer = Score(StubFor(server).get(), Of(text, {}));
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  ExpectScores(server.model(), answer.choices.at(0), {5}, {text.begin() + 1, text.end()});
}

TEST(Score, TextIsTokenizedByItself) {
  TestServer::Options options;
  options.tokenizer = true;
  TestServer server(options);
  v1::ScoreRequest request;
  request.set_text("Once upon a");
  request.add_candidates()->set_text(" time");
  request.add_candidates()->set_text("time");
  const Answer answer = Score(StubFor(server).get(), request);
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  std::vector<std::string> texts;
  for (const auto& [index, choice] : answer.choices) {
    std::string text;
    for (const v1::TokenScore& score : choice.scores) text += score.piece();
    texts.push_back(text);
  }
  EXPECT_EQ(texts, (std::vector<std::string>{" time", "time"}));
}

TEST(Score, RefusalsNameTheField) {
  TestServer server;
  auto stub = StubFor(server);
  const auto refused = [&](const v1::ScoreRequest& request) {
    const Answer answer = Score(stub.get(), request);
    EXPECT_TRUE(answer.choices.empty());
    EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    return answer.status.error_message();
  };
  EXPECT_EQ(refused({}), "prompt is missing; set text, tokens or chat");
  EXPECT_EQ(refused(Of({5}, {})), "prompt has 1 tokens; range [2, 512] (max_context 512)");
  EXPECT_EQ(refused(Of({5}, {{6}, {}})),
            "candidates[1] has 0 tokens; range [1, 511] (max_context 512 less 1 tokens of prompt)");
  EXPECT_EQ(refused(Of({5, 101}, {{6}})), "tokens.ids[1] is 101; range [0, 101)");
  EXPECT_EQ(refused(Of({5}, {{6, -1}})), "candidates[0].tokens.ids[1] is -1; range [0, 101)");
  EXPECT_EQ(refused(Of(std::vector<int32_t>(512, 5), {{6}})),
            "prompt has 512 tokens; range [1, 511] (max_context 512)");
  EXPECT_EQ(refused(Of({5}, std::vector<std::vector<int32_t>>(257, {6}))),
            "candidates has 257 candidates; range [0, 256]");
  EXPECT_EQ(refused(Of({5}, std::vector<std::vector<int32_t>>(256, std::vector<int32_t>(300, 6)))),
            "candidates, each with its prompt, have more than 65536 tokens together; send them in "
            "several calls");
  v1::ScoreRequest request = Of({5}, {{6}});
  request.set_num_logprobs(21);
  EXPECT_EQ(refused(request), "num_logprobs is 21; range [0, 20]");
  request = Of({5}, {{6}});
  request.add_candidates();
  EXPECT_EQ(refused(request), "candidates[1] is missing; set text or tokens");
  request = Of({5}, {{6}});
  request.add_candidates()->set_text("x");
  EXPECT_EQ(Score(stub.get(), request).status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
}

// Where one goes bad the call ends with its status, and all state is free.
TEST(Score, OneThatFailsEndsTheCall) {
  TestServer server;
  std::vector<std::vector<int32_t>> candidates(40, std::vector<int32_t>(60, 7));
  candidates[17][3] = FakeModel::kNotFiniteToken;
  const Answer answer = Score(StubFor(server).get(), Of({5, 6}, candidates));
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::INTERNAL);
  EXPECT_TRUE(absl::StrContains(answer.status.error_message(), "non-finite"))
      << answer.status.error_message();
  EXPECT_TRUE(Eventually([&] { return server.StateBytesUsed() == 0; }));
  EXPECT_TRUE(Score(StubFor(server).get(), Of({5, 6}, {{7}})).status.ok());
}

TEST(Score, AllCandidatesWaitOrNone) {
  TestServer::Options options;
  options.server.engine.max_queue = 10;
  TestServer server(options);
  auto stub = StubFor(server);
  const std::vector<std::vector<int32_t>> many(11, {6});
  Answer answer = Score(stub.get(), Of({5}, many));
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(answer.status.error_message(), "11 requests at once, and max_queue is 10");
  answer = Score(stub.get(), Of({5}, {many.begin(), many.begin() + 10}));
  EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(answer.choices.size(), 10u);
}

TEST(Choices, AreWhatTheirSeedsGive) {
  TestServer server;
  auto stub = StubFor(server);
  v1::GenerateRequest request = Ids({5, 6, 7}, 20);
  request.mutable_sampling()->set_temperature(1);
  request.mutable_sampling()->set_seed(100);
  request.set_num_choices(5);
  request.set_echo_prompt(true);
  const Answer answer = Choices(stub.get(), request);
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  ASSERT_EQ(answer.choices.size(), 5u);
  request.clear_num_choices();
  for (int i = 0; i < 5; ++i) {
    const Scored& choice = answer.choices.at(i);
    EXPECT_EQ(choice.finished, 1);
    EXPECT_EQ(choice.last.seed(), 100u + i);
    EXPECT_EQ(choice.last.usage().completion_tokens(), 20);
    EXPECT_EQ(choice.scores.size(), i == 0 ? 2u : 0u);
    request.mutable_sampling()->set_seed(100 + i);
    request.set_echo_prompt(false);
    const Result alone = Generate(stub.get(), request);
    EXPECT_EQ(choice.ids, alone.ids);
  }
  EXPECT_NE(answer.choices.at(0).ids, answer.choices.at(1).ids);
}

// What the texts of a call have in common is computed once, as usage and metrics say.
TEST(Choices, OnePrefillServesAll) {
  TestServer server;
  auto stub = StubFor(server);
  std::vector<int32_t> prompt;
  for (int i = 0; i < 100; ++i) prompt.push_back(3 + i * 7 % 80);
  v1::GenerateRequest request = Ids(prompt, 5);
  request.mutable_sampling()->set_temperature(1);
  request.set_num_choices(6);
  Answer answer = Choices(stub.get(), request);
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  ASSERT_EQ(answer.choices.size(), 6u);
  for (const auto& [index, choice] : answer.choices) {
    EXPECT_EQ(choice.last.usage().prompt_tokens(), 100);
    EXPECT_EQ(choice.last.usage().cached_tokens(), index == 0 ? 0 : 96);
    EXPECT_EQ(choice.ids.size(), 5u);
  }
  // Each computes what is behind the last block's end.
  EXPECT_EQ(server.Metric("packrat_prompt_tokens_total"), 96 + 6 * 4);
  for (int32_t& id : prompt) id = 83 - id % 40;
  answer = Score(stub.get(), Of(prompt, {{5}, {6, 7}, {8}}));
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  for (const auto& [index, choice] : answer.choices) {
    EXPECT_EQ(choice.last.usage().cached_tokens(), index == 0 ? 0 : 96);
  }
  EXPECT_EQ(server.Metric("packrat_prompt_tokens_total"), 96 + 6 * 4 + 96 + 4 + 5 + 4);
}

TEST(Choices, EndTogetherWhereTheClientLeaves) {
  TestServer server(LongTexts());
  auto stub = StubFor(server);
  v1::GenerateRequest request = Ids({5, 6}, 90000);
  request.set_num_choices(4);
  grpc::ClientContext context;
  auto reader = stub->Generate(&context, request);
  v1::GenerateResponse message;
  ASSERT_TRUE(reader->Read(&message));
  EXPECT_GT(server.StateBytesUsed(), 0);
  context.TryCancel();
  while (reader->Read(&message)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(Eventually([&] { return server.StateBytesUsed() == 0; }));
}

TEST(EchoPrompt, ScoresComeBeforeTheOutput) {
  TestServer server;
  auto stub = StubFor(server);
  const std::vector<int32_t> prompt = {5, 6, 7, 8, 9};
  v1::GenerateRequest request = Ids(prompt, 4);
  request.set_echo_prompt(true);
  grpc::ClientContext context;
  auto reader = stub->Generate(&context, request);
  v1::GenerateResponse message;
  Scored got;
  while (reader->Read(&message)) {
    EXPECT_TRUE(got.ids.empty() || message.scores_size() == 0) << "a score after a token";
    got.scores.insert(got.scores.end(), message.scores().begin(), message.scores().end());
    got.ids.insert(got.ids.end(), message.token_ids().begin(), message.token_ids().end());
    if (message.has_finished()) got.last = message.finished();
  }
  ASSERT_TRUE(reader->Finish().ok());
  EXPECT_EQ(got.ids, server.model().GreedyAfter(prompt, 4));
  ASSERT_EQ(got.scores.size(), 4u);
  EXPECT_EQ(got.last.score().tokens(), 4);
  EXPECT_EQ(got.last.usage().completion_tokens(), 4);
}

}  // namespace
}  // namespace packrat
