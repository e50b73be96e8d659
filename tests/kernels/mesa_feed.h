// Texts fed to Mesa in every cut, with all that it touches checked.
#ifndef PACKRAT_TESTS_KERNELS_MESA_FEED_H_
#define PACKRAT_TESTS_KERNELS_MESA_FEED_H_

#include <deque>
#include <numeric>
#include <set>

#include "kernels/mesa.h"
#include "tests/kernels/device.h"
#include "tests/kernels/mesa_reference.h"
#include "tests/kernels/texts.h"

namespace packrat {

using Texts = std::deque<MesaText>;
using Bytes = std::vector<unsigned char>;

struct Totals {
  int64_t steps = 0, solves = 0, unconverged = 0;
  uint32_t residual_bits = 0, not_finite = 0;
  float max_residual() const {
    float residual;
    std::memcpy(&residual, &residual_bits, sizeof residual);
    return residual;
  }
  bool operator==(const Totals& o) const {
    return steps == o.steps && solves == o.solves && unconverged == o.unconverged &&
           residual_bits == o.residual_bits && not_finite == o.not_finite;
  }
};

// What came of feeding texts, each text's part by itself.
struct Outcome {
  std::vector<std::vector<float>> out;  // (length, H * D)
  std::vector<Bytes> sealed;            // The slot, if a block was finished.
  std::vector<Totals> totals;
};

struct Types {
  DType activations = DType::kF32, state = DType::kF32;
};

inline std::vector<float> OnDevice(const std::vector<float>& values, DType type) {
  return Storage{type == DType::kBF16}(values);
}

// Parts of slots or tails: `n` of them in shuffled places of a pool with gaps, all of it NaN.
class Pool {
 public:
  Pool(Random* random, int n, size_t bytes)
      : bytes_(bytes), stride_(bytes + 128), memory_(kOffset + stride_ * (n + 2)), places_(n + 2) {
    std::iota(places_.begin(), places_.end(), 0);
    random->Shuffle(&places_);
  }
  StateParts parts() const {
    return {reinterpret_cast<std::byte*>(memory_.data()) + kOffset, stride_};
  }
  int place(int i) const { return places_[i]; }
  Bytes Get() const { return memory_.Get(); }
  Bytes Part(const Bytes& all, int i) const {
    const auto at = all.begin() + static_cast<ptrdiff_t>(kOffset + places_[i] * stride_);
    return Bytes(at, at + static_cast<ptrdiff_t>(bytes_));
  }
  void Poison(int i) {
    Bytes all = Get();
    std::fill_n(all.begin() + static_cast<ptrdiff_t>(kOffset + places_[i] * stride_), bytes_, 0xFF);
    memory_.Set(all);
  }
  // Did nothing change but in parts `written`?
  bool OthersIntact(const Bytes& before, const Bytes& after, const std::set<int>& written) const {
    Bytes a = before, b = after;
    for (const int i : written) {
      const auto at = static_cast<ptrdiff_t>(kOffset + places_[i] * stride_);
      std::fill_n(a.begin() + at, bytes_, 0);
      std::fill_n(b.begin() + at, bytes_, 0);
    }
    return a == b;
  }

 private:
  static constexpr size_t kOffset = 64;
  size_t bytes_, stride_;
  DeviceArray<unsigned char> memory_;
  std::vector<int> places_;
};

// Is sealed state written where it is read?
enum class Placing { kAny, kInPlace, kElsewhere };

class MesaTest : public KernelTest {
 protected:
  struct Feed;

  Outcome Run(const MesaLayer& layer, const Texts& texts, Cut cut, Types types = {},
              uint64_t order = 0);
  // One text, in the pieces given.
  Outcome RunPieces(const MesaLayer& layer, const Texts& texts, const std::vector<int>& pieces,
                    Placing placing);
  void ExpectRightInEveryCut(const MesaLayer& layer, const Texts& texts, Types types = {},
                             double more = 0);
};

// A layer's weights on the device, the texts' state, and the feeding of one cut.
struct MesaTest::Feed {
  const MesaLayer& layer;
  const Texts& texts;
  const Types types;
  MesaTest* const test;
  Random random;
  DeviceArray<float> conv_q, conv_k, bias_q, bias_k, lambda, o_norm;
  Pool slots, tails;
  Placing placing = Placing::kAny;
  std::vector<int> current;  // Of a text's two slots, the one with its state.
  Outcome outcome;

