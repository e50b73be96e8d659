#include "server/client/signals.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <thread>

#include "kernels/check.h"
#include "server/client/commands.h"

namespace packrat {
namespace {

sigset_t Taken() {
  sigset_t set;
  sigemptyset(&set);
  for (const int number : {SIGINT, SIGTERM, SIGWINCH, SIGCONT}) sigaddset(&set, number);
  // Who ignores it (nohup) wants to go on.
  struct sigaction hangup;
  if (sigaction(SIGHUP, nullptr, &hangup) == 0 && hangup.sa_handler != SIG_IGN) {
    sigaddset(&set, SIGHUP);
  }
  return set;
}

}  // namespace

Signals::Signals() {
  const sigset_t set = Taken();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  PACKRAT_CHECK(pipe2(pipe_, O_CLOEXEC | O_NONBLOCK) == 0);
  std::thread([this] { Wait(); }).detach();
}

void Signals::Set(Mode mode, Connection* connection) {
  MutexLock lock(&mutex_);
  mode_ = mode;
  if (connection != nullptr) connection_ = connection;
  if (mode != Mode::kStopCall) return;
  bool terminated = false;
  while (const int number = Take()) {
    if (number == SIGINT && connection_ != nullptr) connection_->Cancel();
    terminated = terminated || number == SIGTERM;
  }
  if (terminated) Tell(SIGTERM);
}

void Signals::Tell(int number) {
  const char byte = static_cast<char>(number);
  // A full pipe has enough to wake its reader.
  if (write(pipe_[1], &byte, 1) != 1) return;
}

int Signals::Take() {
  char number = 0;
  return read(pipe_[0], &number, 1) == 1 ? number : 0;
}

void Signals::Wait() {
  const sigset_t set = Taken();
  for (;;) {
    int number = 0;
    sigwait(&set, &number);
    if (number == SIGHUP) number = SIGTERM;
    const bool to_end = number == SIGINT || number == SIGTERM;
    {
      MutexLock lock(&mutex_);
      const Mode mode = number == SIGTERM ? Mode::kEnd : mode_;
      if (!to_end && mode != Mode::kTell) continue;
      if (mode == Mode::kTell || number == SIGTERM) Tell(number);
      if (mode == Mode::kTell) continue;
      if (connection_ != nullptr) connection_->Cancel();
      if (mode == Mode::kStopCall) continue;
    }
    // The command may also be reading standard input, which nothing cancels.
    sleep(1);
    std::quick_exit(kExitInterrupted);
  }
}

}  // namespace packrat
