#include "tests/kernels/attention_feed.h"

#include <algorithm>
#include <tuple>

namespace packrat {
namespace {

TYPED_TEST_SUITE(AttentionTest, AttentionForms);

TYPED_TEST(AttentionTest, MeetsTheReferenceInEveryCut) {
  Random random(1);
  const int windows[] = {0, 1, 2, 16, 17, 33, 1000};
  const int dims[] = {2, 6, 34, 64, 66, 128, 256};
  for (int i = 0; i < (kOnCpu ? 40 : 7); ++i) {
    const int kv_heads = random.Int(1, 2);
    const int dim = i < 7 ? dims[i] : 2 * random.Int(1, 35);
    const AttentionShape s{kv_heads * random.Int(1, 3), kv_heads, dim,
                           i < 7 ? windows[i] : random.OneOf<int>({0, 5, 18, 33, 100}), dim};
    const std::vector<int> lengths = {random.Int(20, kOnCpu ? 70 : 50), random.Int(1, 20)};
    this->ExpectRightInEveryCut(
        s, this->MakeTexts(&random, s, lengths, random.OneOf<float>({0.1f, 1.0f, 4.0f})));
    if (this->HasFailure()) return;
  }
}

// The first channels of a head are rotated, half, few or none of them; the others stay.
TYPED_TEST(AttentionTest, RotaryOnAPartOfTheHead) {
  Random random(8);
  for (const AttentionShape& s :
       {AttentionShape{4, 2, 32, 0, 8}, AttentionShape{3, 1, 18, 20, 10},
        AttentionShape{1, 1, 6, 0, 0}, AttentionShape{6, 2, 64, 0, 0},
        AttentionShape{3, 1, 48, 9, 0}, AttentionShape{2, 2, 130, 0, 2},
        AttentionShape{4, 2, 32, 0, 8, 3.0f}, AttentionShape{3, 1, 18, 20, 0, -9.0f}}) {
    this->ExpectRightInEveryCut(s, this->MakeTexts(&random, s, {40, 7}));
    if (this->HasFailure()) return;
  }
}

// More query heads of a key head than a block takes.
TYPED_TEST(AttentionTest, ManySharedHeads) {
  Random random(2);
  for (const AttentionShape& s :
       {AttentionShape{16, 2, 10, 0, 10}, AttentionShape{19, 1, 6, 20, 6}}) {
    this->ExpectRightInEveryCut(s, this->MakeTexts(&random, s, {30, 5}));
    if (this->HasFailure()) return;
  }
}

// Several splits, full ones and not, windows that cross their edges, rings shorter than the piece;
// on the CPU more than one and than two tiles of the softmax.
TYPED_TEST(AttentionTest, LongTexts) {
  Random random(3);
  for (const AttentionShape& s : {AttentionShape{2, 1, 18, 0, 18}, AttentionShape{1, 1, 8, 100, 8},
                                  AttentionShape{1, 1, 130, 40, 130}}) {
    this->ExpectRightInEveryCut(s, this->MakeTexts(&random, s, {140, 64}));
    if (this->HasFailure()) return;
  }
  if (!kOnCpu) return;
  for (const AttentionShape& s :
       {AttentionShape{2, 1, 18, 0, 18}, AttentionShape{1, 1, 8, 300, 8}}) {
    this->ExpectRightInEveryCut(s, this->MakeTexts(&random, s, {545, 256}));
    if (this->HasFailure()) return;
  }
}

// A piece that goes round its ring more than once, then single tokens that read what it left.
TYPED_TEST(AttentionTest, RingShorterThanThePiece) {
  Random random(7);
  for (const int window : {2, 18}) {
    const AttentionShape s{1, 1, 8, window, 8};
    const int piece = 77, length = piece + 6;
    const auto texts = this->MakeTexts(&random, s, {length});
    this->ForEachDevice([&] {
      const Outputs single = this->Feed(s, texts, Cut::kSingle);
      this->ForEachOrder([&] {
        int fed = 0;
        const auto next = [&](std::vector<Rows>* rows) {
          if (fed == length) return false;
          *rows = {{0, fed == 0 ? piece : 1, fed}};
          fed += (*rows)[0].num_tokens;
          return true;
        };
        EXPECT_EQ(this->Feed(s, texts, next, 8), single);
      });
    });
  }
}

// Scores far apart: the maximum of the first split (on the CPU: tile) is far below the second's,
// and the other way round.
TYPED_TEST(AttentionTest, MaximumMovesBetweenSplits) {
  const AttentionShape s{1, 1, 16, 0, 16};
  for (const bool rising : {true, false}) {
    Random random(4);
    const int length = kOnCpu ? 530 : 140, edge = kOnCpu ? 256 : 64;
    auto texts = this->MakeTexts(&random, s, {length});
    AttentionText& text = texts[0];
    for (int t = 0; t < text.length; ++t) {
      for (int d = 0; d < 16; ++d) text.k[t * 16 + d] *= (t < edge) == rising ? 0x1p-6f : 32.0f;
    }
    text.expected.clear();
    text.tolerance.clear();
    for (int t = 0; t < text.length; ++t) text.Attend(s, t, 0);
    this->ExpectRightInEveryCut(s, texts);
  }
}

// More splits than runs, as for RAT; the window's runs begin within a split. The last two positions
// are beyond 2^24, where a float32 no longer tells two integers apart. Scores that are large show
// whether a query keeps what bfloat16 cannot hold: the keys that it meets there are as they are.
TYPED_TEST(AttentionTest, LongRuns) {
  using Activation = typename AttentionForm<TypeParam>::Activation;
  using S = Stored<Activation>;
  const int dim = 16, num = 4;
  Random random(5);
  for (const auto& [start, visible, scale] : {std::tuple(64 * 64 - 2, 0, 1),
                                              {128 * 64 - 1, 0, 1},
                                              {5000, 64 * 64 + 3, 1},
                                              {8000, 100, 1},
                                              {8003, 100, 16},
                                              {(1 << 24) + 1, 20, 1},
                                              {(1 << 30) - 20, 20, 1}}) {
    const int position = start, window = visible;  // Bindings cannot be captured.
    const AttentionShape s{2, 1, dim, window, dim};
    const int length = position + num;
    if (!AttentionForm<TypeParam>::Runs()) return;
    const AttentionRounding rounding = AttentionForm<TypeParam>::Rounding(s);
    DevicePages<typename AttentionForm<TypeParam>::Page> pages(&random, AttentionPageFloats(1, dim),
                                                               {RingPages(s, length)});
    const std::vector<float> entries = pages.Fill(&random);
    Scratch scratch(PACKRAT_SCRATCH(gpu::AttentionScratchBytes(s, Stored<TypeParam>::kType, 4, 10),
                                    AttentionForm<TypeParam>::CpuScratchFloats(dim)));
    scratch.Zero();
    // q, k, v of the tokens from `position` on.
    std::vector<float> fed = rounding.operands(random.Normals(num * 4 * dim));
    if (scale != 1) {
      for (int d = 0; d < 2 * dim; ++d) fed[d] *= static_cast<float>(scale);
      std::fill_n(&fed[2 * dim], dim, 0.0f);
    }
    const auto feed = [&](int first, int n, Outputs* outputs) {
      const DeviceStep step(&random, {{0, n, first}}, {0});
      DeviceArray<Activation> qkv(S::From(step.Gather({&fed}, 4 * dim, position)));
      DeviceArray<float> rope(step.Rope(kRopeBase, dim, 1));
      DeviceArray<Activation> out(static_cast<size_t>(step.num_tokens()) * 2 * dim);
      const StatePages tables = pages.For(step);
      const AttentionOperands operands{qkv.data(), qkv.data() + 2 * dim, qkv.data() + 3 * dim,
                                       4 * dim,    rope.data(),          out.data(),
                                       S::kType};
      EXPECT_TRUE(this->Run(scratch,
                            PACKRAT_WORK(step, gpu::AttentionKind(s, Stored<TypeParam>::kType)),
                            [&](auto... device) {
                              return AttentionForm<TypeParam>::Run(s, step.batch(), tables,
                                                                   operands, device...);
                            })
                      .ok());
      step.Scatter(out.Get(), 2 * dim, outputs);
    };
    Outputs single(1);
    for (int t = 0; t < num; ++t) feed(position + t, 1, &single);
    SoftmaxList list(Rotated(&fed[0], dim, position, kRopeBase), rounding.dot_roundings);
    const auto add = [&](const Vector& key, const Vector& value, double key_rounding) {
      list.Add(key, value, 1.001 * (rounding.query + key_rounding) * Norm(key),
               AttentionText::Magnitudes(value, rounding.value));
    };
    const int ring = RingPages(s, length), page_floats = 2 * kBlockTokens * dim;
    for (int p = window == 0 ? 0 : position - window + 1; p < position; ++p) {
      const float* page = &entries[static_cast<size_t>(p / kBlockTokens % ring) * page_floats];
      const float* value = page + (kBlockTokens + p % kBlockTokens) * dim;
      Vector key(dim);
      for (int d = 0; d < dim; ++d) {
        key[d] = page[AttentionForm<TypeParam>::KeyAt(p % kBlockTokens, d, dim)];
      }
      add(key, Vector(value, value + dim), 0);
    }
    add(Rotated(&fed[2 * dim], dim, position, kRopeBase),
        Vector(&fed[3 * dim], &fed[3 * dim] + dim), rounding.key);
    Vector expected, tolerance;
    list.Finish(&expected, &tolerance);
    for (int d = 0; d < dim; ++d) {
      ASSERT_NEAR(single[0][d], expected[d],
                  tolerance[d] + rounding.result * (std::fabs(expected[d]) + tolerance[d]));
    }
    // A ring's pages that were taken since were not visible: the same again, now as a piece.
    this->ForEachOrder([&] {
      Outputs whole(1);
      feed(position, num, &whole);
      EXPECT_EQ(whole, single);
    });
  }
}

// As for RAT, with one and with two queries to a key, and a window.
TYPED_TEST(AttentionTest, LengthsOfOthersChangeNoBits) {
  using Activation = typename AttentionForm<TypeParam>::Activation;
  using S = Stored<Activation>;
  const int dim = 16, kv_width = 16 * dim;
  if (!AttentionForm<TypeParam>::Runs()) return;
  for (const AttentionShape& shape :
       {AttentionShape{16, 16, dim, 0, dim}, AttentionShape{32, 16, dim, 200, dim}}) {
    const AttentionShape s = shape;
    const int width = s.num_heads * dim, stride = width + 2 * kv_width;
    Random random(10);
    const std::vector<int> positions = MixedPositions(&random);
    std::vector<int> rings;
    std::vector<std::vector<float>> qkv;
    std::vector<const std::vector<float>*> texts;
    for (const int position : positions) {
      rings.push_back(RingPages(s, position + 1));
      qkv.emplace_back(static_cast<size_t>(position) * stride);
      const std::vector<float> last = random.Normals(stride);
      qkv.back().insert(qkv.back().end(), last.begin(), last.end());
    }
    for (const std::vector<float>& rows : qkv) texts.push_back(&rows);
    DevicePages<typename AttentionForm<TypeParam>::Page> pages(&random,
                                                               AttentionPageFloats(16, dim), rings);
    pages.Fill(&random);
    const std::vector<int> no_tails(positions.size());
    this->ExpectBitsAlone(positions, [&](const std::vector<Rows>& rows) {
      const DeviceStep step(&random, rows, no_tails);
      Scratch scratch(
          PACKRAT_SCRATCH(gpu::AttentionScratchBytes(s, Stored<TypeParam>::kType, step.num_spans(),
                                                     step.num_tokens()),
                          AttentionForm<TypeParam>::CpuScratchFloats(dim)));
      scratch.Zero();
      DeviceArray<Activation> all(S::From(step.Gather(texts, stride)));
      DeviceArray<float> rope(step.Rope(kRopeBase, dim, 1));
      DeviceArray<Activation> out(static_cast<size_t>(step.num_tokens()) * width);
      const StatePages tables = pages.For(step);
      const AttentionOperands operands{
          all.data(), all.data() + width, all.data() + width + kv_width,
          stride,     rope.data(),        out.data(),
          S::kType};
      const auto run = [&](auto... device) {
        return AttentionForm<TypeParam>::Run(s, step.batch(), tables, operands, device...);
      };
      EXPECT_TRUE(this->Run(scratch,
                            PACKRAT_WORK(step, gpu::AttentionKind(s, Stored<TypeParam>::kType)),
                            run)
                      .ok());
      scratch.ExpectGuardsIntact();
      Outputs outputs(positions.size());
      step.Scatter(out.Get(), width, &outputs);
      return outputs;
    });
  }
}

TYPED_TEST(AttentionTest, NaNStaysInItsSequenceAndIsSeenThere) {
  Random random(6);
  const AttentionShape s{4, 2, 24, 12, 24};
  const int width = 4 * 24;
  const auto texts = this->MakeTexts(&random, s, {37, 37, 37});
  for (const auto& [token, cut] : {std::pair(21, Cut::kWhole),
                                   {21, Cut::kSingle},
                                   {21, Cut::kRandom},
                                   // The first token has no score but its own.
                                   {0, Cut::kWhole},
                                   {0, Cut::kSingle}}) {
    const int at = token;  // Bindings cannot be captured.
    const Cut how = cut;
    this->ForEachDevice([&] {
      const Outputs clean = this->Feed(s, texts, how);
      for (std::vector<float> AttentionText::*operand :
           {&AttentionText::q, &AttentionText::k, &AttentionText::v}) {
        auto bad = texts;
        const int columns = static_cast<int>((bad[1].*operand).size()) / 37;
        (bad[1].*operand)[at * columns + 5] = kNaN;
        const Outputs dirty = this->Feed(s, bad, how);
        SCOPED_TRACE(testing::Message() << "cut " << static_cast<int>(how));
        // What comes later changes nothing of what came before, and beyond the window it is
        // forgotten; on a GPU even in the same piece.
        const bool earlier = !kOnCpu || how == Cut::kSingle;
        ExpectNaNIsSeenAlone(clean, dirty, at, width, earlier);
        if (!earlier) continue;
        const size_t forgotten = (at + s.window) * width;
        EXPECT_TRUE(SameBits(clean[1].data() + forgotten, dirty[1].data() + forgotten,
                             clean[1].size() - forgotten));
      }
    });
  }
}

// Wherever in a head it is: tensor cores multiply what is not seen too, but for this.
TYPED_TEST(AttentionTest, NaNInAValueIsNotSeenBefore) {
  Random random(9);
  const int token = 9, length = 20;
  for (const int dim : {24, 64, 128}) {
    const AttentionShape s{1, 1, dim, 0, dim};
    const auto texts = this->MakeTexts(&random, s, {length});
    for (const int channel : {0, 1, dim / 2 + 6, dim - 1}) {
      SCOPED_TRACE(testing::Message() << "channel " << channel << " of " << dim);
      auto bad = texts;
      bad[0].v[token * dim + channel] = kNaN;
      this->ForEachDevice([&] {
        const Outputs clean = this->Feed(s, texts, Cut::kSingle);
        const Outputs dirty = this->Feed(s, bad, kOnCpu ? Cut::kSingle : Cut::kWhole);
        EXPECT_TRUE(SameBits(clean[0].data(), dirty[0].data(), size_t{token} * dim));
        for (int t = token; t < length; ++t) {
          EXPECT_TRUE(std::isnan(dirty[0][t * dim + channel])) << "token " << t;
        }
      });
    }
  }
}

}  // namespace
}  // namespace packrat
