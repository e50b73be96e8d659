// An engine with states below the pool, in memory and in a folder of the test.
#ifndef PACKRAT_TESTS_RUNTIME_ENGINE_TIERS_FIXTURE_H_
#define PACKRAT_TESTS_RUNTIME_ENGINE_TIERS_FIXTURE_H_

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "tests/runtime/engine_fixture.h"

namespace packrat {

namespace fs = std::filesystem;
using Text = std::vector<int32_t>;

class EngineTiersTest : public EngineTest {
 protected:
  EngineTiersTest() : folder_(::testing::TempDir() + "engine_states") { fs::remove_all(folder_); }

  // Memory and disk for so many sequences of the greatest length; and a pool.
  void StartTiers(double in_memory, double on_disk, int pool = 2) {
    EngineOptions options = Small();
    const auto one = static_cast<double>(FakeModel().state_layout().SequenceBytes(512));
    options.max_running = 2;
    options.cache_sequences = pool - 2;
    options.state_bytes = static_cast<int64_t>(pool * one);
    options.state_host_memory = static_cast<int64_t>(in_memory * one);
    options.state_disk = static_cast<int64_t>(on_disk * one);
    if (on_disk > 0) options.state_dir = folder_;
    Start(options);
  }
  // Until nothing waits or runs, for as long as that takes.
  void Run() {
    while (!engine_->idle()) {
      // No faster than time itself, or the disk would be late.
      if (!Step()) absl::SleepFor(absl::Milliseconds(1));
    }
  }
  void SubmitTurn(Consumer* consumer, const Text& prompt, int count = 5, int importance = 1) {
    Request request = consumer->Make(++last_id_, prompt, count);
    request.cache.importance = importance;
    Submit(std::move(request));
  }
  // Ends the text, and gives it back with what was generated.
  Text Turn(Text prompt, int count = 5, int importance = 1) {
    Consumer consumer;
    SubmitTurn(&consumer, prompt, count, importance);
    Run();
    Finish(&consumer, prompt, count);
    prompt.insert(prompt.end(), consumer.tokens.begin(), consumer.tokens.end());
    return prompt;
  }
  void Finish(Consumer* consumer, const Text& prompt, int count) {
    consumer->Poll();
    ASSERT_TRUE(consumer->finish.has_value());
    EXPECT_EQ(consumer->finish->status, absl::OkStatus());
    EXPECT_EQ(consumer->tokens, model_->GreedyAfter(prompt, count));
    cached_tokens_ = consumer->finish->usage.cached_tokens;
    miss_ = consumer->finish->usage.cache_miss;
  }
  // Until the threads have done what they were given.
  void Settle() {
    for (int quiet = 0; quiet < 10; ++quiet) {
      const StateTiers::Stats before = engine_->stats().tiers;
      absl::SleepFor(absl::Milliseconds(2));
      Step();
      const StateTiers::Stats after = engine_->stats().tiers;
      if (after.moved_to_disk != before.moved_to_disk || after.disk.bytes != before.disk.bytes ||
          after.memory.bytes != before.memory.bytes) {
        quiet = 0;
      }
    }
  }
  void Others(int count) {
    for (int i = 0; i < count; ++i) {
      Turn(RandomPrompt(&random_, 60));
      Settle();
    }
  }
  std::vector<std::string> Files() const {
    std::vector<std::string> files;
    for (const auto& entry : fs::directory_iterator(folder_)) {
      if (entry.path().filename() != "states.lock") files.push_back(entry.path());
    }
    return files;
  }

  const std::string folder_;
  uint64_t last_id_ = 0;
  int cached_tokens_ = 0;
  CacheMiss miss_ = CacheMiss::kNone;
};

}  // namespace packrat

#endif  // PACKRAT_TESTS_RUNTIME_ENGINE_TIERS_FIXTURE_H_
