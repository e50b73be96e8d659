#include "kernels/mamba2.h"

#include <cmath>
#include <deque>

#include "tests/kernels/mamba2_reference.h"
#include "tests/kernels/sealed_feed.h"

namespace packrat {
namespace {

class Mamba2Test : public SealedTest<MambaLayer, MambaText> {
 protected:
  class Feed;

  std::unique_ptr<SealedFeed<MambaText>> NewFeed(const MambaLayer& layer, const Texts& texts,
                                                 Types types, uint64_t seed) override;
  void ExpectRight(const MambaLayer& layer, const Texts& texts, const Outcome& outcome,
                   double more) override {
    ExpectRowsRight(texts, outcome, layer.shape.values(), layer.part(), more);
    for (size_t i = 0; i < texts.size(); ++i) {
      EXPECT_EQ(outcome.totals[i].not_finite, 0u);
      if (texts[i].state_tokens == 0) continue;
      ExpectMatrices(outcome.sealed[i], layer.shape.state_size, layer.shape.head_dim,
                     texts[i].state, texts[i].state_tolerance);
    }
  }
};

class Mamba2Test::Feed : public SealedFeed<MambaText> {
 public:
  Feed(const MambaLayer& l, const Texts& texts, Types types, uint64_t seed, Mamba2Test* test)
      : SealedFeed(texts, types, seed, Mamba2SlotFloats(l.shape), Mamba2TailLayout(l.shape).end),
        layer_(l),
        test_(test),
        conv_(l.conv),
        conv_bias_(OrNaN(l.conv_bias)),
        decay_rate_(l.decay_rate),
        skip_(l.skip),
        dt_bias_(l.dt_bias),
        norm_(OrNaN(l.norm)) {}

 private:
  static std::vector<float> OrNaN(const std::vector<float>& values) {
    return values.empty() ? std::vector<float>{kNaN} : values;
  }

  std::vector<float> Step(const std::vector<Rows>& rows) override {
    const Mamba2Shape& s = layer_.shape;
    const BatchView& batch = state_.batch();
    const int tokens = batch.num_tokens, beside = random_.Int(0, 3);
    const TypedArray x(SideBySide({Batch(rows, &MambaText::gate, s.values()),
                                   Batch(rows, &MambaText::xbc, s.channels())},
                                  {s.values(), s.channels()}, tokens, beside),
                       types_.activations);
    const DeviceArray<float> dt(
        SideBySide({Batch(rows, &MambaText::dt, s.num_heads)}, {s.num_heads}, tokens, beside));
    const DeviceArray<float> memory(static_cast<size_t>(tokens) * Mamba2TokenLayout(s).end);
    const TypedArray out(static_cast<size_t>(tokens) * s.values(), types_.activations);
    Mamba2Weights weights{};
    weights.conv = conv_.data();
    weights.conv_bias = layer_.conv_bias.empty() ? nullptr : conv_bias_.data();
    weights.decay_rate = decay_rate_.data();
    weights.skip = skip_.data();
    weights.dt_bias = dt_bias_.data();
    weights.norm = layer_.norm.empty() ? nullptr : norm_.data();
    weights.norm_eps = layer_.norm_eps;
    weights.norm_groups = layer_.norm_groups;
    weights.gating = layer_.gating;
    weights.dt_min = layer_.dt_min, weights.dt_max = layer_.dt_max;
    weights.dt_scale = layer_.dt_scale, weights.gate_scale = layer_.gate_scale;
    const Mamba2Operands operands{
        x.data(),   x.at(s.values()),     s.channels() + s.values() + beside,
        dt.data(),  s.num_heads + beside, memory.data(),
        out.data(), types_.activations,   types_.state};
    const auto op = [&](auto... device) {
#ifndef PACKRAT_GPU
      if (types_.in_bfloat16) {
        return Mamba2InBFloat16(s, weights, batch, state_.slots(), state_.tails(), operands,
                                state_.totals(), device...);
      }
#endif
      return ops::Mamba2(s, weights, batch, state_.slots(), state_.tails(), operands,
                         state_.totals(), device...);
    };
#ifdef PACKRAT_GPU
    const absl::Status status = test_->KernelTest::Run(op);
#else
    const absl::Status status = test_->KernelTest::Run(Scratch(Mamba2ScratchFloats(s)), op);
#endif
    EXPECT_TRUE(status.ok()) << status.message();
    memory.Get();  // Checks its guards.
    return out.Get();
  }

