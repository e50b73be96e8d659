// States below the pool as requests see them: in memory and on the disk, and of a disk that damages
// them.
#include <sys/resource.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "runtime/saved_state.h"
#include "tests/runtime/engine_tiers_fixture.h"
#include "tests/runtime/state_pieces.h"

namespace packrat {
namespace {

TEST_F(EngineTiersTest, ComesBackFromMemory) {
  StartTiers(20, 0);
  const Text text = Turn(RandomPrompt(&random_, 70));
  Others(14);
  EXPECT_GT(engine_->stats().tiers.memory.states, 5);
  EXPECT_EQ(engine_->stats().tiers.dropped, 0);
  Turn(text);
  EXPECT_EQ(cached_tokens_, static_cast<int>(text.size()) - 1);
  EXPECT_EQ(engine_->stats().tiers.returned, 1);
  ExpectAllFree();
}

TEST_F(EngineTiersTest, ComesBackFromTheDisk) {
  StartTiers(1, 40);
  std::vector<Text> texts;
  for (int i = 0; i < 12; ++i) {
    texts.push_back(Turn(RandomPrompt(&random_, 70)));
    Settle();
  }
  EXPECT_GT(engine_->stats().tiers.disk.states, 5);
  EXPECT_EQ(engine_->stats().tiers.disk.states, static_cast<int64_t>(Files().size()));
  for (const Text& text : texts) {
    Turn(text);
    EXPECT_EQ(cached_tokens_, static_cast<int>(text.size()) - 1);
    EXPECT_EQ(miss_, CacheMiss::kNone);
    Settle();
  }
  EXPECT_GT(engine_->stats().tiers.read_from_disk, 5);
  EXPECT_EQ(engine_->stats().tiers.dropped, 0);
  EXPECT_EQ(engine_->TakeStateTrouble(), absl::OkStatus());
  engine_.reset();
  EXPECT_TRUE(Files().empty());
}

// What nobody is likely to ask for again is not worth the way.
TEST_F(EngineTiersTest, WhatIsNotWorthTheWayIsDropped) {
  StartTiers(1, 40, /*pool=*/4);
  for (int i = 0; i < 12; ++i) Turn(RandomPrompt(&random_, 70), 5, /*importance=*/0);
  Settle();
  EXPECT_EQ(engine_->stats().tiers.moved_to_memory, 0);
  EXPECT_GT(engine_->stats().cache.dropped, 5);
  // But for what has shown that it is asked for.
  const Text shared = Turn(RandomPrompt(&random_, 100), 5, 0);
  for (int i = 0; i < 3; ++i) {
    Text text = shared;
    text.push_back(10 + i);
    Turn(text, 2, 0);
    EXPECT_EQ(cached_tokens_, static_cast<int>(shared.size()) - 1);
  }
  for (int i = 0; i < 12; ++i) Turn(RandomPrompt(&random_, 70), 5, 0);
  Settle();
  EXPECT_GT(engine_->stats().tiers.moved_to_memory, 0);
  Turn(shared);
  EXPECT_GT(cached_tokens_, 90);
}

TEST_F(EngineTiersTest, DamageIsAMiss) {
  StartTiers(1, 40);
  const Text text = Turn(RandomPrompt(&random_, 70));
  Others(14);
  for (const std::string& file : Files()) fs::resize_file(file, fs::file_size(file) - 1);
  Turn(text);
  EXPECT_EQ(cached_tokens_, 0);
  EXPECT_EQ(miss_, CacheMiss::kEvicted);
  EXPECT_EQ(engine_->stats().tiers.read_failures, 1);
  EXPECT_TRUE(absl::IsDataLoss(engine_->TakeStateTrouble()));
  ExpectAllFree();
}

// Whoever asks before the first step sees how much room there is.
TEST_F(EngineTiersTest, TheirLimitsAreKnownAtOnce) {
  StartTiers(1, 40);
  const StateTiers::Stats tiers = engine_->stats().tiers;
  EXPECT_EQ(tiers.memory.limit, engine_->options().state_host_memory);
  EXPECT_EQ(tiers.disk.limit, engine_->options().state_disk);
  EXPECT_GT(tiers.disk.limit, tiers.memory.limit);
}

TEST_F(EngineTiersTest, ASavedStateComesFromTheDiskToo) {
  StartTiers(1, 40);
  const Text text = Turn(RandomPrompt(&random_, 70));
  Others(14);
  ASSERT_GT(engine_->stats().tiers.disk.states, 2);
  absl::StatusOr<SavedState> saved = absl::UnknownError("not called");
  SaveWhole(engine_.get(), {}, text, [&](absl::StatusOr<SavedState> s) { saved = std::move(s); });
  Step();
  Run();
  ASSERT_TRUE(saved.ok()) << saved.status();
  EXPECT_EQ(saved->position, static_cast<int>(text.size()) - 1);
  EXPECT_EQ(saved->tokens, text);
  EXPECT_EQ(engine_->stats().tiers.read_from_disk, 1);
}

// Larger than all of the memory beside the pool.
class InPiecesTest : public EngineTiersTest {
 protected:
  // Memory for a tenth of a longest sequence, and a pool for three.
  void StartSmall() { StartTiers(0.1, 40, /*pool=*/3); }
  // Until what is written ahead is on the disk.
  void LetWrite() {
    for (int quiet = 0; quiet < 10; ++quiet) {
      absl::SleepFor(absl::Milliseconds(1));
      while (Step() || engine_->stats().tiers.memory.bytes > 0) {
        quiet = 0;
        std::this_thread::yield();
      }
    }
  }
  // Sessions whose states fill the pool a few times.
  std::vector<Text> Sessions(int count) {
    std::vector<Text> texts;
    for (int i = 0; i < count; ++i) {
      texts.push_back(Turn(RandomPrompt(&random_, 200)));
      LetWrite();
    }
    return texts;
  }
};

TEST_F(InPiecesTest, TheyGoToTheDiskAndComeBack) {
  StartSmall();
  const std::vector<Text> texts = Sessions(12);
  EXPECT_EQ(engine_->stats().tiers.moved_to_memory, 0);
  EXPECT_EQ(engine_->stats().tiers.dropped, 0);
  EXPECT_GT(engine_->stats().tiers.disk.states, 8);
  for (int round = 0; round < 2; ++round) {  // The second from the same files.
    for (const Text& text : texts) {
      Turn(text, 5, /*importance=*/0);
      EXPECT_EQ(cached_tokens_, static_cast<int>(text.size()) - 1);
      EXPECT_EQ(miss_, CacheMiss::kNone);
      LetWrite();
    }
  }
  EXPECT_GT(engine_->stats().tiers.returned, 12);
  EXPECT_EQ(engine_->stats().tiers.read_failures, 0);
  EXPECT_EQ(engine_->TakeStateTrouble(), absl::OkStatus());
  ExpectAllFree();
  engine_.reset();
  EXPECT_TRUE(Files().empty());
}

// Who asks at once comes one after the other, and nobody's parts fail for what is on its way.
TEST_F(InPiecesTest, ManyAskAtOnce) {
  StartSmall();
  const std::vector<Text> texts = Sessions(8);
  std::vector<std::unique_ptr<Consumer>> consumers;
  for (const Text& text : texts) {
    consumers.push_back(std::make_unique<Consumer>());
    SubmitTurn(consumers.back().get(), text, 5, 0);
  }
  Run();
  int cached = 0;
  for (size_t i = 0; i < texts.size(); ++i) {
    Finish(consumers[i].get(), texts[i], 5);
    cached += cached_tokens_ > 0;
  }
  EXPECT_GT(cached, 4);
  ExpectAllFree();
}

TEST_F(InPiecesTest, DamageIsAMiss) {
  StartSmall();
  const std::vector<Text> texts = Sessions(6);
  for (const std::string& file : Files()) {
    std::fstream bytes(file, std::ios::in | std::ios::out | std::ios::binary);
    bytes.seekp(1000);
    bytes.write("damage", 6);
  }
  Turn(texts[0]);
  EXPECT_EQ(cached_tokens_, 0);
  EXPECT_EQ(miss_, CacheMiss::kEvicted);
  EXPECT_EQ(engine_->stats().tiers.read_failures, 1);
  ExpectAllFree();
}

TEST_F(InPiecesTest, ASavedStateComesFromTheDiskToo) {
  StartSmall();
  const std::vector<Text> texts = Sessions(6);
  absl::StatusOr<SavedState> saved = absl::UnknownError("not called");
  SaveWhole(engine_.get(), {}, texts[0],
            [&](absl::StatusOr<SavedState> s) { saved = std::move(s); });
  Step();
  Run();
  ASSERT_TRUE(saved.ok()) << saved.status();
  EXPECT_EQ(saved->position, static_cast<int>(texts[0].size()) - 1);
}

// A disk that is full takes nothing, and is not asked over and over.
TEST_F(InPiecesTest, AFullDiskIsNotAskedAgain) {
  StartSmall();
  signal(SIGXFSZ, SIG_IGN);
  rlimit before, small;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  small = before;
  small.rlim_cur = 100;
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const std::vector<Text> texts = Sessions(4);
  for (int i = 0; i < 200; ++i) Step();
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  EXPECT_LE(engine_->stats().tiers.write_failures, 4);
  EXPECT_GT(engine_->stats().tiers.write_failures, 0);
  Turn(texts[0]);
  EXPECT_EQ(cached_tokens_, 0);
  ExpectAllFree();
}

}  // namespace
}  // namespace packrat
