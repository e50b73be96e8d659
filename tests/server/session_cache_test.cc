// What a turn in a session computes, and what is scored in one.
#include <gmock/gmock.h>

#include <cmath>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "tests/server/sessions.h"

namespace packrat {
namespace {

using ::testing::HasSubstr;

class CachedSessionsTest : public SessionsFixture {
 protected:
  // How much of the prompt of a turn was not computed.
  int CachedTokens(const std::string& session, const Tokens& prompt) {
    v1::GenerateRequest request = Ids(prompt, 20);
    request.set_session(session);
    const Turn turn = client_->Generate(request);
    EXPECT_TRUE(turn.status.ok()) << turn.status;
    return turn.finished.usage().cached_tokens();
  }
};

// But for the last token of the answer before it, which no one has computed yet.
TEST_F(CachedSessionsTest, ATurnComputesWhatIsNewAlone) {
  Start();
  const std::string session = client_->Create();
  EXPECT_EQ(CachedTokens(session, {5, 6, 7}), 0);
  EXPECT_EQ(CachedTokens(session, {8, 9}), 22);
  const std::string fork = client_->Fork(session);
  EXPECT_EQ(CachedTokens(session, {10}), 44);
  EXPECT_EQ(CachedTokens(fork, {11}), 44);
  ASSERT_TRUE(client_->Rewind(session, 45).ok());
  EXPECT_EQ(CachedTokens(session, {12}), 44);
  ASSERT_TRUE(client_->Rewind(session, 23).ok());
  EXPECT_EQ(CachedTokens(session, {13}), 22);
}

TEST_F(CachedSessionsTest, TheStateOfASessionOutlivesThoseOfOtherTexts) {
  options_.server.engine.max_running = 4;
  Start();
  const std::string session = client_->Create();
  CachedTokens(session, {5, 6, 7});
  const auto stub = StubFor(*server_);
  for (int i = 0; i < 10; ++i) {
    ASSERT_TRUE(Generate(stub.get(), Ids(Tokens(30, 8 + i), 20)).status.ok());
  }
  // The pool is too small for all of them.
  EXPECT_EQ(Generate(stub.get(), Ids(Tokens(30, 8), 20)).finished.usage().cached_tokens(), 0);
  EXPECT_EQ(CachedTokens(session, {8, 9}), 22);
}

// Their states go below the pool and come back; what they say does not change.
TEST_F(CachedSessionsTest, IdleOnesGoToMemoryAndDiskAndComeBack) {
  const std::string folder = testing::TempDir() + "/session-states";
  std::filesystem::remove_all(folder);
  EngineOptions& engine = options_.server.engine;
  const auto one = static_cast<int64_t>(FakeModel().state_layout().SequenceBytes(512));
  engine.max_running = 2;
  engine.cache_sequences = 2;
  engine.state_bytes = 4 * one;
  engine.state_host_memory = 4 * one;
  engine.state_disk = int64_t{1} << 30;
  engine.state_dir = folder;
  Start();
  constexpr int kSessions = 30;
  std::vector<std::string> sessions;
  std::vector<Tokens> texts;
  for (int i = 0; i < kSessions; ++i) {
    sessions.push_back(client_->Create());
    const Tokens prompt(40, 5 + i);
    texts.push_back(prompt + Say(sessions[i], prompt, 20));
  }
  EXPECT_GT(server_->Metric("packrat_kept_states{model=\"fake\",tier=\"disk\"}"), 0);
  int computed = 0;
  for (int i = 0; i < kSessions; ++i) {
    const Turn turn = client_->Say(sessions[i], {7, 8}, 9);
    ASSERT_TRUE(turn.status.ok()) << turn.status;
    EXPECT_EQ(turn.ids, Fresh(texts[i] + Tokens{7, 8}, 9));
    computed += turn.finished.usage().prompt_tokens() - turn.finished.usage().cached_tokens();
  }
  EXPECT_LT(computed, kSessions * 10);
}

// A fork's turn costs its source nothing: that goes below the pool like others, and comes back. Nor
// does a session that began with the same turn.
TEST_F(CachedSessionsTest, WhatTwoGoOnFromStaysForTheSecond) {
  EngineOptions& engine = options_.server.engine;
  const auto one = static_cast<int64_t>(FakeModel().state_layout().SequenceBytes(512));
  engine.max_running = 2;
  engine.cache_sequences = 2;
  engine.state_bytes = 4 * one;
  engine.state_host_memory = 40 * one;
  engine.state_disk = int64_t{1} << 30;
  for (const bool forks : {true, false}) {
    engine.state_dir = testing::TempDir() + (forks ? "/forked-states" : "/equal-states");
    std::filesystem::remove_all(engine.state_dir);
    Start();
    const std::string source = client_->Create();
    CachedTokens(source, Tokens(40, 5));
    const std::string other = forks ? client_->Fork(source) : client_->Create();
    if (!forks) CachedTokens(other, Tokens(40, 5));
    EXPECT_EQ(CachedTokens(other, {6}), 59);
    for (int i = 0; i < 20; ++i) CachedTokens(client_->Create(), Tokens(40, 7 + i));
    EXPECT_EQ(CachedTokens(source, {8}), 59);
    EXPECT_EQ(CachedTokens(other, {9}), 80);
  }
}

// An answer that ends before a stop string leaves a state past it; the next turn computes at most a
// block of the answer again.
TEST_F(CachedSessionsTest, AfterAStopStringATurnComputesWhatIsNewAlone) {
  options_.tokenizer = true;
  Start();
  v1::GenerateRequest request;
  request.set_text("Once upon a time there was a little dog");
  request.mutable_stop()->set_max_tokens(60);
  request.mutable_stop()->set_ignore_eos(true);
  request.mutable_sampling()->set_temperature(0);
  const Turn whole = client_->Generate(request);
  ASSERT_EQ(whole.ids.size(), 60u);
  const Tokenizer& tokenizer = *server_->tokenizer();
  int tried = 0;
  for (size_t at = 5; at + 4 < whole.ids.size(); at += 6) {
    SCOPED_TRACE(at);
    // A stop string of several tokens.
    std::string stop;
    for (size_t i = at; i < at + 4; ++i) stop += tokenizer.PieceText(whole.ids[i]);
    if (whole.text.find(stop) == std::string::npos) continue;
    ++tried;
    const std::string session = client_->Create();
    v1::GenerateRequest turn = request;
    turn.set_session(session);
    turn.set_cache_salt(stop);  // What other tries have left is of no help.
    turn.mutable_stop()->add_strings(stop);
    const Turn said = client_->Generate(turn);
    ASSERT_TRUE(said.status.ok()) << said.status;
    ASSERT_EQ(said.finished.reason(), v1::FINISH_REASON_STOP_STRING);
    const Tokens text = client_->TextOf(session);
    turn.set_text(" and a cat");
    const Turn next = client_->Generate(turn);
    ASSERT_TRUE(next.status.ok()) << next.status;
    EXPECT_GE(next.finished.usage().cached_tokens(), static_cast<int>(text.size()) - kBlockTokens);
    // And says what a fresh text says.
    v1::GenerateRequest fresh = turn;
    fresh.clear_session();
    fresh.set_use_cache(false);
    const Tokens prompt = text + [&] {
      const Tokens all = client_->TextOf(session);
      return Tokens(all.begin() + static_cast<int64_t>(text.size()),
                    all.end() - static_cast<int64_t>(next.ids.size()));
    }();
    fresh.mutable_tokens()->mutable_ids()->Assign(prompt.begin(), prompt.end());
    EXPECT_EQ(client_->Generate(fresh).ids, next.ids);
  }
  EXPECT_GT(tried, 3);
}

class ScoredSessionsTest : public SessionsFixture {
 protected:
  static v1::ScoreRequest Of(const std::string& session, const Tokens& prompt,
                             const std::vector<Tokens>& candidates) {
    v1::ScoreRequest request;
    if (!session.empty()) request.set_session(session);
    if (!prompt.empty()) {
      request.mutable_tokens()->mutable_ids()->Assign(prompt.begin(), prompt.end());
    }
    for (const Tokens& ids : candidates) {
      request.add_candidates()->mutable_tokens()->mutable_ids()->Assign(ids.begin(), ids.end());
    }
    return request;
  }
  // By the fake model, whatever the server says.
  void ExpectScores(const std::vector<float>& got, Tokens text, const Tokens& tokens) {
    ASSERT_EQ(got.size(), tokens.size());
    for (size_t i = 0; i < tokens.size(); ++i) {
      const std::vector<float> logits = server_->model().LogitsAfter(text);
      double mass = 0;
      for (float x : logits) mass += std::exp(static_cast<double>(x));
      EXPECT_NEAR(got[i], logits[tokens[i]] - std::log(mass), 2e-6);
      text.push_back(tokens[i]);
    }
  }
};

TEST_F(ScoredSessionsTest, CandidatesFollowItsTextAndLeaveItAsItIs) {
  Start();
  const std::string session = client_->Create();
  const Tokens text = Tokens(40, 5) + Say(session, Tokens(40, 5), 20);
  const std::vector<Tokens> candidates = {{10}, {11, 12, 13}, {14, 15}};
  Scores scores = client_->Score(Of(session, {}, candidates));
  ASSERT_TRUE(scores.status.ok()) << scores.status;
  for (size_t i = 0; i < candidates.size(); ++i) {
    ExpectScores(scores.logprobs[i], text, candidates[i]);
    // All but the last token of the answer, which nobody had computed.
    EXPECT_EQ(scores.finished[i].usage().cached_tokens(), 59);
  }
  EXPECT_EQ(client_->TextOf(session), text);
  // Behind a prompt, the prompt itself, and the text of the session.
  scores = client_->Score(Of(session, {20, 21}, candidates));
  ExpectScores(scores.logprobs[1], text + Tokens{20, 21}, candidates[1]);
  scores = client_->Score(Of(session, {20, 21, 22}, {}));
  ExpectScores(scores.logprobs[0], text, {20, 21, 22});
  EXPECT_EQ(scores.finished[0].usage().cached_tokens(), 59);
  scores = client_->Score(Of(session, {}, {}));
  ExpectScores(scores.logprobs[0], {text[0]}, Tokens(text.begin() + 1, text.end()));
  // The next turn finds what it would have found.
  EXPECT_EQ(client_->TextOf(session), text);
  const Turn turn = client_->Say(session, {6});
  EXPECT_EQ(turn.finished.usage().cached_tokens(), 59);
  EXPECT_EQ(turn.ids, Fresh(text + Tokens{6}));
  // An empty one has nothing to go on from.
  scores = client_->Score(Of(client_->Create(), {}, candidates));
  EXPECT_EQ(scores.status.message(), "prompt is missing; set text, tokens or chat");
}

TEST_F(ScoredSessionsTest, WithoutTheCacheAllIsComputed) {
  Start();
  const std::string session = client_->Create();
  const Tokens text = Tokens(40, 5) + Say(session, Tokens(40, 5), 20);
  v1::ScoreRequest request = Of(session, {}, {{10}});
  request.set_use_cache(false);
  Scores scores = client_->Score(request);
  ExpectScores(scores.logprobs[0], text, {10});
  EXPECT_EQ(scores.finished[0].usage().cached_tokens(), 0);
  EXPECT_EQ(scores.finished[0].usage().cache_miss(), v1::CACHE_MISS_OFF);
  request = Of(session, {}, {{10}});
  request.set_cache_salt("other");
  EXPECT_EQ(client_->Score(request).finished[0].usage().cached_tokens(), 0);
  request.set_cache_salt(std::string(257, 'x'));
  EXPECT_THAT(std::string(client_->Score(request).status.message()),
              HasSubstr("cache_salt has 257 bytes"));
}

TEST_F(ScoredSessionsTest, WhileACallGeneratesItIsScoredAsItWasBefore) {
  Start();
  const std::string session = client_->Create();
  const Tokens text = Tokens{5} + Say(session, {5});
  server_->gate().Close();
  std::thread running([&] { Say(session, {6}, 60); });
  server_->gate().WaitUntilHeld();
  Scores scores;
  std::thread scoring([&] {
    SessionClient other(OptionsOf(""));
    scores = other.Score(Of(session, {}, {{10, 11}}));
  });
  // Both are with the engine.
  EXPECT_TRUE(Eventually([&] {
    return server_->Metric("packrat_requests_running{") +
               server_->Metric("packrat_requests_waiting{") ==
           2;
  }));
  EXPECT_TRUE(client_->Show(session).busy());
  server_->gate().Open();
  scoring.join();
  running.join();
  ASSERT_TRUE(scores.status.ok()) << scores.status;
  ExpectScores(scores.logprobs[0], text, {10, 11});
}

}  // namespace
}  // namespace packrat
