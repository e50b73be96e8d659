// Texts fed in every cut to an operation that seals a state at each block's end, with all that it
// touches checked.
#ifndef PACKRAT_TESTS_KERNELS_SEALED_FEED_H_
#define PACKRAT_TESTS_KERNELS_SEALED_FEED_H_

#include <cmath>
#include <cstring>
#include <deque>
#include <memory>
#include <vector>

#include "tests/kernels/device.h"
#include "tests/kernels/sealed.h"
#include "tests/kernels/texts.h"

namespace packrat {

struct Totals {
  int64_t steps = 0, solves = 0, unconverged = 0;
  uint32_t residual_bits = 0, not_finite = 0;
  float max_residual() const {
    float residual;
    std::memcpy(&residual, &residual_bits, sizeof residual);
    return residual;
  }
  void Add(const SpanTotals& step) {
    steps += static_cast<int64_t>(step.solver_steps);
    solves += static_cast<int64_t>(step.solver_solves);
    unconverged += step.solver_unconverged;
    residual_bits = std::max(residual_bits, step.max_residual_bits);
    not_finite |= step.not_finite;
  }
  bool operator==(const Totals& o) const {
    return steps == o.steps && solves == o.solves && unconverged == o.unconverged &&
           residual_bits == o.residual_bits && not_finite == o.not_finite;
  }
};

// What came of feeding texts, each text's part by itself.
struct Outcome {
  Outputs out;
  std::vector<Bytes> sealed;  // The slot, if a block was finished.
  std::vector<Totals> totals;
};

inline void ExpectSame(const Outcome& a, const Outcome& b) {
  for (size_t i = 0; i < a.out.size(); ++i) {
    EXPECT_TRUE(SameBits(a.out[i], b.out[i])) << "text " << i;
    EXPECT_TRUE(a.sealed[i] == b.sealed[i]) << "text " << i;
    EXPECT_TRUE(a.totals[i] == b.totals[i]) << "text " << i;
  }
}

// The rows of every head, (length, width / dim, dim), by their norms. more: of what the outputs'
// storage adds, relative to a row.
template <class Text>
void ExpectRowsRight(const std::deque<Text>& texts, const Outcome& outcome, int width, int dim,
                     double more) {
  for (size_t i = 0; i < texts.size(); ++i) {
    ASSERT_EQ(outcome.out[i].size(), texts[i].expected.size());
    for (size_t at = 0; at < texts[i].expected.size(); at += dim) {
      double squared = 0, norm = 0;
      for (int d = 0; d < dim; ++d) {
        squared += std::pow(outcome.out[i][at + d] - texts[i].expected[at + d], 2);
        norm += std::pow(texts[i].expected[at + d], 2);
      }
      ASSERT_LE(std::sqrt(squared), texts[i].tolerance[at] + more * std::sqrt(norm))
          << "text " << i << " token " << at / width << " head " << at % width / dim;
    }
  }
}

// A text's slot by its layout: of every head a matrix (PadTo16(keys), PadTo16(values)) with zeros
// in the padding. state: (heads, keys, values); tolerance: (heads), of each element.
inline void ExpectMatrices(const Bytes& slot, int keys, int values, const Vector& state,
                           const Vector& tolerance) {
  const int rows = PadTo16(keys), columns = PadTo16(values);
  ASSERT_EQ(slot.size(), tolerance.size() * rows * columns * sizeof(float));
  for (size_t head = 0, at = 0; head < tolerance.size(); ++head) {
    for (int i = 0; i < rows; ++i) {
      for (int d = 0; d < columns; ++d, at += sizeof(float)) {
        float found;
        std::memcpy(&found, &slot[at], sizeof found);
        if (i >= keys || d >= values) {
          ASSERT_EQ(found, 0.0f) << "padding";
        } else {
          ASSERT_NEAR(found, state[(head * keys + i) * values + d], tolerance[head])
              << "head " << head << " key channel " << i << " value channel " << d;
        }
      }
    }
  }
}

// Of text 0: every element's error, relative to all of them.
inline double RelativeLoss(const Outcome& outcome, const Outcome& exact) {
  double lost = 0, size = 0;
  for (size_t at = 0; at < exact.out[0].size(); ++at) {
    lost += std::pow(outcome.out[0][at] - exact.out[0][at], 2);
    size += std::pow(exact.out[0][at], 2);
  }
  return std::sqrt(lost / size);
}

// Cuts of 180 tokens that begin and end at and across the ends of blocks, and finish none, one or
// several.
inline const std::vector<std::vector<int>> kPiecesAroundBlocks = {
    {16, 32, 5, 40, 3, 37, 1, 2, 28, 16}, {31, 2, 15, 16, 17, 47, 33, 19}, {1, 64, 1, 63, 3, 48}};

// The texts' state, and the feeding of one cut. An operation adds its weights and Step().
template <class Text>
class SealedFeed {
 public:
  using Texts = std::deque<Text>;
  SealedFeed(const Texts& texts, Types types, uint64_t seed, size_t slot_floats, size_t tail_floats)
      : texts_(texts),
        types_(types),
        random_(seed),
        state_(&random_, static_cast<int>(texts.size()), slot_floats * DTypeBytes(types.state),
               tail_floats * sizeof(float)) {
    outcome_.out.resize(texts.size());
    outcome_.totals.resize(texts.size());
  }
  virtual ~SealedFeed() = default;

