// A storm of conversations against small engines with little memory: turns, forks, retries, texts
// that share a beginning, priorities for which others are parked, cancellations, deadlines, states
// that are saved and loaded, and sequences that go bad, in one batch. In half
// of the engines states go on to memory and to a disk that damages them now and then. Every text
// must be the model's, to the token; after every step each reference must be accounted for. What is
// free is poisoned, and the fake model says whether a state is another's, late or stale.
#include <array>
#include <filesystem>
#include <memory>
#include <random>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "runtime/engine.h"
#include "tests/runtime/consumer.h"
#include "tests/runtime/fake_model.h"
#include "tests/runtime/state_pieces.h"

namespace packrat {
namespace {

using Text = std::vector<int32_t>;

struct Live {
  Consumer consumer;
  Text prompt;
  uint64_t id = 0;
  int tenant = 0;
  int score_from = 0;  // 0: nothing is scored.
  bool bad = false;
};

class Storm {
 public:
  Storm(uint64_t seed, const FakeModel::Options& model_options)
      : random_(seed), model_(model_options), crowded_(seed % 3 == 0) {
    EngineOptions options;
    options.max_running = 1 + Pick(8);
    options.max_queue = 12;
    options.max_batch_tokens = 16 + Pick(48);
    options.max_context = 300;
    options.cache_sequences = Pick(3) * Pick(6);
    options.poison_freed_state = true;
    // None, little or much.
    options.park_memory = static_cast<int64_t>(model_.state_layout().SequenceBytes(300)) *
                          std::array{0, 1, 3, 20}[Pick(4)] / 2;
    options.state_bytes =
        static_cast<int64_t>(model_.state_layout().SequenceBytes(300)) * (2 + Pick(30)) / 2;
    if (seed % 4 < 2) {
      folder_ = ::testing::TempDir() + "soak_states";
      options.state_dir = folder_;
      options.state_host_memory = options.state_bytes * (1 + Pick(4)) / 12;
      // Nothing rests there, and all goes in pieces.
      if (seed % 8 == 1) options.state_host_memory = 1 + Pick(8 << 10);
      options.state_disk = options.state_bytes * (1 + Pick(8)) / 4;
    }
    engine_ = *Engine::Create(&model_, nullptr, options);
    for (int i = 0; i < 3; ++i) texts_[0].push_back(RandomPrompt(&random_, 20 + Pick(100)));
    texts_[1] = texts_[0];
  }

  void Run(int steps) {
    // Few enough to find what was kept, or more than can be admitted.
    for (int i = 0; i < steps && !::testing::Test::HasFailure(); ++i) {
      if (crowded_ || Pick(6) == 0) Submit();
      if (Pick(10) == 0 && !live_.empty()) engine_->Cancel(live_[Pick(live_.size())]->id);
      if (Pick(60) == 0 && !folder_.empty()) Damage();
      if (Pick(8) == 0) Save();
      if (Pick(8) == 0) Load();
      Step();
    }
    while (!engine_->idle() && !::testing::Test::HasFailure()) Step();
    for (auto& live : live_) live->consumer.Poll();
    Reap();
    EXPECT_TRUE(live_.empty());
    for (const EngineStats::Pool& pool : engine_->stats().pools) EXPECT_EQ(pool.used, 0);
    EXPECT_EQ(engine_->stats().parking.bytes, 0);
  }

  int64_t saved() const { return num_saved_; }
  int64_t loaded() const { return num_loaded_; }
  int64_t hits() const { return engine_->stats().cache.lookups[0]; }
  int64_t dropped() const { return engine_->stats().cache.dropped; }
  int64_t completed() const { return completed_; }
  int64_t parks() const { return engine_->stats().parking.parks; }
  StateTiers::Stats tiers() const { return engine_->stats().tiers; }

 private:
  int Pick(size_t n) { return static_cast<int>(random_() % n); }

