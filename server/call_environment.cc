#include "server/call_environment.h"

#include <chrono>
#include <random>

#include "absl/time/clock.h"

namespace packrat {

bool StreamCount::Enter(int limit) {
  MutexLock lock(&mutex_);
  if (count_ >= limit) return false;
  ++count_;
  return true;
}

void StreamCount::Leave() {
  MutexLock lock(&mutex_);
  if (--count_ == 0) none_.notify_all();
}

int StreamCount::count() const {
  MutexLock lock(&mutex_);
  return count_;
}

bool StreamCount::WaitForNone(absl::Time deadline) {
  MutexLock lock(&mutex_);
  while (count_ > 0) {
    const absl::Duration left = deadline - absl::Now();
    if (left <= absl::ZeroDuration()) return false;
    lock.WaitUntil(&none_, std::chrono::steady_clock::now() + absl::ToChronoNanoseconds(left));
  }
  return true;
}

NumberSource::NumberSource() {
  std::random_device device;
  start_ = (static_cast<uint64_t>(device()) << 32) ^ device();
}

uint64_t NumberSource::Next() {
  // SplitMix64: consecutive counts give unrelated numbers.
  uint64_t z = start_ + 0x9e3779b97f4a7c15u * ++count_;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

absl::Status CallEnvironment::Ready() const {
  if (draining.load()) return absl::UnavailableError("the server is draining; ask another replica");
  const ServedModel* model = served.load();
  if (model == nullptr) return absl::UnavailableError("the model is still being loaded");
  return model->engine->failure();
}

}  // namespace packrat
