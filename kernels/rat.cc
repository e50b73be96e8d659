#include "kernels/rat.h"

#include <algorithm>
#include <cmath>

#include "kernels/check.h"
#include "kernels/rope.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/rat.cc"
// Keep after the define.
#include "hwy/foreach_target.h"
// Keep after foreach_target.h.
#include "kernels/attend-inl.h"

HWY_BEFORE_NAMESPACE();
namespace packrat {
namespace HWY_NAMESPACE {

// Where one head's parts lie in a row of the projection.
struct RatColumns {
  int z, v, g, q, k;
  RatColumns(const RatShape& s, int head) {
    const int width = s.num_heads * s.head_dim, group = head % s.num_groups;
    z = head * s.head_dim;
    v = width + z;
    g = 2 * width + z;
    q = 3 * width + group * s.head_dim;
    k = q + s.num_groups * s.head_dim;
  }
};

// Finds one head's key and value of a finished chunk, or of the running one.
struct RatEntry {
  SpanPages pages;
  int key, value;  // Offset of this head's key within a page, and from there to its value; floats.
  int running;     // Index of the running chunk, whose rows are these:
  const float *running_key, *running_value;
  int padded;

  void operator()(int c, const float** k, const float** v) const {
    *k = c < running ? pages.Page(c) + key : running_key;
    *v = c < running ? *k + value : running_value;
  }
  // Every entry lies in a page of its own, which the hardware cannot foresee. Into the second
  // cache: more loads can be under way there than in the first (measured: 33 against 19 GB/s at
  // best). Inlined, or gcc takes it for a call that does nothing and leaves it out.
  HWY_INLINE void Prefetch(int c) const {
    if (c >= running) return;
    const float* row = pages.Page(c) + key;
    for (int d = 0; d < padded; d += 16) {
      __builtin_prefetch(row + d, 0, 2);
      __builtin_prefetch(row + value + d, 0, 2);
    }
  }
};

// running = gate * running + (1 - gate) * x for keys and values; starts from zero at a chunk's
// start.
void Accumulate(const float* row, const RatColumns& at, const float* gate_bias, int dim,
                bool chunk_start, float* key, float* value) {
  const V16 one = Set(1.0f);
  for (int d = 0; d < dim; d += 16) {
    const int n = dim - d;
    const V16 gate = Sigmoid(Add(LoadFirst(row + at.g + d, n), LoadFirst(gate_bias + d, n)));
    const V16 rest = Sub(one, gate);
    V16 k = Mul(rest, LoadFirst(row + at.k + d, n)), v = Mul(rest, LoadFirst(row + at.v + d, n));
    if (!chunk_start) {
      k = MulAdd(gate, LoadFirst(key + d, n), k);
      v = MulAdd(gate, LoadFirst(value + d, n), v);
    }
    StoreFirst(k, n, key + d);
    StoreFirst(v, n, value + d);
  }
}

// All tokens of a span for one head, in tiles of up to sixteen tokens of one chunk.
void RatSpanHead(const RatShape& shape, const BatchSpan& span, const StatePages& state,
                 int span_index, float* tail, const RatOperands& x, int head, float* scratch) {
  const SpanPages pages(state, span_index);
  const int dim = shape.head_dim, padded = PadTo16(dim), chunk_size = shape.chunk_size;
  const ptrdiff_t stride = shape.projection(),
                  width = static_cast<ptrdiff_t>(shape.num_heads) * dim;
  const RatColumns at(shape, head);
  const auto* projection = static_cast<const float*>(x.projection);
  const float* gate_bias = x.gate_bias + head * dim;
  float* running_key = tail + head * dim;
  float* running_value = tail + PadTo16(shape.num_heads * dim) + head * dim;
  const float scale = 1.0f / std::sqrt(static_cast<float>(dim));

  float* q = scratch + 16 * kTile;  // Rows of the tile's tokens (16, padded)...
  float* keys = q + 16 * padded;
  float* values = keys + 16 * padded;
  float* q_columns = values + 16 * padded;  // ...and columns (padded, 16).
  float* value_columns = q_columns + 16 * padded;
  float* out_columns = value_columns + 16 * padded;
  float* own_scores = out_columns + 16 * padded;
  std::fill(q, q + 48 * padded, 0.0f);  // The padding of the rows.

  for (int t = 0, n; t < span.num_tokens; t += n) {
    const int position = span.position + t, chunk = position / chunk_size;
    n = std::min({16, chunk_size - position % chunk_size, span.num_tokens - t});
    const RatEntry entry{pages,  head * padded, shape.num_heads * padded, chunk, keys,
                         values, padded};
    const float* row = projection + (span.first_token + t) * stride;
    for (int i = 0; i < n; ++i, row += stride) {
      const float* cos_sin = x.rope + static_cast<ptrdiff_t>(span.first_token + t + i) * dim;
      Accumulate(row, at, gate_bias, dim, (position + i) % chunk_size == 0, running_key,
                 running_value);
      Rotate(row + at.q, cos_sin, dim, q + i * padded);
      Rotate(running_key, cos_sin, dim, keys + i * padded);
      std::copy_n(running_value, dim, values + i * padded);
    }
    float* attended = values;  // Rows again, when the values have been used.
    if ((position + n) % chunk_size == 0) {
      float* page = pages.Page(chunk);
      std::copy_n(keys + (n - 1) * padded, padded, page + head * padded);
      std::copy_n(values + (n - 1) * padded, padded, page + (shape.num_heads + head) * padded);
    }
    if (n == 1) {
      AttendOne(q, 1, padded, {0, chunk + 1}, scale, entry, scratch, out_columns);
      attended = out_columns;
    } else {
      Range ranges[16];
      for (int i = 0; i < n; ++i) {
        ranges[i] = {0, chunk + 1};
        own_scores[i] = Dot(q + i * padded, keys + i * padded, padded);
      }
      for (int i = n; i < 16; ++i) own_scores[i] = 0.0f;
      RowsToColumns(q, padded, n, padded, q_columns);
      RowsToColumns(values, padded, n, padded, value_columns);
      AttendTile(q_columns, padded, n, ranges, scale, entry, {chunk, own_scores, value_columns},
                 scratch, out_columns);
      ColumnsToRows(out_columns, n, dim, attended, padded);  // The padding stays zero.
    }
    row = projection + (span.first_token + t) * stride;
    float* y = static_cast<float*>(x.out) + (span.first_token + t) * width + head * dim;
    for (int i = 0; i < n; ++i, row += stride, y += width) {
      for (int d = 0; d < dim; d += 16) {
        const V16 z = Sigmoid(LoadFirst(row + at.z + d, dim - d));
        StoreFirst(Mul(z, Load(attended + i * padded + d)), dim - d, y + d);
      }
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace packrat
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace packrat {

HWY_EXPORT(RatSpanHead);

absl::Status Rat(const RatShape& shape, const BatchView& batch, const StatePages& pages,
                 const StateParts& tails, const RatOperands& operands, KernelContext* context) {
  PACKRAT_CHECK(operands.type == DType::kF32);
  const auto tasks = static_cast<int64_t>(batch.num_spans) * shape.num_heads;
  context->pool.Run(tasks, [&](int64_t task, int worker) {
    const auto i = static_cast<int>(task / shape.num_heads);
    const BatchSpan& span = batch.spans[i];
    if (span.num_tokens == 0) return;
    auto* tail = reinterpret_cast<float*>(tails.base + span.tail * tails.stride);
    HWY_DYNAMIC_DISPATCH(RatSpanHead)
    (shape, span, pages, i, tail, operands, static_cast<int>(task % shape.num_heads),
     context->scratch(worker));
  });
  return absl::OkStatus();
}

}  // namespace packrat
#endif  // HWY_ONCE