  Feed(const MesaLayer& l, const Texts& t, Types ty, Cut cut, MesaTest* by)
      : layer(l),
        texts(t),
        types(ty),
        test(by),
        random(static_cast<uint64_t>(cut) + 7),
        conv_q(l.conv_q),
        conv_k(l.conv_k),
        bias_q(l.conv_q_bias.empty() ? std::vector<float>{kNaN} : l.conv_q_bias),
        bias_k(l.conv_k_bias.empty() ? std::vector<float>{kNaN} : l.conv_k_bias),
        lambda(l.lambda),
        o_norm(l.o_norm),
        slots(&random, static_cast<int>(t.size()) * 2,
              MesaSlotFloats(l.shape.num_heads, l.shape.head_dim) * DTypeBytes(ty.state)),
        tails(&random, static_cast<int>(t.size()),
              MesaTailLayout(l.shape.num_heads, l.shape.head_dim, l.shape.conv_size).end *
                  sizeof(float)),
        current(t.size()) {
    outcome.out.resize(t.size());
    outcome.totals.resize(t.size());
  }

  std::vector<float> Batch(const std::vector<Rows>& rows, std::vector<float> MesaText::*operand,
                           int width) const {
    std::vector<const std::vector<float>*> parts;
    for (const MesaText& text : texts) parts.push_back(&(text.*operand));
    return Gather(rows, parts, width, width);
  }
  // q, k, v and gate in one array with NaN between the rows, each `width` wide.
  std::vector<float> Packed(const std::vector<Rows>& rows, int tokens, int stride) const {
    const int width = layer.shape.width();
    std::vector<float> packed(static_cast<size_t>(tokens) * stride, kNaN);
    int part = 0;
    for (std::vector<float> MesaText::*operand :
         {&MesaText::q, &MesaText::k, &MesaText::v, &MesaText::gate}) {
      const std::vector<float> batch = Batch(rows, operand, width);
      for (size_t at = 0; at < batch.size(); ++at) {
        packed[at / width * stride + part * width + at % width] = batch[at];
      }
      ++part;
    }
    return packed;
  }

