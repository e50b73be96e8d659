// RAT and attention: decoding by itself, decoding as a whole layer, prompts.
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/matmul.h"
#include "tests/bench/gpu/bench.h"
#include "tests/bench/gpu/mesa.h"
#include "tests/bench/gpu/paged.h"

namespace packrat::gpu_bench {
namespace {

const RatShape kRat{16, 2, 128, 16};
const RatShape kTinyRat{2, 1, 16, 16};
const AttentionShape kFull{16, 16, 128, 0,
                           128};  // Keys and values of the model's width, as in RAT.
const AttentionShape kTinyFull{2, 2, 16, 0, 16};
const AttentionShape kGrouped{32, 8, 128, 0, 128};  // Four queries to a key, as most models have.
const AttentionShape kTinyGrouped{4, 2, 16, 0, 16};

// The end of each stretch of 16, the last 256 tokens, and the first four.
const RatPlusShape kRatPlus{16, 128, 16, 256, 4};
const RatPlusShape kTinyRatPlus{2, 16, 4, 8, 2};

struct Point {
  int batch, position;
  int longest = 0;  // Of one of them; 0: all are at `position`.

  std::vector<int> Lengths() const {
    std::vector<int> lengths(batch, position);
    if (longest > 0) lengths[batch / 2] = longest;
    return lengths;
  }
};
std::vector<Point> Points(const Bench& bench) {
  if (bench.options().tiny) return {{3, 40}};
  return {{1, 4096},   {1, 16384},   {64, 4096},  {64, 16384},
          {256, 4096}, {256, 16384}, {512, 4096}, {512, 16384}};
}
// And such of which one is far longer than the others: it must not hold them up.
std::vector<Point> PointsAndMixed(const Bench& bench) {
  std::vector<Point> points = Points(bench);
  if (bench.options().tiny) {
    points.push_back({3, 20, 70});
  } else {
    for (const int batch : {64, 256}) points.push_back({batch, 1024, 32768});
  }
  return points;
}
std::string ShapeText(const Point& p) {
  std::string text = absl::StrCat("batch ", p.batch, ", position ", p.position);
  if (p.longest > 0) absl::StrAppend(&text, ", one at ", p.longest);
  return text;
}
Work DecodeWork(const RatShape& shape, const Point& p) {
  Work work;
  for (const int length : p.Lengths()) work += RatToken(shape, 2, length - 1);
  return work;
}
Work DecodeWork(const RatPlusShape& shape, const Point& p) {
  Work work;
  for (const int length : p.Lengths()) work += RatPlusToken(shape, 2, length - 1);
  return work;
}
Work DecodeWork(const AttentionShape& shape, const Point& p) {
  Work work;
  for (const int length : p.Lengths()) work += AttentionToken(shape, 2, length - 1);
  return work;
}

Weight MatrixOf(const gpu::DeviceMemory& memory, int out, int in) {
  return {memory.data(), DType::kBF16, out, in};
}

// Input product, mixer, output product: what a layer costs without its feed-forward, as in the
// measurements that the paper compares. The output goes to the residual stream.
template <class Mixer, class MakeMixer>
absl::StatusOr<double> TimeLayer(Bench* bench, int rows, int in_width, int width,
                                 const MakeMixer& make, std::byte* (Mixer::*input)() const) {
  BENCH_ASSIGN(Mixer mixer, make());
  const int copies = mixer.copies();
  const size_t in_size = size_t(in_width) * width, out_size = size_t(width) * width;
  const int weights = bench->Copies(2.0 * static_cast<double>(in_size + out_size), 1);
  BENCH_ASSIGN(gpu::DeviceMemory in, bench->Random(weights * in_size, DType::kBF16, 0.02f));
  BENCH_ASSIGN(gpu::DeviceMemory out, bench->Random(weights * out_size, DType::kBF16, 0.02f));
  BENCH_ASSIGN(gpu::DeviceMemory h, bench->Random(size_t(rows) * width, DType::kBF16, 1.0f));
  BENCH_ASSIGN(gpu::DeviceMemory x, bench->Random(size_t(rows) * width, DType::kF32, 1.0f));
  BENCH_ASSIGN(std::unique_ptr<gpu::MatMul> products, gpu::MatMul::Create({}));
  return bench->Time(std::max(copies, weights), [&](int i, CudaStream stream) -> absl::Status {
    Weight a = MatrixOf(in, in_width, width), b = MatrixOf(out, width, width);
    a.data = in.data() + (i % weights) * in_size * 2;
    b.data = out.data() + (i % weights) * out_size * 2;
    gpu::MatMulArguments first{&a, h.data(), DType::kBF16, rows, (mixer.*input)(), DType::kBF16};
    BENCH_RETURN_IF_ERROR(products->Run(first, stream));
    BENCH_RETURN_IF_ERROR(mixer.Run(i % copies, stream));
    gpu::MatMulArguments second{&b, mixer.out(), DType::kBF16, rows, x.data(), DType::kF32};
    second.accumulate = true;
    return products->Run(second, stream);
  });
}

}  // namespace

void BenchRat(Bench* bench) {
  const RatShape shape = bench->options().tiny ? kTinyRat : kRat;
  for (const Point& p : PointsAndMixed(*bench)) {
    bench->Launch(
        "rat decode, 16 heads of 128, chunk 16, bf16", ShapeText(p), {{DecodeWork(shape, p)}},
        [&](std::string* note) -> absl::StatusOr<double> {
          BENCH_ASSIGN(RatBench rat,
                       RatBench::Make(bench, shape, DType::kBF16, p.Lengths(), /*prompt=*/false));
          *note = rat.note();
          return bench->Time(rat.copies(), [&](int i, CudaStream s) { return rat.Run(i, s); });
        });
  }
  // What it would cost if pages were whole, with the parts of all layers, and not in planes: a
  // sweep of one layer would touch as much memory as all of them have, and each of its
  // translations.
  const int layers = bench->options().tiny ? 2 : 24;
  for (const Point& p : Points(*bench)) {
    if (!bench->options().tiny && (p.position != 16384 || p.batch < 64 || p.batch > 256)) continue;
    bench->Launch(
        "rat decode, 16 heads of 128, chunk 16, bf16, pages of all layers", ShapeText(p),
        {{DecodeWork(shape, p)}}, [&](std::string* note) -> absl::StatusOr<double> {
          BENCH_ASSIGN(RatBench rat,
                       RatBench::Make(bench, shape, DType::kBF16, p.Lengths(), false, layers));
          *note = rat.note();
          return bench->Time(rat.copies(), [&](int i, CudaStream s) { return rat.Run(i, s); });
        });
  }
}

void BenchRatPlus(Bench* bench) {
  const RatPlusShape shape = bench->options().tiny ? kTinyRatPlus : kRatPlus;
  for (const Point& p : PointsAndMixed(*bench)) {
    bench->Launch("rat+ decode, 16 heads of 128, dilation 16, window 256, 4 sinks, bf16",
                  ShapeText(p), {{DecodeWork(shape, p)}},
                  [&](std::string* note) -> absl::StatusOr<double> {
                    BENCH_ASSIGN(RatPlusBench rat_plus,
                                 RatPlusBench::Make(bench, shape, DType::kBF16, p.Lengths()));
                    *note = rat_plus.note();
                    return bench->Time(rat_plus.copies(),
                                       [&](int i, CudaStream s) { return rat_plus.Run(i, s); });
                  });
  }
}

void BenchAttention(Bench* bench) {
  const bool tiny = bench->options().tiny;
  const AttentionShape full = tiny ? kTinyFull : kFull;
  AttentionShape window = full;
  window.window = tiny ? 20 : 1024;
  for (const auto& [name, shape] :
       {std::pair("full attention decode, 16 key heads of 128, bf16", full),
        std::pair("full attention decode, 32 query heads on 8 key heads of 128, bf16",
                  tiny ? kTinyGrouped : kGrouped),
        std::pair("window attention decode, window 1024, 16 key heads of 128, bf16", window)}) {
    for (const Point& p : PointsAndMixed(*bench)) {
      if (shape.window > 0 && (p.position > 4096 || p.longest > 0)) continue;  // No different.
      bench->Launch(name, ShapeText(p), {{DecodeWork(shape, p)}},
                    [&, &shape = shape](std::string* note) -> absl::StatusOr<double> {
                      BENCH_ASSIGN(
                          AttentionBench attention,
                          AttentionBench::Make(bench, shape, DType::kBF16, p.Lengths(), false));
                      *note = attention.note();
                      return bench->Time(attention.copies(),
                                         [&](int i, CudaStream s) { return attention.Run(i, s); });
                    });
    }
  }
}

void BenchLayers(Bench* bench) {
  const bool tiny = bench->options().tiny;
  const RatShape rat = tiny ? kTinyRat : kRat;
  const AttentionShape full = tiny ? kTinyFull : kFull;
  const int width = rat.num_heads * rat.head_dim;
  for (const Point& p : Points(*bench)) {
    if (!tiny && p.batch != 64 && p.batch != 512) continue;
    const int in = rat.projection(), qkv = 3 * width;
    Kernels kernels = {{DecodeWork(rat, p)},
                       {Product(p.batch, in, width, DType::kBF16, 2), Rate::kBf16},
                       {Product(p.batch, width, width, DType::kBF16, 4), Rate::kBf16}};
    bench->Launch("rat layer: products and mixer, bf16", ShapeText(p), kernels, [&](std::string*) {
      return TimeLayer<RatBench>(
          bench, p.batch, in, width,
          [&] { return RatBench::Make(bench, rat, DType::kBF16, p.Lengths(), false); },
          &RatBench::projection);
    });
    kernels[0].work = DecodeWork(full, p);
    kernels[1].work = Product(p.batch, qkv, width, DType::kBF16, 2);
    bench->Launch(
        "full attention layer: products and mixer, bf16", ShapeText(p), kernels, [&](std::string*) {
          return TimeLayer<AttentionBench>(
              bench, p.batch, qkv, width,
              [&] { return AttentionBench::Make(bench, full, DType::kBF16, p.Lengths(), false); },
              &AttentionBench::qkv);
        });
  }
}

void BenchPrompts(Bench* bench) {
  const bool tiny = bench->options().tiny;
  const RatShape rat = tiny ? kTinyRat : kRat;
  const AttentionShape full = tiny ? kTinyFull : kFull;
  const MesaShape mesa = tiny ? kTinyMesa : kMesa;
  const int tokens = tiny ? 40 : 8192;
  const std::string shape = absl::StrCat("one prompt of ", tokens, " tokens");
  bench->Launch("rat prompt, bf16", shape, {{RatPrompt(rat, 2, tokens), Rate::kBf16}},
                [&](std::string* note) -> absl::StatusOr<double> {
                  BENCH_ASSIGN(RatBench b,
                               RatBench::Make(bench, rat, DType::kBF16, {tokens}, true));
                  *note = absl::StrCat("beside ", RatPrompt(rat, 2, tokens).flops / 1e9,
                                       " GFLOP of its own, a layer's products are ",
                                       2e-9 * tokens * (rat.projection() + 2048.0) * 2048);
                  return bench->Time(1, [&](int i, CudaStream s) { return b.Run(i, s); });
                });
  bench->Launch("full attention prompt, bf16", shape,
                {{AttentionPrompt(full, 2, tokens), Rate::kBf16}},
                [&](std::string*) -> absl::StatusOr<double> {
                  BENCH_ASSIGN(AttentionBench b,
                               AttentionBench::Make(bench, full, DType::kBF16, {tokens}, true));
                  return bench->Time(1, [&](int i, CudaStream s) { return b.Run(i, s); });
                });
  const double steps = 15;
  bench->Launch("mesa prompt, bf16, state float32", shape,
                {{MesaPrompt(mesa, 2, 4, steps, true, tokens), Rate::kF32}},
                [&](std::string* note) -> absl::StatusOr<double> {
                  BENCH_ASSIGN(MesaBench b, MesaBench::Make(bench, mesa, DType::kBF16, DType::kF32,
                                                            1, {tokens}, true));
                  BENCH_ASSIGN(const double seconds,
                               bench->Time(1, [&](int, CudaStream s) { return b.RunPrompt(s); }));
                  BENCH_ASSIGN(const std::string solves, b.Solves());
                  *note = absl::StrCat(solves, "; counted with ", steps);
                  return seconds;
                });
}

}  // namespace packrat::gpu_bench
