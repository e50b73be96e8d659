// Measuring on a CUDA device: time by events around replays of a captured chain of launches,
// medians of many, and buffers that rotate so that nothing is found in the second cache.
#ifndef PACKRAT_TESTS_BENCH_GPU_BENCH_H_
#define PACKRAT_TESTS_BENCH_GPU_BENCH_H_

#include <chrono>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/dtype.h"
#include "kernels/gpu.h"
#include "models/gpu/memory.h"
#include "tests/bench/gpu/report.h"
#include "tests/bench/gpu/work.h"

#define BENCH_RETURN_IF_ERROR(expression) \
  if (const absl::Status& bench_status = (expression); !bench_status.ok()) return bench_status
// NOLINTBEGIN(bugprone-macro-parentheses): `variable` may be a declaration.
#define BENCH_CONCAT_INNER(a, b) a##b
#define BENCH_CONCAT(a, b) BENCH_CONCAT_INNER(a, b)
#define BENCH_ASSIGN(variable, expression) \
  BENCH_ASSIGN_AS(BENCH_CONCAT(bench_result_, __LINE__), variable, expression)
#define BENCH_ASSIGN_AS(result, variable, expression) \
  auto result = (expression);                         \
  if (!result.ok()) return result.status();           \
  variable = *std::move(result)
// NOLINTEND(bugprone-macro-parentheses)

namespace packrat::gpu_bench {

struct Options {
  bool predict = false;  // Run nothing: rows with times from the assumed limits.
  bool tiny = false;     // Shapes that an emulated device runs in seconds.
  double budget_s = 480;
  std::string out, scratch = "/tmp", self;
};

class Bench {
 public:
  Bench(const Options& options, Report* report) : options_(options), report_(report) {}
  ~Bench();
  // Opens the device; not for predictions.
  absl::Status Open();

  const Options& options() const { return options_; }
  const gpu::DeviceInfo& device() const { return device_; }
  Limits& limits() { return limits_; }
  CudaStream stream() const { return stream_; }
  Report* report() { return report_; }

  // Rows that follow belong to this section, which may take this many seconds.
  void Section(const std::string& name, double seconds);
  bool OutOfTime() const;
  // Seconds until the section's time is up, at least 0.
  double Remaining() const;

  // A row of one launch, or of some that run one after the other: its share of the time that they
  // take at least. `run` measures seconds and may set a note.
  void Launch(const std::string& name, const std::string& shape, const Kernels& kernels,
              const std::function<absl::StatusOr<double>(std::string* note)>& run);
  // A row of another kind.
  void Add(Row row);
  void Error(const std::string& name, const std::string& shape, const absl::Status& status);

  // Median seconds of one of launches 0 .. count - 1, queued one after the other as one graph.
  // before: queued before each replay, and not measured.
  absl::StatusOr<double> Time(
      int count, const std::function<absl::Status(int launch, CudaStream stream)>& launch,
      const std::function<absl::Status(CudaStream stream)>& before = nullptr);

  // How many copies of `bytes` overflow the second cache three times, from `least` to what fits
  // into a bit more than half of the free memory; at least 1.
  int Copies(double bytes, int least) const;
  double UsableBytes() const;

  // Memory with random numbers of this standard deviation.
  absl::StatusOr<gpu::DeviceMemory> Random(size_t elements, DType type, float deviation,
                                           float mean = 0);

 private:
  const Options options_;
  Report* report_;
  gpu::DeviceInfo device_;
  Limits limits_;
  size_t l2_bytes_ = 0;
  CudaStream stream_;
  std::string section_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now(),
                                        deadline_ = start_;
};

// A batch of spans on the device. Each span has `tokens` tokens; span i begins at position[i] and
// uses slot and tail `first_state` + i.
class SpanBatch {
 public:
  static absl::StatusOr<SpanBatch> Make(const std::vector<int>& positions, int tokens,
                                        int first_state, float tolerance = 1e-4f, int steps = 64);
  const BatchView& view() const { return view_; }

 private:
  gpu::DeviceMemory memory_;
  BatchView view_;
};

absl::StatusOr<gpu::DeviceMemory> ToDevice(const void* data, size_t bytes);
double Median(std::vector<double> values);

// The sections.
void BenchLimits(Bench* bench);
void BenchRat(Bench* bench);
void BenchRatPlus(Bench* bench);
void BenchAttention(Bench* bench);
void BenchLayers(Bench* bench);
void BenchMesa(Bench* bench);
void BenchPrompts(Bench* bench);
void BenchProducts(Bench* bench);
void BenchElementwise(Bench* bench);
void BenchSampling(Bench* bench);
void BenchModel(Bench* bench);

}  // namespace packrat::gpu_bench

#endif  // PACKRAT_TESTS_BENCH_GPU_BENCH_H_
