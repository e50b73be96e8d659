// Turns of sessions whose store is slow, hangs or has no room for them, and clients that go
// meanwhile.
#include <algorithm>
#include <cstdint>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "runtime/session_store.h"
#include "runtime/steady_clock.h"
#include "server/generation/call_environment.h"
#include "server/generation/caller.h"
#include "server/stored_sessions.h"
#include "tests/server/fake_front.h"
#include "tests/server/stored_replica.h"

namespace packrat {
namespace {

using GenerationStoreTest = StoredReplicaTest;

// Who waits for the store's answer to a turn is no client that does not read.
TEST_F(GenerationStoreTest, TimeInTheStoreIsNotTheClients) {
  Start(/*with_store=*/true);
  const std::string session = Make();
  FakeCaller caller;
  replica_->gate().Close();
  caller.Start(replica_.get(), Ask(session, 4));
  replica_->gate().WaitUntilHeld();
  store_->Close();
  replica_->gate().Open();
  ASSERT_TRUE(Eventually([&] { return store_->held() == 1; }));
  absl::SleepFor(3 * options_.server.stream_idle_timeout);
  EXPECT_EQ(caller.aborts(), 0);
  EXPECT_EQ(TokensOf(session), 0);  // It may yet come to nothing.
  store_->Open();
  ASSERT_TRUE(caller.WaitForEnd());
  EXPECT_TRUE(caller.status().ok()) << caller.status();
  EXPECT_EQ(TokensOf(session), 6);
}

// The engine is done with it before it hears that the client has gone.
TEST_F(GenerationStoreTest, ATurnOfWhichNobodyHeardIsNotKept) {
  options_.server.stream_idle_timeout = absl::Seconds(60);
  Start(/*with_store=*/false);
  const std::string session = Make();
  FakeCaller caller(FakeCaller::Reads::kWhenTold);
  replica_->gate().Close();
  caller.Start(replica_.get(), Ask(session, 4));
  ASSERT_TRUE(caller.WaitFor("SendHeaders"));
  replica_->gate().Open();
  ASSERT_TRUE(Eventually([&] { return replica_->engine().idle(); }));
  caller.Leave();
  ASSERT_TRUE(caller.WaitForEnd());
  EXPECT_TRUE(absl::IsCancelled(caller.status())) << caller.status();
  EXPECT_EQ(TokensOf(session), 0);
}

// Of an answer that comes as a whole a client that goes has heard nothing.
TEST_F(GenerationStoreTest, OfAWholeAnswerThatIsCancelledNothingIsKept) {
  Start(/*with_store=*/false);
  for (const bool whole : {false, true}) {
    const std::string session = Make();
    FakeCaller caller;
    CallInfo info;
    info.whole = whole;
    replica_->gate().Close();
    replica_->gate().Allow(5);
    caller.Start(replica_.get(), Ask(session, 100), info);
    ASSERT_TRUE(Eventually([&] { return !caller.ids().empty(); }));
    replica_->gate().WaitUntilHeld();
    caller.Cancel();
    replica_->gate().Open();
    ASSERT_TRUE(caller.WaitForEnd());
    EXPECT_TRUE(absl::IsCancelled(caller.status())) << caller.status();
    EXPECT_EQ(TokensOf(session) == 0, whole);
    // The turn can be sent again, and what comes to its end is kept.
    FakeCaller again;
    again.Start(replica_.get(), Ask(session, 4), info);
    ASSERT_TRUE(again.WaitForEnd());
    EXPECT_TRUE(again.status().ok()) << again.status();
    EXPECT_EQ(TokensOf(session) == 6, whole);
  }
}

// Also where the engine was done before it heard of that.
TEST_F(GenerationStoreTest, OfAWholeAnswerThatIsDoneTooLateNothingIsKept) {
  options_.server.stream_idle_timeout = absl::Seconds(60);
  Start(/*with_store=*/false);
  const std::string session = Make();
  FakeCaller caller(FakeCaller::Reads::kWhenTold);
  CallInfo info;
  info.whole = true;
  replica_->gate().Close();
  caller.Start(replica_.get(), Ask(session, 4), info);
  ASSERT_TRUE(caller.WaitFor("SendHeaders"));
  replica_->gate().Open();
  ASSERT_TRUE(Eventually([&] { return replica_->engine().idle(); }));
  caller.Cancel();
  caller.Answer();
  ASSERT_TRUE(caller.WaitFor("WriteAndFinish"));
  caller.Answer(false);
  ASSERT_TRUE(caller.WaitForEnd());
  EXPECT_EQ(TokensOf(session), 0);
}

TEST_F(GenerationStoreTest, WhatTheQueueRefusesIsCounted) {
  Start(/*with_store=*/true, /*max_waiting=*/1);
  const std::string session = Make();
  FakeCaller caller;
  replica_->gate().Close();
  caller.Start(replica_.get(), Ask(session, 4));
  replica_->gate().WaitUntilHeld();
  HoldThreads();
  HoldOne();
  replica_->gate().Open();
  ASSERT_TRUE(caller.WaitForEnd());
  EXPECT_TRUE(caller.status().ok()) << caller.status();
  EXPECT_EQ(stored_->not_stored(), 1);
  EXPECT_EQ(TokensOf(session), 6);
}

// Who goes, or has no time left, while others wait for the store waits no longer, and its place is
// free.
TEST_F(GenerationStoreTest, WhoGoesDoesNotWaitForTheStore) {
  Start(/*with_store=*/true);
  const std::string session = Make();
  for (const bool begun : {true, false}) {
    FakeCaller left, late;
    if (begun) {
      store_->Close();
    } else {
      HoldThreads();
    }
    left.Start(replica_.get(), Ask(session, 4));
    CallInfo info;
    info.deadline = SteadyNow() + absl::Milliseconds(300);
    late.Start(replica_.get(), Ask(session, 4), info);
    if (begun) {
      ASSERT_TRUE(Eventually([&] { return store_->held() == 2; }));
    } else {
      ASSERT_TRUE(Eventually([&] { return stored_->waiting() == 2; }));
    }
    EXPECT_EQ(streams(), 2);
    left.Leave();
    ASSERT_TRUE(left.WaitForEnd());
    EXPECT_TRUE(absl::IsCancelled(left.status())) << left.status();
    ASSERT_TRUE(late.WaitForEnd());
    EXPECT_TRUE(absl::IsDeadlineExceeded(late.status())) << late.status();
    EXPECT_EQ(streams(), 0);
    EXPECT_EQ(stored_->waiting(), 0);
    // Nothing comes of them once the store answers.
    store_->Open();
    ASSERT_TRUE(Eventually([&] { return store_->held() == 0; }));
    EXPECT_EQ(TokensOf(session), 0);
    EXPECT_EQ(replica_->environment()->sessions->stats().busy, 0);
  }
}

// More calls than there are threads: those about sessions that are here go on without it, and the
// others are told.
TEST_F(GenerationStoreTest, AStoreThatHangsHoldsUpAFewCalls) {
  options_.server.stream_idle_timeout = absl::Seconds(60);
  options_.server.max_streams = 64;
  Start(/*with_store=*/true, /*max_waiting=*/64);
  store_->Close();
  std::vector<std::unique_ptr<FakeCaller>> callers;
  std::vector<std::string> sessions;
  for (int i = 0; i < 20; ++i) {
    sessions.push_back(Make());
    callers.push_back(std::make_unique<FakeCaller>());
    callers.back()->Start(replica_.get(), Ask(sessions.back(), 4));
    // The first ones are those that hang.
    const int held = std::min(i + 1, StoredSessions::kCalls);
    ASSERT_TRUE(Eventually([&] { return store_->held() == held; }));
  }
  FakeCaller unknown;
  unknown.Start(replica_.get(), Ask(std::string(21, 'B') + "A", 4));
  ASSERT_TRUE(unknown.WaitForEnd());
  EXPECT_TRUE(absl::IsUnavailable(unknown.status())) << unknown.status();
  for (size_t i = StoredSessions::kCalls; i < callers.size(); ++i) {
    ASSERT_TRUE(callers[i]->WaitForEnd()) << i;
    EXPECT_TRUE(callers[i]->status().ok()) << callers[i]->status();
    EXPECT_EQ(TokensOf(sessions[i]), 6);
  }
  EXPECT_EQ(store_->held(), StoredSessions::kCalls);
  EXPECT_EQ(stored_->not_stored(), 20 - StoredSessions::kCalls);
  EXPECT_GT(stored_->stats().failures, 0);
  store_->Open();
  for (const auto& caller : callers) {
    ASSERT_TRUE(caller->WaitForEnd());
    EXPECT_TRUE(caller->status().ok()) << caller->status();
  }
}

class GuardedStoreTest : public ::testing::Test {
 protected:
  GuardedStoreTest() {
    auto store = std::make_unique<GatedStore>();
    store_ = store.get();
    guarded_ = std::make_unique<GuardedStore>(std::move(store), &log_, /*most_calls=*/2, kPatience);
  }

