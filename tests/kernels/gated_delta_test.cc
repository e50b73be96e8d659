#include "kernels/gated_delta.h"

#include <cmath>
#include <deque>

#include "tests/kernels/gated_delta_reference.h"
#include "tests/kernels/sealed_feed.h"

namespace packrat {
namespace {

using Texts = std::deque<DeltaText>;

class GatedDeltaTest : public KernelTest {
 protected:
  class Feed;

  Outcome Run(const DeltaLayer& layer, const Texts& texts, Cut cut, Types types = {});
  Outcome RunPieces(const DeltaLayer& layer, const Texts& texts, const std::vector<int>& pieces,
                    Placing placing);
  void ExpectRightInEveryCut(const DeltaLayer& layer, const Texts& texts, Types types = {},
                             double more = 0);
};

class GatedDeltaTest::Feed : public SealedFeed<DeltaText> {
 public:
  Feed(const DeltaLayer& l, const Texts& texts, Types types, Cut cut, GatedDeltaTest* test)
      : SealedFeed(texts, types, static_cast<uint64_t>(cut) + 7, GatedDeltaSlotFloats(l.shape),
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

Outcome GatedDeltaTest::Run(const DeltaLayer& layer, const Texts& texts, Cut cut, Types types) {
  return Feed(layer, texts, types, cut, this).Run(cut);
}

Outcome GatedDeltaTest::RunPieces(const DeltaLayer& layer, const Texts& texts,
                                  const std::vector<int>& pieces, Placing placing) {
  return Feed(layer, texts, {}, Cut::kWhole, this).RunPieces(pieces, placing);
}

std::vector<float> Floats(const Bytes& bytes) {
  std::vector<float> floats(bytes.size() / sizeof(float));
  std::memcpy(floats.data(), bytes.data(), bytes.size());
  return floats;
}

// The sealed state by its documented layout, with zeros in the padding.
void ExpectSealedState(const DeltaLayer& layer, const DeltaText& text, const Bytes& sealed) {
  const GatedDeltaShape& s = layer.shape;
  if (text.length < kBlockTokens) return;
  const std::vector<float> slot = Floats(sealed);
  const int keys = PadTo16(s.key_dim), values = PadTo16(s.value_dim);
  for (int head = 0; head < s.num_value_heads; ++head) {
    for (int i = 0; i < keys; ++i) {
      for (int d = 0; d < values; ++d) {
        const float found = slot[(static_cast<size_t>(head) * keys + i) * values + d];
        if (i >= s.key_dim || d >= s.value_dim) {
          ASSERT_EQ(found, 0.0f) << "padding";
        } else {
          ASSERT_NEAR(found,
                      text.state[(static_cast<size_t>(head) * s.key_dim + i) * s.value_dim + d],
                      text.state_tolerance)
              << "head " << head << " key channel " << i << " value channel " << d;
        }
      }
    }
  }
}

// more: of what the outputs' storage adds, relative to a row.
void ExpectRight(const DeltaLayer& layer, const Texts& texts, const Outcome& outcome,
                 double more = 0) {
  ExpectRowsRight(texts, outcome, layer.shape.values(), layer.shape.value_dim, more);
  for (size_t i = 0; i < texts.size(); ++i) {
    EXPECT_EQ(outcome.totals[i].not_finite, 0u);
    ExpectSealedState(layer, texts[i], outcome.sealed[i]);
  }
}

void GatedDeltaTest::ExpectRightInEveryCut(const DeltaLayer& layer, const Texts& texts, Types types,
                                           double more) {
  const GatedDeltaShape& s = layer.shape;
  SCOPED_TRACE(testing::Message() << "heads " << s.num_key_heads << "/" << s.num_value_heads
                                  << " dims " << s.key_dim << " and " << s.value_dim << " conv "
                                  << s.conv_size << " text " << texts[0].length);
  ForEachDevice([&] {
    const Outcome whole = Run(layer, texts, Cut::kWhole, types);
    ExpectRight(layer, texts, whole, more);
    ForEachOrder([&] {
      for (const Cut cut : kCuts) {
        SCOPED_TRACE(testing::Message() << "cut " << static_cast<int>(cut));
        ExpectSame(Run(layer, texts, cut, types), whole);
      }
    });
  });
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
  ForEachDevice([&] {
    const Outcome whole = Run(layer, texts, Cut::kWhole);
    ExpectRight(layer, texts, whole);
    for (const std::vector<int>& pieces : kPiecesAroundBlocks) {
      for (const Placing placing : {Placing::kInPlace, Placing::kElsewhere}) {
        SCOPED_TRACE(testing::Message()
                     << "pieces from " << pieces[0] << ", placing " << static_cast<int>(placing));
        ExpectSame(RunPieces(layer, texts, pieces, placing), whole);
      }
    }
  });
}

TEST_F(GatedDeltaTest, NaNStaysInItsSequenceAndIsSeenThere) {
  Random random(7);
  const DeltaLayer layer(&random, {1, 2, 24, 20, 4});
  Texts texts;
  for (int i = 0; i < 3; ++i) texts.push_back(layer.RandomText(&random, 24, -3.0f));
  const int token = 19, width = layer.shape.values();
  ForEachDevice([&] {
    for (const Cut cut : {Cut::kWhole, Cut::kSingle}) {
      const Outcome clean = Run(layer, texts, cut);
      for (std::vector<float> DeltaText::*operand :
           {&DeltaText::qkv, &DeltaText::gate, &DeltaText::beta, &DeltaText::decay}) {
        const auto columns = (texts[1].*operand).size() / 24;
        // Of qkv, the first query, key and value channel.
        const std::vector<int> at =
            operand == &DeltaText::qkv ? std::vector<int>{0, 24, 48} : std::vector<int>{0};
        for (const int column : at) {
          Texts bad = texts;
          (bad[1].*operand)[token * columns + column] = kNaN;
          const Outcome dirty = Run(layer, bad, cut);
          for (const size_t other : {size_t{0}, size_t{2}}) {
            EXPECT_TRUE(SameBits(clean.out[other], dirty.out[other]));
            EXPECT_TRUE(clean.sealed[other] == dirty.sealed[other]);
            EXPECT_EQ(dirty.totals[other].not_finite, 0u);
          }
          EXPECT_TRUE(SameBits(clean.out[1].data(), dirty.out[1].data(), token * width));
          const float* row = dirty.out[1].data() + token * width;
          EXPECT_TRUE(std::any_of(row, row + width, [](float x) { return std::isnan(x); }))
              << "a NaN vanished, cut " << static_cast<int>(cut);
          EXPECT_EQ(dirty.totals[1].not_finite, 1u);
        }
      }
    }
  });
}

}  // namespace
}  // namespace packrat
