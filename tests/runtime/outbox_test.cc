#include <atomic>
#include <limits>
#include <memory>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/outbox.h"
#include "runtime/steady_clock.h"
#include "runtime/woken_readers.h"

namespace packrat {
namespace {

using ::testing::ElementsAre;

constexpr size_t kAll = std::numeric_limits<size_t>::max();

// 32 GB, if it were taken at its word.
TEST(Outbox, AHugeMaxTokensTakesNoMemory) {
  Outbox outbox(nullptr);
  outbox.Reserve(std::numeric_limits<int>::max(), true);
  outbox.Append(5, TokenLogprobs{-1.0f, {}}, kAll);
  Outbox::Update update;
  ASSERT_TRUE(outbox.Take(&update));
  EXPECT_THAT(update.tokens, ElementsAre(5));
}

TEST(Outbox, TakeGivesWhatIsNew) {
  Outbox outbox(nullptr);
  Outbox::Update update;
  EXPECT_FALSE(outbox.Take(&update));
  outbox.Reserve(10, true);
  outbox.Admit();
  ASSERT_TRUE(outbox.Take(&update));
  EXPECT_TRUE(update.admitted);
  EXPECT_TRUE(update.tokens.empty());
  const absl::Time before = SteadyNow();
  outbox.Append(5, TokenLogprobs{-1.0f, {{5, -1.0f}}}, 3);
  const absl::Time between = SteadyNow();
  outbox.Append(6, TokenLogprobs{-2.0f, {}}, 4);
  ASSERT_TRUE(outbox.Take(&update));
  EXPECT_GE(update.since, before);
  EXPECT_LE(update.since, between);
  EXPECT_TRUE(update.admitted);
  EXPECT_THAT(update.tokens, ElementsAre(5, 6));
  ASSERT_EQ(update.logprobs.size(), 2u);
  EXPECT_EQ(update.logprobs[0].top[0].first, 5);
  EXPECT_EQ(update.safe_text_bytes, 4u);
  EXPECT_FALSE(update.finish.has_value());
  EXPECT_FALSE(outbox.Take(&update));
  const absl::Time later = SteadyNow();
  outbox.Append(7, std::nullopt, 4);
  outbox.Close({FinishReason::kLength, absl::OkStatus(), {}});
  ASSERT_TRUE(outbox.Take(&update));
  EXPECT_THAT(update.tokens, ElementsAre(7));
  EXPECT_GE(update.since, later);
  EXPECT_TRUE(update.logprobs.empty());
  EXPECT_EQ(update.finish->reason, FinishReason::kLength);
  EXPECT_EQ(update.safe_text_bytes, kAll);
  EXPECT_FALSE(outbox.Take(&update));
}

TEST(Outbox, AStopStringStaysHidden) {
  Outbox outbox(nullptr);
  outbox.Append(7, std::nullopt, 4);
  outbox.Close({FinishReason::kStopString, absl::OkStatus(), {}});
  Outbox::Update update;
  ASSERT_TRUE(outbox.Take(&update));
  EXPECT_EQ(update.safe_text_bytes, 4u);
}

TEST(Outbox, AtMostOneNotificationIsOutstanding) {
  int notified = 0;
  Outbox outbox([&] { ++notified; });
  Outbox::Update update;
  outbox.Notify();
  EXPECT_EQ(notified, 0);  // Nothing is new.
  outbox.Append(1, std::nullopt, kAll);
  outbox.Notify();
  outbox.Append(2, std::nullopt, kAll);
  outbox.Notify();
  EXPECT_EQ(notified, 1);
  EXPECT_TRUE(outbox.Take(&update));
  EXPECT_EQ(update.tokens.size(), 2u);
  outbox.Notify();
  EXPECT_EQ(notified, 1);  // Nothing is new.
  outbox.Append(3, std::nullopt, kAll);
  outbox.Notify();
  EXPECT_EQ(notified, 2);
}

constexpr absl::Duration kShort = absl::Milliseconds(1), kLong = absl::Minutes(10);

TEST(WokenReaders, AreWaitedForUntilAllHaveSettled) {
  WokenReaders readers;
  EXPECT_EQ(readers.Wait(kLong), absl::ZeroDuration());
  const uint64_t before = readers.Add();
  EXPECT_GE(readers.Wait(kShort), kShort);
  readers.NextStep();
  readers.Settle(before);  // Counts no more.
  EXPECT_EQ(readers.Wait(kLong), absl::ZeroDuration());
  const uint64_t step = readers.Add();
  readers.Add();
  readers.Settle(before);
  readers.Settle(step);
  EXPECT_GE(readers.Wait(kShort), kShort);  // One is left.
  std::atomic<bool> settled{false};
  std::thread last([&] {
    settled = true;
    readers.Settle(step);
  });
  readers.Wait(kLong);
  EXPECT_TRUE(settled);
  last.join();
}

TEST(Outbox, IsWaitedForUntilItsConsumerSettles) {
  const auto readers = std::make_shared<WokenReaders>();
  Outbox outbox([] {});
  Outbox::Update update;
  EXPECT_FALSE(outbox.Notify(readers));  // Nothing is new.
  EXPECT_EQ(readers->Wait(kLong), absl::ZeroDuration());
  outbox.Append(1, std::nullopt, kAll);
  EXPECT_FALSE(outbox.Notify(readers));
  EXPECT_TRUE(outbox.Take(&update));
  EXPECT_GE(readers->Wait(kShort), kShort);  // It is on its way.
  outbox.Settle();
  EXPECT_EQ(readers->Wait(kLong), absl::ZeroDuration());
}

TEST(Outbox, WhoseConsumerIsLateIsWaitedForOnceMore) {
  const auto readers = std::make_shared<WokenReaders>();
  int notified = 0;
  Outbox outbox([&] { ++notified; });
  Outbox::Update update;
  const auto notify = [&] {
    readers->NextStep();
    outbox.Append(1, std::nullopt, kAll);
    return outbox.Notify(readers);
  };
  EXPECT_FALSE(notify());
  for (const bool takes : {false, true}) {
    EXPECT_TRUE(notify());
    EXPECT_GE(readers->Wait(kShort), kShort);
    // No third time, whether it does not run or its client does not read.
    if (takes) outbox.Take(&update);
    EXPECT_FALSE(notify());
    EXPECT_EQ(readers->Wait(kLong), absl::ZeroDuration());
    outbox.Take(&update);
    outbox.Settle();
    EXPECT_FALSE(notify());
    EXPECT_GE(readers->Wait(kShort), kShort);
  }
  EXPECT_EQ(notified, 4);
}

// One that nobody reads.
TEST(Outbox, WithoutANotificationNobodyIsWaitedFor) {
  const auto readers = std::make_shared<WokenReaders>();
  Outbox outbox(nullptr);
  outbox.Append(1, std::nullopt, kAll);
  EXPECT_FALSE(outbox.Notify(readers));
  EXPECT_EQ(readers->Wait(kLong), absl::ZeroDuration());
}

// A consumer that looks only when notified gets everything.
TEST(Outbox, NothingIsLostBetweenThreads) {
  constexpr int kTokens = 20000;
  std::atomic<int> notifications{0};
  Outbox outbox([&] { notifications.fetch_add(1); });
  outbox.Reserve(kTokens, false);
  std::vector<int32_t> got;
  std::thread consumer([&] {
    int handled = 0;
    for (bool finished = false; !finished;) {
      while (notifications.load() == handled) std::this_thread::yield();
      ++handled;
      Outbox::Update update;
      if (!outbox.Take(&update)) continue;
      got.insert(got.end(), update.tokens.begin(), update.tokens.end());
      finished = update.finish.has_value();
    }
  });
  for (int i = 0; i < kTokens; ++i) {
    outbox.Append(i, std::nullopt, kAll);
    if (i == kTokens - 1) outbox.Close({FinishReason::kLength, absl::OkStatus(), {}});
    outbox.Notify();
  }
  consumer.join();
  ASSERT_EQ(got.size(), static_cast<size_t>(kTokens));
  for (int i = 0; i < kTokens; ++i) ASSERT_EQ(got[i], i);
}

TEST(OutboxDeathTest, NothingComesAfterTheFinish) {
  Outbox outbox(nullptr);
  outbox.Close({FinishReason::kLength, absl::OkStatus(), {}});
  EXPECT_DEATH(outbox.Append(1, std::nullopt, kAll), "a token after the finish");
  EXPECT_DEATH(outbox.Close({FinishReason::kLength, absl::OkStatus(), {}}), "finished twice");
}

TEST(FinishReason, Names) {
  EXPECT_STREQ(FinishReasonName(FinishReason::kLength), "length");
  EXPECT_STREQ(FinishReasonName(FinishReason::kEos), "eos");
  EXPECT_STREQ(FinishReasonName(FinishReason::kStopId), "stop_id");
  EXPECT_STREQ(FinishReasonName(FinishReason::kStopString), "stop_string");
  EXPECT_STREQ(FinishReasonName(FinishReason::kCancelled), "cancelled");
  EXPECT_STREQ(FinishReasonName(FinishReason::kDeadline), "deadline");
  EXPECT_STREQ(FinishReasonName(FinishReason::kError), "error");
}

}  // namespace
}  // namespace packrat
