// Benchmarks on this machine's CPU. Prints tab-separated rows; see report.h.
#include <cstdio>
#include <ctime>
#include <filesystem>
#include <string>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "kernels/cpu_target.h"
#include "kernels/thread_pool.h"
#include "models/cpu_model.h"
#include "tests/bench/machine.h"
#include "tests/bench/mamba2_bench.h"
#include "tests/bench/model_bench.h"
#include "tests/bench/report.h"
#include "tests/bench/sampling_bench.h"
#include "tests/bench/step_bench.h"

ABSL_FLAG(std::string, dir, "/var/tmp/packrat-bench",
          "Folder for models of random weights (1 GB).");
ABSL_FLAG(std::string, only, "",
          "Run one section: sampling, mamba2, model, context, steps. Default: all.");
ABSL_FLAG(std::string, model, "models/demo", "Folder of the model whose steps are measured.");
ABSL_FLAG(int, threads, 0, "Threads; 0: one per CPU that it may use.");
ABSL_FLAG(std::string, cpu_target, "auto", "auto, sse4, avx2, avx512 or amx.");
ABSL_FLAG(std::string, activations, "auto", "auto, float32 or bfloat16.");
ABSL_FLAG(std::string, weights, "stored", "Of the section model: stored, int8 or int4.");

int main(int argc, char** argv) {
  using namespace packrat;  // NOLINT
  absl::SetProgramUsageMessage("benchmarks of the CPU backend");
  absl::ParseCommandLine(argc, argv);
  const absl::Status status = SetCpuTarget(absl::GetFlag(FLAGS_cpu_target));
  const auto activations = ActivationTypeOf(absl::GetFlag(FLAGS_activations));
  ModelOptions model;
  const absl::Status weights = SetWeightFormats(absl::GetFlag(FLAGS_weights), "auto", &model);
  for (const absl::Status& flag : {status, activations.status(), weights}) {
    if (flag.ok()) continue;
    std::fprintf(stderr, "%s\n", flag.ToString().c_str());
    return 2;
  }
  const std::string dir = absl::GetFlag(FLAGS_dir), only = absl::GetFlag(FLAGS_only);
  const int threads = ThreadPool(absl::GetFlag(FLAGS_threads)).size();
  std::filesystem::create_directories(dir);
  char date[32];
  const time_t now = time(nullptr);
  std::strftime(date, sizeof(date), "%Y-%m-%d", std::localtime(&now));
  std::printf("# %s, %s, %d threads, %s\n", date, CpuModelName().c_str(), threads,
              CpuTargetName().c_str());
  std::printf("# benchmark\tmedian\tunit\tlimit\tshare\tnote\n");
  const MachineLimits limits = MeasureMachine(threads);
  Row("machine: own read loop over 1 GiB", limits.own_read / 1e9, "GB/s");
  Row("machine: mbw, read + written, 1 core", limits.mbw / 1e9, "GB/s");
  Row("machine: own FMA loop", limits.own_fma / 1e9, "GFLOP/s");
  Row("machine: OpenBLAS sgemm 2048", limits.sgemm / 1e9, "GFLOP/s");
  Row("machine: own loop of bfloat16 dots", limits.bfloat16_flops_per_second / 1e9, "GFLOP/s");
  Row("machine: own loop of byte dots", limits.byte_ops_per_second / 1e9, "Gop/s");
  if (only.empty() || only == "sampling") BenchSampling(threads);
  if (only.empty() || only == "mamba2") BenchMamba2(threads, limits);
  model.activations = *activations;
  model.threads = threads;
  if (only.empty() || only == "model") BenchModel(dir, model, limits);
  if (only.empty() || only == "context") BenchContext(dir, threads);
  if (only.empty() || only == "steps") {
    BenchSteps(absl::GetFlag(FLAGS_model), threads, *activations, limits);
  }
  return 0;
}
