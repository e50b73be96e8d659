// packrat_server: flags, signals, the model, and the server around it.
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "kernels/cpu_target.h"
#include "kernels/resources.h"
#include "models/load.h"
#include "models/model.h"
#include "models/text/tokenizer.h"
#include "models/tokenizer_fit.h"
#include "server/flags.h"
#include "server/library_log.h"
#include "server/log.h"
#include "server/plan.h"
#include "server/process.h"
#include "server/server.h"
#include "server/standard_output.h"
#include "server/start_message.h"

namespace packrat {
namespace {

constexpr char kUsage[] =
    "Serves a language model over gRPC (packrat.v1.Inference).\n\n"
    "  packrat_server --model=DIR [flags]\n"
    "  packrat_server --model=DIR --plan=text [flags]\n\n"
    "Flags can stand in a file, one per line: --flagfile=FILE. Exit codes: 0 stopped by a "
    "signal,\n1 could not start, 2 a wrong flag.";

// 2 says that a flag is wrong, 1 that the work failed.
int Fail(Logger* log, const absl::Status& status, int exit_code = 1) {
  log->Error("cannot serve", {{"error", std::string(status.message())}});
  return exit_code;
}

LoadOptions ToLoadOptions(const ServerOptions& options, Logger* log) {
  LoadOptions load;
  load.model = ToModelOptions(options);
  load.device = options.device == "cpu"    ? DeviceKind::kCpu
                : options.device == "cuda" ? DeviceKind::kCuda
                                           : DeviceKind::kAuto;
  load.deterministic = options.deterministic;
  load.overlap_kernels = options.overlap_kernels;
  load.state_type = options.state_type == "bfloat16" ? DType::kBF16 : DType::kF32;
  load.progress = [log, tenths = 0](size_t done, size_t total) mutable {
    const int now = static_cast<int>(10 * done / total);
    if (now == tenths) return;
    tenths = now;
    log->Info("loading", {{"percent", 10 * tenths}});
    // Loading makes progress: ask for another minute and a half, systemd's default, for the next
    // tenth.
    NotifySystemd(
        absl::StrCat("EXTEND_TIMEOUT_USEC=90000000\nSTATUS=loading, ", 10 * tenths, " %"));
  };
  return load;
}

// Not if the backend is not installed, since most machines have no GPU.
void TellWhyNotOnGpu(Logger* log) {
  const absl::Status status = GpuUsable();
  if (status.ok() || absl::IsNotFound(status)) return;
  log->Info("no GPU is used", {{"reason", std::string(status.message())}});
}

bool OnGpu(const ServerOptions& options) {
  return options.device == "cuda" || (options.device == "auto" && GpuUsable().ok());
}

// Without serving anything.
int TellPlan(const ServerOptions& options) {
  if (OnGpu(options)) {
    std::fprintf(stderr, "packrat_server: --plan tells of models on the CPU; say --device=cpu\n");
    return 2;
  }
  ServerPlan plan;
  const absl::Status status = PlanServer(options, ReadResources(), &plan);
  Print(DescribePlan(options, plan, status, options.plan == "json"));
  return ExitCode(plan, status);
}

// More threads than a server was seen to start under load. gRPC starts more with more CPUs. A
// session store has four calls and eight that hang, a folder of states has two threads.
int ThreadsOf(const ServerOptions& options, int model_threads) {
  const int cpus = std::clamp(static_cast<int>(std::thread::hardware_concurrency()), 1, 16);
  return model_threads + 16 + 6 * cpus + (options.session_store.empty() ? 0 : 12) +
         (options.engine.state_dir.empty() ? 0 : 2);
}

void LogPlan(const ServerPlan& plan, int64_t asked_state_bytes, Logger* log) {
  const MemoryPlan& memory = plan.memory;
  log->Info("memory", {{"limit_bytes", memory.limit},
                       {"limit_source", memory.limit_source},
                       {"weight_bytes", memory.weights},
                       {"scratch_bytes", memory.scratch},
                       {"process_bytes", memory.process},
                       {"message_bytes", memory.messages},
                       {"grammar_bytes", memory.grammars},
                       {"state_bytes", memory.state},
                       {"park_bytes", memory.parked},
                       {"kept_state_bytes", memory.kept},
                       {"threads", plan.threads}});
  if (asked_state_bytes >= 2 * memory.state) {
    log->Info("--max_running sequences of --max_context tokens need less than --state_bytes",
              {{"state_bytes", asked_state_bytes}, {"used_bytes", memory.state}});
  }
}

int Run(ServerOptions options, StopSignals* signals, Logger* log) {
  absl::Status status = SetCpuTarget(options.cpu_target);
  if (!status.ok()) return Fail(log, status, 2);
  // They outlive the server.
  std::unique_ptr<LanguageModel> model;
  std::unique_ptr<Tokenizer> tokenizer;
  ServerPlan plan;
  const int64_t asked_state_bytes = options.engine.state_bytes;
  const bool on_cpu = !OnGpu(options);
  const Resources machine = ReadResources();
  const Resources resources = ResourcesOf(options, machine);
  options.message_bytes = MessageBytes(resources.memory_limit, options.max_message_bytes);
  options.sessions = SessionsOf(options, resources);
  options.engine.state_host_memory = StateHostMemory(options.engine, resources, !on_cpu);
  if (on_cpu) {  // Check that there is enough memory before taking any.
    status = PlanServer(options, machine, &plan);
    if (!status.ok()) return Fail(log, status, ExitCode(plan, status));
    options.engine.state_bytes = plan.memory.options.state_bytes;
    options.engine.park_memory = plan.memory.options.park_memory;
  }
  status = CheckThreads(ThreadsOf(options, on_cpu ? plan.threads : 1));
  if (!status.ok()) return Fail(log, status);
  // Loading takes long. So the ports open first, and probes see a process that is alive and not
  // ready.
  auto server = Server::Start(options, log);
  if (!server.ok()) return Fail(log, server.status());

  if (on_cpu) LogPlan(plan, asked_state_bytes, log);
  if (on_cpu && !machine.huge_pages) {
    log->Info("warning", {{"reason",
                           "no huge pages (/sys/kernel/mm/transparent_hugepage/enabled is never): "
                           "weights are read more slowly"}});
  }
  const auto start = std::chrono::steady_clock::now();
  if (options.device == "auto") TellWhyNotOnGpu(log);
  auto loaded = LoadModel(options.model_dir, ToLoadOptions(options, log));
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
  std::vector<std::string> warnings = model->config().warnings;
  if (tokenizer != nullptr) {
    const auto more = CompareTokenizer(*tokenizer, model->config());
    if (!more.ok()) {
      return Fail(log, absl::InvalidArgumentError(
                           absl::StrCat(options.model_dir, ": ", more.status().message())));
    }
    warnings.insert(warnings.end(), more->begin(), more->end());
  }
  for (const std::string& warning : warnings) {
    log->Info("warning", {{"folder", options.model_dir}, {"reason", warning}});
  }
  log->Info("loaded", {{"folder", options.model_dir},
                       {"device", model->device()},
                       {"took_ms", absl::FromChrono(std::chrono::steady_clock::now() - start)},
                       {"fingerprint", model->fingerprint()}});
  // From here on a signal drains, since the first call comes before Serve() returns.
  signals->SetServing();
  status = (*server)->Serve(model.get(), tokenizer.get(), [signals] { signals->EndWait(); });
  if (!status.ok()) return Fail(log, status, absl::IsInvalidArgument(status) ? 2 : 1);
  NotifySystemd("READY=1\nSTATUS=serving");
  if (isatty(STDOUT_FILENO)) {
    log->Flush(absl::Seconds(1));                        // So that this comes last.
    const char* client = std::getenv("PACKRAT_CLIENT");  // ./dev sets it.
    Print(StartMessage(options, (*server)->grpc_port(), (*server)->http_port(),
                       client == nullptr ? "packrat" : client));
  }
  // No time is needed for balancers if a person stops the server at a terminal, or if the device is
  // lost.
  const absl::Duration delay =
      signals->Wait() == SIGTERM ? options.drain_delay : absl::ZeroDuration();
  NotifySystemd("STOPPING=1\nSTATUS=draining");
  // This ends the process whatever clients do, and even if the engine stands still.
  constexpr absl::Duration kLastWords = absl::Seconds(3);
  signals->ExitAfter(delay + options.drain_grace + kLastWords, [log] {
    log->Error("calls do not end: leaving without them");
    log->Flush(absl::Milliseconds(200));
  });
  (*server)->AnnounceDrain();
  // Clients that move at the last moment are not refused.
  const absl::Duration last_moment = std::min(delay / 2, absl::Seconds(1));
  absl::SleepFor(delay - last_moment);
  if (delay > absl::ZeroDuration()) (*server)->DismissClients();
  absl::SleepFor(last_moment);
  (*server)->Drain();
  // A new process may find the device working again. The service manager starts it.
  return (*server)->failure().ok() ? 0 : 1;
}

}  // namespace
}  // namespace packrat

__attribute__((section(".preinit_array"),
               used)) static void (*const kFirstOfAll)() = packrat::FillStandardDescriptors;

int main(int argc, char** argv) {
  std::set_terminate(packrat::DieOfException);
  // Threads that outlive this function use both.
  static auto* const signals = new packrat::StopSignals;
  static std::atomic<packrat::Logger*> logger{nullptr};
  // This comes before any file is read, so that a signal can end a read that hangs.
  signals->Start([] {
    packrat::Logger* const log = logger.load();
    if (log == nullptr) return;
    log->Info("stopped while loading");
    log->Flush(absl::Milliseconds(200));
  });
  const packrat::ServerOptions options =
      packrat::OptionsFromCommandLine(argc, argv, "packrat_server", packrat::kUsage);
  if (!options.plan.empty()) return packrat::TellPlan(options);
  auto* const log =
      new packrat::Logger(options.log_format == "json" ? packrat::Logger::Format::kJson
                                                       : packrat::Logger::Format::kText);
  logger.store(log);
  packrat::LogForLibraries(log);
  const int exit_code = packrat::Run(options, signals, log);
  log->Flush(absl::Seconds(1));
  return exit_code;
}
