// What a block does with a row of logits: sums over it, the ranking of its elements, and the cut
// above which the best of them lie.
//
// Everything that is summed is an integer: counts, and weights in units of 2^-44 of the best
// token's. So no result depends on who came first, and sums of different passes agree exactly.
#ifndef PACKRAT_KERNELS_LOGIT_ROW_CUH_
#define PACKRAT_KERNELS_LOGIT_ROW_CUH_

#include "kernels/device.cuh"
#include "kernels/sampling.h"

namespace packrat::gpu::sampling {

using U64 = unsigned long long;

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / kWarp;
constexpr int kGroup = 4;                 // Neighbours that a thread takes at a time.
constexpr int kTile = kThreads * kGroup;  // What the block takes at a time.
constexpr int kBins = kTile;              // Of a histogram: a group for each thread.
constexpr int kLoads = 4;                 // Groups that a thread has on the way at a time.
constexpr float kMassUnits = 0x1p44f;     // Of a weight of 1; 2^19 of them stay below 2^64.
static_assert(kMaxSampledVocab / kTile <= kBins);

// The first index whose running sum reaches what was sought, the sum before it, and its own.
struct Found {
  int index;
  U64 before;
  U64 weight;
};

struct Shared {
  // A sum of 64 bits in two words, since only atomics of 32 bits are done by the memory itself.
  unsigned low[kBins], high[kBins];
  unsigned counts[kBins];
  U64 warps[kWarps];
  Found found;
  U64 best_keys[kMaxLogprobs];
  int num_best_keys, num_top;
};

__device__ __forceinline__ float MinusInfinity() { return __uint_as_float(0xff800000u); }
__device__ __forceinline__ bool IsFinite(float x) {
  return (__float_as_uint(x) & 0x7f800000u) != 0x7f800000u;
}

// A number that is larger the earlier x, at index i, stands in the ranking. Negative zero ranks as
// zero does.
__device__ __forceinline__ U64 RankKey(float x, int i) {
  const unsigned bits = __float_as_uint(x + 0.0f);
  const unsigned ordered = bits ^ ((bits >> 31) != 0 ? 0xffffffffu : 0x80000000u);
  return (static_cast<U64>(ordered) << 32) | (0xffffffffu - static_cast<unsigned>(i));
}
__device__ __forceinline__ int IndexOf(U64 key) {
  return static_cast<int>(0xffffffffu - static_cast<unsigned>(key));
}
__device__ __forceinline__ float ValueOf(U64 key) {
  const auto ordered = static_cast<unsigned>(key >> 32);
  return __uint_as_float(ordered ^ ((ordered >> 31) != 0 ? 0x80000000u : 0xffffffffu));
}
__device__ __forceinline__ U64 Mass(float weight) { return static_cast<U64>(weight * kMassUnits); }

__device__ __forceinline__ U64 Max(U64 a, U64 b) { return a > b ? a : b; }

// Over the block; every thread gets it.
template <bool kMax>
__device__ __forceinline__ U64 Reduce(U64 value, Shared* s PACKRAT_CALLER) {
#pragma unroll
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    const U64 other = __shfl_xor_sync(kAllLanes, value, distance);
    value = kMax ? Max(value, other) : value + other;
  }
  __syncthreads();  // The words may still be read.
  if (Lane() == 0) s->warps[Warp()] = value;
  __syncthreads();
  value = 0;
  for (int w = 0; w < kWarps; ++w) value = kMax ? Max(value, s->warps[w]) : value + s->warps[w];
  return value;
}

// Of a list of kTile weights, of which thread t has 4t to 4t + 3: the first at which the running
// sum reaches `need`, in [1, sum]. Every thread gets it.
__device__ __forceinline__ Found FindStep(const U64 (&weights)[kGroup], U64 need,
                                          Shared* s PACKRAT_CALLER) {
  U64 own = 0;
#pragma unroll
  for (int j = 0; j < kGroup; ++j) own += weights[j];
  U64 sum = own;
#pragma unroll
  for (int distance = 1; distance < kWarp; distance *= 2) {
    const U64 before = __shfl_up_sync(kAllLanes, sum, distance);
    if (Lane() >= distance) sum += before;
  }
  __syncthreads();  // The words may still be read.
  if (Lane() == kWarp - 1) s->warps[Warp()] = sum;
  __syncthreads();
  U64 before = sum - own;
  for (int w = 0; w < Warp(); ++w) before += s->warps[w];
#pragma unroll
  for (int j = 0; j < kGroup; ++j) {
    if (before < need && need <= before + weights[j]) {
      s->found = {static_cast<int>(threadIdx.x) * kGroup + j, before, weights[j]};
    }
    before += weights[j];
  }
  __syncthreads();
  return s->found;
}

