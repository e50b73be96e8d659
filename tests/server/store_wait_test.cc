// Calls about sessions whose client goes, or has no time left, while they wait for the store.
#include "server/generation/store_wait.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <future>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "runtime/steady_clock.h"
#include "server/generation/byte_budget.h"
#include "server/generation/transfer_call.h"
#include "server/generation/unary_methods.h"
#include "tests/server/fake_front.h"
#include "tests/server/stored_replica.h"

namespace packrat {
namespace {

// No replica has it.
std::string NobodysHandle() { return std::string(21, 'B') + "A"; }

// A call with one answer, as a front keeps it: request and response go with the answer.
class Asked {
 public:
  template <typename Request, typename Response>
  Asked(Replica* replica, const UnaryMethod<Request, Response>& method, const Request& request,
        const CallInfo& info = {}) {
    auto messages = std::make_shared<std::pair<Request, Response>>(request, Response());
    call_ =
        UnaryCall::Create(method, replica->environment(), info, &messages->first, &messages->second,
                          [ended = ended_, messages](const absl::Status& status) mutable {
                            messages.reset();
                            ended->set_value(status);
                          });
    call_->Start();
  }
  void Leave() { call_->Cancelled(); }
  const absl::Status& Wait() { return answered_.get(); }

 private:
  const std::shared_ptr<std::promise<absl::Status>> ended_ =
      std::make_shared<std::promise<absl::Status>>();
  const std::shared_future<absl::Status> answered_ = ended_->get_future().share();
  std::shared_ptr<UnaryCall> call_;
};

template <typename Request>
Request About(const std::string& session) {
  Request request;
  const auto* field = Request::descriptor()->FindFieldByName("session");
  if (field != nullptr) request.GetReflection()->SetString(&request, field, session);
  return request;
}
template <>
v1::RewindSessionRequest About(const std::string& session) {
  v1::RewindSessionRequest request;
  request.set_session(session);
  request.set_tokens(0);
  return request;
}

class StoreWaitTest : public StoredReplicaTest {
 protected:
  std::string MakeWithTurn() {
    const std::string session = Make();
    FakeCaller caller;
    caller.Start(replica_.get(), Ask(session, 4));
    EXPECT_TRUE(caller.WaitForEnd());
    EXPECT_EQ(caller.status(), absl::OkStatus());
    return session;
  }
  static CallInfo Soon() {
    CallInfo info;
    info.deadline = SteadyNow() + absl::Seconds(1);
    return info;
  }
  void ExpectToEndOnceTheClientHasGone(Asked* left, Asked* late) {
    left->Leave();
    EXPECT_TRUE(absl::IsCancelled(left->Wait())) << left->Wait();
    EXPECT_TRUE(absl::IsDeadlineExceeded(late->Wait())) << late->Wait();
  }
  template <typename Request, typename Response>
  void ExpectNotToWait(const UnaryMethod<Request, Response>& method) {
    if (!method.may_ask_store) return;
    SCOPED_TRACE(method.name);
    ++methods_;
    const std::string session = MakeWithTurn();
    store_->Close();
    Asked left(replica_.get(), method, About<Request>(session));
    Asked late(replica_.get(), method, About<Request>(session), Soon());
    EXPECT_TRUE(Eventually([&] { return store_->held() == 2; }));
    ExpectToEndOnceTheClientHasGone(&left, &late);
    EXPECT_EQ(store_->held(), 2);
    store_->Open();
    EXPECT_TRUE(Eventually([&] { return store_->held() == 0; }));
    // Of those who had only asked for it nothing comes once the store answers.
    if (std::string(method.name) == "DeleteSession") return;
    EXPECT_EQ(TokensOf(session), 6);
  }

