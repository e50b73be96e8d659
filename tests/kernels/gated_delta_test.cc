#include "kernels/gated_delta.h"

#include <cmath>
#include <deque>

#include "tests/kernels/gated_delta_reference.h"
#include "tests/kernels/sealed_feed.h"

namespace packrat {
namespace {

class GatedDeltaTest : public SealedTest<DeltaLayer, DeltaText> {
 protected:
  class Feed;

  std::unique_ptr<SealedFeed<DeltaText>> NewFeed(const DeltaLayer& layer, const Texts& texts,
                                                 Types types, uint64_t seed) override;
  void ExpectRight(const DeltaLayer& layer, const Texts& texts, const Outcome& outcome,
                   double more) override {
    const GatedDeltaShape& s = layer.shape;
    ExpectRowsRight(texts, outcome, s.values(), s.value_dim, more);
    for (size_t i = 0; i < texts.size(); ++i) {
      EXPECT_EQ(outcome.totals[i].not_finite, 0u);
      if (texts[i].state_tokens == 0) continue;
      ExpectMatrices(outcome.sealed[i], s.key_dim, s.value_dim, texts[i].state,
                     Vector(s.num_value_heads, texts[i].state_tolerance));
    }
  }
};

class GatedDeltaTest::Feed : public SealedFeed<DeltaText> {
 public:
  Feed(const DeltaLayer& l, const Texts& texts, Types types, uint64_t seed, GatedDeltaTest* test)
      : SealedFeed(texts, types, seed, GatedDeltaSlotFloats(l.shape),
                   GatedDeltaTailLayout(l.shape).end),
        layer_(l),
        test_(test),
        conv_(l.conv),
        conv_bias_(l.conv_bias.empty() ? std::vector<float>{kNaN} : l.conv_bias),
        decay_rate_(l.decay_rate),
        dt_bias_(l.dt_bias),
        norm_(l.norm) {}

 private:
  std::vector<float> Step(const std::vector<Rows>& rows) override {
    const GatedDeltaShape& s = layer_.shape;
    const BatchView& batch = state_.batch();
    const int tokens = batch.num_tokens, heads = s.num_value_heads, beside = random_.Int(0, 3);
    const TypedArray x(SideBySide({Batch(rows, &DeltaText::qkv, s.channels()),
                                   Batch(rows, &DeltaText::gate, s.values())},
                                  {s.channels(), s.values()}, tokens, beside),
                       types_.activations);
    const DeviceArray<float> scalars(
        SideBySide({Batch(rows, &DeltaText::beta, heads), Batch(rows, &DeltaText::decay, heads)},
                   {heads, heads}, tokens, beside));
    const TypedArray out(static_cast<size_t>(tokens) * s.values(), types_.activations);
    const Scratch scratch(PACKRAT_SCRATCH(gpu::GatedDeltaScratchBytes(s, batch.num_spans, tokens),
                                          GatedDeltaScratchFloats(s)));
    const GatedDeltaWeights weights{
        conv_.data(),       layer_.conv_bias.empty() ? nullptr : conv_bias_.data(),
        decay_rate_.data(), dt_bias_.data(),
        norm_.data(),       layer_.norm_eps};
    const GatedDeltaOperands operands{
        x.data(),       x.at(s.channels()),     s.channels() + s.values() + beside,
        scalars.data(), scalars.data() + heads, 2 * heads + beside,
        out.data(),     types_.activations,     types_.state};
    const absl::Status status = test_->KernelTest::Run(scratch, [&](auto... device) {
#ifndef PACKRAT_GPU
      if (types_.in_bfloat16) {
        return GatedDeltaInBFloat16(s, weights, batch, state_.slots(), state_.tails(), operands,
                                    state_.totals(), device...);
      }
#endif
      return ops::GatedDelta(s, weights, batch, state_.slots(), state_.tails(), operands,
                             state_.totals(), device...);
    });
    EXPECT_TRUE(status.ok()) << status.message();
    scratch.ExpectGuardsIntact();
    return out.Get();
  }

