// The real-gated linear recurrent unit on a GPU, in two launches: the gates of all tokens, a thread
// for each output channel of a few of them, and the recurrence, a thread for each channel of a
// sequence.
#include "kernels/rg_lru.h"

#include "kernels/device.cuh"

namespace packrat::gpu {
namespace {

constexpr int kThreads = 128;
constexpr int kRows = 4;  // Tokens that share a load of the gates' weights.

struct LruArguments {
  RgLruShape shape;
  RgLruWeights weights;
  BatchView batch;
  StateParts tails;
  RgLruOperands x;
};

// Blocks: (groups of tokens; heads times groups of output channels).
__global__ void __launch_bounds__(kThreads) RgLruGatesKernel(LruArguments a) {
  AwaitPrevious();
  const int dim = a.shape.head_dim, groups = (dim + kThreads - 1) / kThreads;
  const int head = blockIdx.y / groups;
  const int j = static_cast<int>(blockIdx.y) % groups * kThreads + threadIdx.x;
  if (j >= dim) return;
  const size_t width = a.shape.width(), channel = static_cast<size_t>(head) * dim + j;
  const size_t row = static_cast<size_t>(blockIdx.x) * kRows;
  bool used[kRows];
  float in[kRows], forget[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    used[r] = row + r < static_cast<size_t>(a.batch.num_tokens) && a.batch.token_span[row + r] >= 0;
    in[r] = a.weights.input_bias[channel];
    forget[r] = a.weights.recurrent_bias[channel];
  }
  const float* x = a.x.x + row * width + static_cast<size_t>(head) * dim;
  const size_t matrix = static_cast<size_t>(head) * dim * dim + j;
  for (int i = 0; i < dim; ++i) {
    const size_t at = matrix + static_cast<size_t>(i) * dim;
    const float wi = a.weights.input_gate[at], wr = a.weights.recurrent_gate[at];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const float value = used[r] ? x[r * width + i] : 0.0f;
      in[r] = fmaf(value, wi, in[r]);
      forget[r] = fmaf(value, wr, forget[r]);
    }
  }
  const float rate = a.weights.rate[channel];
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    if (!used[r]) continue;
    float* to = a.x.work + (row + r) * width + channel;
    to[0] = -rate * Sigmoid(forget[r]);
    to[a.batch.num_tokens * width] = Sigmoid(in[r]) * x[r * width + j];
  }
}

// Blocks: (groups of channels, spans).
__global__ void __launch_bounds__(kThreads) RgLruScanKernel(LruArguments a) {
  AwaitPrevious();
  const int channel = blockIdx.x * kThreads + threadIdx.x;
  const BatchSpan& span = a.batch.spans[blockIdx.y];
  if (span.num_tokens == 0 || channel >= a.shape.width()) return;
  auto* tail = reinterpret_cast<float*>(a.tails.base + span.tail * a.tails.stride) + channel;
  const size_t width = a.shape.width();
  float h = span.position > 0 ? *tail : 0.0f;
  for (int t = 0; t < span.num_tokens; ++t) {
    const size_t row = static_cast<size_t>(span.first_token) + t, at = row * width + channel;
    const float log_a = a.x.work[at], in = a.x.work[a.batch.num_tokens * width + at];
    if (span.position + t == 0) {
      h = in;
    } else {
      h = fmaf(expf(log_a), h, sqrtf(-expm1f(log_a + log_a)) * in);
    }
    StoreValue(a.x.out, at, a.x.type,
               h * GeluTanh(LoadValue(a.x.gate, row * a.x.stride + channel, a.x.type)));
  }
  *tail = h;
}

}  // namespace

absl::Status RgLru(const RgLruShape& shape, const RgLruWeights& weights, const BatchView& batch,
                   const StateParts& tails, const RgLruOperands& operands, CudaStream stream) {
  if (batch.num_tokens == 0 || batch.num_spans == 0) return absl::OkStatus();
  const LruArguments a{shape, weights, batch, tails, operands};
  const int groups = (shape.head_dim + kThreads - 1) / kThreads;
  const absl::Status status =
      Launch("RgLruGates", RgLruGatesKernel,
             dim3((batch.num_tokens + kRows - 1) / kRows, shape.num_heads * groups), kThreads, 0,
             stream, a);
  if (!status.ok()) return status;
  return Launch("RgLruScan", RgLruScanKernel,
                dim3((shape.width() + kThreads - 1) / kThreads, batch.num_spans), kThreads, 0,
                stream, a);
}

}  // namespace packrat::gpu
