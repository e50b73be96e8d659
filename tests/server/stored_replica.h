// A replica with a session store of which a test decides when it answers.
#ifndef PACKRAT_TESTS_SERVER_STORED_REPLICA_H_
#define PACKRAT_TESTS_SERVER_STORED_REPLICA_H_

#include <condition_variable>
#include <future>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "gtest/gtest.h"
#include "runtime/mutex.h"
#include "runtime/session.h"
#include "runtime/session_store.h"
#include "runtime/steady_clock.h"
#include "server/generation/call_environment.h"
#include "server/stored_sessions.h"
#include "tests/server/fake_front.h"

namespace packrat {

// Remembers versions alone. Its calls wait while it is closed.
class GatedStore : public SessionStore {
 public:
  absl::Status Put(const StoreKey& key, const SessionPast& past, const Source& next,
                   absl::Duration) override {
    for (;;) {
      const absl::StatusOr<std::string> piece = next();
      if (!piece.ok()) return piece.status();
      if (piece->empty()) break;
    }
    Pass();
    MutexLock lock(&mutex_);
    if (status_.ok()) versions_[key.handle] = past.now();
    return status_;
  }
  absl::StatusOr<SessionVersion> Get(const StoreKey&, const Sink&) override {
    Pass();
    return absl::NotFoundError("nothing");
  }
  absl::StatusOr<SessionVersion> Version(const StoreKey& key) override {
    Pass();
    MutexLock lock(&mutex_);
    if (!status_.ok()) return status_;
    const auto at = versions_.find(key.handle);
    if (at == versions_.end()) return absl::NotFoundError("nothing");
    return at->second;
  }
  absl::Status Delete(const StoreKey&, absl::Duration) override {
    Pass();
    return absl::OkStatus();
  }

  void Close() {
    MutexLock lock(&mutex_);
    closed_ = true;
  }
  void Open() {
    {
      MutexLock lock(&mutex_);
      closed_ = false;
    }
    changed_.notify_all();
  }
  // What all that ask it from now on are told.
  void Say(const absl::Status& status) {
    MutexLock lock(&mutex_);
    status_ = status;
  }
  int held() {
    MutexLock lock(&mutex_);
    return held_;
  }

 private:
  void Pass() {
    MutexLock lock(&mutex_);
    ++held_;
    while (closed_) lock.Wait(&changed_);
    --held_;
  }

  Mutex mutex_;
  std::condition_variable changed_;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  int held_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, SessionVersion> versions_ ABSL_GUARDED_BY(mutex_);
};

class StoredReplicaTest : public ::testing::Test {
 protected:
  StoredReplicaTest() {
    options_.server.stream_idle_timeout = absl::Milliseconds(200);
    options_.server.max_streams = 8;
  }
  ~StoredReplicaTest() override {
    go_.set_value();
    if (store_ != nullptr) store_->Open();
  }
  void Start(bool with_store, int max_waiting = 16) {
    replica_ = std::make_unique<Replica>(options_);
    if (!with_store) return;
    auto store = std::make_unique<GatedStore>();
    store_ = store.get();
    CallEnvironment& environment = *replica_->environment();
    stored_ = std::make_unique<StoredSessions>(std::move(store), environment.sessions,
                                               environment.served.load()->transfer, max_waiting,
                                               environment.log);
    environment.stored.store(stored_.get());
  }
  std::string Make() {
    return replica_->environment()->sessions->Create({}, std::nullopt, SteadyNow())->handle;
  }
  // In no session where `session` is empty.
  static v1::GenerateRequest Ask(const std::string& session, int max_tokens) {
    v1::GenerateRequest request;
    for (const int32_t id : {5, 6}) request.mutable_tokens()->add_ids(id);
    request.mutable_stop()->set_max_tokens(max_tokens);
    request.mutable_stop()->set_ignore_eos(true);
    request.mutable_sampling()->set_temperature(0);
    if (!session.empty()) request.set_session(session);
    return request;
  }
  int TokensOf(const std::string& session) {
    return replica_->environment()->sessions->Get({}, session, SteadyNow())->tokens;
  }
  int streams() { return replica_->environment()->streams.count(); }
  // Work that waits for the end of the test, by all threads that may wait for the store.
  void HoldThreads() {
    for (int i = 0; i < StoredSessions::kThreads; ++i) {
      HoldOne();
      ASSERT_TRUE(Eventually([&] { return stored_->waiting() == 0; }));
    }
  }
  void HoldOne() {
    EXPECT_EQ(stored_->Submit(0, [go = over_] { go.wait(); }), absl::OkStatus());
  }

  Replica::Options options_;
  std::promise<void> go_;
  std::shared_future<void> over_ = go_.get_future().share();
  std::unique_ptr<Replica> replica_;
  GatedStore* store_ = nullptr;
  std::unique_ptr<StoredSessions> stored_;
};

}  // namespace packrat

#endif  // PACKRAT_TESTS_SERVER_STORED_REPLICA_H_