  void Step(const std::vector<Rows>& rows) {
    const MesaShape& s = layer.shape;
    const int used = NumTokens(rows), tokens = used + 2, width = s.width();
    const int spans = static_cast<int>(rows.size()) + 2, stride = 4 * width + 3;
    // The first span and the last, and the last two tokens, are not used.
    std::vector<BatchSpan> host_spans(spans);
    host_spans.front().slot_in = host_spans.back().tail = 1 << 28;
    std::vector<int32_t> token_span(tokens, -1);
    std::vector<int> targets;
    int longest = 1;
    for (size_t i = 0; i < rows.size(); ++i) {
      targets.push_back(placing == Placing::kAny       ? random.Int(0, 1)
                        : placing == Placing::kInPlace ? current[i]
                                                       : 1 - current[i]);
      if (targets[i] != current[i]) slots.Poison(static_cast<int>(2 * i) + targets[i]);
      BatchSpan& span = host_spans[i + 1];
      span = {rows[i].first_token,
              rows[i].num_tokens,
              rows[i].position,
              slots.place(static_cast<int>(2 * i) + current[i]),
              slots.place(static_cast<int>(2 * i) + targets[i]),
              tails.place(static_cast<int>(i)),
              layer.cg_tolerance,
              layer.cg_max_steps};
      std::fill_n(token_span.begin() + rows[i].first_token, rows[i].num_tokens, i + 1);
      longest = std::max(longest, rows[i].num_tokens);
    }
    std::vector<float> scalars(static_cast<size_t>(tokens) * 2 * s.num_heads, kNaN);
    const auto beta = Batch(rows, &MesaText::beta, s.num_heads),
               gamma = Batch(rows, &MesaText::gamma, s.num_heads);
    for (size_t at = 0; at < beta.size(); ++at) {
      float* row = &scalars[at / s.num_heads * 2 * s.num_heads + at % s.num_heads];
      row[0] = beta[at];
      row[s.num_heads] = gamma[at];
    }
    const std::vector<float> packed = Packed(rows, tokens, stride);
    const TypedArray x(packed, types.activations);
    const TypedArray out(static_cast<size_t>(tokens) * width, types.activations);
    DeviceArray<float> device_scalars(scalars);
    DeviceArray<BatchSpan> device_spans(host_spans);
    DeviceArray<int32_t> device_token_span(token_span);
    DeviceArray<SpanTotals> stats(std::vector<SpanTotals>(spans, SpanTotals()));
    const Scratch scratch(
        PACKRAT_SCRATCH(gpu::MesaScratchBytes(s, spans, tokens), MesaScratchFloats(s.head_dim)));
    const MesaWeights weights{conv_q.data(),
                              conv_k.data(),
                              layer.conv_q_bias.empty() ? nullptr : bias_q.data(),
                              layer.conv_k_bias.empty() ? nullptr : bias_k.data(),
                              lambda.data(),
                              o_norm.data(),
                              layer.norm_eps};
    const Bytes slots_before = slots.Get(), tails_before = tails.Get();
    const BatchView batch{
        device_spans.data(), device_token_span.data(), spans, tokens, longest, 1 << 20};
    const MesaOperands operands{x.data(),
                                x.at(width),
                                x.at(2 * width),
                                layer.gated ? x.at(3 * width) : nullptr,
                                stride,
                                device_scalars.data(),
                                device_scalars.data() + s.num_heads,
                                2 * s.num_heads,
                                out.data(),
                                types.activations,
                                types.state};
    const absl::Status status = test->KernelTest::Run(scratch, [&](auto... device) {
      return ops::Mesa(s, weights, batch, slots.parts(), tails.parts(), operands, stats.data(),
                       device...);
    });
    ASSERT_TRUE(status.ok()) << status.message();
    const std::vector<float> result = out.Get();
    for (size_t at = static_cast<size_t>(used) * width; at < result.size(); ++at) {
      EXPECT_TRUE(std::isnan(result[at])) << "an unused token was written";
    }
    Scatter(rows, result.data(), width, &outcome.out);
    AddTotals(stats.Get());
    CheckState(rows, targets, slots_before, tails_before);
    scratch.ExpectGuardsIntact();
  }

  Outcome Finish() {
    const Bytes all = slots.Get();
    for (size_t i = 0; i < texts.size(); ++i) {
      outcome.sealed.emplace_back();
      if (texts[i].length >= kBlockTokens) {
        outcome.sealed.back() = slots.Part(all, static_cast<int>(2 * i) + current[i]);
      }
    }
    return outcome;
  }

  void AddTotals(const std::vector<SpanTotals>& stats) {
    EXPECT_EQ(stats.front().cg_solves + stats.back().cg_solves, 0u);
    for (size_t i = 0; i < texts.size(); ++i) {
      Totals& t = outcome.totals[i];
      t.steps += static_cast<int64_t>(stats[i + 1].cg_steps);
      t.solves += static_cast<int64_t>(stats[i + 1].cg_solves);
      t.unconverged += stats[i + 1].cg_unconverged;
      t.residual_bits = std::max(t.residual_bits, stats[i + 1].max_residual_bits);
      t.not_finite |= stats[i + 1].not_finite;
    }
  }

