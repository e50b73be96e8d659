#include "kernels/mesa.h"

#include "tests/kernels/mesa_feed.h"

namespace packrat {
namespace {

TEST_F(MesaTest, MeetsTheReferenceInEveryCut) {
  Random random(1);
  const int dims[] = {2, 16, 17, 48, 64, 5, 33};
  for (int i = 0; i < (kOnCpu ? 25 : 7); ++i) {
    const int dim = i < 7 ? dims[i] : random.OneOf<int>({1, 8, 13, 24, 31, 32, 64});
    MesaLayer layer(&random, {i % 3 + 1, dim, i == 3 ? kMaxConvSize : i % 5 + 1});
    layer.cg_tolerance = random.OneOf<float>({1e-6f, 1e-5f, 1e-3f});
    Texts texts;
    for (int n = random.Int(1, 2); n > 0; --n) {
      texts.push_back(layer.RandomText(&random, random.Int(1, 50), random.OneOf<float>({0, 3, 7})));
      MesaReference(layer, -1, &texts.back());
    }
    ExpectRightInEveryCut(layer, texts);
    if (HasFailure()) return;
  }
}

TEST_F(MesaTest, LargeHeads) {
  Random random(2);
  for (const int dim : {96, 128, 144, 256}) {
    MesaLayer layer(&random, {1, dim, 4});
    layer.cg_tolerance = 1e-5f;
    Texts texts;
    texts.push_back(layer.RandomText(&random, dim > 128 ? 18 : 33, 4.0f));
    MesaReference(layer, -1, &texts[0]);
    ExpectRightInEveryCut(layer, texts);
    if (HasFailure()) return;
  }
}

#ifdef PACKRAT_GPU
// An output in bfloat16 is off by half a unit in its last place, 2^-9 of itself.
TEST_F(MesaTest, BFloat16Activations) {
  Random random(3);
  for (const int dim : {16, 128}) {
    MesaLayer layer(&random, {1, dim, 4});
    layer.gated = true;
    layer.cg_tolerance = 1e-4f;
    Texts texts;
    for (const int length : {37, 18}) {
      if (dim == 128 && length == 18) break;
      texts.push_back(layer.RandomText(&random, length, 3.0f));
      MesaText& text = texts.back();
      for (auto* operand : {&text.q, &text.k, &text.v, &text.gate}) {
        *operand = OnDevice(*operand, DType::kBF16);
      }
      MesaReference(layer, -1, &text);
    }
    ExpectRightInEveryCut(layer, texts, {DType::kBF16, DType::kF32}, 0x1p-9);
  }
}
#endif

// Gamma 0.999 over many blocks: the hardest systems that a layer meets.
TEST_F(MesaTest, LongMemory) {
  Random random(4);
  MesaLayer layer(&random, {1, 64, 4});
  layer.cg_tolerance = 1e-5f;
  Texts texts;
  texts.push_back(layer.RandomText(&random, kOnCpu ? 500 : 130, 6.9068f));
  MesaReference(layer, -1, &texts[0]);
  ExpectRightInEveryCut(layer, texts);
}

// With the state sealed in place, blocks must be solved before it goes or must wait.
TEST_F(MesaTest, PiecesAroundTheEndsOfBlocks) {
  Random random(13);
  MesaLayer layer(&random, {1, 20, 4});
  layer.cg_tolerance = 1e-3f;
  Texts texts;
  texts.push_back(layer.RandomText(&random, 180, 4.0f));
  MesaReference(layer, -1, &texts[0]);
  ExpectRightInPiecesAroundBlocks(layer, texts);
}

// In sixteen rows of a batch up to sixteen blocks: two of each text.
TEST_F(MesaTest, ManyBlocksBeginSideBySide) {
  Random random(17);
  MesaLayer layer(&random, {1, 20, 4});
  layer.cg_tolerance = 1e-3f;
  Texts texts;
  for (int i = 0; i < 9; ++i) {
    texts.push_back(layer.RandomText(&random, 49, 4.0f));
    MesaReference(layer, -1, &texts.back());
  }
  ForEachDevice([&] {
    const Outcome whole = Run(layer, texts, Cut::kWhole);
    ExpectRight(layer, texts, whole, 0);
    for (const Placing placing : {Placing::kInPlace, Placing::kElsewhere}) {
      ExpectSame(NewFeed(layer, texts, {}, 7)->RunPieces({31, 2, 16}, placing), whole);
    }
  });
}

// A prompt of more blocks than the scan weighs at once, which is 128: more than twice as many, as
// only then all places are written anew. And the same in pieces.
TEST_F(MesaTest, MoreBlocksThanAreWeighedAtOnce) {
  Random random(18);
  MesaLayer layer(&random, {1, 16, 2});
  layer.cg_max_steps = 1;
  Texts texts;
  texts.push_back(layer.RandomText(&random, 4130, 7.0f));
  ForEachDevice([&] {
    const Outcome whole = NewFeed(layer, texts, {}, 7)->RunPieces({4130}, Placing::kInPlace);
    ExpectSame(NewFeed(layer, texts, {}, 8)->RunPieces({1003, 2040, 1087}, Placing::kInPlace),
               whole);
  });
}

// Forgets everything at once, or nothing at all.
TEST_F(MesaTest, ExtremeDecays) {
  for (const float gamma : {-300.0f, -100.0f, -30.0f, 30.0f, 300.0f}) {
    Random random(5);
    MesaLayer layer(&random, {1, 20, 3});
    Texts texts;
    texts.push_back(layer.RandomText(&random, 36, 0.0f));
    std::fill(texts[0].gamma.begin(), texts[0].gamma.end(), gamma);
    MesaReference(layer, -1, &texts[0]);
    ExpectRightInEveryCut(layer, texts);
  }
}

// With so few steps nothing converges: what is served is the current x, and the report says so.
TEST_F(MesaTest, StopsAtTheStepLimitAndReportsIt) {
  for (const int steps : {0, 1, 2, 4}) {
    SCOPED_TRACE(testing::Message() << steps << " steps");
    Random random(6);
    MesaLayer layer(&random, {1, 48, 4});
    layer.cg_max_steps = steps;
    layer.cg_tolerance = 1e-7f;
    Texts texts;
    texts.push_back(layer.RandomText(&random, 40, 5.0f));
    MesaText& text = texts[0];
    MesaReference(layer, steps, &text);
    ForEachDevice([&] {
      const Outcome whole = Run(layer, texts, Cut::kWhole);
      ExpectRight(layer, texts, whole, 0);
      ExpectSame(Run(layer, texts, Cut::kSingle), whole);
      ExpectSame(Run(layer, texts, Cut::kRandom), whole);
      int64_t unconverged = 0;
      // The first token's matrix has rank one: that system may be solved in two steps.
      for (const double residual : text.residual) unconverged += residual > 1e-5 ? 1 : 0;
      const Totals& totals = whole.totals[0];
      EXPECT_NEAR(totals.max_residual(),
                  *std::max_element(text.residual.begin(), text.residual.end()),
                  *std::max_element(text.residual_error.begin(), text.residual_error.end()));
      EXPECT_GE(totals.unconverged, unconverged);
      EXPECT_LE(totals.unconverged, text.length);
      EXPECT_GE(totals.steps, unconverged * steps);
      EXPECT_LE(totals.steps, int64_t{text.length} * steps);
      EXPECT_GT(unconverged, steps < 4 ? text.length - 3 : 0);
    });
  }
}

TEST_F(MesaTest, LooserToleranceTakesFewerSteps) {
  Random random(7);
  MesaLayer layer(&random, {1, 32, 4});
  Texts texts;
  texts.push_back(layer.RandomText(&random, 30, 5.0f));
  ForEachDevice([&] {
    int64_t last = 1 << 30;
    for (const float tolerance : {1e-6f, 1e-4f, 1e-2f, 1e9f}) {
      layer.cg_tolerance = tolerance;
      const Totals totals = Run(layer, texts, Cut::kWhole).totals[0];
      EXPECT_EQ(totals.unconverged, 0);
      EXPECT_LT(totals.steps, last);
      last = totals.steps;
    }
    EXPECT_EQ(last, 0) << "the start is good enough";
  });
}

TEST_F(MesaTest, ZeroQueriesAreSolvedWithoutAStep) {
  Random random(8);
  MesaLayer layer(&random, {2, 24, 3});
  layer.conv_q_bias.clear();
  Texts texts;
  texts.push_back(layer.RandomText(&random, 20, 3.0f));
  texts.push_back(layer.RandomText(&random, 24, 3.0f));
  std::fill(texts[0].q.begin(), texts[0].q.end(), 0.0f);
  std::fill(texts[1].q.begin() + 10 * 48, texts[1].q.begin() + 20 * 48, 0.0f);
  for (MesaText& text : texts) MesaReference(layer, -1, &text);
  ExpectRightInEveryCut(layer, texts);
  ForEachDevice([&] {
    const Outcome outcome = Run(layer, texts, Cut::kWhole);
    for (const float x : outcome.out[0]) ASSERT_EQ(x, 0.0f);
    EXPECT_EQ(outcome.totals[0].steps, 0);
    EXPECT_EQ(outcome.totals[0].residual_bits, 0u);
    for (int t = 12; t < 20; ++t) {  // Where all taps see zeros.
      for (int d = 0; d < 48; ++d) ASSERT_EQ(outcome.out[1][t * 48 + d], 0.0f);
    }
    EXPECT_GT(outcome.totals[1].steps, 0);
  });
}

// Queries whose squares, or whose tolerance, vanish in float32.
TEST_F(MesaTest, TinyQueries) {
  Random random(9);
  MesaLayer layer(&random, {1, 24, 1});
  layer.conv_q_bias.clear();
  for (int exponent = -8; exponent >= -44; exponent -= kOnCpu ? 3 : 6) {
    Texts texts;
    texts.push_back(layer.RandomText(&random, 18, 3.0f));
    for (float& x : texts[0].q) x *= static_cast<float>(std::pow(10.0, exponent));
    MesaReference(layer, -1, &texts[0]);
    SCOPED_TRACE(testing::Message() << "1e" << exponent);
    ExpectRightInEveryCut(layer, texts);
    if (HasFailure()) return;
  }
}

TEST_F(MesaTest, NaNStaysInItsSequenceAndIsSeenThere) {
  Random random(10);
  MesaLayer layer(&random, {2, 24, 4});
  layer.gated = true;
  layer.cg_max_steps = 8;
  layer.cg_tolerance = 1e-3f;
  Texts texts;
  for (int i = 0; i < 3; ++i) texts.push_back(layer.RandomText(&random, 24, 3.0f));
  const int token = 19, width = layer.shape.width();
  ForEachDevice([&] {
    for (const Cut cut : kOnCpu ? std::vector<Cut>(std::begin(kCuts), std::end(kCuts))
                                : std::vector<Cut>{Cut::kWhole, Cut::kSingle}) {
      const Outcome clean = Run(layer, texts, cut);
      for (std::vector<float> MesaText::*operand :
           {&MesaText::q, &MesaText::k, &MesaText::v, &MesaText::beta, &MesaText::gamma,
            &MesaText::gate}) {
        Texts bad = texts;
        (bad[1].*operand)[token * (bad[1].*operand).size() / 24] = kNaN;
        const bool solver = operand != &MesaText::v && operand != &MesaText::gate;
        const Outcome dirty = Run(layer, bad, cut);
        SCOPED_TRACE(testing::Message() << "cut " << static_cast<int>(cut));
        packrat::ExpectNaNIsSeenAlone(clean.out, dirty.out, token, width, cut == Cut::kSingle);
        for (const size_t other : {size_t{0}, size_t{2}}) {
          EXPECT_TRUE(clean.sealed[other] == dirty.sealed[other]);
          EXPECT_TRUE(clean.totals[other] == dirty.totals[other]);
        }
        EXPECT_EQ(dirty.totals[1].not_finite, 1u);
        if (solver) {
          EXPECT_GT(dirty.totals[1].unconverged, 0);
          EXPECT_TRUE(std::isnan(dirty.totals[1].max_residual()));
        }
      }
    }
  });
}

// A NaN is no reason to stop early: the work that a sequence gone bad makes is bounded, and told.
TEST_F(MesaTest, NaNGoesToTheStepLimit) {
  Random random(14);
  MesaLayer layer(&random, {1, 16, 1});
  layer.cg_max_steps = 5;
  layer.cg_tolerance = 1e9f;  // All others are solved at the start.
  Texts texts;
  texts.push_back(layer.RandomText(&random, 20, 3.0f));
  texts[0].q[18 * 16 + 3] = kNaN;
  ForEachDevice([&] {
    for (const Cut cut : {Cut::kWhole, Cut::kSingle}) {
      const Totals totals = Run(layer, texts, cut).totals[0];
      EXPECT_EQ(totals.steps, 5);
      EXPECT_EQ(totals.unconverged, 1);
    }
  });
}

TEST_F(MesaTest, SealedStateHasItsLayout) {
  Random random(11);
  MesaLayer layer(&random, {2, 37, 2});
  layer.cg_tolerance = 1e-2f;
  Texts texts;
  texts.push_back(layer.RandomText(&random, 35, 3.0f));
  ForEachDevice([&] {
    const Bytes bytes = Run(layer, texts, Cut::kRandom).sealed[0];
    std::vector<float> slot(bytes.size() / sizeof(float));
    std::memcpy(slot.data(), bytes.data(), bytes.size());
    ExpectSealed(layer, texts[0], 32, slot.data());
  });
}

#ifdef PACKRAT_GPU
// Slots of half the size: every cut gives the same bits still, and each block's rounding of the
// state, 2^-9 where float32 has 2^-24, is all that is lost.
TEST_F(MesaTest, BFloat16State) {
  Random random(12);
  for (const int dim : {64, 128, 144}) {
    MesaLayer layer(&random, {1, dim, 4});
    layer.cg_tolerance = 1e-4f;
    Texts texts;
    texts.push_back(layer.RandomText(&random, dim == 64 ? 150 : 34, 5.0f));
    MesaReference(layer, -1, &texts[0]);
    const Types types{DType::kF32, DType::kBF16};
    const Outcome exact = Run(layer, texts, Cut::kWhole),
                  whole = Run(layer, texts, Cut::kWhole, types);
    uint64_t order = 0;
    for (const Cut cut : {Cut::kSingle, Cut::kRandom}) {
      ExpectSame(Run(layer, texts, cut, types, ++order), whole);
    }
    const double loss = RelativeLoss(whole, exact);
    RecordProperty("relative_loss_" + std::to_string(dim), std::to_string(loss));
    std::printf("bfloat16 state, head of %d: relative loss %.2e over %d tokens\n", dim, loss,
                texts[0].length);
    EXPECT_GT(loss, 0);
    EXPECT_LT(loss, 0x1p-9 * texts[0].length / kBlockTokens);
    EXPECT_EQ(whole.totals[0].unconverged, 0);
  }
}
#endif

#ifdef PACKRAT_EMULATED
// Where two blocks with all of a head's state do not fit a multiprocessor, or not even one does,
// H_kv is read where it lies.
TEST_F(MesaTest, SmallMultiprocessorsGiveTheSameBits) {
  Random random(13);
  MesaLayer layer(&random, {1, 128, 4});
  layer.cg_tolerance = 1e-4f;
  Texts texts;
  texts.push_back(layer.RandomText(&random, 34, 5.0f));
  MesaReference(layer, -1, &texts[0]);
  for (const DType state : {DType::kF32, DType::kBF16}) {
    const Types types{DType::kF32, state};
    emulation::machine.major = 9, emulation::machine.minor = 0;
    const Outcome large = Run(layer, texts, Cut::kSingle, types);
    ASSERT_LE(gpu::MesaSharedBytes(layer.shape, state), size_t{99} << 10);
    for (const auto& [major, minor] : {std::pair(8, 0), std::pair(8, 9), std::pair(12, 0)}) {
      emulation::machine.major = major, emulation::machine.minor = minor;
      ExpectSame(Run(layer, texts, Cut::kSingle, types, 7), large);
    }
  }
}
#endif

}  // namespace
}  // namespace packrat
