// Replicas on one store that fails, is late and hangs, while threads take turns in the same
// sessions. What was told to whom is the truth: no turn that was told to be stored is lost, or has
// another's put over it, and no session that was told to be deleted is stored again.
#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "runtime/session_archive.h"
#include "tests/runtime/session_archive_fixture.h"
#include "tests/runtime/stores_in_front.h"

namespace packrat {
namespace {

// What goes wrong with a call of a store.
enum class Fault {
  kDown,  // It fails, and does nothing.
  kFull,
  kLost,  // It is done, and told to have failed.
  kLate,  // It hangs before it is done...
  kSlow,  // ...or after that.
  kNone
};

// Of all stores of a storm.
class Weather {
 public:
  explicit Weather(int threads) : threads_(threads) {}

  Fault Next() {
    const std::lock_guard<std::mutex> lock(mutex_);
    ++calls_;
    moved_.notify_all();
    return fair_ ? Fault::kNone : static_cast<Fault>(std::min<uint64_t>(random_() % 16, 5));
  }
  // Returns when others have made so many calls, or nobody else is left; if one call hangs already,
  // at once.
  void Hang() {
    std::unique_lock<std::mutex> lock(mutex_);
    if (hangs_) return;
    hangs_ = true;
    const int until = calls_ + kCallsMeanwhile;
    moved_.wait(lock, [&] { return calls_ >= until || threads_ <= 1; });
    hangs_ = false;
    ++hung_;
  }
  // A thread makes no more calls.
  void Leave() {
    const std::lock_guard<std::mutex> lock(mutex_);
    --threads_;
    moved_.notify_all();
  }
  void TurnFair() {
    const std::lock_guard<std::mutex> lock(mutex_);
    fair_ = true;
  }
  int hung() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return hung_;
  }

 private:
  static constexpr int kCallsMeanwhile = 12;
  std::mutex mutex_;
  std::condition_variable moved_;
  std::mt19937_64 random_{7};
  int threads_, calls_ = 0, hung_ = 0;
  bool hangs_ = false, fair_ = false;
};

class StormyStore : public StoreInFront {
 public:
  StormyStore(SessionStore* store, Weather* weather) : StoreInFront(store), weather_(weather) {}
  absl::Status Put(const StoreKey& key, const SessionPast& past, const Source& next,
                   absl::Duration ttl) override {
    const Fault fault = weather_->Next();
    if (fault == Fault::kFull) return absl::ResourceExhaustedError("full");
    return Do(fault, [&] { return StoreInFront::Put(key, past, next, ttl); });
  }
  absl::StatusOr<SessionVersion> Get(const StoreKey& key, const Sink& take) override {
    return Do(weather_->Next(), [&] { return StoreInFront::Get(key, take); });
  }
  absl::StatusOr<SessionVersion> Version(const StoreKey& key) override {
    return Do(weather_->Next(), [&] { return StoreInFront::Version(key); });
  }
  absl::Status Delete(const StoreKey& key, absl::Duration ttl) override {
    return Do(weather_->Next(), [&] { return StoreInFront::Delete(key, ttl); });
  }

 private:
  template <typename Work>
  auto Do(Fault fault, const Work& work) -> decltype(work()) {
    if (fault == Fault::kDown) return absl::UnavailableError("down");
    if (fault == Fault::kLate) weather_->Hang();
    auto result = work();
    if (fault == Fault::kSlow) weather_->Hang();
    if (fault == Fault::kLost) return absl::UnavailableError("lost");
    return result;
  }

  Weather* const weather_;
};

class SessionReplicasStormTest : public SessionArchiveTest {
 protected:
  static constexpr int kReplicas = 3, kThreads = 2, kSessions = 6, kRounds = 500;
  // A turn is three tokens, the digits of its number, which is of its session: modulo kSessions.
  static constexpr int kDigit = 100;
  static constexpr size_t kMostTokens = 480;  // The model takes 512.

  struct Node {
    std::unique_ptr<ArchiveReplica> replica;
    std::unique_ptr<StormyStore> store;
    std::unique_ptr<SessionArchive> archive;
  };
  // What clients were told of a session.
  struct Told {
    std::set<int32_t> stored;  // Turns.
    bool deleted = false;      // Well.
    bool maybe_deleted = false;
  };

  SessionReplicasStormTest() {
    for (int i = 0; i < kReplicas; ++i) {
      Node node;
      node.replica = Start();
      node.store = std::make_unique<StormyStore>(node.replica->store.get(), &weather_);
      node.archive = std::make_unique<SessionArchive>(
          &node.replica->sessions, node.replica->transfer.get(), node.store.get());
      nodes_.push_back(std::move(node));
    }
    for (int i = 0; i < kSessions; ++i) {
      ArchiveReplica& home = *nodes_[i % kReplicas].replica;
      handles_.push_back(home.sessions.Create(owner_, {}, now_)->handle);
      // Past the weather, so that all know it.
      EXPECT_EQ(home.archive->Put(owner_, handles_.back(), std::nullopt, now_), absl::OkStatus());
    }
  }

  Told ToldOf(int session) {
    const std::lock_guard<std::mutex> lock(mutex_);
    return told_[session];
  }

  // All are whole and of this session, and each is there once.
  std::set<int32_t> TurnsIn(int session, const Text& text) const {
    EXPECT_EQ(text.size() % 3, 0u);
    std::set<int32_t> turns;
    for (size_t i = 0; i + 2 < text.size(); i += 3) {
      const int32_t turn = (text[i] * kDigit + text[i + 1]) * kDigit + text[i + 2];
      EXPECT_EQ(turn % kSessions, session);
      EXPECT_TRUE(turns.insert(turn).second) << turn << " twice";
    }
    return turns;
  }
  static void ExpectHas(const std::set<int32_t>& turns, const std::set<int32_t>& wanted) {
    for (const int32_t turn : wanted) EXPECT_EQ(turns.count(turn), 1u) << turn << " is lost";
  }