  // Sealed state changes at a block's end only, and only where it is told to.
  void CheckState(const std::vector<Rows>& rows, const std::vector<int>& targets,
                  const Bytes& slots_before, const Bytes& tails_before) {
    std::set<int> sealed_slots, fed_tails;
    for (size_t i = 0; i < rows.size(); ++i) {
      const int end = rows[i].position + rows[i].num_tokens;
      if (rows[i].num_tokens > 0) fed_tails.insert(static_cast<int>(i));
      if (end / kBlockTokens == rows[i].position / kBlockTokens) continue;
      sealed_slots.insert(static_cast<int>(2 * i) + targets[i]);
      current[i] = targets[i];
    }
    EXPECT_TRUE(slots.OthersIntact(slots_before, slots.Get(), sealed_slots))
        << "a slot changed that should not";
    EXPECT_TRUE(tails.OthersIntact(tails_before, tails.Get(), fed_tails));
  }
};

inline Outcome MesaTest::RunPieces(const MesaLayer& layer, const Texts& texts,
                                   const std::vector<int>& pieces, Placing placing) {
  Feed feed(layer, texts, {}, Cut::kWhole, this);
  feed.placing = placing;
  int position = 0;
  for (const int n : pieces) {
    feed.Step({Rows{0, n, position}});
    position += n;
  }
  return feed.Finish();
}

inline Outcome MesaTest::Run(const MesaLayer& layer, const Texts& texts, Cut cut, Types types,
                             uint64_t order) {
#ifdef PACKRAT_EMULATED
  emulation::SetThreadOrder(order);
#endif
  Feed feed(layer, texts, types, cut, this);
  std::vector<int> lengths;
  for (const MesaText& text : texts) lengths.push_back(text.length);
  Feeder feeder(lengths, cut);
  std::vector<Rows> rows;
  while (feeder.Next(&rows)) feed.Step(rows);
  return feed.Finish();
}

// more: of what the outputs' storage adds, relative to a row.
inline void ExpectRight(const MesaLayer& layer, const Texts& texts, const Outcome& outcome,
                        double more) {
  const MesaShape& s = layer.shape;
  for (size_t i = 0; i < texts.size(); ++i) {
    ASSERT_EQ(outcome.out[i].size(), texts[i].expected.size());
    for (size_t at = 0; at < texts[i].expected.size(); at += s.head_dim) {
      double squared = 0, norm = 0;
      for (int d = 0; d < s.head_dim; ++d) {
        squared += std::pow(outcome.out[i][at + d] - texts[i].expected[at + d], 2);
        norm += std::pow(texts[i].expected[at + d], 2);
      }
      ASSERT_LE(std::sqrt(squared), texts[i].tolerance[at] + more * std::sqrt(norm))
          << "text " << i << " token " << at / s.width() << " head " << at % s.width() / s.head_dim;
    }
  }
}

inline void ExpectSame(const Outcome& a, const Outcome& b) {
  for (size_t i = 0; i < a.out.size(); ++i) {
    EXPECT_TRUE(SameBits(a.out[i], b.out[i])) << "text " << i;
    EXPECT_TRUE(a.sealed[i] == b.sealed[i]) << "text " << i;
    EXPECT_TRUE(a.totals[i] == b.totals[i]) << "text " << i;
  }
}

inline void MesaTest::ExpectRightInEveryCut(const MesaLayer& layer, const Texts& texts, Types types,
                                            double more) {
  const MesaShape& s = layer.shape;
  SCOPED_TRACE(testing::Message() << "heads " << s.num_heads << " dim " << s.head_dim << " conv "
                                  << s.conv_size << " gated " << layer.gated << " tolerance "
                                  << layer.cg_tolerance);
  ForEachDevice([&] {
    const Outcome whole = Run(layer, texts, Cut::kWhole, types);
    ExpectRight(layer, texts, whole, more);
    for (size_t i = 0; i < texts.size(); ++i) {
      const Totals& t = whole.totals[i];
      EXPECT_EQ(t.solves, int64_t{texts[i].length} * s.num_heads);
      EXPECT_EQ(t.unconverged, 0);
      EXPECT_LE(t.steps, t.solves * layer.cg_max_steps);
      EXPECT_LE(t.max_residual(), layer.cg_tolerance * (1 + 2 * kUnit));
      EXPECT_EQ(t.not_finite, 0u);
    }
    uint64_t order = 0;
    for (const Cut cut : kCuts) {
      SCOPED_TRACE(testing::Message() << "cut " << static_cast<int>(cut));
      order = order == 1 ? 7 : 1;  // Every cut but the first in another order of threads.
      ExpectSame(Run(layer, texts, cut, types, order), whole);
    }
  });
}

}  // namespace packrat

#endif  // PACKRAT_TESTS_KERNELS_MESA_FEED_H_