  int methods_ = 0;
};

TEST_F(StoreWaitTest, WhoGoesDoesNotWaitForTheStoresAnswer) {
  Start(/*with_store=*/true);
  ForEachUnaryMethod([this](const auto& method) { ExpectNotToWait(method); });
  EXPECT_EQ(methods_, 5);
}

TEST_F(StoreWaitTest, WhoGoesBeforeItsTurnLeavesItsPlaceToOthers) {
  Start(/*with_store=*/true, /*max_waiting=*/2);
  const std::string session = MakeWithTurn();
  const UnaryMethod<v1::RewindSessionRequest, v1::Session> rewind = {"RewindSession",
                                                                     &RewindSession, true};
  HoldThreads();
  const auto request = About<v1::RewindSessionRequest>(session);
  Asked left(replica_.get(), rewind, request), late(replica_.get(), rewind, request, Soon());
  EXPECT_EQ(stored_->waiting(), 2);
  Asked refused(replica_.get(), rewind, request);
  EXPECT_TRUE(absl::IsResourceExhausted(refused.Wait())) << refused.Wait();
  ExpectToEndOnceTheClientHasGone(&left, &late);
  EXPECT_EQ(stored_->waiting(), 0);
  // As a call of Generate does.
  FakeCaller caller;
  caller.Start(replica_.get(), Ask(session, 4));
  EXPECT_EQ(stored_->waiting(), 1);
  caller.Leave();
  ASSERT_TRUE(caller.WaitForEnd());
  EXPECT_EQ(stored_->waiting(), 0);
  EXPECT_EQ(TokensOf(session), 6);
}

// Those who wait for one of the store's few calls.
TEST_F(StoreWaitTest, WhoHasGoneDoesNotAskTheStore) {
  Start(/*with_store=*/true);
  store_->Close();
  std::vector<std::thread> threads;
  for (int i = 0; i < StoredSessions::kCalls; ++i) {
    threads.emplace_back([this] {
      EXPECT_TRUE(absl::IsNotFound(
          stored_->Fetch({}, NobodysHandle(), std::nullopt, [] { return false; })));
    });
  }
  ASSERT_TRUE(Eventually([&] { return store_->held() == StoredSessions::kCalls; }));
  std::atomic<bool> gone{false};
  const auto has_gone = [&gone] { return gone.load(); };
  threads.emplace_back([&] {
    EXPECT_TRUE(absl::IsCancelled(stored_->Fetch({}, NobodysHandle(), std::nullopt, has_gone)));
  });
  threads.emplace_back([&] {
    std::vector<int32_t> text;
    EXPECT_TRUE(absl::IsCancelled(stored_->Look({}, NobodysHandle(), &text, has_gone).status()));
  });
  gone = true;
  store_->Open();
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(stored_->stats().calls.load(), StoredSessions::kCalls);
}

// Gives a session in the smallest pieces.
class PiecesStore final : public SessionStore {
 public:
  explicit PiecesStore(std::function<void()> on_piece) : on_piece_(std::move(on_piece)) {}
  absl::StatusOr<SessionVersion> Get(const StoreKey& /*key*/, const Sink& take) override {
    for (const char& byte : absl::string_view("PACKRAT\x1a")) {
      on_piece_();
      const absl::StatusOr<bool> more = take({&byte, 1});
      if (!more.ok()) return more.status();
    }
    return SessionVersion{1, 1};
  }
  absl::StatusOr<SessionVersion> Version(const StoreKey& /*key*/) override {
    return SessionVersion{1, 1};
  }
  absl::Status Put(const StoreKey&, const SessionPast&, const Source&, absl::Duration) override {
    return absl::OkStatus();
  }
  absl::Status Delete(const StoreKey& /*key*/, absl::Duration /*ttl*/) override {
    return absl::OkStatus();
  }

