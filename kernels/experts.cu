// A mixture of experts on a GPU: plain, and with a launch that depends on the number of tokens
// alone. The products read an expert's weights once for each four of its tokens, without tensor
// cores; quantised weights are widened exactly.
#include "kernels/experts.h"

#include <algorithm>

#include "kernels/check.h"
#include "kernels/device.cuh"
#include "kernels/elementwise.h"
#include "kernels/quant_tiles.cuh"

namespace packrat::gpu {
namespace {

constexpr int kThreads = 128;

__device__ __forceinline__ float MinusInfinity() { return __uint_as_float(0xff800000u); }

struct RouteArguments {
  ExpertsShape shape;
  const float* bias;
  const float* logits;
  ExpertsMemory memory;
};

// An expert with what it is chosen by.
struct Candidate {
  float key;
  int expert;
};
__device__ __forceinline__ bool Before(const Candidate& a, const Candidate& b) {
  return a.key > b.key || (a.key == b.key && a.expert < b.expert);
}

// A warp for each token. Shared memory: the experts' keys.
__global__ void __launch_bounds__(kWarp) RouteKernel(RouteArguments a) {
  AwaitPrevious();
  auto* keys = reinterpret_cast<float*>(SharedMemory());
  const ExpertsShape& s = a.shape;
  const float* logits = a.logits + static_cast<size_t>(blockIdx.x) * s.num_experts;
  const bool softmax = s.score == RouterScore::kSoftmax;
  float largest = MinusInfinity(), total = 1.0f;
  if (softmax) {
    for (int e = Lane(); e < s.num_experts; e += kWarp) largest = fmaxf(largest, logits[e]);
    largest = WarpMax(largest);
    total = 0.0f;
    for (int e = Lane(); e < s.num_experts; e += kWarp) total += expf(logits[e] - largest);
    total = WarpSum(total);
  }
  const auto score = [&](int e) {
    return softmax ? expf(logits[e] - largest) / total : Sigmoid(logits[e]);
  };
  for (int e = Lane(); e < s.num_experts; e += kWarp) {
    const float key = a.bias == nullptr ? logits[e] : score(e) + a.bias[e];
    keys[e] = key == key ? key : MinusInfinity();
  }
  __syncwarp();
  int32_t* chosen = a.memory.chosen + static_cast<size_t>(blockIdx.x) * s.num_chosen;
  float* shares = a.memory.shares + static_cast<size_t>(blockIdx.x) * s.num_chosen;
  Candidate last{-MinusInfinity(), -1};
  float sum = 0.0f;
  for (int c = 0; c < s.num_chosen; ++c) {
    Candidate best{MinusInfinity(), s.num_experts};
    for (int e = Lane(); e < s.num_experts; e += kWarp) {
      const Candidate other{keys[e], e};
      if (Before(last, other) && Before(other, best)) best = other;
    }
#pragma unroll
    for (int distance = kWarp / 2; distance > 0; distance /= 2) {
      const Candidate other{__shfl_xor_sync(kAllLanes, best.key, distance),
                            __shfl_xor_sync(kAllLanes, best.expert, distance)};
      if (Before(other, best)) best = other;
    }
    last = best;
    const float weight = score(best.expert);
    sum += weight;
    if (Lane() == 0) {
      chosen[c] = best.expert;
      shares[c] = weight;
    }
  }
  if (Lane() > 0) return;
  const float divisor = s.normalize ? sum + s.normalize_eps : 1.0f;
  for (int c = 0; c < s.num_chosen; ++c) shares[c] = shares[c] / divisor * s.route_scale;
}

// A warp for each expert, which goes through the choices of all tokens twice: to count those of
// experts before it, and to take its own in their order.
__global__ void __launch_bounds__(kWarp)
    SortKernel(int rows, int num_chosen, int num_experts, ExpertsMemory m) {
  AwaitPrevious();
  const int expert = blockIdx.x;
  int row = 0;
  for (int first = 0; first < rows; first += kWarp) {
    const int i = first + Lane();
    row += __popc(__ballot_sync(kAllLanes, i < rows && m.chosen[i] < expert));
  }
  if (Lane() == 0) {
    m.begins[expert] = row;
    if (expert == num_experts - 1) m.begins[num_experts] = rows;
  }
  for (int first = 0; first < rows; first += kWarp) {
    const int i = first + Lane();
    const bool own = i < rows && m.chosen[i] == expert;
    const unsigned lanes = __ballot_sync(kAllLanes, own);
    if (own) {
      const int at = row + __popc(lanes & ((1u << Lane()) - 1));
      m.row_of[i] = at;
      m.token[at] = i / num_chosen;
    }
    row += __popc(lanes);
  }
}

// The expert that is the index-th of those with rows; -1: there are not so many.
__device__ __forceinline__ int ExpertWithRows(const int32_t* begins, int num_experts, int index) {
  for (int first = 0; first < num_experts; first += kWarp) {
    const int e = first + Lane();
    unsigned with = __ballot_sync(kAllLanes, e < num_experts && begins[e] < begins[e + 1]);
    const int count = __popc(with);
    if (index >= count) {
      index -= count;
      continue;
    }
    for (; index > 0; --index) with &= with - 1;
    return first + __popc((with & (0u - with)) - 1);
  }
  return -1;
}

// Weights (experts, out, in), stored in T or quantised, of which kStep neighbours are read at a
// time.
template <class T>
struct StoredExperts {
  static constexpr int kStep = 1;
  struct Row {
    const T* data;
    __device__ __forceinline__ void Load(int k, float (&w)[kStep]) const {
      w[0] = ToFloat(data[k]);
    }
  };
  static __device__ __forceinline__ Row RowOf(const void* weights, int expert, int row, int out,
                                              int in) {
    return {static_cast<const T*>(weights) + (static_cast<size_t>(expert) * out + row) * in};
  }
};
template <DType kFormat>
struct QuantExperts {
  static constexpr int kStep = 4;
  struct Row {
    const std::byte* tiles;
    int row, in;
    __device__ __forceinline__ void Load(int k, float (&w)[kStep]) const {
      const float4 four = WidenFour<kFormat>(tiles, in, row, k);
      w[0] = four.x, w[1] = four.y, w[2] = four.z, w[3] = four.w;
    }
  };
  static __device__ __forceinline__ Row RowOf(const void* weights, int expert, int row, int out,
                                              int in) {
    return {static_cast<const std::byte*>(weights) + expert * QuantTilesBytes(kFormat, out, in),
            row, in};
  }
};

template <class T, class Y>
struct GroupedProduct {
  const void* weights;    // (experts, out, in)
  const T* x;             // (rows, in), or with `token` (tokens, in)
  const int32_t* token;   // (rows) or null
  const int32_t* begins;  // (experts + 1)
  Y* y;                   // (rows, out)
  int experts, out, in;
};

// Blocks: (groups of outputs, experts with rows), a warp for each kOutputs outputs. Lane l sums
// over k = kStep (l + 32 j) and the kStep - 1 after it.
constexpr int kOutputs = 4, kBlockOutputs = kThreads / kWarp * kOutputs;

template <class W, class T, class Y>
__global__ void __launch_bounds__(kThreads) GroupedProductKernel(GroupedProduct<T, Y> p) {
  AwaitPrevious();
  constexpr int kRows = 4, kStep = W::kStep;
  const int expert = ExpertWithRows(p.begins, p.experts, blockIdx.y);
  const int out = static_cast<int>(blockIdx.x) * kBlockOutputs + Warp() * kOutputs;
  if (expert < 0 || out >= p.out) return;
  const int end = p.begins[expert + 1];
  typename W::Row weights[kOutputs];
#pragma unroll
  for (int o = 0; o < kOutputs; ++o) {  // Beyond the last output, it is computed once more.
    weights[o] = W::RowOf(p.weights, expert, min(out + o, p.out - 1), p.out, p.in);
  }
  for (int row = p.begins[expert]; row < end; row += kRows) {
    const T* xs[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {  // And so the last row.
      const int at = min(row + r, end - 1);
      xs[r] = p.x + static_cast<size_t>(p.token == nullptr ? at : p.token[at]) * p.in;
    }
    float sums[kRows][kOutputs] = {};
    for (int k = Lane() * kStep; k < p.in; k += kWarp * kStep) {
      float w[kOutputs][kStep];
#pragma unroll
      for (int o = 0; o < kOutputs; ++o) weights[o].Load(k, w[o]);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
#pragma unroll
        for (int i = 0; i < kStep; ++i) {
          const float x = ToFloat(xs[r][k + i]);
#pragma unroll
          for (int o = 0; o < kOutputs; ++o) sums[r][o] = fmaf(x, w[o][i], sums[r][o]);
        }
      }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int o = 0; o < kOutputs; ++o) {
        const float sum = WarpSum(sums[r][o]);
        if (Lane() == 0 && row + r < end && out + o < p.out) {
          p.y[static_cast<size_t>(row + r) * p.out + out + o] = FromFloat<Y>(sum);
        }
      }
    }
  }
}

// Blocks: (tokens, groups of channels).
__global__ void __launch_bounds__(kThreads)
    AddRowsKernel(ExpertsShape s, ExpertsMemory m, float scale, float* x) {
  AwaitPrevious();
  const int channel = static_cast<int>(blockIdx.y) * kThreads + static_cast<int>(threadIdx.x);
  if (channel >= s.hidden) return;
  const size_t first = static_cast<size_t>(blockIdx.x) * s.num_chosen;
  float sum = 0.0f;
  for (int c = 0; c < s.num_chosen; ++c) {
    const size_t row = m.row_of[first + c];
    sum = fmaf(m.shares[first + c], m.down[row * s.hidden + channel], sum);
  }
  float& to = x[static_cast<size_t>(blockIdx.x) * s.hidden + channel];
  to = fmaf(scale, sum, to);
}

template <class T, class Y>
absl::Status LaunchProduct(DType format, const GroupedProduct<T, Y>& p, int rows,
                           CudaStream stream) {
  const auto kernel =
      format == DType::kInt8   ? GroupedProductKernel<QuantExperts<DType::kInt8>, T, Y>
      : format == DType::kInt4 ? GroupedProductKernel<QuantExperts<DType::kInt4>, T, Y>
                               : GroupedProductKernel<StoredExperts<T>, T, Y>;
  return Launch("Experts (product)", kernel,
                dim3((p.out + kBlockOutputs - 1) / kBlockOutputs, std::min(rows, p.experts)),
                kThreads, 0, stream, p);
}

// What the experts make of the tokens.
template <class T>
absl::Status Multiply(const ExpertsShape& s, const ExpertsWeights& weights, int rows,
                      const ExpertsOperands& x, CudaStream stream) {
  const ExpertsMemory& m = x.memory;
  auto *up = static_cast<T*>(m.up), *inner = static_cast<T*>(m.inner);
  const GroupedProduct<T, T> first{weights.up.data,
                                   static_cast<const T*>(x.h),
                                   m.token,
                                   m.begins,
                                   up,
                                   s.num_experts,
                                   2 * s.width,
                                   s.hidden};
  absl::Status status = LaunchProduct(weights.up.type, first, rows, stream);
  if (!status.ok()) return status;
  status = Glu({}, up, rows, s.width, inner, x.type, stream);
  if (!status.ok()) return status;
  const GroupedProduct<T, float> second{weights.down.data, inner,    nullptr, m.begins, m.down,
                                        s.num_experts,     s.hidden, s.width};
  return LaunchProduct(weights.down.type, second, rows, stream);
}

}  // namespace

