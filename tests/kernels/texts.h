// Texts fed to a kernel in pieces, alone or in company.
#ifndef PACKRAT_TESTS_KERNELS_TEXTS_H_
#define PACKRAT_TESTS_KERNELS_TEXTS_H_

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <vector>

#include "kernels/batch.h"
#include "tests/kernels/random.h"

namespace packrat {

// The tokens of one text within a batch.
struct Rows {
  int first_token = 0;
  int num_tokens = 0;
  int position = 0;
};

// How texts are cut into steps of the batch.
enum class Cut { kWhole, kAlone, kSingle, kRandom };
inline constexpr Cut kCuts[] = {Cut::kWhole, Cut::kAlone, Cut::kSingle, Cut::kRandom};

// Deals the tokens of several texts into steps: all at once, one text after the other, token by
// token, or in pieces of random sizes of which some are empty.
class Feeder {
 public:
  Feeder(std::vector<int> lengths, Cut cut)
      : lengths_(std::move(lengths)), fed_(lengths_.size()), cut_(cut), random_(lengths_.size()) {}

  // rows[i]: the tokens of text i in the next step, in a shuffled order within the batch. False
  // after the last.
  bool Next(std::vector<Rows>* rows) {
    rows->assign(lengths_.size(), Rows());
    bool any = false;
    for (size_t i = 0; i < lengths_.size(); ++i) {
      const int left = lengths_[i] - fed_[i];
      int n = left;
      if (cut_ == Cut::kAlone && any) n = 0;
      if (cut_ == Cut::kSingle) n = std::min(left, 1);
      if (cut_ == Cut::kRandom) {
        n = std::min(left, random_.Int(0, random_.OneOf<int>({1, 4, 5, 20, 40})));
      }
      (*rows)[i].num_tokens = n;
      (*rows)[i].position = fed_[i];
      fed_[i] += n;
      any = any || left > 0;
    }
    std::vector<size_t> order(lengths_.size());
    std::iota(order.begin(), order.end(), 0);
    random_.Shuffle(&order);
    int token = 0;
    for (const size_t i : order) {
      (*rows)[i].first_token = token;
      token += (*rows)[i].num_tokens;
    }
    return any;
  }

 private:
  std::vector<int> lengths_, fed_;
  Cut cut_;
  Random random_;
};

inline int NumTokens(const std::vector<Rows>& rows) {
  int tokens = 0;
  for (const Rows& r : rows) tokens += r.num_tokens;
  return tokens;
}

// The batch's operand (tokens, stride) from the texts' (T, width); NaN between the rows.
inline std::vector<float> Gather(const std::vector<Rows>& rows,
                                 const std::vector<const std::vector<float>*>& texts, int width,
                                 ptrdiff_t stride) {
  std::vector<float> batch(static_cast<size_t>(NumTokens(rows)) * stride, kNaN);
  for (size_t i = 0; i < rows.size(); ++i) {
    for (int t = 0; t < rows[i].num_tokens; ++t) {
      std::copy_n(texts[i]->data() + static_cast<size_t>(rows[i].position + t) * width, width,
                  batch.data() + (rows[i].first_token + t) * stride);
    }
  }
  return batch;
}

// Appends the batch's results (tokens, width) to each text's.
inline void Scatter(const std::vector<Rows>& rows, const float* batch, int width,
                    std::vector<std::vector<float>>* texts) {
  for (size_t i = 0; i < rows.size(); ++i) {
    const float* from = batch + static_cast<size_t>(rows[i].first_token) * width;
    (*texts)[i].insert((*texts)[i].end(), from,
                       from + static_cast<size_t>(rows[i].num_tokens) * width);
  }
}

// What comes of texts: (length, width) each.
using Outputs = std::vector<std::vector<float>>;

// Of three texts, what a NaN in a token of the second may do: it is seen in that token, and the
// other texts keep their bits, as do the tokens before it where `earlier` says so.
inline void ExpectNaNIsSeenAlone(const Outputs& clean, const Outputs& dirty, int token, int width,
                                 bool earlier = true) {
  EXPECT_TRUE(SameBits(clean[0], dirty[0]));
  EXPECT_TRUE(SameBits(clean[2], dirty[2]));
  if (earlier) {
    EXPECT_TRUE(SameBits(clean[1].data(), dirty[1].data(), token * width));
  }
  const float* row = dirty[1].data() + token * width;
  EXPECT_TRUE(std::any_of(row, row + width, [](float x) { return std::isnan(x); }))
      << "a NaN vanished";
}

}  // namespace packrat

#endif  // PACKRAT_TESTS_KERNELS_TEXTS_H_
