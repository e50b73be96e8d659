// Texts fed to Mesa in every cut, with all that it touches checked.
#ifndef PACKRAT_TESTS_KERNELS_MESA_FEED_H_
#define PACKRAT_TESTS_KERNELS_MESA_FEED_H_

#include <memory>

#include "kernels/mesa.h"
#include "tests/kernels/mesa_reference.h"
#include "tests/kernels/sealed_feed.h"

namespace packrat {

class MesaTest : public SealedTest<MesaLayer, MesaText> {
 protected:
  class Feed;

  std::unique_ptr<SealedFeed<MesaText>> NewFeed(const MesaLayer& layer, const Texts& texts,
                                                Types types, uint64_t seed) override;
  void ExpectRight(const MesaLayer& layer, const Texts& texts, const Outcome& outcome,
                   double more) override {
    ExpectRowsRight(texts, outcome, layer.shape.width(), layer.shape.head_dim, more);
  }
  using SealedTest::Run;
  Outcome Run(const MesaLayer& layer, const Texts& texts, Cut cut, Types types, uint64_t order);
  void ExpectRightInEveryCut(const MesaLayer& layer, const Texts& texts, Types types = {},
                             double more = 0);
};

class MesaTest::Feed : public SealedFeed<MesaText> {
 public:
  Feed(const MesaLayer& l, const Texts& texts, Types types, uint64_t seed, MesaTest* test)
      : SealedFeed(texts, types, seed, MesaSlotFloats(l.shape.num_heads, l.shape.head_dim),
                   MesaTailLayout(l.shape.num_heads, l.shape.head_dim, l.shape.conv_size).end),
        layer_(l),
        test_(test),
        conv_q_(l.conv_q),
        conv_k_(l.conv_k),
        bias_q_(l.conv_q_bias.empty() ? std::vector<float>{kNaN} : l.conv_q_bias),
        bias_k_(l.conv_k_bias.empty() ? std::vector<float>{kNaN} : l.conv_k_bias),
        lambda_(l.lambda),
        o_norm_(l.o_norm) {
    state_.cg_tolerance = l.cg_tolerance;
    state_.cg_max_steps = l.cg_max_steps;
  }

 private:
  std::vector<float> Step(const std::vector<Rows>& rows) override {
    const MesaShape& s = layer_.shape;
    const BatchView& batch = state_.batch();
    const int tokens = batch.num_tokens, heads = s.num_heads, width = s.width();
    const int stride = 4 * width + 3;
    const TypedArray x(
        SideBySide({Batch(rows, &MesaText::q, width), Batch(rows, &MesaText::k, width),
                    Batch(rows, &MesaText::v, width), Batch(rows, &MesaText::gate, width)},
                   {width, width, width, width}, tokens, 3),
        types_.activations);
    const TypedArray out(static_cast<size_t>(tokens) * width, types_.activations);
    const DeviceArray<float> scalars(
        SideBySide({Batch(rows, &MesaText::beta, heads), Batch(rows, &MesaText::gamma, heads)},
                   {heads, heads}, tokens, 0));
    const Scratch scratch(PACKRAT_SCRATCH(gpu::MesaScratchBytes(s, batch.num_spans, tokens),
                                          MesaScratchFloats(s.head_dim)));
    const MesaWeights weights{conv_q_.data(),
                              conv_k_.data(),
                              layer_.conv_q_bias.empty() ? nullptr : bias_q_.data(),
                              layer_.conv_k_bias.empty() ? nullptr : bias_k_.data(),
                              lambda_.data(),
                              o_norm_.data(),
                              layer_.norm_eps};
    const MesaOperands operands{x.data(),
                                x.at(width),
                                x.at(2 * width),
                                layer_.gated ? x.at(3 * width) : nullptr,
                                stride,
                                scalars.data(),
                                scalars.data() + s.num_heads,
                                2 * s.num_heads,
                                out.data(),
                                types_.activations,
                                types_.state};
    const absl::Status status = test_->KernelTest::Run(scratch, [&](auto... device) {
      return ops::Mesa(s, weights, batch, state_.slots(), state_.tails(), operands, state_.totals(),
                       device...);
    });
    EXPECT_TRUE(status.ok()) << status.message();
    scratch.ExpectGuardsIntact();
    return out.Get();
  }

  const MesaLayer& layer_;
  MesaTest* const test_;
  DeviceArray<float> conv_q_, conv_k_, bias_q_, bias_k_, lambda_, o_norm_;
};

inline std::unique_ptr<SealedFeed<MesaText>> MesaTest::NewFeed(const MesaLayer& layer,
                                                               const Texts& texts, Types types,
                                                               uint64_t seed) {
  return std::make_unique<Feed>(layer, texts, types, seed, this);
}

inline Outcome MesaTest::Run(const MesaLayer& layer, const Texts& texts, Cut cut, Types types,
                             [[maybe_unused]] uint64_t order) {
#ifdef PACKRAT_EMULATED
  emulation::SetThreadOrder(order);
#endif
  const Outcome outcome = Run(layer, texts, cut, types);
#ifdef PACKRAT_EMULATED
  emulation::SetThreadOrder(0);
#endif
  return outcome;
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
