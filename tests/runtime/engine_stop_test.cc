// Stop strings through the engine, with a real tokenizer: the text that may be shown never holds a
// part of one.
#include <algorithm>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "models/text/tokenizer.h"
#include "runtime/engine.h"
#include "tests/runtime/consumer.h"
#include "tests/runtime/fake_model.h"

namespace packrat {
namespace {

// Makes the fake model say a given text: its logits are replaced after the pass.
class Script : public FakeModel {
 public:
  Script(const Options& options, std::vector<int32_t> text)
      : Script(options, std::move(text), {FakeModel::kEos}) {}
  Script(const Options& options, std::vector<int32_t> text, std::vector<int32_t> eos_ids)
      : FakeModel(options), text_(std::move(text)), config_(FakeModel::config()) {
    config_.eos_ids = std::move(eos_ids);
  }
  const ModelConfig& config() const override { return config_; }
  absl::StatusOr<float*> Forward(const Batch& batch, const StateMemory& state,
                                 SpanStats* stats) override {
    absl::StatusOr<float*> logits = FakeModel::Forward(batch, state, stats);
    if (batch.spans[0].num_logits > 0) (*logits)[text_[next_++]] = 1000.0f;
    return logits;
  }

 private:
  std::vector<int32_t> text_;
  ModelConfig config_;
  size_t next_ = 0;
};

class EngineStopTest : public ::testing::Test {
 protected:
  static constexpr int kVocab = 32100;  // 100 ids of padding.

  void SetUp() override {
    const std::string dir = ::testing::TempDir() + "engine_stop_test";
    std::filesystem::create_directories(dir);
    std::filesystem::copy_file("tests/data/mistral-7b-v0.1.model", dir + "/tokenizer.model",
                               std::filesystem::copy_options::overwrite_existing);
    auto tokenizer = Tokenizer::Load(dir, kVocab);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    tokenizer_ = *std::move(tokenizer);
  }

  static EngineOptions Small() {
    EngineOptions options;
    options.max_running = 4;
    options.max_batch_tokens = 64;
    return options;
  }

  struct Result {
    Finish finish;
    std::string shown;  // Bytes that were safe, at the end.
    int tokens;
  };
  // What a reader sees of this text with these stop strings.
  Result Run(const std::string& text, const std::vector<std::string>& stop_strings,
             int min_tokens = 0) {
    auto ids = tokenizer_->Encode(text, {});
    EXPECT_TRUE(ids.ok());
    const int max_tokens = static_cast<int>(ids->size());
    FakeModel::Options options;
    options.vocab = kVocab;
    Script model(options, *ids);
    auto engine = *Engine::Create(&model, tokenizer_.get(), Small());
    Consumer consumer;
    Request request = consumer.Make(1, {1}, max_tokens);
    request.stop.ignore_eos = false;
    request.stop.min_tokens = min_tokens;
    request.text.stop_strings = stop_strings;
    request.text.continues_text = false;
    EXPECT_EQ(engine->Submit(std::move(request), absl::UnixEpoch()), absl::OkStatus());
    std::string shown;
    TextDecoder decoder(tokenizer_.get(), true, false);
    std::string decoded;
    size_t tokens = 0;
    while (!engine->idle()) {
      engine->Step(absl::UnixEpoch());
      if (!consumer.Poll()) continue;
      for (; tokens < consumer.tokens.size(); ++tokens) {
        decoded += decoder.Push(consumer.tokens[tokens]);
      }
      const std::string now = decoded.substr(0, std::min(decoded.size(), consumer.safe_text_bytes));
      EXPECT_EQ(now.substr(0, shown.size()), shown) << "what was shown was taken back";
      shown = now;
      if (min_tokens > 0) continue;
      for (const std::string& s : stop_strings) {
        EXPECT_LE(shown.size(), std::min(text.find(s), text.size())) << "shown: " << shown;
      }
    }
    return {*consumer.finish, shown, static_cast<int>(consumer.tokens.size())};
  }