  // As a call of Generate does it.
  void TakeTurn(Node* node, int session) {
    const std::string& handle = handles_[session];
    const absl::Status fetched = node->archive->Fetch(owner_, handle, std::nullopt, now_);
    if (absl::IsAborted(fetched)) ++lost_;
    if (!fetched.ok()) return;
    auto turn = node->replica->sessions.Begin(owner_, handle, now_);
    if (absl::IsAborted(turn.status())) ++busy_;
    if (!turn.ok() || turn->text().size() > kMostTokens) return;
    std::set<int32_t> turns = TurnsIn(session, turn->text());
    const int32_t id = ++last_turn_ * kSessions + session;
    turns.insert(id);
    ASSERT_EQ(turn->Promise({id / kDigit / kDigit, id / kDigit % kDigit}, 1), absl::OkStatus());
    turn->Append({id % kDigit});
    turn->Keep(now_);
    const Told before = ToldOf(session);
    std::optional<StoredText> newer;
    const absl::Status put = node->archive->Put(owner_, handle, std::nullopt, now_, &newer);
    if (put.ok()) {
      ++stored_;
      ExpectHas(turns, before.stored);
      EXPECT_FALSE(before.deleted);
      const std::lock_guard<std::mutex> lock(mutex_);
      told_[session].stored.insert(id);
    } else if (absl::IsAborted(put)) {
      ++aborted_;
      if (newer.has_value()) {
        turn->Replace(newer->version, newer->content, now_);
      } else {
        turn->Drop();
      }
    } else {
      ++not_stored_;
    }
  }

  void Delete(Node* node, int session) {
    const absl::Status status = node->archive->Delete(owner_, handles_[session], now_);
    const std::lock_guard<std::mutex> lock(mutex_);
    if (status.ok()) told_[session].deleted = true;
    if (absl::IsUnavailable(status)) told_[session].maybe_deleted = true;
  }

  void Look(Node* node, int session) {
    Text text;
    if (node->archive->Look(owner_, handles_[session], now_, &text).ok()) TurnsIn(session, text);
  }

  void Run(Node* node, uint64_t seed) {
    std::mt19937_64 random(seed);
    for (int i = 0; i < kRounds; ++i) {
      const int session = static_cast<int>(random() % kSessions);
      const int what = static_cast<int>(random() % 100);
      if (what < 3 && session < kSessions / 2 && i > kRounds / 2) {
        Delete(node, session);
      } else if (what < 20) {
        Look(node, session);
      } else {
        TakeTurn(node, session);
      }
    }
    weather_.Leave();
  }

  // Once more, where it has to give up what is its own.
  absl::Status FetchAtLast(Node* node, int session) {
    const absl::Status status = node->archive->Fetch(owner_, handles_[session], std::nullopt, now_);
    if (!absl::IsAborted(status)) return status;
    return node->archive->Fetch(owner_, handles_[session], std::nullopt, now_);
  }

  Weather weather_{kReplicas * kThreads};
  std::vector<Node> nodes_;
  std::vector<std::string> handles_;
  std::atomic<int32_t> last_turn_{0};
  std::atomic<int> busy_{0}, lost_{0}, aborted_{0}, stored_{0}, not_stored_{0};
  std::mutex mutex_;
  std::map<int, Told> told_;
};

TEST_F(SessionReplicasStormTest, WhatIsToldToBeStoredStaysAndWhatIsDeletedGoes) {
  std::vector<std::thread> threads;
  for (int i = 0; i < kReplicas * kThreads; ++i) {
    threads.emplace_back([this, i] { Run(&nodes_[i % kReplicas], 100 + i); });
  }
  for (std::thread& thread : threads) thread.join();
  // All that is to happen did.
  for (const std::atomic<int>* count : {&busy_, &lost_, &aborted_, &stored_, &not_stored_}) {
    EXPECT_GT(*count, 0);
  }
  EXPECT_GT(weather_.hung(), 0);
  for (const Node& node : nodes_) EXPECT_EQ(node.replica->sessions.stats().busy, 0);

  weather_.TurnFair();
  int alive = 0, gone = 0;
  for (int session = 0; session < kSessions; ++session) {
    const Told told = ToldOf(session);
    std::optional<Text> last;
    for (Node& node : nodes_) {
      const absl::Status status = FetchAtLast(&node, session);
      EXPECT_EQ(absl::IsNotFound(status), status != absl::OkStatus()) << status;
      if (!status.ok()) continue;
      // So that what one could not store is everybody's.
      EXPECT_EQ(node.archive->Put(owner_, handles_[session], std::nullopt, now_), absl::OkStatus());
      last = TextAt(node.replica.get(), handles_[session]);
    }
    ++(last.has_value() ? alive : gone);
    EXPECT_FALSE(last.has_value() && told.deleted);
    EXPECT_TRUE(last.has_value() || told.deleted || told.maybe_deleted);
    if (!last.has_value()) continue;
    ExpectHas(TurnsIn(session, *last), told.stored);
    for (Node& node : nodes_) {
      EXPECT_EQ(FetchAtLast(&node, session), absl::OkStatus());
      EXPECT_EQ(TextAt(node.replica.get(), handles_[session]), *last);
    }
  }
  EXPECT_GT(alive, 0);
  EXPECT_GT(gone, 0);
}

}  // namespace
}  // namespace packrat
