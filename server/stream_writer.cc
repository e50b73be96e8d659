#include "server/stream_writer.h"

#include <malloc.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "runtime/steady_clock.h"
#include "runtime/thread_name.h"

namespace packrat {

StreamWriter::StreamWriter(absl::Duration interval, std::function<void(absl::Time)> tick)
    : interval_(interval), tick_(std::move(tick)), thread_([this] { Run(); }) {}

StreamWriter::~StreamWriter() {
  {
    MutexLock lock(&mutex_);
    stop_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

void StreamWriter::Watch(std::weak_ptr<Stream> stream) {
  MutexLock lock(&mutex_);
  watched_.push_back(std::move(stream));
}

void StreamWriter::Notify(std::weak_ptr<Stream> stream) {
  bool was_empty;
  {
    MutexLock lock(&mutex_);
    was_empty = notified_.empty();
    notified_.push_back(std::move(stream));
  }
  // If the thread has not woken up yet, one wake-up serves all news of a step.
  if (was_empty) wake_.notify_one();
}

void StreamWriter::Run() {
  using Clock = std::chrono::steady_clock;
  SetThreadName("packrat-writer");
  const auto interval = absl::ToChronoNanoseconds(interval_);
  Clock::time_point next_tick = Clock::now() + interval;
  std::vector<std::weak_ptr<Stream>> batch;
  while (WaitForNews(next_tick, &batch)) {
    for (const std::weak_ptr<Stream>& weak : batch) {
      if (std::shared_ptr<Stream> stream = weak.lock()) stream->Pump();
    }
    batch.clear();
    if (Clock::now() >= next_tick) {
      const absl::Time now = SteadyNow();
      tick_(now);
      CheckReaders(now);
      next_tick = Clock::now() + interval;
    }
  }
}

bool StreamWriter::WaitForNews(std::chrono::steady_clock::time_point until,
                               std::vector<std::weak_ptr<Stream>>* batch) {
  MutexLock lock(&mutex_);
  while (!stop_ && notified_.empty() && std::chrono::steady_clock::now() < until) {
    lock.WaitUntil(&wake_, until);
  }
  batch->swap(notified_);
  return !stop_;
}

void StreamWriter::CheckReaders(absl::Time now) {
  std::vector<std::shared_ptr<Stream>> alive;
  bool ended = false;
  {
    MutexLock lock(&mutex_);
    auto gone = std::remove_if(watched_.begin(), watched_.end(), [&](const auto& weak) {
      std::shared_ptr<Stream> stream = weak.lock();
      if (stream == nullptr) return true;
      alive.push_back(std::move(stream));
      return false;
    });
    ended = gone != watched_.end();
    watched_.erase(gone, watched_.end());
  }
  // Nothing runs any more. The memory of a burst of large requests goes back to the system; glibc
  // would keep it, in an arena per thread (measured: 1.5 GB kept, 92 MB in use).
  if (ended && alive.empty()) malloc_trim(0);
  for (const std::shared_ptr<Stream>& stream : alive) stream->CheckReader(now);
}

}  // namespace packrat
