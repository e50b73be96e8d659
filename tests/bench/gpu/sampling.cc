// Sampling on the device: rows of 32,000 logits to tokens.
#include <cuda_runtime_api.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/sampling.h"
#include "tests/bench/gpu/bench.h"

namespace packrat::gpu_bench {
namespace {

struct Way {
  const char* name;
  SamplingRow row;
};

std::vector<Way> Ways(int vocabulary) {
  SamplingRow greedy;
  greedy.num_ids = vocabulary;
  SamplingRow drawn = greedy;
  drawn.temperature = 0.8f;
  SamplingRow nucleus = drawn;
  nucleus.top_p = 0.95f;
  SamplingRow top = drawn;
  top.top_k = 50;
  SamplingRow told = greedy;
  told.num_logprobs = 5;
  return {{"greedy", greedy},
          {"temperature", drawn},
          {"temperature, top-p", nucleus},
          {"temperature, top-k", top},
          {"greedy, 5 log-probabilities", told}};
}

absl::StatusOr<double> TimeSampling(Bench* bench, const SamplingRow& row, int rows,
                                    int vocabulary) {
  std::vector<SamplingRow> all(rows, row);
  for (int i = 0; i < rows; ++i) all[i].position = i;
  std::vector<uint64_t> packed((gpu::PackedSamplingBytes(all, rows) + 7) / 8);
  gpu::PackSampling(all, rows, reinterpret_cast<std::byte*>(packed.data()));
  BENCH_ASSIGN(gpu::DeviceMemory plan, ToDevice(packed.data(), packed.size() * 8));
  const size_t size = size_t(rows) * vocabulary;
  const int copies = bench->Copies(static_cast<double>(size) * 4, 1);
  BENCH_ASSIGN(gpu::DeviceMemory logits, bench->Random(copies * size, DType::kF32, 2.0f));
  BENCH_ASSIGN(gpu::DeviceMemory sampled,
               gpu::DeviceMemory::Allocate(rows * sizeof(SampledToken), "sampled tokens"));
  return bench->Time(copies, [&](int i, CudaStream stream) {
    return gpu::Sample(plan.data(), rows, vocabulary,
                       reinterpret_cast<float*>(logits.data()) + i * size,
                       reinterpret_cast<SampledToken*>(sampled.data()), stream);
  });
}

}  // namespace

void BenchSampling(Bench* bench) {
  const bool tiny = bench->options().tiny;
  const int vocabulary = tiny ? 96 : 32000;
  for (const Way& way : Ways(vocabulary)) {
    for (const int rows : tiny ? std::vector<int>{3} : std::vector<int>{1, 64, 256, 512}) {
      Work work;
      work.bytes = 4.0 * rows * vocabulary;
      bench->Launch(absl::StrCat("sampling, ", way.name),
                    absl::StrCat(rows, " rows of ", vocabulary), {{work}},
                    [&](std::string*) { return TimeSampling(bench, way.row, rows, vocabulary); });
    }
  }
}

}  // namespace packrat::gpu_bench
