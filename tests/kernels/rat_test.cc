#include "kernels/rat.h"

#include <gtest/gtest.h>

#include <deque>

#include "tests/kernels/random.h"
#include "tests/kernels/rat_reference.h"
#include "tests/kernels/texts.h"

namespace packrat {
namespace {

using Layer = RatLayer;
using Text = RatText;
using Outputs = std::vector<std::vector<float>>;

Outputs Feed(const Layer& layer, Cut cut, int threads) {
  const RatShape& s = layer.shape;
  Random random(7);
  PoisonedContext context(threads, 0, RatScratchFloats(s.head_dim));
  std::deque<Pages> pages;
  std::deque<GuardedFloats> tails;
  std::vector<int> lengths;
  std::vector<const std::vector<float>*> projections;
  for (const Text& text : layer.texts) {
    lengths.push_back(text.length);
    projections.push_back(&text.projection);
    // One page for each chunk that the text finishes, and never none.
    pages.emplace_back(&random, RatPageFloats(s.num_heads, s.head_dim),
                       std::max(1, text.length / s.chunk_size));
    tails.emplace_back(RatTailFloats(s.num_heads, s.head_dim));
  }
  Outputs outputs(layer.texts.size());
  Feeder feeder(lengths, cut);
  std::vector<Rows> rows;
  while (feeder.Next(&rows)) {
    const int tokens = NumTokens(rows);
    const auto projection = Gather(rows, projections, s.projection(), s.projection());
    RopeTable rope(kRopeBase, s.head_dim, s.chunk_size, tokens);
    std::vector<RatSequence> sequences;
    for (size_t i = 0; i < rows.size(); ++i) {
      for (int t = 0; t < rows[i].num_tokens; ++t) {
        rope.Set(rows[i].first_token + t, rows[i].position + t);
      }
      sequences.push_back({rows[i], pages[i].state(), tails[i].data()});
    }
    GuardedFloats out(static_cast<size_t>(tokens) * s.num_heads * s.head_dim);
    Rat(s, sequences, projection.data(), layer.gate_bias.data(), rope, out.data(), &context);
    EXPECT_TRUE(out.GuardsIntact());
    Scatter(rows, out.data(), s.num_heads * s.head_dim, &outputs);
  }
  for (size_t i = 0; i < pages.size(); ++i) {
    EXPECT_TRUE(pages[i].OthersIntact(lengths[i] / s.chunk_size));
    EXPECT_TRUE(tails[i].GuardsIntact());
  }
  return outputs;
}

void ExpectRightInEveryCut(const Layer& layer) {
  const RatShape& s = layer.shape;
  SCOPED_TRACE(testing::Message() << "heads " << s.num_heads << " groups " << s.num_groups
                                  << " dim " << s.head_dim << " chunk " << s.chunk_size << " text "
                                  << layer.texts[0].length);
  ForEachCpu([&](int threads) {
    const Outputs whole = Feed(layer, Cut::kWhole, threads);
    for (size_t i = 0; i < whole.size(); ++i) {
      const Text& text = layer.texts[i];
      ASSERT_EQ(whole[i].size(), text.expected.size());
      for (size_t j = 0; j < whole[i].size(); ++j) {
        ASSERT_NEAR(whole[i][j], text.expected[j], text.tolerance[j])
            << "text " << i << " element " << j;
      }
    }
    for (const Cut cut : kCuts) {
      EXPECT_EQ(Feed(layer, cut, threads), whole) << "cut " << static_cast<int>(cut);
    }
  });
}

TEST(RatTest, MeetsTheReferenceInEveryCut) {
  Random random(1);
  for (int i = 0; i < 50; ++i) {
    const int heads = random.Int(1, 5), groups = random.Int(1, heads);
    const RatShape s = {heads, groups,
                        random.OneOf<int>({2, 6, 8, 14, 16, 18, 24, 30, 32, 34, 64, 66, 128}),
                        random.OneOf<int>({1, 2, 3, 5, 8, 15, 16, 17, 20, 31, 32, 33, 40})};
    std::vector<int> lengths(random.Int(1, 4));
    for (int& length : lengths) length = random.Int(1, 90);
    ExpectRightInEveryCut(Layer(&random, s, lengths, random.OneOf<float>({0.3f, 1.0f, 3.0f})));
    if (HasFailure()) return;
  }
}

TEST(RatTest, EveryChunkLength) {
  Random random(2);
  for (int chunk = 1; chunk <= 40; ++chunk) {
    ExpectRightInEveryCut(Layer(&random, {3, 2, 10, chunk}, {2 * chunk + 1, chunk}));
    if (HasFailure()) return;
  }
}

// More finished chunks than one and than two tiles of the softmax take.
TEST(RatTest, ManyChunks) {
  Random random(3);
  ExpectRightInEveryCut(Layer(&random, {2, 1, 12, 2}, {1100}));
  ExpectRightInEveryCut(Layer(&random, {1, 1, 8, 1}, {258, 257, 255}));
}

// Gates that keep all, and that keep nothing: the sigmoid's ends, where it is 1 or 0 in float32.
TEST(RatTest, SaturatedGates) {
  for (const float bias : {300.0f, 100.0f, 20.0f, -20.0f, -100.0f, -300.0f}) {
    Random random(4);
    Layer layer(&random, {2, 2, 10, 6}, {33});
    std::fill(layer.gate_bias.begin(), layer.gate_bias.end(), bias);
    for (int head = 0; head < 2; ++head) {
      RunHead(layer.shape, layer.gate_bias, head, &layer.texts[0]);
    }
    ExpectRightInEveryCut(layer);
  }
}

TEST(RatTest, NaNStaysInItsSequenceAndIsSeenThere) {
  Random random(5);
  const Layer layer(&random, {4, 2, 24, 8}, {37, 37, 37});
  const int width = 4 * 24, token = 21;
  // One column of each part: z, v, g, q, k.
  for (const int column : {5, width + 5, 2 * width + 5, 3 * width + 5, 3 * width + 2 * 24 + 5}) {
    Layer bad = layer;
    bad.texts[1].projection[token * layer.shape.projection() + column] = kNaN;
    ForEachCpu([&](int threads) {
      for (const Cut cut : kCuts) {
        const Outputs clean = Feed(layer, cut, threads), dirty = Feed(bad, cut, threads);
        EXPECT_TRUE(SameBits(clean[0], dirty[0]));
        EXPECT_TRUE(SameBits(clean[2], dirty[2]));
        const float* row = dirty[1].data() + token * width;
        EXPECT_TRUE(std::any_of(row, row + width, [](float x) { return std::isnan(x); }))
            << "a NaN vanished, cut " << static_cast<int>(cut) << " column " << column;
        if (cut == Cut::kSingle) {
          EXPECT_TRUE(SameBits(clean[1].data(), dirty[1].data(), token * width));
        }
      }
    });
  }
}

}  // namespace
}  // namespace packrat