absl::Status Experts(const ExpertsShape& s, const ExpertsWeights& weights, int tokens,
                     const ExpertsOperands& operands, CudaStream stream) {
  PACKRAT_CHECK(s.num_chosen >= 1 && s.num_chosen <= s.num_experts);
  PACKRAT_CHECK(s.num_experts <= kMaxExperts);
  if (tokens == 0) return absl::OkStatus();
  const ExpertsMemory& m = operands.memory;
  absl::Status status =
      Launch("Experts (route)", RouteKernel, dim3(tokens), kWarp, s.num_experts * sizeof(float),
             stream, RouteArguments{s, weights.bias, operands.logits, m});
  if (!status.ok()) return status;
  const int rows = tokens * s.num_chosen;
  status = Launch("Experts (sort)", SortKernel, dim3(s.num_experts), kWarp, 0, stream, rows,
                  s.num_chosen, s.num_experts, m);
  if (!status.ok()) return status;
  status = operands.type == DType::kF32 ? Multiply<float>(s, weights, rows, operands, stream)
                                        : Multiply<BFloat16>(s, weights, rows, operands, stream);
  if (!status.ok()) return status;
  return Launch("Experts (sum)", AddRowsKernel, dim3(tokens, (s.hidden + kThreads - 1) / kThreads),
                kThreads, 0, stream, s, m, operands.scale, operands.x);
}

}  // namespace packrat::gpu