  void Submit() {
    auto live = std::make_unique<Live>();
    live->tenant = Pick(6) == 0;
    std::vector<Text>& texts = texts_[live->tenant];
    live->prompt = texts[Pick(texts.size())];
    if (Pick(3) == 0) live->prompt.resize(1 + Pick(live->prompt.size()));  // A fork.
    if (Pick(4) != 0) {
      const Text more = RandomPrompt(&random_, 1 + Pick(Pick(3) == 0 ? 60 : 6));
      live->prompt.insert(live->prompt.end(), more.begin(), more.end());
    }
    if (live->prompt.size() > 240) live->prompt = RandomPrompt(&random_, 1 + Pick(50));
    live->bad = Pick(25) == 0;
    if (live->bad) live->prompt[Pick(live->prompt.size())] = FakeModel::kNotFiniteToken;
    live->id = next_id_++;
    Request request = live->consumer.Make(live->id, live->prompt, 1 + Pick(40));
    // Too small to change a logit, but steps ahead wait for the token.
    if (Pick(5) == 0) request.sampling.frequency_penalty = 1e-12f;
    request.tenant = live->tenant ? "b" : "a";
    request.priority = Pick(4) * Pick(2);
    request.cache.use = Pick(12) != 0;
    request.cache.importance = Pick(folder_.empty() ? 5 : 2) == 0;
    if (Pick(6) == 0) request.cache.snapshot_at = Pick(live->prompt.size());
    if (Pick(6) == 0 && !live->bad && live->prompt.size() > 1) {
      request.score_from = live->score_from = 1 + Pick(live->prompt.size() - 1);
      if (Pick(2)) request.stop.max_tokens = 0;
    }
    if (Pick(12) == 0) request.deadline = now_ + absl::Milliseconds(Pick(40));
    if (engine_->Submit(std::move(request), now_).ok()) live_.push_back(std::move(live));
  }

  // A state leaves, to come again when its text's own may be gone.
  void Save() {
    const int tenant = Pick(2);
    const Text& text = texts_[tenant][Pick(texts_[tenant].size())];
    SaveWhole(engine_.get(), SpaceOf(tenant), text, [this, tenant](const auto& state) {
      if (!state.ok() || state->position == 0) return;
      ++num_saved_;
      saved_[tenant].push_back(*state);
      if (saved_[tenant].size() > 5) saved_[tenant].erase(saved_[tenant].begin());
    });
  }
  void Load() {
    const int tenant = Pick(2);
    if (saved_[tenant].empty()) return;
    const SavedState& state = saved_[tenant][Pick(saved_[tenant].size())];
    const auto count = [this](const absl::Status& status) {
      num_loaded_ += status.ok();
      ExpectPlaced(status);
    };
    LoadWhole(engine_.get(), SpaceOf(tenant), state, count);
  }
  static void ExpectPlaced(const absl::Status& status) {
    const bool refused = absl::IsResourceExhausted(status);
    EXPECT_TRUE(status.ok() || refused || absl::IsUnavailable(status)) << status;
  }
  static StateSpace SpaceOf(int tenant) { return {tenant != 0 ? "b" : "a"}; }

  // One of the files loses its end.
  void Damage() {
    std::error_code error;
    for (const auto& file : std::filesystem::directory_iterator(folder_, error)) {
      if (file.path().filename() == "lock" || Pick(4) != 0) continue;
      std::filesystem::resize_file(file.path(), Pick(2000), error);
      return;
    }
  }

  void Step() {
    // Who only waits for the disk lets its threads work.
    if (!engine_->Step(now_ += absl::Milliseconds(1))) std::this_thread::yield();
    ASSERT_EQ(engine_->CheckIntegrity(), absl::OkStatus());
    for (auto& live : live_) live->consumer.Poll();
    Reap();
  }

