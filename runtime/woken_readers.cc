#include "runtime/woken_readers.h"

#include <algorithm>
#include <chrono>

namespace packrat {
namespace {

constexpr int64_t kOneOf = 20;
constexpr absl::Duration kMost = absl::Milliseconds(10);
// To sleep and be woken takes as long; there is no use in less.
constexpr absl::Duration kLeast = absl::Microseconds(100);
constexpr absl::Duration kShortStep = absl::Milliseconds(1);

}  // namespace

void WokenReaders::NextStep() {
  MutexLock lock(&mutex_);
  ++step_;
  left_ = 0;
}

uint64_t WokenReaders::Add() {
  MutexLock lock(&mutex_);
  ++left_;
  return step_;
}

absl::Duration WokenReaders::Wait(absl::Duration most) {
  using Clock = std::chrono::steady_clock;
  MutexLock lock(&mutex_);
  if (left_ == 0) return absl::ZeroDuration();
  const Clock::time_point start = Clock::now();
  const Clock::time_point end = start + absl::ToChronoNanoseconds(most);
  while (left_ > 0 && Clock::now() < end) lock.WaitUntil(&all_settled_, end);
  return absl::FromChrono(Clock::now() - start);
}

void WokenReaders::Settle(uint64_t step) {
  MutexLock lock(&mutex_);
  if (step == step_ && --left_ == 0) all_settled_.notify_one();
}

absl::Duration ReadersTime::After(absl::Duration step, bool late) {
  saved_ = std::min(saved_ + step / kOneOf, kMost);
  const bool waits = saved_ >= kLeast && (step >= kShortStep || late);
  return waits ? saved_ : absl::ZeroDuration();
}

}  // namespace packrat
