// A hundred thousand operations of the storm (storm.h) on the fake model, which also says whether a
// state is another's, late or stale.
#include <cstddef>
#include <cstdint>
#include <random>
#include <tuple>
#include <vector>

#include "gtest/gtest.h"
#include "tests/runtime/fake_model.h"
#include "tests/runtime/storm.h"

namespace packrat {
namespace {

// Of all engines together, beside what an engine does by itself: 7 s, and 40 s with
// AddressSanitizer.
constexpr int kOperations = 100000;
constexpr int kEngines = 40;

class FakeStormModel : public StormModel {
 public:
  FakeStormModel(const FakeModel::Options& options, std::mt19937_64::result_type seed)
      : model_(options), random_(seed) {}

  LanguageModel* model() override { return &model_; }
  std::vector<int32_t> bad_tokens() const override {
    return {FakeModel::kNotFiniteToken, FakeModel::kNanLogitsToken};
  }
  bool Lose() override {
    model_.wait_status = absl::UnavailableError("the device is gone");
    return true;
  }
  // Scores are what is best where each of them stands.
  void Check(const Request& request, const Consumer& seen) override {
    const std::vector<int32_t>& prompt = request.prompt;
    ASSERT_EQ(seen.tokens, model_.GreedyAfter(prompt, static_cast<int>(seen.tokens.size())));
    for (size_t i = 0; i < seen.scores.size(); i += 1 + random_() % 9) {
      const auto at = prompt.begin() + *request.score_from + static_cast<std::ptrdiff_t>(i);
      EXPECT_EQ(seen.scores[i].token, *at);
      ASSERT_EQ(seen.scores[i].best, model_.GreedyAfter({prompt.begin(), at}, 1)[0]);
    }
  }

 private:
  FakeModel model_;
  std::mt19937_64 random_;
};

TEST(EngineStorm, EveryTextIsWhatItWouldBeAlone) {
  StormCounts counts;
  int64_t saved = 0, loaded = 0, cut_off = 0, abandoned = 0;
  int64_t hits = 0, dropped = 0, parks = 0, moved = 0, returned = 0, read = 0, damaged = 0;
  // Where the machine is busy the disk comes late, and fewer are read in as many steps.
  constexpr int kReadOfThousand = 1;
  const auto goes_on = [&](int seed) {
    const bool enough = read > kReadOfThousand * kOperations / 1000;
    return seed < kEngines || (!enough && seed < 5 * kEngines);
  };
  for (int seed = 0; goes_on(seed) && !::testing::Test::HasFailure(); ++seed) {
    SCOPED_TRACE(seed);
    FakeModel::Options options;
    options.ahead = seed % 2 == 1;
    // Models without a kind of layer have parts of fewer kinds.
    options.mesa = seed % 4 != 2;
    options.window = seed % 5 != 3;
    options.full = seed % 3 != 1;
    options.rat = seed % 7 != 6 || !options.mesa;
    options.max_logit_rows = 8 + seed;  // Fewer than some want at once.
    FakeStormModel model(options, seed);
    Storm storm(seed, /*max_context=*/300, &model, &counts);
    storm.Run(kOperations / kEngines, /*end=*/seed % 5);
    const EngineStats stats = storm.stats();
    hits += stats.cache.lookups[0];
    dropped += stats.cache.dropped;
    parks += stats.parking.parks;
    moved += stats.tiers.moved_to_memory;
    returned += stats.tiers.returned;
    read += stats.tiers.read_from_disk;
    damaged += stats.tiers.read_failures;
    saved += storm.moving().saved();
    loaded += storm.moving().loaded();
    cut_off += storm.moving().cut_off();
    abandoned += storm.moving().abandoned();
  }
  // All of it has happened, so often in a thousand operations.
  const std::tuple<const char*, int64_t, double> all[] = {
      {"completed", counts.completed, 100},
      {"choices", counts.choices, 50},
      {"scored", counts.scored, 30},
      {"forks", counts.forks, 30},
      {"rewinds", counts.rewinds, 30},
      {"cancelled", counts.cancelled, 40},
      {"expired", counts.expired, 5},
      {"bad", counts.bad, 5},
      {"forgotten", counts.forgotten, 4},
      {"memory refused", counts.no_memory, 5},
      {"ended for memory", counts.ended_for_memory, 1},
      {"ended with all", counts.ended_with_all, 0.2},
      {"saved", saved, 4},
      {"loaded", loaded, 10},
      {"cut off", cut_off, 10},
      {"abandoned", abandoned, 8},
      {"hits", hits, 20},
      {"dropped", dropped, 150},
      {"parks", parks, 15},
      {"moved", moved, 15},
      {"returned", returned, 3},
      {"read", read, kReadOfThousand},
      {"damaged", damaged, 0.1}};
  for (const auto& [what, count, of_thousand] : all) {
    EXPECT_GT(static_cast<double>(count), of_thousand * kOperations / 1000) << what;
  }
}

}  // namespace
}  // namespace packrat
