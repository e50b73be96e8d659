#include "server/grpc/unread_calls.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace packrat {
namespace {

absl::Status TooMany() {
  return absl::ResourceExhaustedError("too many calls whose message is not there yet");
}

}  // namespace

uint64_t UnreadCalls::Enter(Time now, End end) {
  std::map<uint64_t, Call>::node_type oldest;
  uint64_t id;
  {
    MutexLock lock(&mutex_);
    if (static_cast<int>(calls_.size()) >= options_.most) oldest = calls_.extract(calls_.begin());
    id = next_++;
    calls_[id] = {now, std::move(end)};
  }
  // Without the lock, since a call that ends may call this object.
  if (!oldest.empty()) {
    ++ended_;
    oldest.mapped().end(TooMany());
  }
  return id;
}

void UnreadCalls::Leave(uint64_t id) {
  std::map<uint64_t, Call>::node_type left;  // Destroyed after the lock is released.
  MutexLock lock(&mutex_);
  left = calls_.extract(id);
}

void UnreadCalls::Sweep(Time now) {
  std::vector<std::pair<End, absl::Status>> ends;
  {
    MutexLock lock(&mutex_);
    int slow = 0;
    for (const auto& [id, call] : calls_) {
      if (now - call.began < options_.young) break;
      ++slow;
    }
    while (!calls_.empty()) {
      const auto oldest = calls_.begin();
      const bool late = now - oldest->second.began >= options_.timeout;
      if (!late && slow <= options_.most_slow) break;
      ends.emplace_back(std::move(oldest->second.end),
                        late ? absl::DeadlineExceededError(absl::StrCat(
                                   "the call's message did not come within --message_timeout, ",
                                   options_.timeout.count(), " ms"))
                             : TooMany());
      calls_.erase(oldest);
      --slow;
    }
  }
  ended_ += static_cast<int64_t>(ends.size());
  for (const auto& [end, status] : ends) end(status);
}

int UnreadCalls::count() const {
  MutexLock lock(&mutex_);
  return static_cast<int>(calls_.size());
}

}  // namespace packrat
