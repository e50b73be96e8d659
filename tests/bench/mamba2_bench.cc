#include "tests/bench/mamba2_bench.h"

#include <algorithm>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/aligned.h"
#include "kernels/check.h"
#include "kernels/mamba2.h"
#include "tests/bench/report.h"

namespace packrat {
namespace {

class Mamba2Bench {
 public:
  // Room for `sequences` states and for steps of `tokens` tokens.
  Mamba2Bench(const Mamba2Shape& shape, int threads, int sequences, int tokens)
      : shape_(shape),
        context_(threads, 0, Mamba2ScratchFloats(shape)),
        sequences_(sequences),
        slots_(sequences * Mamba2SlotFloats(shape)),
        tails_(sequences * Mamba2TailLayout(shape).end),
        in_(Random(static_cast<size_t>(tokens) * (shape.values() + shape.channels()))),
        dt_(Random(static_cast<size_t>(tokens) * shape.num_heads)),
        conv_(Random(static_cast<size_t>(shape.conv_size) * shape.channels())),
        ones_(std::max(shape.channels(), shape.values()), 1.0f),
        low_(shape.num_heads, -3.0f),
        memory_(static_cast<size_t>(tokens) * Mamba2TokenLayout(shape).end),
        out_(static_cast<size_t>(tokens) * shape.values()),
        totals_(std::max(sequences, tokens)) {
    std::fill_n(slots_.data(), sequences * Mamba2SlotFloats(shape), 0.5f);
    std::fill_n(tails_.data(), sequences * Mamba2TailLayout(shape).end, 0.5f);
  }

  // A step of `spans` sequences from number `first` on, with n tokens each at `position`.
  void Step(int first, int spans, int n, int position) {
    std::vector<BatchSpan> batch(spans);
    for (int i = 0; i < spans; ++i) {
      const int sequence = (first + i) % sequences_;
      batch[i] = {i * n, n, position, sequence, sequence, sequence, {}};
    }
    Mamba2Weights weights{};
    weights.conv = conv_.data();
    weights.conv_bias = weights.decay_rate = weights.skip = weights.norm = ones_.data();
    weights.dt_bias = low_.data();
    weights.norm_eps = 1e-5f;
    weights.norm_groups = 1;
    weights.gating = Mamba2Norm::kAfterGate;
    weights.dt_max = std::numeric_limits<float>::infinity();
    weights.dt_scale = weights.gate_scale = 1.0f;
    const Mamba2Operands operands{in_.data(),
                                  in_.data() + shape_.values(),
                                  shape_.values() + shape_.channels(),
                                  dt_.data(),
                                  shape_.num_heads,
                                  memory_.data(),
                                  out_.data(),
                                  DType::kF32,
                                  DType::kF32};
    const auto parts = [](AlignedFloats* floats, size_t n) {
      return StateParts{reinterpret_cast<std::byte*>(floats->data()), n * sizeof(float)};
    };
    const absl::Status status =
        Mamba2(shape_, weights, {batch.data(), nullptr, spans, spans * n, n, 1 << 20},
               parts(&slots_, Mamba2SlotFloats(shape_)),
               parts(&tails_, Mamba2TailLayout(shape_).end), operands, totals_.data(), &context_);
    PACKRAT_CHECK(status.ok());
  }

 private:
  static std::vector<float> Random(size_t n) {
    std::mt19937 random(1);
    std::vector<float> values(n);
    for (float& value : values) value = static_cast<float>(random()) * 0x1p-31f - 1.0f;
    return values;
  }

  const Mamba2Shape shape_;
  KernelContext context_;
  const int sequences_;
  AlignedFloats slots_, tails_;
  std::vector<float> in_, dt_, conv_, ones_, low_;
  AlignedFloats memory_;
  std::vector<float> out_;
  std::vector<SpanTotals> totals_;
};

// A block's tokens of each sequence: the state is read 16 times and written once, and of the rows
// in the tail half are read on average.
double BytesOfBlock(const Mamba2Shape& s) {
  const double rows = kBlockTokens * (s.values() + s.keys());
  return sizeof(float) * (17.0 * Mamba2SlotFloats(s) + kBlockTokens * rows / 2);
}

}  // namespace

void BenchMamba2(int threads, const MachineLimits& limits) {
  const std::pair<const char*, Mamba2Shape> shapes[] = {{"Granite-4.0-H-350M", {48, 1, 32, 128, 4}},
                                                        {"Falcon-H1-0.5B", {24, 1, 64, 128, 4}}};
  for (const auto& [name, shape] : shapes) {
    constexpr int kSequences = 256, kPrompt = 2048;
    Mamba2Bench bench(shape, threads, kSequences, kPrompt);
    for (const int spans : {1, 32}) {
      // Every sequence goes through a block, so that each step finds other states.
      const double seconds = MedianSeconds(5, [&] {
        for (int token = 0; token < kBlockTokens; ++token) {
          for (int i = 0; i < kSequences; i += spans) {
            bench.Step(i, spans, 1, 2 * kBlockTokens + token);
          }
        }
      });
      const double rate = kSequences * BytesOfBlock(shape) / seconds;
      Row(absl::StrCat("mamba2 decode, ", name, ", batch ", spans), rate / 1e9, "GB/s",
          limits.read_bytes_per_second / 1e9,
          absl::StrCat(seconds * 1e6 / (kSequences * kBlockTokens), " us a token and layer"));
    }
    const double seconds = MedianSeconds(9, [&] { bench.Step(0, 1, kPrompt, 0); });
    // The state is read and sealed once a token, the block's rows half as often as there are.
    const double flops =
        2.0 * kPrompt * shape.values() * (2.0 * shape.state_size + kBlockTokens / 2.0);
    Row(absl::StrCat("mamba2 prompt of ", kPrompt, ", ", name), flops / seconds / 1e9, "GFLOP/s",
        limits.flops_per_second / 1e9,
        absl::StrCat(seconds * 1e6 / kPrompt, " us a token and layer"));
  }
}

}  // namespace packrat
