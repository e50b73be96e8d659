#include "kernels/attention.h"

#include <gtest/gtest.h>

#include <deque>

#include "tests/kernels/attention_reference.h"
#include "tests/kernels/random.h"
#include "tests/kernels/texts.h"

namespace packrat {
namespace {

using Text = AttentionText;

struct Outcome {
  std::vector<std::vector<float>> out;  // Per text (length, heads * dim).
};

Outcome Feed(const AttentionShape& s, const std::deque<Text>& texts, Cut cut, int threads) {
  const int q_width = s.num_heads * s.head_dim, kv_width = s.num_kv_heads * s.head_dim;
  Random random(7);
  PoisonedContext context(threads, 0, AttentionScratchFloats(s.head_dim));
  std::deque<Pages> pages;
  std::vector<int> lengths;
  std::vector<const std::vector<float>*> q, k, v;
  for (const Text& text : texts) {
    lengths.push_back(text.length);
    q.push_back(&text.q), k.push_back(&text.k), v.push_back(&text.v);
    pages.emplace_back(&random, AttentionPageFloats(s.num_kv_heads, s.head_dim),
                       RingPages(s, text.length));
  }
  Outcome outcome{std::vector<std::vector<float>>(texts.size())};
  Feeder feeder(lengths, cut);
  std::vector<Rows> rows;
  while (feeder.Next(&rows)) {
    const int tokens = NumTokens(rows);
    const ptrdiff_t q_stride = q_width + random.Int(0, 3), k_stride = kv_width + random.Int(0, 3),
                    v_stride = kv_width + random.Int(0, 3);
    const auto batch_q = Gather(rows, q, q_width, q_stride);
    const auto batch_k = Gather(rows, k, kv_width, k_stride);
    const auto batch_v = Gather(rows, v, kv_width, v_stride);
    RopeTable rope(kRopeBase, s.head_dim, 1, tokens);
    std::vector<AttentionSequence> sequences;
    for (size_t i = 0; i < rows.size(); ++i) {
      for (int t = 0; t < rows[i].num_tokens; ++t) {
        rope.Set(rows[i].first_token + t, rows[i].position + t);
      }
      sequences.push_back({rows[i], pages[i].state()});
    }
    GuardedFloats out(static_cast<size_t>(tokens) * q_width);
    Attention(
        s, sequences,
        {batch_q.data(), q_stride, batch_k.data(), k_stride, batch_v.data(), v_stride, out.data()},
        rope, &context);
    EXPECT_TRUE(out.GuardsIntact());
    Scatter(rows, out.data(), q_width, &outcome.out);
  }
  for (size_t i = 0; i < texts.size(); ++i) {
    const int used = (texts[i].length + kPageTokens - 1) / kPageTokens;
    EXPECT_TRUE(pages[i].OthersIntact(std::min(used, RingPages(s, texts[i].length))));
  }
  return outcome;
}

void ExpectRight(const std::deque<Text>& texts, const Outcome& outcome) {
  for (size_t i = 0; i < texts.size(); ++i) {
    ASSERT_EQ(outcome.out[i].size(), texts[i].expected.size());
    for (size_t j = 0; j < texts[i].expected.size(); ++j) {
      ASSERT_NEAR(outcome.out[i][j], texts[i].expected[j], texts[i].tolerance[j])
          << "text " << i << " element " << j;
    }
  }
}

AttentionShape RandomShape(Random* random) {
  const int kv_heads = random->Int(1, 3);
  return {kv_heads * random->Int(1, 3), kv_heads,
          random->OneOf<int>({2, 6, 8, 14, 16, 18, 24, 30, 32, 34, 64, 66, 128}),
          random->OneOf<int>({0, 0, 1, 2, 5, 16, 17, 18, 33, 100, 1000})};
}

void ExpectRightInEveryCut(const AttentionShape& s, const std::deque<Text>& texts) {
  SCOPED_TRACE(testing::Message() << "heads " << s.num_heads << "/" << s.num_kv_heads << " dim "
                                  << s.head_dim << " window " << s.window << " text "
                                  << texts[0].length);
  ForEachCpu([&](int threads) {
    const Outcome whole = Feed(s, texts, Cut::kWhole, threads);
    ExpectRight(texts, whole);
    for (const Cut cut : kCuts) {
      EXPECT_EQ(Feed(s, texts, cut, threads).out, whole.out) << "cut " << static_cast<int>(cut);
    }
  });
}

TEST(AttentionTest, MeetsTheReferenceInEveryCut) {
  Random random(1);
  for (int i = 0; i < 40; ++i) {
    const AttentionShape s = RandomShape(&random);
    std::deque<Text> texts;
    const float scale = random.OneOf<float>({0.1f, 1.0f, 4.0f});
    for (int n = random.Int(1, 4); n > 0; --n) {
      texts.emplace_back(&random, s, random.Int(1, 70), scale);
    }
    ExpectRightInEveryCut(s, texts);
    if (HasFailure()) return;
  }
}

// Longer than one and two tiles of the softmax, and a window that crosses a tile's edge.
TEST(AttentionTest, LongTexts) {
  Random random(2);
  for (const AttentionShape& s :
       {AttentionShape{2, 1, 18, 0}, AttentionShape{1, 1, 8, 300}, AttentionShape{1, 1, 6, 40}}) {
    std::deque<Text> texts;
    texts.emplace_back(&random, s, 545, 1.0f);
    texts.emplace_back(&random, s, 256, 1.0f);
    ExpectRightInEveryCut(s, texts);
    if (HasFailure()) return;
  }
}

// Scores far apart: the first tile's maximum is far below the second's, and the other way round.
TEST(AttentionTest, MaximumMovesBetweenTiles) {
  const AttentionShape s{1, 1, 16, 0};
  for (const bool rising : {true, false}) {
    Random random(3);
    std::deque<Text> texts;
    texts.emplace_back(&random, s, 530, 1.0f);
    Text& text = texts[0];
    for (int t = 0; t < text.length; ++t) {
      const float scale = (t < 256) == rising ? 0.01f : 30.0f;
      for (int d = 0; d < 16; ++d) text.k[t * 16 + d] *= scale;
    }
    text.expected.clear();
    text.tolerance.clear();
    for (int t = 0; t < text.length; ++t) text.Attend(s, t, 0);
    ExpectRightInEveryCut(s, texts);
  }
}

TEST(AttentionTest, NaNStaysInItsSequenceAndIsSeenThere) {
  Random random(4);
  const AttentionShape s{4, 2, 24, 20};
  for (std::vector<float> Text::*operand : {&Text::q, &Text::k, &Text::v}) {
    std::deque<Text> texts;
    for (int i = 0; i < 3; ++i) texts.emplace_back(&random, s, 37, 1.0f);
    std::deque<Text> bad = texts;
    const int token = 21, width = static_cast<int>((bad[1].*operand).size()) / 37;
    (bad[1].*operand)[token * width + 5] = kNaN;
    ForEachCpu([&](int threads) {
      for (const Cut cut : kCuts) {
        const Outcome clean = Feed(s, texts, cut, threads), dirty = Feed(s, bad, cut, threads);
        EXPECT_TRUE(SameBits(clean.out[0], dirty.out[0]));
        EXPECT_TRUE(SameBits(clean.out[2], dirty.out[2]));
        const float* row = dirty.out[1].data() + token * s.num_heads * s.head_dim;
        EXPECT_TRUE(
            std::any_of(row, row + s.num_heads * s.head_dim, [](float x) { return std::isnan(x); }))
            << "a NaN vanished, cut " << static_cast<int>(cut);
        if (cut == Cut::kSingle) {
          EXPECT_TRUE(SameBits(clean.out[1].data(), dirty.out[1].data(),
                               static_cast<size_t>(token) * s.num_heads * s.head_dim));
        }
      }
    });
  }
}

}  // namespace
}  // namespace packrat
