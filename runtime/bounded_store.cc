#include "runtime/bounded_store.h"

#include <chrono>
#include <condition_variable>
#include <system_error>
#include <thread>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "runtime/mutex.h"
#include "runtime/no_memory.h"

namespace packrat {

struct BoundedStore::Shared {
  Shared(std::unique_ptr<SessionStore> store, int most_calls)
      : store(std::move(store)), most_calls(most_calls) {}
  bool Enter() {
    MutexLock lock(&mutex);
    if (calls == most_calls) return false;
    ++calls;
    return true;
  }
  void Leave() {
    MutexLock lock(&mutex);
    --calls;
  }

  const std::unique_ptr<SessionStore> store;
  const int most_calls;
  Mutex mutex;
  int calls ABSL_GUARDED_BY(mutex) = 0;
};

// Between the thread that makes a call and the one that waits for it.
class BoundedStore::Call {
 public:
  // The one that waits does this. False: it waits no longer.
  bool Ask(const std::function<void()>& what) {
    MutexLock lock(&mutex_);
    asked_ = &what;
    changed_.notify_all();
    while (asked_ != nullptr && !left_) lock.Wait(&changed_);
    return asked_ == nullptr;
  }
  void End(const absl::Status& status) {
    MutexLock lock(&mutex_);
    status_ = status;
    over_ = true;
    changed_.notify_all();
  }

  // Each answer may take `timeout`.
  absl::Status Wait(absl::Duration timeout) {
    const absl::Cleanup leave = [this] { Leave(); };
    for (;;) {
      const auto end = std::chrono::steady_clock::now() + absl::ToChronoNanoseconds(timeout);
      const std::function<void()>* what;
      {
        MutexLock lock(&mutex_);
        while (!over_ && asked_ == nullptr && std::chrono::steady_clock::now() < end) {
          lock.WaitUntil(&changed_, end);
        }
        if (over_) return status_;
        what = asked_;
      }
      if (what == nullptr) {
        return absl::UnavailableError(
            absl::StrCat("the session store has not answered for ", absl::FormatDuration(timeout)));
      }
      (*what)();
      MutexLock lock(&mutex_);
      asked_ = nullptr;
      changed_.notify_all();
    }
  }

 private:
  void Leave() {
    MutexLock lock(&mutex_);
    left_ = true;
    changed_.notify_all();
  }

  Mutex mutex_;
  std::condition_variable changed_;
  // Of the other thread, which waits for it.
  const std::function<void()>* asked_ ABSL_GUARDED_BY(mutex_) = nullptr;
  bool left_ ABSL_GUARDED_BY(mutex_) = false;
  bool over_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
};

namespace {

absl::Status Left() { return absl::CancelledError("nobody waits for it any more"); }

}  // namespace

BoundedStore::BoundedStore(std::unique_ptr<SessionStore> store, absl::Duration timeout,
                           int most_calls)
    : shared_(std::make_shared<Shared>(std::move(store), most_calls)), timeout_(timeout) {}

absl::Status BoundedStore::Run(std::function<absl::Status(SessionStore* store, Call* call)> work) {
  if (!shared_->Enter()) {
    return absl::UnavailableError(
        absl::StrCat(shared_->most_calls, " calls of the session store hang"));
  }
  const auto call = std::make_shared<Call>();
  try {
    std::thread([shared = shared_, call, work = std::move(work)] {
      const absl::Status status =
          UnlessNoMemory([&] { return work(shared->store.get(), call.get()); });
      shared->Leave();
      call->End(status);
    }).detach();
  } catch (const std::system_error& error) {
    shared_->Leave();
    return absl::UnavailableError(
        absl::StrCat("there is no thread for the session store: ", error.what()));
  }
  return call->Wait(timeout_);
}

absl::Status BoundedStore::Put(const StoreKey& key, const SessionPast& past, const Source& next,
                               absl::Duration ttl) {
  return Run([key, past, ttl, &next](SessionStore* store, Call* call) {
    const auto ask = [&]() -> absl::StatusOr<std::string> {
      absl::StatusOr<std::string> piece;
      if (!call->Ask([&] { piece = next(); })) return Left();
      return piece;
    };
    return store->Put(key, past, ask, ttl);
  });
}

absl::StatusOr<SessionVersion> BoundedStore::Get(const StoreKey& key, const Sink& take) {
  const auto version = std::make_shared<SessionVersion>();
  const absl::Status status = Run([key, version, &take](SessionStore* store, Call* call) {
    const auto give = [&](absl::string_view piece) -> absl::StatusOr<bool> {
      absl::StatusOr<bool> more;
      if (!call->Ask([&] { more = take(piece); })) return Left();
      return more;
    };
    const absl::StatusOr<SessionVersion> found = store->Get(key, give);
    if (found.ok()) *version = *found;
    return found.status();
  });
  if (!status.ok()) return status;
  return *version;
}

absl::StatusOr<SessionVersion> BoundedStore::Version(const StoreKey& key) {
  const auto version = std::make_shared<SessionVersion>();
  const absl::Status status = Run([key, version](SessionStore* store, Call* /*call*/) {
    const absl::StatusOr<SessionVersion> found = store->Version(key);
    if (found.ok()) *version = *found;
    return found.status();
  });
  if (!status.ok()) return status;
  return *version;
}

absl::Status BoundedStore::Delete(const StoreKey& key, absl::Duration ttl) {
  return Run([key, ttl](SessionStore* store, Call* /*call*/) { return store->Delete(key, ttl); });
}

}  // namespace packrat
