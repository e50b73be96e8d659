#include "runtime/woken_readers.h"

#include <chrono>

namespace packrat {

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

}  // namespace packrat
