// A thread that writes what is new in outboxes to their streams. The engine's thread only notifies
// it. From time to time it looks for streams whose client does not read.
#ifndef PACKRAT_SERVER_STREAM_WRITER_H_
#define PACKRAT_SERVER_STREAM_WRITER_H_

#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "absl/time/time.h"
#include "runtime/mutex.h"

namespace packrat {

class Stream {
 public:
  virtual ~Stream() = default;
  // Writes what there is, if no write is under way.
  virtual void Pump() = 0;
  // Ends the stream if it has waited too long for its reader. `now` is SteadyNow()'s.
  virtual void CheckReader(absl::Time now) = 0;
};

class StreamWriter {
 public:
  // Every `interval` it calls `tick` and each stream's CheckReader().
  StreamWriter(absl::Duration interval, std::function<void(absl::Time)> tick);
  ~StreamWriter();

  void Watch(std::weak_ptr<Stream> stream);
  // Has Pump() called soon. It is quick; the engine's thread calls it.
  void Notify(std::weak_ptr<Stream> stream);

 private:
  void Run();
  // False when it is time to stop.
  bool WaitForNews(std::chrono::steady_clock::time_point until,
                   std::vector<std::weak_ptr<Stream>>* batch);
  void CheckReaders(absl::Time now);

  const absl::Duration interval_;
  const std::function<void(absl::Time)> tick_;
  Mutex mutex_;
  std::condition_variable wake_;
  std::vector<std::weak_ptr<Stream>> notified_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::weak_ptr<Stream>> watched_ ABSL_GUARDED_BY(mutex_);
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace packrat

#endif  // PACKRAT_SERVER_STREAM_WRITER_H_
