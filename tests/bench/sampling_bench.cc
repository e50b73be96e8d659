#include "tests/bench/sampling_bench.h"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/sampling.h"
#include "kernels/thread_pool.h"
#include "tests/bench/machine.h"
#include "tests/bench/report.h"

namespace packrat {
namespace {

constexpr struct { int rows, ids; } kSizes[] = {{1, 151936}, {8, 151936}, {64, 49152}};
constexpr int kVocab = 151936;
constexpr size_t kLogits = 64 * 49152;
static_assert(kLogits > 8 * kVocab);

const struct Parameters {
  const char* name;
  float temperature, top_p, min_p;
  int top_k;
} kParameters[] = {
    {"greedy", 0, 1, 0, 0},        {"temperature 1", 1, 1, 0, 0},
    {"top_p .95", 1, 0.95f, 0, 0}, {"temperature 2, top_p .95", 2, 0.95f, 0, 0},
    {"min_p .05", 1, 1, 0.05f, 0}, {"top_k 50, top_p .95", 1, 0.95f, 0, 50},
};

// What structured output adds: logits are written, so each sample has a copy of its own, whose time
// is in the row without a mask too.
void BenchMasks(ThreadPool* pool) {
  constexpr int kIds = 49152;
  std::mt19937_64 random(2);
  std::normal_distribution<float> normal(0, 3);
  std::vector<float> logits(kIds);
  for (float& x : logits) x = normal(random);
  std::vector<std::unique_ptr<Sampler>> samplers;
  for (int i = 0; i < pool->size(); ++i) samplers.push_back(std::make_unique<Sampler>(kIds));
  const std::pair<const char*, int> kinds[] = {
      {"no mask", 64}, {"a mask of nearly all ids", 63}, {"of half", 32}, {"of few", 1}};
  for (const auto& [name, share] : kinds) {
    std::vector<uint32_t> mask(share == 64 ? 0 : kIds / 32);
    for (size_t i = 0; i < mask.size() * 32; ++i) {
      const bool in = share == 1 ? random() % 2000 == 0 : static_cast<int>(random() % 64) < share;
      mask[i / 32] |= static_cast<uint32_t>(in) << (i % 32);
    }
    SamplingRow row;
    row.num_ids = kIds;
    row.temperature = 1;
    row.mask = mask;
    for (int rows : {1, 8, 64}) {
      std::vector<float> copies(static_cast<size_t>(rows) * kIds);
      std::vector<SampledToken> sampled(rows);
      const double seconds = MedianSeconds(33, [&] {
        ++row.position;
        pool->Run(rows, [&](int64_t i, int worker) {
          float* const copy = copies.data() + i * kIds;
          std::copy(logits.begin(), logits.end(), copy);
          samplers[worker]->Sample(row, copy, &sampled[i]);
        });
      });
      Row(absl::StrCat("sampling ", rows, rows == 1 ? " row of " : " rows of ", kIds, ", ", name),
          seconds * 1e3, "ms");
    }
  }
}

}  // namespace

void BenchSampling(int threads) {
  std::mt19937_64 random(1);
  std::normal_distribution<float> normal(0, 3);
  std::vector<float> logits(kLogits);
  for (float& x : logits) x = normal(random);
  ThreadPool pool(threads);
  std::vector<std::unique_ptr<Sampler>> samplers;
  for (int i = 0; i < pool.size(); ++i) samplers.push_back(std::make_unique<Sampler>(kVocab));
  std::vector<SampledToken> sampled(64);
  for (const Parameters& p : kParameters) {
    SamplingRow row;
    row.temperature = p.temperature;
    row.top_p = p.top_p;
    row.min_p = p.min_p;
    row.top_k = p.top_k;
    for (const auto& [rows, ids] : kSizes) {
      // Without biases and penalties a sampler leaves the logits as they are. One row is another
      // one each time: all of them together do not fit the second cache, and nor do a step's.
      row.num_ids = ids;
      const double seconds = MedianSeconds(33, [&, rows = rows, ids = ids] {
        ++row.position;
        pool.Run(rows, [&, ids](int64_t i, int worker) {
          const size_t at = (row.position * rows + i) % (kLogits / ids);
          samplers[worker]->Sample(row, logits.data() + at * ids, &sampled[i]);
        });
      });
      Row(absl::StrCat("sampling ", rows, rows == 1 ? " row of " : " rows of ", ids, ", ", p.name),
          seconds * 1e3, "ms");
    }
  }
  BenchMasks(&pool);
}

}  // namespace packrat