  Outcome Run(Cut cut) {
    std::vector<int> lengths;
    for (const Text& text : texts_) lengths.push_back(text.length);
    Feeder feeder(lengths, cut);
    std::vector<Rows> rows;
    while (feeder.Next(&rows)) Feed(rows);
    return Finish();
  }
  // Texts of one length side by side, in the pieces given.
  Outcome RunPieces(const std::vector<int>& pieces, Placing placing) {
    state_.placing = placing;
    int position = 0;
    for (const int n : pieces) {
      std::vector<Rows> rows;
      for (size_t i = 0; i < texts_.size(); ++i) {
        rows.push_back(Rows{static_cast<int>(i) * n, n, position});
      }
      Feed(rows);
      position += n;
    }
    for (const Text& text : texts_) EXPECT_EQ(position, text.length);
    return Finish();
  }

 protected:
  // Runs the operation on state_.batch(); its output, (tokens, width) as Get() returns it, with
  // NaN in the unused tokens at the end.
  virtual std::vector<float> Step(const std::vector<Rows>& rows) = 0;

  std::vector<float> Batch(const std::vector<Rows>& rows, std::vector<float> Text::*operand,
                           int width) const {
    std::vector<const std::vector<float>*> parts;
    for (const Text& text : texts_) parts.push_back(&(text.*operand));
    return Gather(rows, parts, width, width);
  }

  const Texts& texts_;
  const Types types_;
  Random random_;
  SealedState state_;

 private:
  void Feed(const std::vector<Rows>& rows) {
    state_.Begin(rows);
    const std::vector<float> result = Step(rows);
    const size_t width = result.size() / state_.batch().num_tokens;
    for (size_t at = NumTokens(rows) * width; at < result.size(); ++at) {
      EXPECT_TRUE(std::isnan(result[at])) << "an unused token was written";
    }
    Scatter(rows, result.data(), static_cast<int>(width), &outcome_.out);
    const std::vector<SpanTotals> totals = state_.End(rows);
    for (size_t i = 0; i < texts_.size(); ++i) outcome_.totals[i].Add(totals[i]);
  }

  Outcome Finish() {
    for (size_t i = 0; i < texts_.size(); ++i) {
      outcome_.sealed.emplace_back();
      if (texts_[i].length < kBlockTokens) continue;
      outcome_.sealed.back() = state_.Slot(static_cast<int>(i));
    }
    return outcome_;
  }

  Outcome outcome_;
};

// Tests of such an operation, of which a Layer has the weights.
template <class Layer, class Text>
class SealedTest : public KernelTest {
 protected:
  using Texts = std::deque<Text>;

