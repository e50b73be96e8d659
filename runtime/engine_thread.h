// The thread that steps an engine.
#ifndef PACKRAT_RUNTIME_ENGINE_THREAD_H_
#define PACKRAT_RUNTIME_ENGINE_THREAD_H_

#include <atomic>
#include <functional>
#include <thread>

#include "runtime/engine.h"

namespace packrat {

class EngineThread {
 public:
  // Starts stepping `engine`, which outlives this object, by the time of SteadyNow(). `on_failure`,
  // where given, is called once by the thread when the engine has failed.
  explicit EngineThread(Engine* engine,
                        std::function<void(const absl::Status&)> on_failure = nullptr);
  // Stops.
  ~EngineThread();
  EngineThread(const EngineThread&) = delete;
  EngineThread& operator=(const EngineThread&) = delete;

  // Returns when the step that runs, if any, is over; there will be no other. What waits or runs
  // stays as it is: to end it properly, Drain() and wait for idle(), or AbortAll(), before. May be
  // called more than once, by one thread at a time.
  void Stop();

 private:
  void Loop();

  Engine* const engine_;
  std::function<void(const absl::Status&)> on_failure_;
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

}  // namespace packrat

#endif  // PACKRAT_RUNTIME_ENGINE_THREAD_H_
