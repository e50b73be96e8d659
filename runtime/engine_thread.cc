#include "runtime/engine_thread.h"

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace packrat {

EngineThread::EngineThread(Engine* engine) : engine_(engine), thread_([this] { Loop(); }) {}

EngineThread::~EngineThread() { Stop(); }

void EngineThread::Stop() {
  stop_.store(true);
  engine_->Wake();
  if (thread_.joinable()) thread_.join();
}

void EngineThread::Loop() {
  while (!stop_.load()) {
    // An idle engine waits for a request or for Stop(), both of which wake it.
    if (!engine_->Step(absl::Now())) engine_->WaitForWork(absl::Seconds(10));
  }
}

}  // namespace packrat
