// Stores in front of another one, in which something happens.
#ifndef PACKRAT_TESTS_RUNTIME_STORES_IN_FRONT_H_
#define PACKRAT_TESTS_RUNTIME_STORES_IN_FRONT_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>

#include "gtest/gtest.h"
#include "runtime/session_store.h"

namespace packrat {

class StoreInFront : public SessionStore {
 public:
  explicit StoreInFront(SessionStore* store) : store_(store) {}
  absl::Status Put(const StoreKey& key, const SessionPast& past, const Source& next,
                   absl::Duration ttl) override {
    return store_->Put(key, past, next, ttl);
  }
  absl::StatusOr<SessionVersion> Get(const StoreKey& key, const Sink& take) override {
    return store_->Get(key, take);
  }
  absl::StatusOr<SessionVersion> Version(const StoreKey& key) override {
    return store_->Version(key);
  }
  absl::Status Delete(const StoreKey& key, absl::Duration ttl) override {
    return store_->Delete(key, ttl);
  }

 private:
  SessionStore* const store_;
};

// Has no room for so many bytes of a session.
class NarrowStore : public StoreInFront {
 public:
  NarrowStore(SessionStore* store, size_t most) : StoreInFront(store), most_(most) {}
  absl::Status Put(const StoreKey& key, const SessionPast& past, const Source& next,
                   absl::Duration ttl) override {
    size_t bytes = 0;
    const auto count = [&]() -> absl::StatusOr<std::string> {
      absl::StatusOr<std::string> piece = next();
      if (piece.ok() && (bytes += piece->size()) > most_) {
        return absl::ResourceExhaustedError("full");
      }
      return piece;
    };
    return StoreInFront::Put(key, past, count, ttl);
  }

 private:
  const size_t most_;
};

// Takes so many pieces of a session, and then does not answer.
class BreakingStore : public StoreInFront {
 public:
  BreakingStore(SessionStore* store, int most) : StoreInFront(store), most_(most) {}
  absl::Status Put(const StoreKey& key, const SessionPast& past, const Source& next,
                   absl::Duration ttl) override {
    const auto count = [&, pieces = 0]() mutable -> absl::StatusOr<std::string> {
      absl::StatusOr<std::string> piece = next();
      if (piece.ok() && !piece->empty() && ++pieces > most_) {
        return absl::UnavailableError("it takes too long");
      }
      return piece;
    };
    return StoreInFront::Put(key, past, count, ttl);
  }

 private:
  const int most_;
};

// Something happens while it is read.
struct WatchedStore : StoreInFront {
  WatchedStore(SessionStore* store, std::function<void()> on_get)
      : StoreInFront(store), on_get(std::move(on_get)) {}
  absl::StatusOr<SessionVersion> Get(const StoreKey& key, const Sink& take) override {
    ++gets;
    on_get();
    return StoreInFront::Get(key, [&](absl::string_view piece) {
      absl::StatusOr<bool> more = take(piece);
      wants_more = more.ok() && *more;
      return more;
    });
  }

  const std::function<void()> on_get;
  int gets = 0;
  bool wants_more = false;  // After the last piece.
};

// Something happens once, before its second piece comes.
class SlowStore : public StoreInFront {
 public:
  SlowStore(SessionStore* store, std::function<void()> between)
      : StoreInFront(store), between_(std::move(between)) {}
  absl::Status Put(const StoreKey& key, const SessionPast& past, const Source& next,
                   absl::Duration ttl) override {
    const auto watched = [&, pieces = 0]() mutable {
      if (++pieces == 2 && between_ != nullptr) std::exchange(between_, nullptr)();
      return next();
    };
    return StoreInFront::Put(key, past, watched, ttl);
  }

 private:
  std::function<void()> between_;
};

// Is changed while it is read, so many times.
class ChangingStore : public StoreInFront {
 public:
  ChangingStore(SessionStore* store, int times) : StoreInFront(store), times_(times) {}
  absl::StatusOr<SessionVersion> Get(const StoreKey& key, const Sink& take) override {
    if (times_-- <= 0) return StoreInFront::Get(key, take);
    std::string beginning;
    const auto keep = [&](absl::string_view piece) {
      beginning = std::string(piece.substr(0, piece.size() - 1));
      return false;
    };
    const auto version = StoreInFront::Get(key, keep);
    EXPECT_TRUE(version.ok()) << version.status();
    EXPECT_TRUE(take(beginning).ok());
    return absl::AbortedError("changed");
  }

 private:
  int times_;
};

}  // namespace packrat

#endif  // PACKRAT_TESTS_RUNTIME_STORES_IN_FRONT_H_
