// A block for each row, which passes over it as often as its options ask: once where it is greedy.
// (A row of 128 Ki logits is 512 KB, more than shared memory but within reach of the second cache.)
#include "kernels/sampling.h"

#include <cmath>

#include "kernels/device.cuh"
#include "kernels/logit_row.cuh"
#include "kernels/packed_sampling.h"

namespace packrat::gpu {
namespace sampling {
namespace {

// A row and what is known of it.
struct Row {
  const PackedRow& p;
  const int32_t* ids;  // Null: element i is id i.
  float* x;
  int n;
  float best;
};

// Bias, bans, mask and penalties, in place. Returns a number whose sum over the block and over all
// of FindBest()'s is 0 if all logits were finite: an infinite or NaN logit adds much, each id that
// is newly excluded takes 1.
constexpr U64 kNotFinite = U64{1} << 40;
__device__ __forceinline__ U64 Edit(const std::byte* packed, const PackedRow& p, float* x) {
  U64 sum = 0;
  if (p.num_biases > 0) {
    const auto* biases = reinterpret_cast<const PackedBias*>(packed + p.biases);
    for (int i = threadIdx.x; i < p.num_biases; i += kThreads) {
      const PackedBias entry = biases[i];
      if (entry.id >= p.num_ids) continue;
      if (!IsFinite(x[entry.id])) sum += kNotFinite;
      x[entry.id] += entry.bias;
    }
    __syncthreads();
  }
  if (p.num_excluded > 0) {
    const auto* excluded = reinterpret_cast<const int32_t*>(packed + p.excluded);
    U64 newly = 0;
    for (int i = threadIdx.x; i < p.num_excluded; i += kThreads) {
      const int32_t id = excluded[i];
      if (id >= p.num_ids) continue;
      const float old = atomicExch(&x[id], MinusInfinity());  // An id may come twice.
      if (old == MinusInfinity()) continue;
      ++newly;
      if (!IsFinite(old)) sum += kNotFinite;
    }
    sum -= newly;
    __syncthreads();
  }
  if (p.num_mask_words > 0) {
    const auto* mask = reinterpret_cast<const uint32_t*>(packed + p.mask);
    U64 newly = 0;
    for (int i = threadIdx.x; i < p.num_ids; i += kThreads) {
      if ((mask[i / 32] >> (i % 32) & 1) != 0) continue;
      const float old = x[i];
      if (old == MinusInfinity()) continue;
      ++newly;
      if (!IsFinite(old)) sum += kNotFinite;
      x[i] = MinusInfinity();
    }
    sum -= newly;
    __syncthreads();
  }
  if (p.num_counts > 0) {
    const auto* counts = reinterpret_cast<const TokenCount*>(packed + p.counts);
    for (int i = threadIdx.x; i < p.num_counts; i += kThreads) {
      const TokenCount entry = counts[i];
      if (entry.token >= p.num_ids) continue;
      float v = x[entry.token];
      if (v == MinusInfinity()) continue;
      if (!IsFinite(v)) {  // Not to be made finite by what follows.
        sum += kNotFinite;
        continue;
      }
      v = v > 0 ? v / p.repetition_penalty : v * p.repetition_penalty;
      if (entry.generated > 0) {
        v -= p.presence_penalty + p.frequency_penalty * static_cast<float>(entry.generated);
      }
      x[entry.token] = fminf(fmaxf(v, -3.402823466e38f), 3.402823466e38f);
    }
    __syncthreads();
  }
  return sum;
}

// The key of the first in rank of x[0, n); 0 for none. *sum as in Edit().
__device__ __forceinline__ U64 FindBest(const float* x, int n, Shared* s, U64* sum) {
  U64 key = 0;
  ForEachGroup(x, n, [&](int i, const float* v) {
#pragma unroll
    for (int j = 0; j < kGroup; ++j) {
      if (i + j >= n) continue;
      key = Max(key, RankKey(v[j], i + j));
      if (!IsFinite(v[j])) *sum += v[j] == MinusInfinity() ? 1 : kNotFinite;
    }
  });
  return Reduce<true>(key, s);
}

// x[i] = x[ids[i]], where ids ascend: nothing is overwritten before it is read.
__device__ __forceinline__ void Gather(const int32_t* ids, int n, float* x) {
  for (int first = 0; first < n; first += kThreads) {
    const int i = first + static_cast<int>(threadIdx.x);
    const float v = i < n ? x[ids[i]] : 0.0f;
    __syncthreads();
    if (i < n) x[i] = v;
    __syncthreads();
  }
}

__device__ __forceinline__ U64 CountCut(const Row& row, int k, Shared* s) {
  return Select<false>(row.x, row.n, k, s, [](int i, float x, U64* key) {
    *key = RankKey(x, i);
    return U64{1};
  });
}

// Sum of mass(i, x) over the row.
template <class Masses>
__device__ __forceinline__ U64 Total(const Row& row, Shared* s, const Masses& mass) {
  U64 sum = 0;
  ForEachGroup(row.x, row.n, [&](int i, const float* v) {
#pragma unroll
    for (int j = 0; j < kGroup; ++j) sum += mass(i + j, v[j]);
  });
  return Reduce<false>(sum, s);
}

// The index that the uniform number falls on.
__device__ __forceinline__ int Draw(const Row& row, Shared* s) {
  const PackedRow& p = row.p;
  U64 logit_cut = 0, weight_cut = 0;  // Keys below them are out.
  if (p.top_k > 0 && p.top_k < row.n) logit_cut = CountCut(row, p.top_k, s);
  const auto weight = [&](int i, float x) {
    return RankKey(x, i) < logit_cut ? 0.0f : ExpNonPositive((x - row.best) * p.scale);
  };
  if (p.top_p < 1.0f) {
    const U64 all = Total(row, s, [&](int i, float x) { return Mass(weight(i, x)); });
    const double share = ceil(static_cast<double>(p.top_p) * static_cast<double>(all));
    const U64 target = share < 1.0 ? 1 : static_cast<U64>(share);
    weight_cut =
        Select<true>(row.x, row.n, target < all ? target : all, s, [&](int i, float x, U64* key) {
          const float w = weight(i, x);
          *key = RankKey(w, i);
          return Mass(w);
        });
  }
  const auto mass = [&](int i, float x) {
    const float w = weight(i, x);
    return w < p.min_p || RankKey(w, i) < weight_cut ? U64{0} : Mass(w);
  };
  // What each tile weighs, then which tile, then which element of it.
  __syncthreads();
  for (int i = threadIdx.x; i < kBins; i += kThreads) s->low[i] = s->high[i] = 0;
  __syncthreads();
  U64 sum = 0;
  ForEachGroup(row.x, row.n, [&](int i, const float* v) {
    U64 group = 0;
#pragma unroll
    for (int j = 0; j < kGroup; ++j) group += mass(i + j, v[j]);
    sum += group;
#pragma unroll
    for (int distance = kWarp / 2; distance > 0; distance /= 2) {
      group += __shfl_xor_sync(kAllLanes, group, distance);
    }
    if (Lane() == 0) AddMass(&s->low[i / kTile], &s->high[i / kTile], group);
  });
  const U64 all = Reduce<false>(sum, s);  // Its barriers also end the additions.
  U64 need = static_cast<U64>(p.uniform * static_cast<double>(all));
  need = need < all ? need + 1 : all;
  U64 weights[kGroup];
#pragma unroll
  for (int j = 0; j < kGroup; ++j) {
    const int tile = static_cast<int>(threadIdx.x) * kGroup + j;
    weights[j] = (static_cast<U64>(s->high[tile]) << 32) + s->low[tile];
  }
  const Found tile = FindStep(weights, need, s);
  const int first = tile.index * kTile + static_cast<int>(threadIdx.x) * kGroup;
  float v[kGroup];
  LoadGroup(row.x, first, row.n, v);
#pragma unroll
  for (int j = 0; j < kGroup; ++j) weights[j] = mass(first + j, v[j]);
  return tile.index * kTile + FindStep(weights, need - tile.before, s).index;
}

__device__ __forceinline__ int IdOf(const Row& row, int index) {
  return row.ids != nullptr ? row.ids[index] : index;
}

// What the weights at temperature 1 sum to.
__device__ __forceinline__ U64 WeightSum(const Row& row, Shared* s) {
  return Total(row, s, [&](int, float x) { return Mass(ExpNonPositive(x - row.best)); });
}
__device__ __forceinline__ double LogSum(U64 weights) {
  return log(static_cast<double>(weights) * (1.0 / kMassUnits));
}

// Where the row's token is given. `weights`: WeightSum(), `best_key`: of the likeliest.
__device__ __forceinline__ void Spread(const Row& row, U64 weights, U64 best_key, Shared* s,
                                       SampledToken* sampled) {
  // exp(-d) * d is below 1.
  const U64 parts = Total(row, s, [&](int, float x) {
    const float w = ExpNonPositive(x - row.best);
    return w > 0.0f ? Mass(w * (row.best - x)) : U64{0};
  });
  U64 next = 0;
  ForEachGroup(row.x, row.n, [&](int i, const float* v) {
#pragma unroll
    for (int j = 0; j < kGroup; ++j) {
      const U64 key = i + j < row.n ? RankKey(v[j], i + j) : 0;
      if (key < best_key) next = Max(next, key);
    }
  });
  next = Reduce<true>(next, s);
  if (threadIdx.x != 0) return;
  sampled->best = IndexOf(best_key);
  sampled->entropy = static_cast<float>(LogSum(weights) +
                                        static_cast<double>(parts) / static_cast<double>(weights));
  sampled->margin = row.best - (next == 0 ? MinusInfinity() : ValueOf(next));
}

__device__ __forceinline__ void Logprobs(const Row& row, U64 weights, int chosen, Shared* s,
                                         SampledToken* sampled) {
  const double log_sum = LogSum(weights);
  const auto logprob = [&](float x) {
    return static_cast<float>(static_cast<double>(x) - row.best - log_sum);
  };
  const int k = row.p.num_logprobs < row.n ? row.p.num_logprobs : row.n;
  if (threadIdx.x == 0) {
    sampled->logprob = logprob(row.x[chosen]);
    s->num_best_keys = s->num_top = 0;
  }
  if (k > 0) {
    const U64 cut = CountCut(row, k, s);  // Its barriers also make the counts zero for all.
    ForEachGroup(row.x, row.n, [&](int i, const float* v) {
#pragma unroll
      for (int j = 0; j < kGroup; ++j) {
        const U64 key = RankKey(v[j], i + j);
        if (i + j < row.n && key >= cut) s->best_keys[atomicAdd(&s->num_best_keys, 1)] = key;
      }
    });
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < k) {
      const U64 key = s->best_keys[threadIdx.x];
      int rank = 0;
      for (int i = 0; i < k; ++i) rank += s->best_keys[i] > key ? 1 : 0;
      const float x = ValueOf(key);
      if (x > MinusInfinity()) {
        sampled->top[rank] = {IdOf(row, IndexOf(key)), logprob(x)};
        atomicMax(&s->num_top, rank + 1);
      }
    }
    __syncthreads();
  }
  if (threadIdx.x == 0) sampled->num_top = s->num_top;
}

__global__ void __launch_bounds__(kThreads, 2)
    SampleKernel(const std::byte* packed, int vocab_stride, float* logits, SampledToken* sampled) {
  AwaitPrevious();
  auto* s = reinterpret_cast<Shared*>(SharedMemory());
  const PackedRow& p = reinterpret_cast<const PackedRow*>(packed)[blockIdx.x];
  if (p.num_ids == 0) return;
  float* x = logits + static_cast<size_t>(blockIdx.x) * vocab_stride;
  sampled += blockIdx.x;

  U64 sum = Edit(packed, p, x);
  U64 key = FindBest(x, p.num_ids, s, &sum);
  if (Reduce<false>(sum, s) != 0) {
    if (threadIdx.x == 0) sampled->status = SampledToken::Status::kNotFinite;
    return;
  }
  Row row = {p, nullptr, x, p.num_ids, 0.0f};
  if (p.num_allowed >= 0) {
    row.ids = reinterpret_cast<const int32_t*>(packed + p.allowed);
    row.n = p.num_allowed;
    Gather(row.ids, row.n, x);
    key = FindBest(x, row.n, s, &sum);
  }
  row.best = key == 0 ? MinusInfinity() : ValueOf(key);
  if (row.best == MinusInfinity()) {
    if (threadIdx.x == 0) sampled->status = SampledToken::Status::kNothingLeft;
    return;
  }
  int chosen = IndexOf(key);
  if (p.given >= 0) {
    chosen = p.given;
  } else if (p.scale > 0.0f) {
    chosen = Draw(row, s);
  }
  if (p.num_logprobs >= 0 || p.given >= 0) {
    const U64 weights = WeightSum(row, s);
    if (p.num_logprobs >= 0) Logprobs(row, weights, chosen, s, sampled);
    if (p.given >= 0) Spread(row, weights, key, s, sampled);
  }
  if (threadIdx.x == 0) {
    sampled->token = IdOf(row, chosen);
    sampled->status = SampledToken::Status::kOk;
  }
}

}  // namespace
}  // namespace sampling

absl::Status Sample(const std::byte* packed, int places, int vocab_stride, float* logits,
                    SampledToken* sampled, CudaStream stream) {
  if (vocab_stride > kMaxSampledVocab) {
    return absl::InvalidArgumentError("sampling: the vocabulary is larger than 2^19");
  }
  if (places == 0) return absl::OkStatus();
  return Launch("sampling", sampling::SampleKernel, places, sampling::kThreads,
                sizeof(sampling::Shared), stream, packed, vocab_stride, logits, sampled);
}

}  // namespace packrat::gpu
