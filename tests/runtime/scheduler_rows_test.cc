// Rows of logits as a budget beside tokens.
#include <algorithm>
#include <random>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/scheduler.h"
#include "tests/runtime/scheduler_fixture.h"

namespace packrat {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class SchedulerRowsTest : public SchedulerTest {
 protected:
  void Run(int position, int prompt_left, int first_row = kLastToken, int tenant = 0) {
    SchedulerTest::Run(position, prompt_left, 0, kNever, tenant);
    running_.back().first_row = first_row;
  }
  // Rows of logits of a piece of running_[i].
  static int Rows(const RunningItem& item, int tokens) {
    if (item.prompt_left == 0) return 1;
    const int end = item.position + tokens, last = item.position + item.prompt_left - 1;
    return std::max(0, end - std::max(item.position, std::min(item.first_row, last)));
  }
};

TEST_F(SchedulerRowsTest, AScoredPromptTakesNoMoreRowsThanThereAre) {
  rows_ = 40;
  Run(0, 60, /*first_row=*/0);
  Plan();
  EXPECT_THAT(PieceTokens(), ElementsAre(32));  // To a block's end.
  running_[0] = {running_[0].rank, 0, kNever, 32, 28, false, 0};
  EXPECT_THAT((Plan(), PieceTokens()), ElementsAre(28));
}

TEST_F(SchedulerRowsTest, TokensBeforeTheFirstRowNeedNone) {
  rows_ = 9;
  budget_ = 128;
  Run(0, 100, /*first_row=*/70);
  EXPECT_THAT((Plan(), PieceTokens()), ElementsAre(64));  // 79 would be too many by a part of one.
  Run(0, 20);
  EXPECT_THAT((Plan(), PieceTokens()), ElementsAre(64, 20));
}

TEST_F(SchedulerRowsTest, EverySequenceHasARowOfItsOwn) {
  rows_ = max_running_ = 8;
  budget_ = 256;
  Run(0, 100, /*first_row=*/0);
  Run(0, 50);  // Plain, and it comes to its end beside the scored ones.
  for (int i = 0; i < 5; ++i) Run(30 + i, 0);
  Run(0, 100, /*first_row=*/10);
  Plan();
  std::vector<int> tokens(running_.size(), 0);
  for (const Piece& piece : plan_.pieces) tokens[piece.index] = piece.num_tokens;
  // Of the two rows that are left the first prompt takes both, and moves inside a block.
  EXPECT_THAT(tokens, ElementsAre(2, 50, 1, 1, 1, 1, 1, 0));
}

TEST_F(SchedulerRowsTest, TenantsShareRowsByWeight) {
  rows_ = 64;
  budget_ = 512;
  tenants_ = {{1, 0}, {1, 0}};
  Run(0, 200, /*first_row=*/0, /*tenant=*/0);
  Run(0, 200, /*first_row=*/0, /*tenant=*/0);
  Run(0, 200, /*first_row=*/0, /*tenant=*/1);
  Plan();
  ASSERT_EQ(plan_.pieces.size(), 2u);
  // A block for the first to move; of 48 each has 24, of which a block; the rest goes in order.
  EXPECT_THAT(PieceTokens(), ElementsAre(48, 16));
  EXPECT_EQ(plan_.pieces[1].index, 2);
}

TEST_F(SchedulerRowsTest, AdmittedPromptsCountToo) {
  rows_ = 16;
  Wait(60, 1);
  Wait(10, 1);
  waiting_[{0, 0}].items[0].first_row = 0;
  Plan();
  EXPECT_THAT(PieceTokens(), ElementsAre(15, 10));
  EXPECT_THAT(plan_.expire_running, IsEmpty());
}

TEST_F(SchedulerRowsTest, InvariantsOnRandomInputs) {
  std::mt19937 random(3);
  const auto pick = [&](int n) { return static_cast<int>(random() % n); };
  for (int round = 0; round < 3000; ++round) {
    running_.clear();
    max_running_ = 1 + pick(12);
    budget_ = std::max(16, max_running_) + pick(100);
    rows_ = max_running_ + (pick(3) ? pick(60) : 0);
    const int count = 1 + pick(max_running_);
    bool prompt_left = false;
    for (int i = 0; i < count; ++i) {
      const int position = pick(80), left = pick(3) ? 1 + pick(150) : 0;
      const int first_row = pick(2) ? kLastToken : pick(200);
      Run(position, left, left > 0 ? first_row : kLastToken, pick(3));
      prompt_left = prompt_left || left > 0;
    }
    Plan();
    int tokens = 0, rows = 0, prompts = 0;
    for (const Piece& piece : plan_.pieces) {
      const RunningItem& item = running_[piece.index];
      ASSERT_GE(piece.num_tokens, 1);
      ASSERT_LE(piece.num_tokens, std::max(1, item.prompt_left));
      tokens += piece.num_tokens;
      rows += Rows(item, piece.num_tokens);
      prompts += item.prompt_left > 0;
    }
    ASSERT_LE(tokens, budget_) << round;
    ASSERT_LE(rows, rows_) << round;
    const auto decoding = std::count_if(running_.begin(), running_.end(),
                                        [](const auto& item) { return item.prompt_left == 0; });
    ASSERT_EQ(static_cast<int64_t>(plan_.pieces.size()) - prompts, decoding);
    // Somebody moves wherever there is a token left for it.
    if (prompt_left && decoding < budget_) {
      ASSERT_GT(prompts, 0) << round;
    }
  }
}

}  // namespace
}  // namespace packrat
