// packrat_server: flags, signals, the model, and the server around it.
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <memory>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "kernels/cpu_target.h"
#include "models/load.h"
#include "models/model.h"
#include "models/tokenizer.h"
#include "server/flags.h"
#include "server/log.h"
#include "server/server.h"

namespace packrat {
namespace {

// Signals are taken by one thread that waits for them: nothing runs in a handler.
class Signals {
 public:
  // Before any other thread is made, so that all inherit the mask.
  Signals() {
    sigemptyset(&set_);
    sigaddset(&set_, SIGTERM);
    sigaddset(&set_, SIGINT);
    pthread_sigmask(SIG_BLOCK, &set_, nullptr);
    signal(SIGPIPE, SIG_IGN);
  }

  // Until the server is up there is nothing to drain: a signal ends the process. Later the first
  // one ends Wait(), the second one the process.
  void Start(Logger* log) {
    std::thread([this, log] {
      // One stop often arrives twice, from a wrapper such as timeout(1) and to the whole group.
      absl::Time first = absl::InfinitePast();
      for (;;) {
        int number = 0;
        sigwait(&set_, &number);
        if (!serving_.load()) _exit(0);
        const absl::Time now = absl::Now();
        if (first == absl::InfinitePast()) {
          first = now;
          EndWait();
        } else if (now - first > absl::Milliseconds(300)) {
          log->Info("second signal: leaving at once");
          _exit(1);
        }
      }
    }).detach();
  }

  void EndWait() {
    if (write(pipe_[1], "x", 1) != 1) _exit(1);
  }
  void Wait() {
    char byte;
    while (read(pipe_[0], &byte, 1) < 0 && errno == EINTR) {
    }
  }
  bool MakePipe() { return pipe(pipe_) == 0; }
  void SetServing() { serving_.store(true); }

 private:
  sigset_t set_;
  int pipe_[2] = {-1, -1};
  std::atomic<bool> serving_{false};
};

// 2 says that a flag is wrong, 1 that the work failed.
int Fail(Logger* log, const absl::Status& status, int exit_code = 1) {
  log->Error("cannot serve", {{"error", std::string(status.message())}});
  return exit_code;
}

LoadOptions ToLoadOptions(const ServerOptions& options, Logger* log) {
  LoadOptions load;
  load.model.max_batch_tokens = options.engine.max_batch_tokens;
  load.model.max_logit_rows = options.engine.max_running;
  load.model.max_context = options.engine.max_context;
  load.model.threads = options.threads;
  load.device = options.device == "cpu"    ? DeviceKind::kCpu
                : options.device == "cuda" ? DeviceKind::kCuda
                                           : DeviceKind::kAuto;
  load.deterministic = options.deterministic;
  load.mesa_state = options.mesa_state == "bfloat16" ? DType::kBF16 : DType::kF32;
  load.progress = [log, tenths = 0](size_t done, size_t total) mutable {
    const int now = static_cast<int>(10 * done / total);
    if (now == tenths) return;
    tenths = now;
    log->Info("loading", {{"percent", absl::StrCat(10 * tenths)}});
  };
  return load;
}

// Not where the backend is not installed: most machines have no GPU.
void TellWhyNotOnGpu(Logger* log) {
  const absl::Status status = GpuUsable();
  if (status.ok() || absl::IsNotFound(status)) return;
  log->Info("no GPU is used", {{"reason", std::string(status.message())}});
}

int Run(const ServerOptions& options, Signals* signals, Logger* log) {
  absl::Status status = SetCpuTarget(options.cpu_target);
  if (!status.ok()) return Fail(log, status, 2);
  // They outlive the server.
  std::unique_ptr<LanguageModel> model;
  std::unique_ptr<Tokenizer> tokenizer;
  // The ports come first, so that probes see a process that is alive and not ready.
  auto server = Server::Start(options, log);
  if (!server.ok()) return Fail(log, server.status());

  const absl::Time start = absl::Now();
  if (options.device == "auto") TellWhyNotOnGpu(log);
  auto loaded = LoadModelOn(options.model_dir, ToLoadOptions(options, log));
  if (!loaded.ok() && absl::IsFailedPrecondition(loaded.status()) && options.device == "cuda") {
    return Fail(log, absl::FailedPreconditionError(
                         absl::StrCat("--device=cuda: ", loaded.status().message())));
  }
  if (!loaded.ok()) return Fail(log, loaded.status());
  model = *std::move(loaded);
  auto pieces = Tokenizer::Load(options.model_dir, model->config().vocab_size);
  if (pieces.ok()) {
    tokenizer = *std::move(pieces);
  } else if (absl::IsNotFound(pieces.status())) {
    log->Info("neither tokenizer.model nor tokenizer.json: token ids only");
  } else {
    return Fail(log, pieces.status());
  }
  log->Info("loaded", {{"folder", options.model_dir},
                       {"device", model->device()},
                       {"took", absl::FormatDuration(absl::Now() - start)},
                       {"fingerprint", model->fingerprint()}});
  status = (*server)->Serve(model.get(), tokenizer.get(), [signals] { signals->EndWait(); });
  if (!status.ok()) return Fail(log, status, absl::IsInvalidArgument(status) ? 2 : 1);
  signals->SetServing();  // From here on a signal drains.
  signals->Wait();
  (*server)->Drain();
  // A new process may find the device well again: whoever watches over this one starts it.
  return (*server)->failure().ok() ? 0 : 1;
}

}  // namespace
}  // namespace packrat

int main(int argc, char** argv) {
  const packrat::ServerOptions options = packrat::OptionsFromCommandLine(argc, argv);
  packrat::Logger log(options.log_format == "json" ? packrat::Logger::Format::kJson
                                                   : packrat::Logger::Format::kText);
  packrat::Signals signals;
  if (!signals.MakePipe()) return 1;
  signals.Start(&log);
  return packrat::Run(options, &signals, &log);
}
