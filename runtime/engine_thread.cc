#include "runtime/engine_thread.h"

#include <utility>

#include "absl/time/time.h"
#include "runtime/steady_clock.h"
#include "runtime/thread_name.h"

namespace packrat {

EngineThread::EngineThread(Engine* engine, std::function<void(const absl::Status&)> on_failure)
    : engine_(engine), on_failure_(std::move(on_failure)), thread_([this] { Loop(); }) {}

EngineThread::~EngineThread() { Stop(); }

void EngineThread::Stop() {
  stop_.store(true);
  engine_->Wake();
  if (thread_.joinable()) thread_.join();
}

void EngineThread::Loop() {
  SetThreadName("packrat-engine");
  while (!stop_.load()) {
    // An idle engine waits for a request or for Stop(), both of which wake it.
    const bool acted = engine_->Step(SteadyNow());
    if (on_failure_ != nullptr) {
      if (const absl::Status failure = engine_->failure(); !failure.ok()) {
        std::exchange(on_failure_, nullptr)(failure);
      }
    }
    if (!acted) engine_->WaitForWork(absl::Seconds(10));
  }
}

}  // namespace packrat