 private:
  const std::function<void()> on_piece_;
};

TEST_F(StoreWaitTest, WhatNobodyWaitsForIsNotReadToItsEnd) {
  Start(/*with_store=*/false);
  const CallEnvironment& environment = *replica_->environment();
  int pieces = 0;
  StoredSessions stored(std::make_unique<PiecesStore>([&pieces] { ++pieces; }),
                        environment.sessions, environment.served.load()->transfer, 1,
                        environment.log);
  const absl::Status status =
      stored.Fetch({}, NobodysHandle(), std::nullopt, [&pieces] { return pieces == 3; });
  EXPECT_TRUE(absl::IsCancelled(status)) << status;
  EXPECT_EQ(pieces, 3);
}

class Transfer final : public TransferCall {
 public:
  explicit Transfer(CallEnvironment* environment) : TransferCall("Transfer", environment, {}) {
    EXPECT_EQ(Enter(), absl::OkStatus());
  }
  using TransferCall::End, TransferCall::Fetch, TransferCall::Leave, TransferCall::Load,
      TransferCall::NextBytes, TransferCall::Pack, TransferCall::TakeBytes;
  // For `next`.
  std::function<void(const absl::Status&)> Note() {
    return [ended = ended_](const absl::Status& status) { ended->set_value(status); };
  }
  absl::Status Wait() { return ended_->get_future().get(); }

 private:
  bool cancelled() const override { return false; }
  void Drop() override {}

  const std::shared_ptr<std::promise<absl::Status>> ended_ =
      std::make_shared<std::promise<absl::Status>>();
};

TEST_F(StoreWaitTest, WhoGoesWhileASessionIsSavedOrLoadedDoesNotWaitForTheStore) {
  Start(/*with_store=*/true);
  ByteBudget budget{1 << 20};
  replica_->environment()->transfer_bytes = &budget;
  const auto request = About<v1::SaveSessionRequest>(MakeWithTurn());
  Transfer save(replica_->environment());
  store_->Close();
  save.Fetch(request, save.Note());
  ASSERT_TRUE(Eventually([&] { return store_->held() == 1; }));
  save.Leave();
  const absl::Status left = save.Wait();
  EXPECT_TRUE(absl::IsCancelled(left)) << left;
  save.End();
  store_->Open();
  ASSERT_TRUE(Eventually([&] { return store_->held() == 0; }));  // Or this one is held again.

  Transfer whole(replica_->environment()), load(replica_->environment());
  whole.Fetch(request, whole.Note());
  EXPECT_EQ(whole.Wait(), absl::OkStatus());
  ASSERT_TRUE(whole.Pack(request).ok());
  for (;;) {
    const std::optional<std::string> bytes = whole.NextBytes();
    if (!bytes.has_value() || bytes->empty()) break;
    ASSERT_EQ(load.TakeBytes(*bytes), absl::OkStatus());
  }
  whole.End();
  store_->Close();
  const int64_t stored = stored_->stats().stored;
  v1::LoadSessionResponse response;
  load.Load("", std::nullopt, &response, load.Note());
  ASSERT_TRUE(Eventually([&] { return store_->held() == 1; }));
  load.Leave();
  const absl::Status gone = load.Wait();
  EXPECT_TRUE(absl::IsCancelled(gone)) << gone;
  load.End();
  // What has begun goes on by itself.
  store_->Open();
  EXPECT_TRUE(Eventually([&] { return stored_->stats().stored == stored + 1; }));
}

// It is here in any case.
TEST_F(StoreWaitTest, WhatIsLoadedAndNotStoredIsCounted) {
  Start(/*with_store=*/true, /*max_waiting=*/1);
  ByteBudget budget{1 << 20};
  replica_->environment()->transfer_bytes = &budget;
  const auto request = About<v1::SaveSessionRequest>(MakeWithTurn());
  Transfer save(replica_->environment()), load(replica_->environment());
  ASSERT_TRUE(save.Pack(request).ok());
  for (;;) {
    const std::optional<std::string> bytes = save.NextBytes();
    if (!bytes.has_value() || bytes->empty()) break;
    ASSERT_EQ(load.TakeBytes(*bytes), absl::OkStatus());
  }
  save.End();
  HoldThreads();
  HoldOne();
  v1::LoadSessionResponse response;
  load.Load("", std::nullopt, &response, load.Note());
  EXPECT_EQ(load.Wait(), absl::OkStatus());
  load.End();
  EXPECT_EQ(stored_->not_stored(), 1);
  EXPECT_EQ(TokensOf(response.session().session()), 6);
}

}  // namespace
}  // namespace packrat
