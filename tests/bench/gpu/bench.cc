#include "tests/bench/gpu/bench.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

namespace packrat::gpu_bench {
namespace {

using Clock = std::chrono::steady_clock;

absl::Status Check(cudaError_t error, const char* what) { return gpu::CudaStatus(error, what); }

Clock::duration Seconds(double s) {
  return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(s));
}

// A captured chain of launches.
class Graph {
 public:
  ~Graph() {
    if (exec_ != nullptr) cudaGraphExecDestroy(exec_);
    if (graph_ != nullptr) cudaGraphDestroy(graph_);
  }
  absl::Status Capture(CudaStream stream, const std::function<absl::Status()>& queue) {
    BENCH_RETURN_IF_ERROR(
        Check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capturing"));
    const absl::Status queued = queue();
    const absl::Status ended = Check(cudaStreamEndCapture(stream, &graph_), "capturing");
    BENCH_RETURN_IF_ERROR(queued);
    BENCH_RETURN_IF_ERROR(ended);
    return Check(cudaGraphInstantiate(&exec_, graph_, 0), "making a graph");
  }
  absl::Status Launch(CudaStream stream) const {
    return Check(cudaGraphLaunch(exec_, stream), "launching a graph");
  }

 private:
  cudaGraph_t graph_ = nullptr;
  cudaGraphExec_t exec_ = nullptr;
};

class Event {
 public:
  Event() { cudaEventCreateWithFlags(&event_, 0); }
  ~Event() { cudaEventDestroy(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  cudaEvent_t get() const { return event_; }

 private:
  cudaEvent_t event_ = nullptr;
};

}  // namespace

double Median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

Bench::~Bench() {
  if (stream_ != nullptr) cudaStreamDestroy(stream_);
}

absl::Status Bench::Open() {
  BENCH_ASSIGN(device_, gpu::OpenDevice());
  cudaDeviceProp properties;
  BENCH_RETURN_IF_ERROR(Check(cudaGetDeviceProperties(&properties, 0), "asking for the device"));
  l2_bytes_ = properties.l2CacheSize;
  return Check(cudaStreamCreateWithFlags(&stream_.stream, cudaStreamNonBlocking),
               "making a stream");
}

void Bench::Section(const std::string& name, double seconds) {
  section_ = name;
  // Of the whole run's time no section takes what is not there.
  deadline_ = std::min(Clock::now() + Seconds(seconds), start_ + Seconds(options_.budget_s));
}

double Bench::Remaining() const {
  return std::max(0.0, std::chrono::duration<double>(deadline_ - Clock::now()).count());
}

bool Bench::OutOfTime() const { return !options_.predict && Clock::now() >= deadline_; }

void Bench::Add(Row row) {
  row.section = section_;
  report_->Add(std::move(row));
}

void Bench::Error(const std::string& name, const std::string& shape, const absl::Status& status) {
  Row row;
  row.name = name, row.shape = shape;
  row.error = std::string(status.message());
  Add(std::move(row));
}

void Bench::Launch(const std::string& name, const std::string& shape, const Kernels& kernels,
                   const std::function<absl::StatusOr<double>(std::string* note)>& run) {
  Row row;
  row.name = name, row.shape = shape, row.work = Sum(kernels);
  const Floor least = FloorOf(kernels, limits_);
  row.limited_by = least.limited_by;
  row.unit = least.by_bytes ? "GB/s" : "TFLOP/s";
  const double amount = least.by_bytes ? row.work.bytes / 1e9 : row.work.flops / 1e12;
  const double floor = least.seconds;
  if (options_.predict) {
    row.predicted = true;
    row.seconds = floor;
    row.limit = amount / floor;
    return Add(std::move(row));
  }
  if (OutOfTime()) {
    row.error = "not run: out of time";
    return Add(std::move(row));
  }
  const absl::StatusOr<double> seconds = run(&row.note);
  if (!seconds.ok()) {
    row.error = std::string(seconds.status().message());
  } else {
    row.seconds = *seconds;
    row.figure = amount / *seconds;
    row.limit = amount / floor;
  }
  Add(std::move(row));
}

absl::StatusOr<double> Bench::Time(
    int count, const std::function<absl::Status(int launch, CudaStream stream)>& launch,
    const std::function<absl::Status(CudaStream stream)>& before) {
  const auto queue = [&]() -> absl::Status {
    for (int i = 0; i < count; ++i) BENCH_RETURN_IF_ERROR(launch(i, stream_));
    return absl::OkStatus();
  };
  // Once without a graph: what is tuned or loaded at first use is done then.
  BENCH_RETURN_IF_ERROR(queue());
  BENCH_RETURN_IF_ERROR(Check(cudaStreamSynchronize(stream_), "the first launches"));
  Graph graph;
  BENCH_RETURN_IF_ERROR(graph.Capture(stream_, queue));
  const int least = options_.tiny ? 1 : 7, most = options_.tiny ? 2 : 101;
  std::vector<double> seconds;
  const auto stop = Clock::now() + Seconds(std::min(0.5, Remaining()));
  Event begin, end;
  for (int i = -2; i < most && (i < least || Clock::now() < stop); ++i) {
    if (before != nullptr) BENCH_RETURN_IF_ERROR(before(stream_));
    BENCH_RETURN_IF_ERROR(Check(cudaEventRecord(begin.get(), stream_), "an event"));
    BENCH_RETURN_IF_ERROR(graph.Launch(stream_));
    BENCH_RETURN_IF_ERROR(Check(cudaEventRecord(end.get(), stream_), "an event"));
    BENCH_RETURN_IF_ERROR(Check(cudaEventSynchronize(end.get()), "the measured launches"));
    float milliseconds = 0;
    BENCH_RETURN_IF_ERROR(
        Check(cudaEventElapsedTime(&milliseconds, begin.get(), end.get()), "an event"));
    if (i >= 0) seconds.push_back(milliseconds / 1e3);  // The first two warm up.
  }
  return Median(std::move(seconds)) / count;
}

double Bench::UsableBytes() const {
  size_t free = 0, total = 0;
  if (cudaMemGetInfo(&free, &total) != cudaSuccess) return 0;
  return 0.6 * static_cast<double>(free);
}

int Bench::Copies(double bytes, int least) const {
  if (options_.tiny) return 2;
  const double overflow = std::ceil(3.0 * static_cast<double>(l2_bytes_) / bytes);
  const double fits = std::floor(UsableBytes() / bytes);
  return static_cast<int>(std::clamp(std::max<double>(least, overflow), 1.0, std::max(1.0, fits)));
}

absl::StatusOr<gpu::DeviceMemory> ToDevice(const void* data, size_t bytes) {
  auto memory = gpu::DeviceMemory::Allocate(bytes, "a benchmark's operand");
  if (!memory.ok()) return memory.status();
  BENCH_RETURN_IF_ERROR(
      Check(cudaMemcpy(memory->data(), data, bytes, cudaMemcpyHostToDevice), "copying an operand"));
  // A copy from memory that is not pinned may return while its end is still under way.
  BENCH_RETURN_IF_ERROR(Check(cudaDeviceSynchronize(), "copying an operand"));
  return memory;
}

absl::StatusOr<gpu::DeviceMemory> Bench::Random(size_t elements, DType type, float deviation,
                                                float mean) {
  // A stretch of random numbers, repeated: what a kernel does depends on no more than that.
  const size_t size = DTypeBytes(type), stretch = std::min<size_t>(elements, size_t{1} << 22);
  std::vector<std::byte> host(stretch * size);
  uint64_t state = 42 + elements;
  for (size_t i = 0; i < stretch; ++i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    const float uniform = static_cast<float>(state >> 40) * 0x1p-23f - 1.0f;
    const float value = mean + deviation * 1.7320508f * uniform;
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    if (type == DType::kF32) {
      std::memcpy(host.data() + i * 4, &bits, 4);
    } else {
      const auto half = static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
      std::memcpy(host.data() + i * 2, &half, 2);
    }
  }
  auto memory = gpu::DeviceMemory::Allocate(elements * size, "a benchmark's operand");
  if (!memory.ok()) return memory.status();
  BENCH_RETURN_IF_ERROR(
      Check(cudaMemcpy(memory->data(), host.data(), host.size(), cudaMemcpyHostToDevice),
            "copying an operand"));
  for (size_t done = host.size(); done < elements * size;) {
    const size_t bytes = std::min(done, elements * size - done);
    BENCH_RETURN_IF_ERROR(
        Check(cudaMemcpy(memory->data() + done, memory->data(), bytes, cudaMemcpyDeviceToDevice),
              "filling an operand"));
    done += bytes;
  }
  BENCH_RETURN_IF_ERROR(Check(cudaDeviceSynchronize(), "filling an operand"));
  return memory;
}

absl::StatusOr<SpanBatch> SpanBatch::Make(const std::vector<int>& positions, int tokens,
                                          int first_state, float tolerance, int steps) {
  const size_t n = positions.size();
  std::vector<BatchSpan> spans(n);
  std::vector<int32_t> token_span(n * tokens);
  SpanBatch batch;
  batch.view_.max_span_tokens = tokens;
  for (size_t i = 0; i < n; ++i) {
    const int state = first_state + static_cast<int>(i);
    spans[i] = {static_cast<int32_t>(i) * tokens,
                tokens,
                positions[i],
                state,
                state,
                state,
                tolerance,
                steps};
    std::fill_n(token_span.begin() + i * tokens, tokens, static_cast<int32_t>(i));
    batch.view_.max_context = std::max(batch.view_.max_context, positions[i] + tokens);
  }
  std::vector<std::byte> bytes(n * sizeof(BatchSpan) + token_span.size() * sizeof(int32_t));
  std::memcpy(bytes.data(), spans.data(), n * sizeof(BatchSpan));
  std::memcpy(bytes.data() + n * sizeof(BatchSpan), token_span.data(),
              token_span.size() * sizeof(int32_t));
  BENCH_ASSIGN(batch.memory_, ToDevice(bytes.data(), bytes.size()));
  batch.view_.spans = reinterpret_cast<const BatchSpan*>(batch.memory_.data());
  batch.view_.token_span =
      reinterpret_cast<const int32_t*>(batch.memory_.data() + n * sizeof(BatchSpan));
  batch.view_.num_spans = static_cast<int>(n);
  batch.view_.num_tokens = static_cast<int>(n) * tokens;
  return batch;
}

}  // namespace packrat::gpu_bench