  const DeltaLayer& layer_;
  GatedDeltaTest* const test_;
  DeviceArray<float> conv_, conv_bias_, decay_rate_, dt_bias_, norm_;
};

std::unique_ptr<SealedFeed<DeltaText>> GatedDeltaTest::NewFeed(const DeltaLayer& layer,
                                                               const Texts& texts, Types types,
                                                               uint64_t seed) {
  return std::make_unique<Feed>(layer, texts, types, seed, this);
}

TEST_F(GatedDeltaTest, MeetsTheReferenceInEveryCut) {
  Random random(1);
  const int dims[] = {16, 2, 17, 32, 5, 33, 64};
  for (int i = 0; i < (kOnCpu ? 14 : 7); ++i) {
    const int key_heads = random.Int(1, 2);
    const DeltaLayer layer(&random, {key_heads, key_heads * random.Int(1, 3), dims[i % 7],
                                     dims[(i * 3 + 1) % 7], i == 3 ? kMaxConvSize : i % 5 + 1});
    Texts texts;
    for (int n = random.Int(1, 3); n > 0; --n) {
      texts.push_back(layer.RandomText(&random, random.Int(1, kOnCpu ? 80 : 40),
                                       random.OneOf<float>({-6, -3, 0})));
      DeltaReference(layer, &texts.back());
    }
    ExpectRightInEveryCut(layer, texts);
    if (HasFailure()) return;
  }
}

// As Qwen's models have them.
TEST_F(GatedDeltaTest, LargeHeads) {
  Random random(2);
  for (const auto& [keys, values] : {std::pair(128, 128), {96, 192}, {256, 256}}) {
    if (!kOnCpu && keys == 256) continue;
    const DeltaLayer layer(&random, {1, 2, keys, values, 4});
    Texts texts;
    texts.push_back(layer.RandomText(&random, 40, -4.0f));
    DeltaReference(layer, &texts[0]);
    ExpectRightInEveryCut(layer, texts);
    if (HasFailure()) return;
  }
}

#ifdef PACKRAT_GPU
// An output in bfloat16 is off by half a unit in its last place, 2^-9 of itself.
TEST_F(GatedDeltaTest, BFloat16Activations) {
  Random random(8);
  const DeltaLayer layer(&random, {1, 2, 24, 40, 4});
  Texts texts;
  texts.push_back(layer.RandomText(&random, 37, -4.0f));
  for (auto* operand : {&texts[0].qkv, &texts[0].gate}) {
    *operand = OnDevice(*operand, DType::kBF16);
  }
  DeltaReference(layer, &texts[0]);
  ExpectRightInEveryCut(layer, texts, {DType::kBF16, DType::kF32}, 0x1p-9);
}

// Slots of half the size: every cut gives the same bits still, and each block's rounding of the
// state, 2^-9 where float32 has 2^-24, is all that is lost.
TEST_F(GatedDeltaTest, BFloat16State) {
  Random random(9);
  const DeltaLayer layer(&random, {1, 2, 32, 80, 4});
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
TEST_F(GatedDeltaTest, InBFloat16) {
  Random random(10);
  for (const auto& [keys, values] : {std::pair(128, 128), {32, 80}, {17, 5}, {256, 48}}) {
    const DeltaLayer layer(&random, {2, 4, keys, values, 4});
    Texts texts;
    for (const int n : {100, 37, 16}) texts.push_back(layer.RandomText(&random, n, -4.0f));
    ExpectSameInBFloat16(layer, texts);
    if (HasFailure()) return;
  }
}
#endif

// Next to nothing is forgotten over many blocks.
TEST_F(GatedDeltaTest, LongMemory) {
  Random random(3);
  const DeltaLayer layer(&random, {1, 2, 32, 24, 4});
  Texts texts;
  texts.push_back(layer.RandomText(&random, kOnCpu ? 500 : 100, -9.0f));
  DeltaReference(layer, &texts[0]);
  ExpectRightInEveryCut(layer, texts);
}

// Forgets everything at once, or nothing at all, or now and then everything in the middle of tokens
// that forget little: their decays must not lose their digits beside the large one.
TEST_F(GatedDeltaTest, ExtremeDecays) {
  for (const float decay : {-300.0f, -30.0f, 30.0f, 300.0f, 3e38f}) {
    Random random(4);
    DeltaLayer layer(&random, {1, 2, 20, 12, 3});
    for (float& rate : layer.decay_rate) rate = decay > 1e30f ? 3.0f : rate;
    Texts texts;
    texts.push_back(layer.RandomText(&random, 50, 0.0f));
    std::fill(texts[0].decay.begin(), texts[0].decay.end(), decay);
    texts.push_back(layer.RandomText(&random, 60, -4.0f));
    for (int t = 3; t < 60; t += 7) texts[1].decay[2 * t] = texts[1].decay[2 * t + 1] = decay;
    for (DeltaText& text : texts) DeltaReference(layer, &text);
    ExpectRightInEveryCut(layer, texts);
    if (HasFailure()) return;
  }
}

// A beta of one takes out all that a key reads, one of zero writes nothing.
TEST_F(GatedDeltaTest, ExtremeBetas) {
  Random random(5);
  const DeltaLayer layer(&random, {1, 2, 20, 12, 3});
  for (const float beta : {-300.0f, 300.0f}) {
    Texts texts;
    texts.push_back(layer.RandomText(&random, 50, -4.0f));
    for (int t = 0; t < 50; ++t) texts[0].beta[2 * t] = beta;
    DeltaReference(layer, &texts[0]);
    ExpectRightInEveryCut(layer, texts);
    if (HasFailure()) return;
  }
}

TEST_F(GatedDeltaTest, PiecesAroundTheEndsOfBlocks) {
  Random random(6);
  const DeltaLayer layer(&random, {1, 2, 20, 17, 4});
  Texts texts;
  texts.push_back(layer.RandomText(&random, 180, -4.0f));
  DeltaReference(layer, &texts[0]);
  ExpectRightInPiecesAroundBlocks(layer, texts);
}

TEST_F(GatedDeltaTest, NaNStaysInItsSequenceAndIsSeenThere) {
  Random random(7);
  const DeltaLayer layer(&random, {1, 2, 24, 20, 4});
  Texts texts;
  for (int i = 0; i < 3; ++i) texts.push_back(layer.RandomText(&random, 24, -3.0f));
  // Of qkv, the first query, key and value channel.
  ExpectNaNIsSeenAlone(layer, texts, 19, layer.shape.values(),
                       {{&DeltaText::qkv, 0},
                        {&DeltaText::qkv, 24},
                        {&DeltaText::qkv, 48},
                        {&DeltaText::gate, 0},
                        {&DeltaText::beta, 0},
                        {&DeltaText::decay, 0}});
}

}  // namespace
}  // namespace packrat