  virtual std::unique_ptr<SealedFeed<Text>> NewFeed(const Layer& layer, const Texts& texts,
                                                    Types types, uint64_t seed) = 0;
  // more: of what the outputs' storage adds, relative to a row.
  virtual void ExpectRight(const Layer& layer, const Texts& texts, const Outcome& outcome,
                           double more) = 0;

  Outcome Run(const Layer& layer, const Texts& texts, Cut cut, Types types = {}) {
    return NewFeed(layer, texts, types, static_cast<uint64_t>(cut) + 7)->Run(cut);
  }

  void ExpectRightInEveryCut(const Layer& layer, const Texts& texts, Types types = {},
                             double more = 0) {
    SCOPED_TRACE(testing::Message() << layer.Name() << " text " << texts[0].length);
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

#ifndef PACKRAT_GPU
  // Where S is read and sealed in bfloat16, every cut gives the same bits still. Every operand of
  // a product with S is off by 2^-9 of itself at most, and a norm's errors add up over the few
  // blocks that are remembered: what is lost of text 0 is that of a handful of roundings.
  void ExpectSameInBFloat16(const Layer& layer, const Texts& texts) {
    if (!CpuHasBFloat16()) GTEST_SKIP() << "this processor has no AVX512-BF16";
    ForEachDevice([&] {
      if (!CpuHasBFloat16()) return;
      Types types;
      types.in_bfloat16 = true;
      const Outcome exact = Run(layer, texts, Cut::kWhole),
                    whole = Run(layer, texts, Cut::kWhole, types);
      for (const Cut cut : kCuts) ExpectSame(Run(layer, texts, cut, types), whole);
      const double loss = RelativeLoss(whole, exact);
      EXPECT_GT(loss, 0);
      EXPECT_LT(loss, 8 * 0x1p-9);
    });
  }
#endif

  // Of one text of 180 tokens.
  void ExpectRightInPiecesAroundBlocks(const Layer& layer, const Texts& texts) {
    ForEachDevice([&] {
      const Outcome whole = Run(layer, texts, Cut::kWhole);
      ExpectRight(layer, texts, whole, 0);
      for (const std::vector<int>& pieces : kPiecesAroundBlocks) {
        for (const Placing placing : {Placing::kInPlace, Placing::kElsewhere}) {
          SCOPED_TRACE(testing::Message()
                       << "pieces from " << pieces[0] << ", placing " << static_cast<int>(placing));
          ExpectSame(NewFeed(layer, texts, {}, 7)->RunPieces(pieces, placing), whole);
        }
      }
    });
  }

  // Of three texts of equal length, whose outputs have `width` channels: a NaN in each `column` of
  // an operand at `token` of the second is seen there and reported, and nowhere else.
  struct Column {
    std::vector<float> Text::*operand;
    int column;
  };
  void ExpectNaNIsSeenAlone(const Layer& layer, const Texts& texts, int token, int width,
                            const std::vector<Column>& columns) {
    ForEachDevice([&] {
      for (const Cut cut : {Cut::kWhole, Cut::kSingle}) {
        const Outcome clean = Run(layer, texts, cut);
        for (size_t i = 0; i < columns.size(); ++i) {
          SCOPED_TRACE(testing::Message() << "cut " << static_cast<int>(cut) << " column " << i);
          Texts bad = texts;
          std::vector<float>& rows = bad[1].*columns[i].operand;
          rows[token * (rows.size() / bad[1].length) + columns[i].column] = kNaN;
          const Outcome dirty = Run(layer, bad, cut);
          packrat::ExpectNaNIsSeenAlone(clean.out, dirty.out, token, width);
          for (const size_t text : {0, 1, 2}) {
            EXPECT_EQ(dirty.totals[text].not_finite, text == 1 ? 1u : 0u);
            if (text != 1) {
              EXPECT_TRUE(clean.sealed[text] == dirty.sealed[text]);
            }
          }
        }
      }
    });
  }
};

}  // namespace packrat

#endif  // PACKRAT_TESTS_KERNELS_SEALED_FEED_H_
