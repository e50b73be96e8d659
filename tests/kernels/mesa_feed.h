// Texts fed to Mesa in every cut, with all that it touches checked.
#ifndef PACKRAT_TESTS_KERNELS_MESA_FEED_H_
#define PACKRAT_TESTS_KERNELS_MESA_FEED_H_

#include <deque>

#include "kernels/mesa.h"
#include "tests/kernels/device.h"
#include "tests/kernels/mesa_reference.h"
#include "tests/kernels/sealed.h"
#include "tests/kernels/texts.h"

namespace packrat {

using Texts = std::deque<MesaText>;

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
  SealedState state;
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
        state(&random, static_cast<int>(t.size()),
              MesaSlotFloats(l.shape.num_heads, l.shape.head_dim) * DTypeBytes(ty.state),
              MesaTailLayout(l.shape.num_heads, l.shape.head_dim, l.shape.conv_size).end *
                  sizeof(float)) {
    state.cg_tolerance = l.cg_tolerance;
    state.cg_max_steps = l.cg_max_steps;
    outcome.out.resize(t.size());
    outcome.totals.resize(t.size());
  }

  std::vector<float> Batch(const std::vector<Rows>& rows, std::vector<float> MesaText::*operand,
                           int width) const {
    std::vector<const std::vector<float>*> parts;
    for (const MesaText& text : texts) parts.push_back(&(text.*operand));
    return Gather(rows, parts, width, width);
  }

  void Step(const std::vector<Rows>& rows) {
    const MesaShape& s = layer.shape;
    state.Begin(rows);
    const BatchView& batch = state.batch();
    const int tokens = batch.num_tokens, heads = s.num_heads, width = s.width();
    const int stride = 4 * width + 3;
    const TypedArray x(
        SideBySide({Batch(rows, &MesaText::q, width), Batch(rows, &MesaText::k, width),
                    Batch(rows, &MesaText::v, width), Batch(rows, &MesaText::gate, width)},
                   {width, width, width, width}, tokens, 3),
        types.activations);
    const TypedArray out(static_cast<size_t>(tokens) * width, types.activations);
    const DeviceArray<float> scalars(
        SideBySide({Batch(rows, &MesaText::beta, heads), Batch(rows, &MesaText::gamma, heads)},
                   {heads, heads}, tokens, 0));
    const Scratch scratch(PACKRAT_SCRATCH(gpu::MesaScratchBytes(s, batch.num_spans, tokens),
                                          MesaScratchFloats(s.head_dim)));
    const MesaWeights weights{conv_q.data(),
                              conv_k.data(),
                              layer.conv_q_bias.empty() ? nullptr : bias_q.data(),
                              layer.conv_k_bias.empty() ? nullptr : bias_k.data(),
                              lambda.data(),
                              o_norm.data(),
                              layer.norm_eps};
    const MesaOperands operands{x.data(),
                                x.at(width),
                                x.at(2 * width),
                                layer.gated ? x.at(3 * width) : nullptr,
                                stride,
                                scalars.data(),
                                scalars.data() + s.num_heads,
                                2 * s.num_heads,
                                out.data(),
                                types.activations,
                                types.state};
    const absl::Status status = test->KernelTest::Run(scratch, [&](auto... device) {
      return ops::Mesa(s, weights, batch, state.slots(), state.tails(), operands, state.totals(),
                       device...);
    });
    ASSERT_TRUE(status.ok()) << status.message();
    const std::vector<float> result = out.Get();
    for (size_t at = static_cast<size_t>(NumTokens(rows)) * width; at < result.size(); ++at) {
      EXPECT_TRUE(std::isnan(result[at])) << "an unused token was written";
    }
    Scatter(rows, result.data(), width, &outcome.out);
    AddTotals(state.End(rows));
    scratch.ExpectGuardsIntact();
  }

  Outcome Finish() {
    for (size_t i = 0; i < texts.size(); ++i) {
      outcome.sealed.emplace_back();
      if (texts[i].length >= kBlockTokens) outcome.sealed.back() = state.Slot(static_cast<int>(i));
    }
    return outcome;
  }

  void AddTotals(const std::vector<SpanTotals>& totals) {
    for (size_t i = 0; i < texts.size(); ++i) {
      Totals& t = outcome.totals[i];
      t.steps += static_cast<int64_t>(totals[i].cg_steps);
      t.solves += static_cast<int64_t>(totals[i].cg_solves);
      t.unconverged += totals[i].cg_unconverged;
      t.residual_bits = std::max(t.residual_bits, totals[i].max_residual_bits);
      t.not_finite |= totals[i].not_finite;
    }
  }
};

inline Outcome MesaTest::RunPieces(const MesaLayer& layer, const Texts& texts,
                                   const std::vector<int>& pieces, Placing placing) {
  Feed feed(layer, texts, {}, Cut::kWhole, this);
  feed.state.placing = placing;
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
