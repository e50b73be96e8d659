// For operations on the CPU in which no channel of a span sees another.
#ifndef PACKRAT_KERNELS_SPAN_CHANNELS_H_
#define PACKRAT_KERNELS_SPAN_CHANNELS_H_

#include <algorithm>
#include <cstdint>

#include "kernels/batch.h"
#include "kernels/context.h"

namespace packrat {

// op(span, begin, end) for all channels [begin, end) of every span that has tokens, in parts of up
// to `per_task` channels, which threads share where there is enough to do.
template <class Op>
void ForSpanChannels(const BatchView& batch, int channels, int per_task, KernelContext* context,
                     const Op& op) {
  const int64_t parts = (channels + per_task - 1) / per_task;
  const auto task = [&](int64_t i) {
    const BatchSpan& span = batch.spans[i / parts];
    if (span.num_tokens == 0) return;
    const auto begin = static_cast<int>(i % parts) * per_task;
    op(span, begin, std::min(begin + per_task, channels));
  };
  // With fewer values a parallel region costs more than it saves.
  constexpr int64_t kParallelFrom = 1 << 14;
  if (int64_t{batch.num_tokens} * channels < kParallelFrom) {
    for (int64_t i = 0; i < batch.num_spans * parts; ++i) task(i);
  } else {
    context->pool.Run(batch.num_spans * parts, [&](int64_t i, int) { task(i); });
  }
}

}  // namespace packrat

#endif  // PACKRAT_KERNELS_SPAN_CHANNELS_H_
