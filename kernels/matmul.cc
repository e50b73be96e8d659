#include "kernels/matmul.h"

#include <algorithm>

#include "kernels/check.h"
#include "kernels/cpu_target.h"
#include "kernels/matmul_kernel.h"

namespace packrat {
namespace {

// The one table of kernels. Each knows by itself which formats of weights it can read.
MatMulKernel KernelOf(Arithmetic arithmetic) {
  switch (arithmetic) {
    case Arithmetic::kFloat32:
      return Float32Kernel();
    case Arithmetic::kBFloat16:
      return CpuHasTiles() ? TilesKernel() : BFloat16Kernel();
    case Arithmetic::kInt8:
      return Int8Kernel();
  }
  PACKRAT_CHECK(false);
  return {};
}

// Packs rows [row, row + n).
using PackRows =
    absl::FunctionRef<void(const MatMulKernel& kernel, int row, int n, int worker, float* packed)>;

// Makes rows, and packs them.
struct Maker {
  absl::FunctionRef<void(int row, float* to)> make;
  int in;
  KernelContext* context;
  void operator()(const MatMulKernel& kernel, int row, int n, int worker, float* packed) const {
    PACKRAT_CHECK(n <= kMostBlockRows) << n;
    float* made = context->scratch(worker);
    for (int r = 0; r < n; ++r) make(row + r, made + static_cast<ptrdiff_t>(r) * in);
    kernel.pack(made, in, n, in, packed);
  }
};

// A thread takes a few consecutive panels at a time: memory is read in order, and the others take
// over what a thread that was held up leaves. At the end one waits for half of a task, on average.
int64_t Grain(int64_t panels, const KernelContext& context) {
  constexpr int kTasks = 32;  // To a thread.
  return std::max<int64_t>(1, panels / (context.pool.size() * kTasks));
}

// Packs all rows, of row_floats each.
void Pack(const MatMulKernel& kernel, PackRows pack, int rows, int row_floats,
          KernelContext* context) {
  PACKRAT_CHECK(static_cast<size_t>(rows) * row_floats <= context->packed.size());
  float* packed = context->packed.data();
  const int blocks = NumRowBlocks(rows, kernel.max_rows);
  context->pool.Run(blocks, [&](int64_t b, int worker) {
    const int row = BlockStart(static_cast<int>(b), blocks, rows);
    const int end = BlockStart(static_cast<int>(b) + 1, blocks, rows);
    pack(kernel, row, end - row, worker, packed + static_cast<ptrdiff_t>(row) * row_floats);
  });
}

// Products of packed rows, of one arithmetic.
void MultiplyPacked(const MatMulKernel& kernel, const float* packed, int rows,
                    absl::Span<const MatMulOutput> outputs, KernelContext* context) {
  int64_t panels = 0;
  for (const MatMulOutput& output : outputs) panels += output.weight->num_panels();
  const int64_t grain = Grain(panels, *context);
  context->pool.Run((panels + grain - 1) / grain, [&](int64_t task, int worker) {
    int64_t first = task * grain, end = std::min(panels, first + grain);
    for (const MatMulOutput& output : outputs) {  // Both count from its first panel.
      const int64_t count = output.weight->num_panels();
      if (first < count && end > 0) {
        kernel.multiply(packed, rows, output, static_cast<int>(std::max<int64_t>(first, 0)),
                        static_cast<int>(std::min(end, count)), context->scratch(worker));
      }
      first -= count;
      end -= count;
    }
  });
}

void Multiply(PackRows pack, int rows, absl::Span<const MatMulOutput> outputs,
              KernelContext* context) {
  if (rows == 0) return;
  while (!outputs.empty()) {  // Neighbours of equal arithmetic share their packed rows.
    const Arithmetic arithmetic = outputs[0].weight->arithmetic();
    size_t n = 1;
    while (n < outputs.size() && outputs[n].weight->arithmetic() == arithmetic) ++n;
    const MatMulKernel kernel = KernelOf(arithmetic);
    Pack(kernel, pack, rows, kernel.row_floats(outputs[0].weight->in()), context);
    MultiplyPacked(kernel, context->packed.data(), rows, outputs.first(n), context);
    outputs.remove_prefix(n);
  }
}

// A group of a MatMul() of groups, among those that are packed at the same time.
struct PackedGroup {
  int group, first_row, rows;
  int packed_row, block;  // Its first row and its first block among the packed ones.
};

// The next groups from *group on that have rows and are packed together, at most `most_rows`.
// Returns how many.
int NextGroups(const MatMulGroups& groups, int max_rows, int64_t most_rows, int* group,
               PackedGroup* packed) {
  int n = 0, rows = 0, blocks = 0;
  for (; *group < groups.count; ++*group) {
    const int first = groups.begins[*group], count = groups.begins[*group + 1] - first;
    if (count == 0) continue;
    if (rows + count > most_rows) break;
    packed[n++] = {*group, first, count, rows, blocks};
    rows += count;
    blocks += NumRowBlocks(count, max_rows);
  }
  PACKRAT_CHECK(n > 0 || *group == groups.count) << "too many rows of group " << *group;
  return n;
}

}  // namespace

void MatMul(absl::FunctionRef<void(int row, float* to)> make, const MatMulGroups& groups, float* y,
            KernelContext* context) {
  PACKRAT_CHECK(groups.count >= 1 && groups.count <= kMostGroups) << groups.count;
  const PackedMatrix& any = groups.weights[0];
  const MatMulKernel kernel = KernelOf(any.arithmetic());
  const int in = any.in(), out = any.out(), row_floats = kernel.row_floats(in);
  const auto most_rows = static_cast<int64_t>(context->packed.size() / row_floats);
  float* packed = context->packed.data();
  PackedGroup together[kMostGroups];
  int group = 0;
  while (const int n = NextGroups(groups, kernel.max_rows, most_rows, &group, together)) {
    const auto blocks_of = [&](const PackedGroup& g) {
      return NumRowBlocks(g.rows, kernel.max_rows);
    };
    context->pool.Run(together[n - 1].block + blocks_of(together[n - 1]), [&](int64_t b, int w) {
      const PackedGroup& g =
          *(std::upper_bound(together, together + n, b,
                             [](int64_t i, const PackedGroup& other) { return i < other.block; }) -
            1);
      const int block = static_cast<int>(b) - g.block, blocks = blocks_of(g);
      const int first = BlockStart(block, blocks, g.rows);
      const int rows = BlockStart(block + 1, blocks, g.rows) - first;
      float* made = context->scratch(w);
      for (int r = 0; r < rows; ++r) {
        make(g.first_row + first + r, made + static_cast<ptrdiff_t>(r) * in);
      }
      kernel.pack(made, in, rows, in,
                  packed + static_cast<ptrdiff_t>(g.packed_row + first) * row_floats);
    });
    const int64_t panels = any.num_panels(), all = n * panels;
    const int64_t grain = Grain(all, *context);
    context->pool.Run((all + grain - 1) / grain, [&](int64_t task, int worker) {
      const int64_t limit = std::min(all, (task + 1) * grain);
      for (int64_t at = task * grain; at < limit;) {
        const PackedGroup& g = together[at / panels];
        const int64_t first = at % panels, end = std::min(panels, first + limit - at);
        kernel.multiply(
            packed + static_cast<ptrdiff_t>(g.packed_row) * row_floats, g.rows,
            {&groups.weights[g.group], y + static_cast<ptrdiff_t>(g.first_row) * out, out},
            static_cast<int>(first), static_cast<int>(end), context->scratch(worker));
        at += end - first;
      }
    });
  }
}

void MatMul(const float* x, ptrdiff_t x_stride, int rows, absl::Span<const MatMulOutput> outputs,
            KernelContext* context) {
  const auto pack = [&](const MatMulKernel& kernel, int row, int n, int, float* packed) {
    kernel.pack(x + row * x_stride, x_stride, n, outputs[0].weight->in(), packed);
  };
  Multiply(pack, rows, outputs, context);
}

void MatMul(absl::FunctionRef<void(int row, float* to)> make, int rows,
            absl::Span<const MatMulOutput> outputs, KernelContext* context) {
  const Maker pack{make, outputs[0].weight->in(), context};
  Multiply(pack, rows, outputs, context);
}

bool GluMatMul(absl::FunctionRef<void(int row, float* to)> make, int rows, const GluUp& up,
               const MatMulOutput& down, KernelContext* context) {
  const int in = up.weight->in(), width = down.weight->in();
  PACKRAT_CHECK(up.weight->out() == 2 * width) << width;
  const MatMulKernel kernel = KernelOf(up.weight->arithmetic());
  if (kernel.multiply_glu == nullptr || down.weight->arithmetic() != up.weight->arithmetic() ||
      width % PackedMatrix::kPanel != 0) {
    return false;
  }
  const int row_floats = kernel.row_floats(in);
  const auto floats = static_cast<size_t>(rows) * (row_floats + kernel.row_floats(width));
  if (floats > context->packed.size()) return false;
  if (rows == 0) return true;
  const Maker pack{make, in, context};
  Pack(kernel, pack, rows, row_floats, context);
  const float* packed = context->packed.data();
  float* units = context->packed.data() + static_cast<ptrdiff_t>(rows) * row_floats;
  const int64_t panels = width / PackedMatrix::kPanel, grain = Grain(panels, *context);
  context->pool.Run((panels + grain - 1) / grain, [&](int64_t task, int) {
    kernel.multiply_glu(packed, rows, up, static_cast<int>(task * grain),
                        static_cast<int>(std::min(panels, (task + 1) * grain)), units);
  });
  MultiplyPacked(kernel, units, rows, {&down, 1}, context);
  return true;
}

}  // namespace packrat