// x[i] to x[i + 3], -inf beyond n.
__device__ __forceinline__ void LoadGroup(const float* x, int i, int n, float* v) {
  if (i + kGroup <= n && reinterpret_cast<uintptr_t>(x + i) % 16 == 0) {
    const float4 four = *reinterpret_cast<const float4*>(x + i);
    v[0] = four.x, v[1] = four.y, v[2] = four.z, v[3] = four.w;
    return;
  }
#pragma unroll
  for (int j = 0; j < kGroup; ++j) v[j] = i + j < n ? x[i + j] : MinusInfinity();
}

// body(i, v): the group of elements i to i + 3. All threads of the block call it equally often.
template <class Body>
__device__ __forceinline__ void ForEachGroup(const float* x, int n, const Body& body) {
  for (int first = static_cast<int>(threadIdx.x) * kGroup, tile = 0; tile < n;
       tile += kLoads * kTile, first += kLoads * kTile) {
    float v[kLoads][kGroup];
#pragma unroll
    for (int l = 0; l < kLoads; ++l) LoadGroup(x, first + l * kTile, n, v[l]);
#pragma unroll
    for (int l = 0; l < kLoads; ++l) {
      if (tile + l * kTile < n) body(first + l * kTile, v[l]);
    }
  }
}

// Adds to a sum of two words.
__device__ __forceinline__ void AddMass(unsigned* low, unsigned* high, U64 mass) {
  const auto word = static_cast<unsigned>(mass);
  const unsigned old = atomicAdd(low, word);
  const unsigned carried = static_cast<unsigned>(mass >> 32) + (old + word < old ? 1u : 0u);
  if (carried != 0) atomicAdd(high, carried);
}

// Digits of a key from the top; the first three are those of the value.
__device__ __forceinline__ int NextShift(int shift) {
  return shift == 42 || shift == 10 ? shift - 10 : shift - 11;
}

// The largest cut such that the elements whose keys are not below it weigh `target` at least, which
// all of them do. element(i, x, &key) gives an element's weight (by count: 0 or 1) and, unless that
// is 0, its key. Digit by digit: the histogram of what shares the digits found so far.
template <bool kByMass, class Element>
__device__ __forceinline__ U64 Select(const float* x, int n, U64 target, Shared* s,
                                      const Element& element PACKRAT_CALLER) {
  U64 prefix = 0, above = 0;  // What is larger than all that has the prefix weighs `above`.
  for (int shift = 64;;) {
    const int next = NextShift(shift == 64 ? 64 : shift);
    __syncthreads();  // The bins may still be read.
    for (int i = threadIdx.x; i < kBins; i += kThreads) s->low[i] = s->high[i] = s->counts[i] = 0;
    __syncthreads();
    ForEachGroup(x, n, [&](int i, const float* v) {
#pragma unroll
      for (int j = 0; j < kGroup; ++j) {
        if (i + j >= n) continue;
        U64 key = 0;
        const U64 weight = element(i + j, v[j], &key);
        if (weight == 0 || (shift < 64 && (key ^ prefix) >> shift != 0)) continue;
        const int bin = static_cast<int>(key >> next) & ((1 << (shift - next)) - 1);
        atomicAdd(&s->counts[bin], 1u);
        if (kByMass) AddMass(&s->low[bin], &s->high[bin], weight);
      }
    });
    __syncthreads();
    U64 weights[kGroup];  // From the largest bin down.
#pragma unroll
    for (int j = 0; j < kGroup; ++j) {
      const int bin = kBins - 1 - (static_cast<int>(threadIdx.x) * kGroup + j);
      weights[j] = kByMass ? (static_cast<U64>(s->high[bin]) << 32) + s->low[bin] : s->counts[bin];
    }
    const Found found = FindStep(weights, target - above, s);
    const int bin = kBins - 1 - found.index;
    prefix |= static_cast<U64>(bin) << next;
    above += found.before;
    // The whole bin belongs to it.
    if (next == 0 || s->counts[bin] == 1 || above + found.weight == target) return prefix;
    shift = next;
  }
}

}  // namespace packrat::gpu::sampling

#endif  // PACKRAT_KERNELS_LOGIT_ROW_CUH_