  std::unique_ptr<Tokenizer> tokenizer_;
};

TEST_F(EngineStopTest, CutsBeforeTheStopString) {
  const std::string text = "The quick brown fox.\nUser: next";
  const Result r = Run(text, {"\nUser:"});
  EXPECT_EQ(r.finish.reason, FinishReason::kStopString);
  EXPECT_EQ(r.shown, "The quick brown fox.");
  EXPECT_EQ(r.finish.usage.completion_tokens, r.tokens);
}

TEST_F(EngineStopTest, InTheMiddleOfATokenAndAcrossTokens) {
  EXPECT_EQ(Run("Understanding matters", {"stand"}).shown, "Under");
  EXPECT_EQ(Run("one two three four", {"wo three f"}).shown, "one t");
}

TEST_F(EngineStopTest, OverlappingPrefixes) {
  EXPECT_EQ(Run("x aabaabaac y", {"aabaac"}).shown, "x aab");
  EXPECT_EQ(Run("a -- b --- c", {"---"}).shown, "a -- b ");
}

TEST_F(EngineStopTest, Utf8) {
  EXPECT_EQ(Run("caf\xC3\xA9 \xF0\x9F\x90\x80 end", {"\xF0\x9F\x90\x80"}).shown, "caf\xC3\xA9 ");
}

TEST_F(EngineStopTest, WhatWasHeldBackIsShownAtTheEnd) {
  const Result r = Run("It ends with a line\n\nUse", {"\n\nUser:"});
  EXPECT_EQ(r.finish.reason, FinishReason::kLength);
  EXPECT_EQ(r.shown, "It ends with a line\n\nUse");
}

TEST_F(EngineStopTest, NotBeforeMinTokens) {
  const std::string text = "a b c STOP d e f STOP g";
  const int tokens_of_first = static_cast<int>(tokenizer_->Encode("a b c STOP", {})->size());
  const Result early = Run(text, {"STOP"}, tokens_of_first);
  EXPECT_EQ(early.finish.reason, FinishReason::kStopString);
  EXPECT_EQ(early.shown, "a b c STOP d e f ");
  EXPECT_EQ(Run(text, {"STOP"}, tokens_of_first - 1).shown, "a b c ");
}

TEST_F(EngineStopTest, PaddingIsNeverSampled) {
  FakeModel::Options options;
  options.vocab = kVocab;
  // The model wants a padding id, always: it is never sampled.
  Script model(options, std::vector<int32_t>(20, kVocab - 1));
  auto engine = *Engine::Create(&model, tokenizer_.get(), Small());
  Consumer consumer;
  ASSERT_EQ(engine->Submit(consumer.Make(1, {1}, 20), absl::UnixEpoch()), absl::OkStatus());
  while (!engine->idle()) engine->Step(absl::UnixEpoch());
  consumer.Poll();
  ASSERT_EQ(consumer.tokens.size(), 20u);
  for (int32_t token : consumer.tokens) EXPECT_LT(token, tokenizer_->num_pieces());
}

// A conversation goes on from before the string that ended its answer, wherever in a block that
// begins.
TEST_F(EngineStopTest, AStateIsLeftBeforeTheStopString) {
  std::string said;
  for (int i = 0; i < 9; ++i) said += "The quick brown fox jumps over the lazy dog. ";
  std::vector<int32_t> script = *tokenizer_->Encode(said + "\nUser: next", {});
  script.resize(script.size() + 10, 500);
  for (int prompt = 19; prompt < 19 + 64; ++prompt) {
    const bool ahead = prompt > 19;
    FakeModel::Options options;
    options.vocab = kVocab;
    options.ahead = ahead;
    Script model(options, script);
    auto engine = *Engine::Create(&model, tokenizer_.get(), Small());
    const auto run = [&](uint64_t id, const std::vector<int32_t>& text, int most) {
      Consumer consumer;
      Request request = consumer.Make(id, text, most);
      request.text.stop_strings = {"\nUser:"};
      request.cache.importance = 1;
      EXPECT_EQ(engine->Submit(std::move(request), absl::UnixEpoch()), absl::OkStatus());
      while (!engine->idle()) engine->Step(absl::UnixEpoch());
      consumer.Poll();
      return consumer;
    };
    std::vector<int32_t> text(prompt, 600);
    const Consumer answer = run(1, text, 300);
    EXPECT_EQ(answer.finish->reason, FinishReason::kStopString);
    TextDecoder decoder(tokenizer_.get(), true, true);
    decoder.Continue(text);
    for (int32_t token : answer.tokens) {
      if (decoder.Push(token).find('\n') != std::string::npos) break;
      text.push_back(token);
    }
    const auto before = static_cast<int>(text.size());
    ASSERT_GT(before, prompt + 90);
    text.insert(text.end(), {700, 701, 702});
    const int cached = run(2, text, 2).finish->usage.cached_tokens;
    EXPECT_LE(cached, before);
    EXPECT_GE(cached, before - (ahead ? 80 : 0)) << "a prompt of " << prompt;
  }
}

// The configuration names an end id of its own: that of the tokenizer is a token like any other.
// Without one in the configuration, the tokenizer's ends a text.
TEST_F(EngineStopTest, TheTokenizersEndIdCountsOnlyWhereTheModelHasNone) {
  const int32_t end = tokenizer_->eos_id();
  ASSERT_GE(end, 0);
  for (const bool has_own : {true, false}) {
    FakeModel::Options options;
    options.vocab = kVocab;
    Script model(options, {1000, end, 1001, 500},
                 has_own ? std::vector<int32_t>{500} : std::vector<int32_t>{});
    auto engine = *Engine::Create(&model, tokenizer_.get(), Small());
    Consumer consumer;
    Request request = consumer.Make(1, {1}, 4);
    request.stop.ignore_eos = false;
    EXPECT_EQ(engine->Submit(std::move(request), absl::UnixEpoch()), absl::OkStatus());
    while (!engine->idle()) engine->Step(absl::UnixEpoch());
    consumer.Poll();
    ASSERT_TRUE(consumer.finish.has_value());
    EXPECT_EQ(consumer.finish->reason, FinishReason::kEos);
    EXPECT_EQ(consumer.tokens,
              has_own ? (std::vector<int32_t>{1000, end, 1001}) : (std::vector<int32_t>{1000}));
  }
}

}  // namespace
}  // namespace packrat