  void Reap() {
    std::vector<std::unique_ptr<Live>> left;
    for (auto& live : live_) {
      const Consumer& consumer = live->consumer;
      if (!consumer.finish.has_value()) {
        left.push_back(std::move(live));
        continue;
      }
      ASSERT_EQ(consumer.tokens,
                model_.GreedyAfter(live->prompt, static_cast<int>(consumer.tokens.size())));
      ASSERT_LT(consumer.finish->usage.cached_tokens, static_cast<int>(live->prompt.size()));
      CheckScores(*live);
      if (live->bad) {
        EXPECT_NE(consumer.finish->reason, FinishReason::kLength);
        continue;
      }
      EXPECT_NE(consumer.finish->reason, FinishReason::kError) << consumer.finish->status;
      completed_ += consumer.finish->status.ok() ? 1 : 0;
      Text text = live->prompt;
      text.insert(text.end(), consumer.tokens.begin(), consumer.tokens.end());
      texts_[live->tenant].push_back(std::move(text));
      if (texts_[live->tenant].size() > 12) {
        texts_[live->tenant].erase(texts_[live->tenant].begin() + Pick(12));
      }
    }
    live_.swap(left);
  }

  // The scores that have come: what is best where each of them stands.
  void CheckScores(const Live& live) {
    const std::vector<TokenScore>& scores = live.consumer.scores;
    const size_t all = live.score_from == 0 ? 0 : live.prompt.size() - live.score_from;
    if (live.consumer.finish->status.ok()) {
      ASSERT_EQ(scores.size(), all);
    }
    ASSERT_LE(scores.size(), all);
    for (size_t i = 0; i < scores.size(); i += 1 + Pick(9)) {
      const auto begin = live.prompt.begin();
      EXPECT_EQ(scores[i].token, live.prompt[live.score_from + i]);
      ASSERT_EQ(scores[i].best, model_.GreedyAfter({begin, begin + live.score_from + i}, 1)[0]);
    }
  }

  std::mt19937_64 random_;
  FakeModel model_;
  std::string folder_;  // Empty: no tiers.
  std::unique_ptr<Engine> engine_;
  std::vector<Text> texts_[2];
  std::vector<std::unique_ptr<Live>> live_;
  std::vector<SavedState> saved_[2];
  uint64_t next_id_ = 1;
  int64_t completed_ = 0, num_saved_ = 0, num_loaded_ = 0;
  const bool crowded_;
  absl::Time now_ = absl::FromUnixSeconds(5000);
};

TEST(EngineCacheSoak, EveryTextIsWhatItWouldBeAlone) {
  int64_t hits = 0, dropped = 0, completed = 0, parks = 0, returned = 0, read = 0, damaged = 0;
  int64_t saved = 0, loaded = 0;
  // Where the machine is busy the disk comes late, and fewer are read in as many steps.
  constexpr int kRead = 100;
  const auto goes_on = [&](uint64_t seed) { return seed < 40 || (read <= kRead && seed < 200); };
  for (uint64_t seed = 0; goes_on(seed) && !::testing::Test::HasFailure(); ++seed) {
    SCOPED_TRACE(seed);
    FakeModel::Options options;
    options.ahead = seed % 2 == 1;
    // Models without a kind of layer have parts of fewer kinds.
    options.mesa = seed % 4 != 2;
    options.window = seed % 5 != 3;
    options.full = seed % 3 != 1;
    options.max_logit_rows = 8 + static_cast<int>(seed);  // Fewer than some want at once.
    Storm storm(seed, options);
    storm.Run(2500);
    saved += storm.saved();
    loaded += storm.loaded();
    hits += storm.hits();
    dropped += storm.dropped();
    completed += storm.completed();
    parks += storm.parks();
    returned += storm.tiers().returned;
    read += storm.tiers().read_from_disk;
    damaged += storm.tiers().read_failures;
  }
  EXPECT_GT(completed, 5000);
  EXPECT_GT(saved, 500);
  EXPECT_GT(loaded, 500);
  EXPECT_GT(hits, 1000);
  EXPECT_GT(dropped, 5000);
  EXPECT_GT(parks, 500);
  EXPECT_GT(returned, 300);
  EXPECT_GT(read, kRead);
  EXPECT_GT(damaged, 3);
}

}  // namespace
}  // namespace packrat
