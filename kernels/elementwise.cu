// Each thread takes groups of eight neighbours of a row, whatever the alignment: the order of a sum
// depends on the row's length alone. Rows of a multiple of eight, as all large models have, move 16
// or 32 bytes at a time.
#include "kernels/elementwise.h"

#include <initializer_list>

#include "kernels/check.h"
#include "kernels/device.cuh"
#include "kernels/gating.cuh"
#include "kernels/norm.cuh"
#include "kernels/quant_tiles.cuh"
#include "kernels/rope.h"
#include "kernels/sampling.h"

namespace packrat::gpu {
namespace {

constexpr int kThreads = 256;
constexpr int kGroup = 8;
static_assert(kThreads == kNormThreads && kGroup == kNormGroup);

// Whether rows of n that begin at each of these addresses can be moved in whole groups.
bool WholeGroups(int n, std::initializer_list<const void*> addresses) {
  bool whole = n % kGroup == 0;
  for (const void* p : addresses) whole &= reinterpret_cast<uintptr_t>(p) % 16 == 0;
  return whole;
}

// Elements i to i + 7 of a row of n. Beyond its end: zero, never read or written.
template <class T>
__device__ __forceinline__ void LoadGroup(const T* row, int i, int n, bool whole, float* out) {
  if (whole) {
    Load8(row + i, out);
    return;
  }
#pragma unroll
  for (int j = 0; j < kGroup; ++j) out[j] = i + j < n ? ToFloat(row[i + j]) : 0.0f;
}
template <class T>
__device__ __forceinline__ void StoreGroup(const float* values, int i, int n, bool whole, T* row) {
  if (whole) {
    Store8(values, row + i);
    return;
  }
#pragma unroll
  for (int j = 0; j < kGroup; ++j) {
    if (i + j < n) row[i + j] = FromFloat<T>(values[j]);
  }
}

// Rows of an embedding, stored in T or quantised: elements i to i + 7 of one.
template <class T>
struct StoredRows {
  const T* data;
  int n;
  bool whole;
  __device__ __forceinline__ void Load(int row, int i, float* out) const {
    LoadGroup(data + static_cast<size_t>(row) * n, i, n, whole, out);
  }
};
template <DType kFormat>
struct QuantRows {
  const std::byte* tiles;
  int n;
  __device__ __forceinline__ void Load(int row, int i, float* out) const {
#pragma unroll
    for (int j = 0; j < kGroup; j += 4) {
      const float4 v = WidenFour<kFormat>(tiles, n, row, i + j);
      out[j] = v.x, out[j + 1] = v.y, out[j + 2] = v.z, out[j + 3] = v.w;
    }
  }
};

// Of a step, what has to do with one token; totals have to do with the first.
__device__ __forceinline__ void Begin(const StepBeginning& step, int token) {
  if (token == 0) {
    for (int i = threadIdx.x; i < step.batch.num_spans; i += kThreads) {
      step.totals[i] = SpanTotals();
    }
  }
  const int span_index = step.batch.token_span[token];
  if (span_index < 0) return;
  const BatchSpan& span = step.batch.spans[span_index];
  const int position = span.position + token - span.first_token;
  for (int table = 0; table < step.num_ropes; ++table) {
    const RopeTable& rope = step.ropes[table];
    const int half = rope.head_dim / 2;
    float* row = rope.rows + static_cast<size_t>(token) * rope.head_dim;
    for (int i = threadIdx.x; i < half; i += kThreads) {
      double sine, cosine;
      sincos(static_cast<double>(position / rope.divisor) * rope.frequencies[i], &sine, &cosine);
      row[i] = static_cast<float>(cosine * rope.factor);
      row[half + i] = static_cast<float>(sine * rope.factor);
    }
  }
}

// A block for each row, then one for each token of the batch.
template <class Rows>
__global__ void __launch_bounds__(kThreads)
    EmbedKernel(Rows embedding, const int32_t* tokens, const SampledToken* sampled, int rows, int n,
                bool whole, float scale, float* x, StepBeginning beside) {
  AwaitPrevious();
  if (static_cast<int>(blockIdx.x) >= rows) {
    Begin(beside, static_cast<int>(blockIdx.x) - rows);
    return;
  }
  int token = tokens[blockIdx.x];
  if (IsSampledInRow(token)) {
    const SampledToken& drawn = sampled[RowOf(token)];
    token = drawn.status == SampledToken::Status::kOk ? drawn.token : -1;
  }
  x += static_cast<size_t>(blockIdx.x) * n;
  for (int i = threadIdx.x * kGroup; i < n; i += kThreads * kGroup) {
    float v[kGroup] = {};
    if (token >= 0) embedding.Load(token, i, v);
#pragma unroll
    for (int j = 0; j < kGroup; ++j) v[j] *= scale;
    StoreGroup(v, i, n, whole, x);
  }
}

// A block for each row. `indices` may be null: row i is row i. kAdd: y += the norm.
template <class T, bool kAdd>
__global__ void __launch_bounds__(kThreads)
    RmsNormKernel(const float* x, const int32_t* indices, int n, const float* weight, float eps,
                  bool whole, T* y) {
  auto* scratch = reinterpret_cast<float*>(SharedMemory());
  const int begin = threadIdx.x * kGroup, step = kThreads * kGroup;
  float v[kGroup] = {}, w[kGroup] = {};
  // The first group of the weights is loaded before the sum is known, since it takes long to come.
  if (begin < n) LoadGroup(weight, begin, n, whole, w);
  AwaitPrevious();
  const int row = indices != nullptr ? indices[blockIdx.x] : static_cast<int>(blockIdx.x);
  y += static_cast<size_t>(blockIdx.x) * n;
  if (row < 0) {
    for (int i = begin; i < n; i += step) StoreGroup(v, i, n, whole, y);
    return;
  }
  x += static_cast<size_t>(row) * n;
  const float scale =
      RmsScale(n, eps, scratch, [&](int i, float* to) { LoadGroup(x, i, n, whole, to); });
  for (int i = begin; i < n; i += step) {
    LoadGroup(x, i, n, whole, v);
    if (i != begin) LoadGroup(weight, i, n, whole, w);
#pragma unroll
    for (int j = 0; j < kGroup; ++j) v[j] = v[j] * scale * w[j];
    if constexpr (kAdd) {
      LoadGroup(y, i, n, whole, w);
#pragma unroll
      for (int j = 0; j < kGroup; ++j) v[j] = w[j] + v[j];
    }
    StoreGroup(v, i, n, whole, y);
  }
}

// A warp for each head of a row.
template <class T>
__global__ void __launch_bounds__(kThreads)
    RmsNormHeadsKernel(T* x, int stride, int64_t all_heads, int heads, int n, const float* weight,
                       float eps, bool whole) {
  AwaitPrevious();
  const int64_t index = static_cast<int64_t>(blockIdx.x) * (kThreads / kWarp) + Warp();
  if (index >= all_heads) return;
  T* head = x + index / heads * stride + index % heads * n;
  const int begin = Lane() * kGroup, step = kWarp * kGroup;
  float v[kGroup], w[kGroup];
  float sum = 0.0f;
  for (int i = begin; i < n; i += step) {
    LoadGroup(head, i, n, whole, v);
#pragma unroll
    for (int j = 0; j < kGroup; ++j) sum = fmaf(v[j], v[j], sum);
  }
  const float scale = rsqrtf(WarpSum(sum) / static_cast<float>(n) + eps);
  for (int i = begin; i < n; i += step) {
    LoadGroup(head, i, n, whole, v);
    LoadGroup(weight, i, n, whole, w);
#pragma unroll
    for (int j = 0; j < kGroup; ++j) v[j] = v[j] * scale * w[j];
    StoreGroup(v, i, n, whole, head);
  }
}

// What is done to a value.
struct GeluOf {
  __device__ __forceinline__ float operator()(float x) const {
    return x * 0.5f * (1.0f + erff(x * 0.70710678118654752f));
  }
};
struct SquaredReluOf {
  __device__ __forceinline__ float operator()(float x) const { return x < 0.0f ? 0.0f : x * x; }
};
struct SoftCapOf {
  float cap;
  __device__ __forceinline__ float operator()(float x) const { return cap * tanhf(x / cap); }
};

// Blocks: (rows, parts of a row).
template <class T, class Function>
__global__ void __launch_bounds__(kThreads)
    GluKernel(const T* gate_up, int n, bool whole, float scale, Function function, T* y) {
  AwaitPrevious();
  const int i = (blockIdx.y * kThreads + threadIdx.x) * kGroup;
  if (i >= n) return;
  const T* row = gate_up + static_cast<size_t>(blockIdx.x) * 2 * n;
  float gate[kGroup], up[kGroup];
  LoadGroup(row, i, n, whole, gate);
  LoadGroup(row + n, i, n, whole, up);
#pragma unroll
  for (int j = 0; j < kGroup; ++j) gate[j] = Gated(function, scale, gate[j], up[j]);
  StoreGroup(gate, i, n, whole, y + static_cast<size_t>(blockIdx.x) * n);
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    SigmoidGateKernel(const T* gate, int stride, int n, bool whole, T* y) {
  AwaitPrevious();
  const int i = (blockIdx.y * kThreads + threadIdx.x) * kGroup;
  if (i >= n) return;
  y += static_cast<size_t>(blockIdx.x) * n;
  float v[kGroup], g[kGroup];
  LoadGroup(y, i, n, whole, v);
  LoadGroup(gate + static_cast<size_t>(blockIdx.x) * stride, i, n, whole, g);
#pragma unroll
  for (int j = 0; j < kGroup; ++j) v[j] *= Sigmoid(g[j]);
  StoreGroup(v, i, n, whole, y);
}

// In place.
template <class T, class Function>
__global__ void __launch_bounds__(kThreads) MapKernel(T* x, int n, bool whole, Function function) {
  AwaitPrevious();
  const int i = (blockIdx.y * kThreads + threadIdx.x) * kGroup;
  if (i >= n) return;
  T* row = x + static_cast<size_t>(blockIdx.x) * n;
  float v[kGroup];
  LoadGroup(row, i, n, whole, v);
#pragma unroll
  for (int j = 0; j < kGroup; ++j) v[j] = function(v[j]);
  StoreGroup(v, i, n, whole, row);
}

__global__ void __launch_bounds__(kThreads) ClearKernel(unsigned* to, size_t n) {
  AwaitPrevious();
  for (size_t i = size_t{blockIdx.x} * kThreads + threadIdx.x; i < n; i += gridDim.x * kThreads) {
    to[i] = 0;
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) ConvertKernel(const float* x, int n, bool whole, T* y) {
  AwaitPrevious();
  const int i = (blockIdx.y * kThreads + threadIdx.x) * kGroup;
  if (i >= n) return;
  float v[kGroup];
  LoadGroup(x + static_cast<size_t>(blockIdx.x) * n, i, n, whole, v);
  StoreGroup(v, i, n, whole, y + static_cast<size_t>(blockIdx.x) * n);
}

// A block for each row.
__global__ void __launch_bounds__(kThreads)
    CheckFiniteKernel(const int32_t* token_span, const float* x, int n, bool whole,
                      SpanTotals* stats) {
  AwaitPrevious();
  const int span = token_span[blockIdx.x];
  if (span < 0) return;
  x += static_cast<size_t>(blockIdx.x) * n;
  bool finite = true;
  for (int i = threadIdx.x * kGroup; i < n; i += kThreads * kGroup) {
    float v[kGroup];
    LoadGroup(x, i, n, whole, v);
#pragma unroll
    for (int j = 0; j < kGroup; ++j) {
      finite &= IsFinite(v[j]);
    }
  }
  if (!finite) atomicOr(&stats[span].not_finite, 1u);
}

template <class T, bool kAdd = false>
absl::Status LaunchRmsNorm(const char* name, const float* x, const int32_t* indices, int rows,
                           int n, const float* weight, float eps, void* y, CudaStream stream) {
  return Launch(name, RmsNormKernel<T, kAdd>, dim3(rows), kThreads,
                kThreads / kWarp * sizeof(float), stream, x, indices, n, weight, eps,
                WholeGroups(n, {x, weight, y}), static_cast<T*>(y));
}

template <class T>
absl::Status LaunchRmsNormHeads(void* x, int stride, int rows, int heads, int head_dim,
                                const float* weight, float eps, CudaStream stream) {
  constexpr int kHeads = kThreads / kWarp;  // Of a block.
  const int64_t all_heads = int64_t{rows} * heads;
  const bool whole = WholeGroups(head_dim, {x, weight}) && stride % kGroup == 0;
  return Launch("RmsNormHeads", RmsNormHeadsKernel<T>,
                dim3(static_cast<unsigned>((all_heads + kHeads - 1) / kHeads)), kThreads, 0, stream,
                static_cast<T*>(x), stride, all_heads, heads, head_dim, weight, eps, whole);
}

dim3 RowsInParts(int rows, int n) {
  return dim3(rows, (n + kThreads * kGroup - 1) / (kThreads * kGroup));
}

template <class Function>
absl::Status LaunchGlu(const Function& function, float scale, const void* gate_up, int rows, int n,
                       void* y, DType type, CudaStream stream) {
  if (rows == 0) return absl::OkStatus();
  const bool whole = WholeGroups(n, {gate_up, y});
  if (type == DType::kF32) {
    return Launch("Glu", GluKernel<float, Function>, RowsInParts(rows, n), kThreads, 0, stream,
                  static_cast<const float*>(gate_up), n, whole, scale, function,
                  static_cast<float*>(y));
  }
  return Launch("Glu", GluKernel<BFloat16, Function>, RowsInParts(rows, n), kThreads, 0, stream,
                static_cast<const BFloat16*>(gate_up), n, whole, scale, function,
                static_cast<BFloat16*>(y));
}

template <class Function>
absl::Status LaunchMap(const char* name, const Function& function, void* x, int rows, int n,
                       DType type, CudaStream stream) {
  if (rows == 0) return absl::OkStatus();
  const bool whole = WholeGroups(n, {x});
  if (type == DType::kF32) {
    return Launch(name, MapKernel<float, Function>, RowsInParts(rows, n), kThreads, 0, stream,
                  static_cast<float*>(x), n, whole, function);
  }
  return Launch(name, MapKernel<BFloat16, Function>, RowsInParts(rows, n), kThreads, 0, stream,
                static_cast<BFloat16*>(x), n, whole, function);
}

}  // namespace

absl::Status Embed(const void* embedding, DType type, const int32_t* tokens,
                   const SampledToken* sampled, int rows, int n, float scale, float* x,
                   const StepBeginning& beside, CudaStream stream) {
  const int blocks = rows + beside.batch.num_tokens;
  if (blocks == 0) return absl::OkStatus();
  const bool whole = WholeGroups(n, {embedding, x});
  const auto launch = [&](auto kernel, const auto& rows_of) {
    return Launch("Embed", kernel, dim3(blocks), kThreads, 0, stream, rows_of, tokens, sampled,
                  rows, n, whole, scale, x, beside);
  };
  const auto* tiles = static_cast<const std::byte*>(embedding);
  switch (type) {
    case DType::kF32:
      return launch(EmbedKernel<StoredRows<float>>,
                    StoredRows<float>{static_cast<const float*>(embedding), n, whole});
    case DType::kBF16:
      return launch(EmbedKernel<StoredRows<BFloat16>>,
                    StoredRows<BFloat16>{static_cast<const BFloat16*>(embedding), n, whole});
    case DType::kInt8:
      return launch(EmbedKernel<QuantRows<DType::kInt8>>, QuantRows<DType::kInt8>{tiles, n});
    case DType::kInt4:
      return launch(EmbedKernel<QuantRows<DType::kInt4>>, QuantRows<DType::kInt4>{tiles, n});
    case DType::kF16:
      break;
  }
  PACKRAT_CHECK(false) << DTypeName(type);
  return absl::OkStatus();
}

absl::Status RmsNorm(const float* x, int rows, int n, const float* weight, float eps, void* y,
                     DType type, CudaStream stream) {
  if (rows == 0) return absl::OkStatus();
  const auto launch = type == DType::kF32 ? LaunchRmsNorm<float> : LaunchRmsNorm<BFloat16>;
  return launch("RmsNorm", x, nullptr, rows, n, weight, eps, y, stream);
}

absl::Status RmsNormRows(const float* x, const int32_t* indices, int rows, int n,
                         const float* weight, float eps, void* y, DType type, CudaStream stream) {
  if (rows == 0) return absl::OkStatus();
  const auto launch = type == DType::kF32 ? LaunchRmsNorm<float> : LaunchRmsNorm<BFloat16>;
  return launch("RmsNormRows", x, indices, rows, n, weight, eps, y, stream);
}

absl::Status RmsNormHeads(void* x, int stride, int rows, int heads, int head_dim,
                          const float* weight, float eps, DType type, CudaStream stream) {
  if (rows == 0) return absl::OkStatus();
  const auto launch =
      type == DType::kF32 ? LaunchRmsNormHeads<float> : LaunchRmsNormHeads<BFloat16>;
  return launch(x, stride, rows, heads, head_dim, weight, eps, stream);
}

absl::Status AddRmsNorm(const float* y, int rows, int n, const float* weight, float eps, float* x,
                        CudaStream stream) {
  if (rows == 0) return absl::OkStatus();
  return LaunchRmsNorm<float, true>("AddRmsNorm", y, nullptr, rows, n, weight, eps, x, stream);
}

absl::Status Convert(const float* x, int rows, int n, void* y, DType type, CudaStream stream) {
  if (rows == 0) return absl::OkStatus();
  const bool whole = WholeGroups(n, {x, y});
  if (type == DType::kF32) {
    return Launch("Convert", ConvertKernel<float>, RowsInParts(rows, n), kThreads, 0, stream, x, n,
                  whole, static_cast<float*>(y));
  }
  return Launch("Convert", ConvertKernel<BFloat16>, RowsInParts(rows, n), kThreads, 0, stream, x, n,
                whole, static_cast<BFloat16*>(y));
}

absl::Status Glu(const Gating& gating, const void* gate_up, int rows, int n, void* y, DType type,
                 CudaStream stream) {
  switch (gating.function) {
    case GateFunction::kSilu:
      return LaunchGlu(SiluOf(), gating.scale, gate_up, rows, n, y, type, stream);
    case GateFunction::kGeluTanh:
      return LaunchGlu(GeluTanhOf(), gating.scale, gate_up, rows, n, y, type, stream);
  }
  return absl::OkStatus();
}

absl::Status SigmoidGate(const void* gate, int stride, int rows, int n, void* y, DType type,
                         CudaStream stream) {
  if (rows == 0) return absl::OkStatus();
  const bool whole = WholeGroups(n, {gate, y}) && stride % kGroup == 0;
  if (type == DType::kF32) {
    return Launch("SigmoidGate", SigmoidGateKernel<float>, RowsInParts(rows, n), kThreads, 0,
                  stream, static_cast<const float*>(gate), stride, n, whole,
                  static_cast<float*>(y));
  }
  return Launch("SigmoidGate", SigmoidGateKernel<BFloat16>, RowsInParts(rows, n), kThreads, 0,
                stream, static_cast<const BFloat16*>(gate), stride, n, whole,
                static_cast<BFloat16*>(y));
}

absl::Status Gelu(void* x, int rows, int n, DType type, CudaStream stream) {
  return LaunchMap("Gelu", GeluOf(), x, rows, n, type, stream);
}

absl::Status SquaredRelu(void* x, int rows, int n, DType type, CudaStream stream) {
  return LaunchMap("SquaredRelu", SquaredReluOf(), x, rows, n, type, stream);
}

absl::Status SoftCap(float cap, int rows, int n, float* x, CudaStream stream) {
  return LaunchMap("SoftCap", SoftCapOf{cap}, x, rows, n, DType::kF32, stream);
}

absl::Status CheckFinite(const BatchView& batch, const float* x, int n, SpanTotals* stats,
                         CudaStream stream) {
  if (batch.num_tokens == 0) return absl::OkStatus();
  return Launch("CheckFinite", CheckFiniteKernel, dim3(batch.num_tokens), kThreads, 0, stream,
                batch.token_span, x, n, WholeGroups(n, {x}), stats);
}

absl::Status Clear(void* to, size_t bytes, CudaStream stream) {
  const size_t n = bytes / sizeof(unsigned), blocks = (n + kThreads - 1) / kThreads;
  if (n == 0) return absl::OkStatus();
  return Launch("Clear", ClearKernel, dim3(static_cast<unsigned>(std::min<size_t>(blocks, 1024))),
                kThreads, 0, stream, static_cast<unsigned*>(to), n);
}

}  // namespace packrat::gpu