  const MambaLayer& layer_;
  Mamba2Test* const test_;
  DeviceArray<float> conv_, conv_bias_, decay_rate_, skip_, dt_bias_, norm_;
};

std::unique_ptr<SealedFeed<MambaText>> Mamba2Test::NewFeed(const MambaLayer& layer,
                                                           const Texts& texts, Types types,
                                                           uint64_t seed) {
  return std::make_unique<Feed>(layer, texts, types, seed, this);
}

constexpr Mamba2Norm kGatings[] = {Mamba2Norm::kNone, Mamba2Norm::kBeforeGate,
                                   Mamba2Norm::kAfterGate};

TEST_F(Mamba2Test, MeetsTheReferenceInEveryCut) {
  Random random(1);
  const int dims[] = {16, 2, 17, 32, 5, 33, 64};
  for (int i = 0; i < (kOnCpu ? 12 : 9); ++i) {
    const int groups = random.Int(1, 3), heads = groups * random.Int(1, 3);
    MambaLayer layer(
        &random,
        {heads, groups, dims[i % 7], dims[(i * 3 + 1) % 7], i == 3 ? kMaxConvSize : i % 5 + 1},
        kGatings[i % 3], random.OneOf<int>({1, groups, heads}));
    if (i % 4 == 3) layer.dt_min = 0.05f, layer.dt_max = 0.4f;
    Texts texts;
    for (int n = random.Int(1, 3); n > 0; --n) {
      texts.push_back(layer.RandomText(&random, random.Int(1, kOnCpu ? 80 : 40),
                                       random.OneOf<float>({-6, -3, 0})));
      MambaReference(layer, &texts.back());
    }
    ExpectRightInEveryCut(layer, texts);
    if (HasFailure()) return;
  }
}

// As the public models have them.
TEST_F(Mamba2Test, LargeHeads) {
  Random random(2);
  for (const auto& [dim, state] : {std::pair(32, 128), {64, 128}, {64, 256}, {80, 128}}) {
    if (!kOnCpu && dim != 80) continue;
    const MambaLayer layer(&random, {4, 2, dim, state, 4}, Mamba2Norm::kAfterGate, 2);
    Texts texts;
    texts.push_back(layer.RandomText(&random, 40, -4.0f));
    MambaReference(layer, &texts[0]);
    ExpectRightInEveryCut(layer, texts);
    if (HasFailure()) return;
  }
}

#ifdef PACKRAT_GPU
// An output in bfloat16 is off by half a unit in its last place, 2^-9 of itself.
TEST_F(Mamba2Test, BFloat16Activations) {
  Random random(8);
  const MambaLayer layer(&random, {4, 2, 24, 40, 4}, Mamba2Norm::kBeforeGate, 1);
  Texts texts;
  texts.push_back(layer.RandomText(&random, 37, -4.0f));
  for (auto* operand : {&texts[0].xbc, &texts[0].gate}) {
    *operand = OnDevice(*operand, DType::kBF16);
  }
  MambaReference(layer, &texts[0]);
  ExpectRightInEveryCut(layer, texts, {DType::kBF16, DType::kF32}, 0x1p-9);
}

// Slots of half the size: every cut gives the same bits still, and each block's rounding of the
// state, 2^-9 where float32 has 2^-24, is all that is lost.
TEST_F(Mamba2Test, BFloat16State) {
  Random random(9);
  const MambaLayer layer(&random, {2, 1, 32, 80, 4}, Mamba2Norm::kAfterGate, 1);
  Texts texts;
  texts.push_back(layer.RandomText(&random, 100, -6.0f));
  const Types types{DType::kF32, DType::kBF16};
  const Outcome exact = Run(layer, texts, Cut::kWhole),
                whole = Run(layer, texts, Cut::kWhole, types);
  for (const Cut cut : {Cut::kSingle, Cut::kRandom}) {
    ExpectSame(Run(layer, texts, cut, types), whole);
  }
  const double loss = RelativeLoss(whole, exact);
  EXPECT_GT(loss, 0);
  EXPECT_LT(loss, 0x1p-9 * texts[0].length / kBlockTokens);
}
#else
TEST_F(Mamba2Test, InBFloat16) {
  Random random(10);
  for (const auto& [dim, state] : {std::pair(32, 128), {64, 80}, {80, 17}, {5, 256}}) {
    const MambaLayer layer(&random, {4, 2, dim, state, 4}, Mamba2Norm::kAfterGate, 2);
    Texts texts;
    for (const int n : {100, 37, 16}) texts.push_back(layer.RandomText(&random, n, -4.0f));
    ExpectSameInBFloat16(layer, texts);
    if (HasFailure()) return;
  }
}
#endif

// Next to nothing is forgotten over many blocks.
TEST_F(Mamba2Test, LongMemory) {
  Random random(3);
  const MambaLayer layer(&random, {3, 1, 32, 24, 4}, Mamba2Norm::kAfterGate, 1);
  Texts texts;
  texts.push_back(layer.RandomText(&random, kOnCpu ? 300 : 100, -9.0f));
  MambaReference(layer, &texts[0]);
  ExpectRightInEveryCut(layer, texts);
}

// Forgets everything at once, or nothing at all, or now and then everything in the middle of tokens
// that forget little: their decays must not lose their digits beside the large one.
TEST_F(Mamba2Test, ExtremeSteps) {
  for (const float dt : {-300.0f, -30.0f, 30.0f, 300.0f, 3e37f}) {
    Random random(4);
    MambaLayer layer(&random, {2, 1, 20, 12, 3}, Mamba2Norm::kNone, 1);
    layer.dt_scale = 1.0f;
    for (float& rate : layer.decay_rate) rate = dt > 1e30f ? 30.0f : rate;
    if (dt > 1e30f) layer.skip.assign(2, 0.0f);
    Texts texts;
    texts.push_back(layer.RandomText(&random, 50, 0.0f));
    std::fill(texts[0].dt.begin(), texts[0].dt.end(), dt);
    texts.push_back(layer.RandomText(&random, 60, -4.0f));
    for (int t = 3; t < 60; t += 7) texts[1].dt[2 * t] = texts[1].dt[2 * t + 1] = dt;
    if (dt > 1e30f) {  // The decay's logarithm is infinite; keep the sums of such steps finite.
      for (MambaText& text : texts) {
        for (float& x : text.xbc) x *= 0.3f;
      }
    }
    for (MambaText& text : texts) MambaReference(layer, &text);
    ExpectRightInEveryCut(layer, texts);
    if (HasFailure()) return;
  }
}

// Steps that all lie beyond one of the limits are as long as that.
TEST_F(Mamba2Test, StepsAtTheirLimits) {
  for (const float dt : {-30.0f, 30.0f}) {
    Random random(5);
    MambaLayer layer(&random, {2, 2, 12, 20, 4}, Mamba2Norm::kNone, 1);
    layer.dt_min = 0.125f, layer.dt_max = 0.5f;
    Texts texts;
    texts.push_back(layer.RandomText(&random, 50, dt));
    MambaReference(layer, &texts[0]);
    ExpectRightInEveryCut(layer, texts);
    if (HasFailure()) return;
  }
}

TEST_F(Mamba2Test, PiecesAroundTheEndsOfBlocks) {
  Random random(6);
  const MambaLayer layer(&random, {2, 1, 20, 17, 4}, Mamba2Norm::kBeforeGate, 1);
  Texts texts;
  texts.push_back(layer.RandomText(&random, 180, -4.0f));
  MambaReference(layer, &texts[0]);
  ExpectRightInPiecesAroundBlocks(layer, texts);
}

TEST_F(Mamba2Test, NaNStaysInItsSequenceAndIsSeenThere) {
  Random random(7);
  for (const Mamba2Norm gating : kGatings) {
    const MambaLayer layer(&random, {2, 1, 20, 24, 4}, gating, 1);
    Texts texts;
    for (int i = 0; i < 3; ++i) texts.push_back(layer.RandomText(&random, 24, -3.0f));
    const int width = layer.shape.values();
    // Of xbc, the first channel of x, of B and of C.
    ExpectNaNIsSeenAlone(layer, texts, 19, width,
                         {{&MambaText::xbc, 0},
                          {&MambaText::xbc, width},
                          {&MambaText::xbc, width + 24},
                          {&MambaText::gate, 0},
                          {&MambaText::dt, 0}});
  }
}

}  // namespace
}  // namespace packrat