  static constexpr absl::Duration kPatience = absl::Milliseconds(100);
  const StoreKey key_{"tenant", "handle"};
  Logger log_{Logger::Format::kText, [](const std::string&) {}};
  GatedStore* store_;
  std::unique_ptr<GuardedStore> guarded_;
};

TEST_F(GuardedStoreTest, WhileACallHangsOthersAreToldAtOnce) {
  store_->Close();
  std::thread hangs([&] { EXPECT_EQ(guarded_->Delete(key_, absl::Hours(1)), absl::OkStatus()); });
  ASSERT_TRUE(Eventually([&] { return store_->held() == 1; }));
  absl::SleepFor(kPatience);
  for (int i = 0; i < 10; ++i) {
    EXPECT_TRUE(absl::IsUnavailable(guarded_->Version(key_).status()));
    absl::SleepFor(absl::Milliseconds(150));  // Longer than a moment in all.
  }
  EXPECT_EQ(store_->held(), 1);
  EXPECT_GE(guarded_->stats().failures, 2);
  store_->Open();
  hangs.join();
  EXPECT_TRUE(Eventually([&] { return absl::IsNotFound(guarded_->Version(key_).status()); }));
}

TEST_F(GuardedStoreTest, TimeForAPieceIsNotTheStores) {
  std::promise<void> go;
  std::thread slow([&] {
    const auto next = [&, pieces = 0]() mutable -> absl::StatusOr<std::string> {
      if (++pieces == 2) go.get_future().wait();
      return std::string(pieces < 3 ? "piece" : "");
    };
    EXPECT_EQ(guarded_->Put(key_, SessionPast({1, 2}), next, absl::Hours(1)), absl::OkStatus());
  });
  for (int i = 0; i < 10; ++i) {
    EXPECT_TRUE(absl::IsNotFound(guarded_->Version(key_).status()));
    absl::SleepFor(kPatience / 4);
  }
  go.set_value();
  slow.join();
  EXPECT_EQ(*guarded_->Version(key_), (SessionVersion{1, 2}));
}

// What took some of it may have the rest another time; what took nothing is down.
TEST_F(GuardedStoreTest, AStoreThatTookAPieceIsAskedAgain) {
  for (const bool two : {true, false}) {
    store_->Say(absl::UnavailableError("it takes too long"));
    const auto next = [pieces = two ? 2 : 0]() mutable -> absl::StatusOr<std::string> {
      return std::string(pieces-- > 0 ? "piece" : "");
    };
    EXPECT_TRUE(
        absl::IsUnavailable(guarded_->Put(key_, SessionPast({1, 2}), next, absl::Hours(1))));
    store_->Say(absl::OkStatus());
    const absl::Status status = guarded_->Version(key_).status();
    EXPECT_EQ(status.code(), two ? absl::StatusCode::kNotFound : absl::StatusCode::kUnavailable);
  }
}

}  // namespace
}  // namespace packrat
