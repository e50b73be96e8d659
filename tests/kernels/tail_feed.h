// Texts fed in every cut to an operation whose state lies in tails, and what is expected of them.
#ifndef PACKRAT_TESTS_KERNELS_TAIL_FEED_H_
#define PACKRAT_TESTS_KERNELS_TAIL_FEED_H_

#include <deque>
#include <iterator>
#include <vector>

#include "tests/kernels/device.h"
#include "tests/kernels/steps.h"
#include "tests/kernels/texts.h"

namespace packrat {

// The feeding of one cut. A Text has its `length`.
template <class Text>
class TailFeed {
 public:
  TailFeed(const std::deque<Text>& texts, Cut cut, uint64_t seed, size_t tail_floats)
      : texts_(texts),
        random_(seed),
        tails_(&random_, tail_floats, texts.size()),
        feeder_(Lengths(texts), cut) {}

  Random* random() { return &random_; }
  StateParts tails() const { return tails_.parts(); }

  // The outputs of all steps: op(step, out) writes `out` (tokens, width) of one.
  template <class T, class Op>
  Outputs Run(int width, const Op& op) {
    Outputs outputs(texts_.size());
    std::vector<Rows> rows;
    while (feeder_.Next(&rows)) {
      const DeviceStep step(&random_, rows, tails_.places());
      const DeviceArray<T> out(static_cast<size_t>(step.num_tokens()) * width);
      const absl::Status status = op(step, out.data());
      EXPECT_TRUE(status.ok()) << status.message();
      step.Scatter(out.Get(), width, &outputs);
    }
    tails_.ExpectOthersIntact();
    return outputs;
  }

  // A step's rows of an operand (length, width) of the texts.
  std::vector<float> Gather(const DeviceStep& step, std::vector<float> Text::*operand,
                            int width) const {
    std::vector<const std::vector<float>*> all;
    for (const Text& text : texts_) all.push_back(&(text.*operand));
    return step.Gather(all, width);
  }

 private:
  static std::vector<int> Lengths(const std::deque<Text>& texts) {
    std::vector<int> lengths;
    for (const Text& text : texts) lengths.push_back(text.length);
    return lengths;
  }

  const std::deque<Text>& texts_;
  Random random_;
  DeviceTails tails_;
  Feeder feeder_;
};

// Positions of 64 tokens: a text of more splits than runs in the middle of short ones, and a few of
// several splits.
inline std::vector<int> MixedPositions(Random* random) {
  std::vector<int> positions(64);
  for (int& position : positions) position = random->OneOf<int>({0, 1, 20, 63, 64, 130});
  positions[20] = 65 * 64 + 3;
  positions[40] = 700;
  return positions;
}

class TextsTest : public KernelTest {
 protected:
  // feed(rows): what decoding the tokens at `positions` gives for each text, of which those with
  // rows take part. Each text has the same bits alone and among 33 and all of them.
  template <class Feed>
  void ExpectBitsAlone(const std::vector<int>& positions, const Feed& feed) {
    ForEachDevice([&] {
      Outputs alone(positions.size());
      const auto some = [&](size_t begin, size_t end) {
        std::vector<Rows> rows(positions.size());
        for (size_t i = 0; i < rows.size(); ++i) rows[i].position = positions[i];
        for (size_t i = begin; i < end; ++i) rows[i].num_tokens = 1;
        return feed(rows);
      };
      for (size_t i = 0; i < positions.size(); ++i) {
        alone[i] = some(i, i + 1)[i];
        ASSERT_FALSE(alone[i].empty());
      }
      for (const size_t begin : {size_t{10}, size_t{0}}) {
        const size_t end = begin == 0 ? positions.size() : begin + 33;
        ForEachOrder([&] {
          const Outputs together = some(begin, end);
          for (size_t i = begin; i < end; ++i) {
            EXPECT_TRUE(SameBits(together[i], alone[i]))
                << "text " << i << " at " << positions[i] << " of " << end - begin;
          }
        });
      }
    });
  }

  // feed(cut, seed): the outputs of `texts`, which have what is `expected` of each element and its
  // `tolerance`. On the device at hand they are right, and of the same bits in every cut and with
  // other orders of threads, for prompts and decoding both.
  template <class Text, class Feed>
  void ExpectRightInEveryCut(const std::deque<Text>& texts, const Feed& feed) {
    const Outputs whole = feed(Cut::kWhole, 7);
    ASSERT_EQ(whole.size(), texts.size());
    for (size_t i = 0; i < whole.size(); ++i) {
      const Text& text = texts[i];
      ASSERT_EQ(whole[i].size(), text.expected.size());
      for (size_t j = 0; j < whole[i].size(); ++j) {
        ASSERT_NEAR(whole[i][j], text.expected[j], text.tolerance[j])
            << "text " << i << " element " << j;
      }
    }
    bool first = true;
    ForEachOrder([&] {
      for (const Cut cut : first ? std::vector<Cut>(std::begin(kCuts), std::end(kCuts))
                                 : std::vector<Cut>{Cut::kRandom}) {
        EXPECT_EQ(feed(cut, 8), whole) << "cut " << static_cast<int>(cut);
      }
      first = false;
    });
  }
};

}  // namespace packrat

#endif  // PACKRAT_TESTS_KERNELS_TAIL_FEED_H_
