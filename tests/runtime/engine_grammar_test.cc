// Requests with a grammar through the engine: the same tokens however they run, and an end where
// the grammar has one.
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "models/text/grammar/grammar.h"
#include "models/text/grammar/regex.h"
#include "models/text/grammar/token_grammar.h"
#include "tests/runtime/consumer.h"
#include "tests/runtime/engine_fixture.h"

namespace packrat {
namespace {

using ::testing::HasSubstr;

// Ids 3 to 28 are letters, then come a few pairs.
std::vector<std::string> Pieces() {
  std::vector<std::string> pieces(FakeModel::kVocab);
  for (int i = 0; i < 26; ++i) pieces[3 + i] = std::string(1, static_cast<char>('a' + i));
  pieces[29] = "ab";
  pieces[30] = "cd";
  pieces[31] = "ef";
  pieces[32] = "abc";
  pieces[33] = "fe";
  return pieces;
}

class EngineGrammarTest : public EngineTest {
 protected:
  static std::shared_ptr<TokenGrammar> Regex(const std::string& pattern,
                                             const TokenGrammar::Limits& limits = {}) {
    auto grammar = Grammar::Compile(*ParseRegex(pattern));
    EXPECT_TRUE(grammar.ok()) << grammar.status();
    return *TokenGrammar::Create(*std::move(grammar), std::make_shared<GrammarVocabulary>(Pieces()),
                                 limits);
  }
  static std::string TextOf(const std::vector<int32_t>& tokens) {
    std::string text;
    for (int32_t token : tokens) text += Pieces()[token];
    return text;
  }
  // After "a" or "x" a text stands in ever more places, and soon in too many.
  static std::shared_ptr<TokenGrammar> Hostile() {
    TokenGrammar::Limits limits;
    limits.mask_work = 3000;
    return Regex("[b-w]*|[ax](a|b|.a|.b)*.{300}", limits);
  }
  Request Make(Consumer* consumer, uint64_t id, const std::string& pattern, int max_tokens) {
    Request request = consumer->Make(id, {5, 6, 7}, max_tokens);
    request.sampling.temperature = 1;
    request.sampling.seed = id;
    request.stop.ignore_eos = false;
    request.grammar = Regex(pattern);
    return request;
  }
  void Run(const std::vector<Consumer*>& consumers) {
    RunUntilIdle();
    for (Consumer* consumer : consumers) {
      while (consumer->Poll()) {
      }
      ASSERT_TRUE(consumer->finish.has_value());
    }
  }
};

TEST_F(EngineGrammarTest, EndsWhereTheGrammarEnds) {
  for (const bool ignore_eos : {false, true}) {
    Start(Small());
    Consumer c;
    Request request = Make(&c, 1, "abcdef", 40);
    request.stop.ignore_eos = ignore_eos;
    Submit(std::move(request));
    Run({&c});
    EXPECT_EQ(TextOf(c.tokens), "abcdef");
    EXPECT_EQ(c.finish->reason, FinishReason::kEos);
    EXPECT_EQ(c.finish->usage.completion_tokens, static_cast<int>(c.tokens.size()));
    ExpectAllFree();
  }
}

// The state is as good as any, and later ones begin with it.
TEST_F(EngineGrammarTest, WhereNothingIsLeftTheStateStays) {
  Start(Small());
  const std::vector<int32_t> prompt = RandomPrompt(&random_, 100);
  const auto cached = [&](const std::string& pattern, FinishReason reason) {
    Consumer c;
    Request request = Make(&c, 1 + random_() % 1000000, pattern, 5);
    request.prompt = prompt;
    request.sampling.banned_ids = {5};  // "c"
    Submit(std::move(request));
    Run({&c});
    EXPECT_EQ(c.finish->reason, reason) << c.finish->status;
    return c.finish->usage.cached_tokens;
  };
  // The second one shows what they share.
  for (int i = 0; i < 2; ++i) EXPECT_EQ(cached("ab", FinishReason::kEos), 0);
  const int all = cached("xy", FinishReason::kEos);
  EXPECT_GT(all, 0);
  EXPECT_EQ(cached("axc", FinishReason::kError), all);
  EXPECT_EQ(cached("xy", FinishReason::kEos), all);
}

// The end id comes where the text may end, and nowhere else.
TEST_F(EngineGrammarTest, EndIdsComeWhereTheTextMayEnd) {
  Start(Small());
  std::vector<std::unique_ptr<Consumer>> consumers;
  std::vector<Consumer*> all;
  for (int i = 0; i < 40; ++i) {
    consumers.push_back(std::make_unique<Consumer>());
    all.push_back(consumers.back().get());
    Request request = Make(all.back(), i + 1, "(ab|x)(cd[a-z]?)*", 60);
    request.sampling.logit_bias = {{FakeModel::kEos, 3.0f}};
    if (i % 2 == 1) request.stop.ids = {3 + 'c' - 'a'};  // A letter of the grammar.
    Submit(std::move(request));
  }
  Run(all);
  std::set<std::string> texts;
  int stopped = 0;
  for (const Consumer* c : all) {
    const std::string text = TextOf(c->tokens);
    texts.insert(text);
    EXPECT_NE(c->finish->reason, FinishReason::kError) << c->finish->status;
    stopped += c->finish->reason == FinishReason::kStopId;
    const size_t begin = text[0] == 'x' ? 1 : 2;
    ASSERT_TRUE(text.substr(0, begin) == "x" || text.substr(0, begin) == "ab") << text;
    for (size_t at = begin; at < text.size();) {
      ASSERT_EQ(text.substr(at, 2), "cd") << text;
      at += 2;
      if (at < text.size() && text.substr(at, 2) != "cd") ++at;
    }
  }
  EXPECT_GT(texts.size(), 10u);
  EXPECT_GT(stopped, 0);
}

TEST_F(EngineGrammarTest, MinTokensComeBeforeAnEndThatMayWait) {
  Start(Small());
  Consumer free, forced;
  Request request = Make(&free, 1, "[a-z]*", 30);
  request.stop.min_tokens = 12;
  request.sampling.logit_bias = {{FakeModel::kEos, 100.0f}};
  Submit(std::move(request));
  request = Make(&forced, 2, "[a-z]{4}", 30);
  request.stop.min_tokens = 12;
  Submit(std::move(request));
  Run({&free, &forced});
  EXPECT_EQ(free.tokens.size(), 12u);
  EXPECT_EQ(free.finish->reason, FinishReason::kEos);
  EXPECT_EQ(TextOf(forced.tokens).size(), 4u);  // The grammar has no more.
  EXPECT_EQ(forced.finish->reason, FinishReason::kEos);
}

TEST_F(EngineGrammarTest, MaxTokensCutIt) {
  Start(Small());
  Consumer c;
  Submit(Make(&c, 1, "[a-c]{2000}", 7));
  Run({&c});
  EXPECT_EQ(c.tokens.size(), 7u);
  EXPECT_EQ(c.finish->reason, FinishReason::kLength);
}

TEST_F(EngineGrammarTest, NothingInCommonWithTheAllowedIdsIsAStatus) {
  Start(Small());
  Consumer c, other;
  Request request = Make(&c, 1, "abz", 7);
  request.sampling.allowed_ids = {3, 4, 5, 29};  // No z.
  Submit(std::move(request));
  Submit(Make(&other, 2, "abz", 7));
  Run({&c, &other});
  EXPECT_EQ(TextOf(c.tokens), "ab");
  EXPECT_EQ(c.finish->reason, FinishReason::kError);
  EXPECT_EQ(c.finish->status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(c.finish->status.message(), HasSubstr("goes on in the grammar"));
  EXPECT_EQ(TextOf(other.tokens), "abz");
  ExpectAllFree();
}

// A grammar that cannot be followed ends its own request, and no other.
TEST_F(EngineGrammarTest, TooAmbiguousIsAStatusOfThatRequestAlone) {
  for (const bool ahead : {false, true}) {
    FakeModel::Options model;
    model.ahead = ahead;
    Start(Small(), model);
    const auto grammar = Hostile();
    Consumer hostile, same, other;
    Request request = Make(&hostile, 1, "a", 250);
    request.grammar = grammar;
    request.sampling.allowed_ids = {3, 3 + 'x' - 'a'};
    Submit(std::move(request));
    request = Make(&same, 2, "a", 30);
    request.grammar = grammar;
    request.sampling.banned_ids = {3, 29, 32, 3 + 'x' - 'a'};  // All that begin so.
    Submit(std::move(request));
    Submit(Make(&other, 3, "(ab|cd)+x", 30));
    Run({&hostile, &same, &other});
    EXPECT_EQ(hostile.finish->reason, FinishReason::kError);
    EXPECT_EQ(hostile.finish->status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(hostile.finish->status.message(),
                HasSubstr("tokens the grammar was given up: it is too ambiguous"));
    EXPECT_FALSE(hostile.tokens.empty());
    EXPECT_NE(same.finish->reason, FinishReason::kError) << same.finish->status;
    EXPECT_NE(other.finish->reason, FinishReason::kError);
    ExpectAllFree();
  }
}

// What a step spends on grammars is bounded: then sequences wait for the next one, each in turn,
// and get the same tokens as alone.
TEST_F(EngineGrammarTest, MuchWorkIsSpreadOverSteps) {
  // Each new character takes new states of many places, but not too many.
  const char kDear[] = "([a-z]?){500}z{200}";
  std::vector<std::vector<int32_t>> alone;
  for (const bool together : {false, true}) {
    std::vector<std::unique_ptr<Consumer>> consumers;
    std::vector<Consumer*> all;
    if (together) Start(Small());
    for (int i = 0; i < 6; ++i) {
      if (!together) Start(Small());
      consumers.push_back(std::make_unique<Consumer>());
      all.push_back(consumers.back().get());
      Submit(Make(all.back(), i + 1, i == 5 ? "(ab|cd)+x" : kDear, 20));
      if (!together) Run({all.back()});
    }
    if (together) Run(all);
    for (int i = 0; i < 6; ++i) {
      EXPECT_NE(all[i]->finish->reason, FinishReason::kError) << all[i]->finish->status;
      if (!together) alone.push_back(all[i]->tokens);
      EXPECT_EQ(all[i]->tokens, alone[i]) << i;
    }
  }
  EXPECT_GT(engine_->stats().grammar_waits, 0);
  EXPECT_GT(engine_->stats().grammar_time, absl::ZeroDuration());
}

// Whoever comes last in the batch does not wait until the dear ones are over.
TEST_F(EngineGrammarTest, WhoWaitedForItsMaskComesFirst) {
  Start(Small());
  std::vector<std::unique_ptr<Consumer>> consumers;
  for (int i = 0; i < 7; ++i) {
    consumers.push_back(std::make_unique<Consumer>());
    Request request =
        Make(consumers.back().get(), i + 1, i == 6 ? "[a-f]{12}" : "([a-z]?){500}z{200}", 100);
    Submit(std::move(request));
  }
  Consumer& last = *consumers.back();
  for (int step = 0; step < 200 && !last.finish.has_value(); ++step) {
    ASSERT_TRUE(Step());
    for (auto& consumer : consumers) {
      while (consumer->Poll()) {
      }
    }
  }
  ASSERT_TRUE(last.finish.has_value());
  EXPECT_EQ(last.finish->reason, FinishReason::kEos);
  for (int i = 0; i < 6; ++i) EXPECT_FALSE(consumers[i]->finish.has_value()) << i;
  EXPECT_GT(engine_->stats().grammar_waits, 0);
  RunUntilIdle();
  ExpectAllFree();
}

// Alone, among others with the same and other grammars and none, and with a step ahead.
TEST_F(EngineGrammarTest, TheSameTokensHoweverItRuns) {
  const char* const patterns[] = {"([a-f]|ef){5,40}z", "(ab|cd)+x", "[^q]{9}q*"};
  std::vector<std::vector<int32_t>> alone;
  for (int i = 0; i < 12; ++i) {
    Start(Small());
    Consumer c;
    Submit(Make(&c, i + 1, patterns[i % 3], 30));
    Run({&c});
    alone.push_back(c.tokens);
    EXPECT_FALSE(c.tokens.empty());
  }
  for (const bool ahead : {false, true}) {
    FakeModel::Options model;
    model.ahead = ahead;
    Start(Small(), model);
    std::vector<std::shared_ptr<TokenGrammar>> grammars;
    for (const char* pattern : patterns) grammars.push_back(Regex(pattern));
    std::vector<std::unique_ptr<Consumer>> consumers;
    std::vector<Consumer*> all;
    for (int i = 0; i < 24; ++i) {
      consumers.push_back(std::make_unique<Consumer>());
      all.push_back(consumers.back().get());
      Request request = Make(all.back(), i + 1, "a", 30);
      request.grammar = i < 12 ? grammars[i % 3] : nullptr;
      Submit(std::move(request));
      if (i % 5 == 0) {
        EXPECT_TRUE(Step());
      }
    }
    Run(all);
    for (int i = 0; i < 12; ++i) EXPECT_EQ(all[i]->tokens, alone[i]) << i << " ahead " << ahead;
    ExpectAllFree();
  }
}

}  // namespace
}  // namespace packrat
