// The gated convolution on a GPU, a thread for each channel of a token. What the tail keeps is
// written by a second launch, since threads of the first still read the old rows; where every span
// has one token, whoever writes a row is the only one that read it, and one launch does both.
#include "kernels/gated_conv.h"

#include "kernels/device.cuh"
#include "kernels/short_conv.cuh"

namespace packrat::gpu {
namespace {

constexpr int kThreads = 128;

struct ConvArguments {
  GatedConvShape shape;
  GatedConvWeights weights;
  BatchView batch;
  StateParts tails;
  GatedConvOperands x;
};

__device__ __forceinline__ ConvInput ConvOf(const ConvArguments& a, const BatchSpan& span) {
  auto* history = reinterpret_cast<float*>(a.tails.base + span.tail * a.tails.stride);
  return {a.x.x,          a.x.stride,       a.x.type,          history,    a.weights.taps,
          a.weights.bias, a.shape.channels, a.shape.conv_size, a.x.in_gate};
}

// Blocks: (tokens, groups of channels).
template <bool kKeep>
__global__ void __launch_bounds__(kThreads) GatedConvKernel(ConvArguments a) {
  AwaitPrevious();
  const int row = blockIdx.x, channel = blockIdx.y * kThreads + threadIdx.x;
  const int index = a.batch.token_span[row];
  if (index < 0 || channel >= a.shape.channels) return;
  const BatchSpan& span = a.batch.spans[index];
  const ConvInput conv = ConvOf(a, span);
  const int position = span.position + row - span.first_token;
  const int ring = a.shape.conv_size > 1 ? position % (a.shape.conv_size - 1) : 0;
  float y = Convolve(conv, channel, row, position, span.position, ring);
  if (a.x.out_gate != nullptr) {
    y *= LoadValue(a.x.out_gate, static_cast<size_t>(row) * a.x.stride + channel, a.x.type);
  }
  StoreValue(a.x.out, static_cast<size_t>(row) * a.shape.channels + channel, a.x.out_type, y);
  if (kKeep && a.shape.conv_size > 1) KeepConvInput(conv, channel, row, position);
}

// Blocks: (spans, groups of channels).
__global__ void __launch_bounds__(kThreads) KeepConvKernel(ConvArguments a) {
  AwaitPrevious();
  const BatchSpan& span = a.batch.spans[blockIdx.x];
  if (span.num_tokens == 0) return;
  KeepConvInputs(ConvOf(a, span), span, blockIdx.y * kThreads + threadIdx.x, gridDim.y * kThreads);
}

}  // namespace

absl::Status GatedConv(const GatedConvShape& shape, const GatedConvWeights& weights,
                       const BatchView& batch, const StateParts& tails,
                       const GatedConvOperands& operands, CudaStream stream) {
  if (batch.num_tokens == 0 || batch.num_spans == 0) return absl::OkStatus();
  const ConvArguments a{shape, weights, batch, tails, operands};
  const int groups = (shape.channels + kThreads - 1) / kThreads;
  const bool decode = batch.max_span_tokens == 1;
  const absl::Status status =
      Launch("GatedConv", decode ? GatedConvKernel<true> : GatedConvKernel<false>,
             dim3(batch.num_tokens, groups), kThreads, 0, stream, a);
  if (!status.ok() || decode || shape.conv_size == 1) return status;
  return Launch("KeepConv", KeepConvKernel, dim3(batch.num_spans, groups), kThreads, 0, stream, a);
}

}  // namespace packrat::gpu
