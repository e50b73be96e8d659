// Texts fed to a kernel in pieces, alone or in company, and the pages that hold their state.
#ifndef PACKRAT_TESTS_KERNELS_TEXTS_H_
#define PACKRAT_TESTS_KERNELS_TEXTS_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <vector>

#include "kernels/paged.h"
#include "tests/kernels/random.h"

namespace packrat {

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

// A text's pages: poisoned, in shuffled places among pages of others, each page a part of a longer
// stride as in a pool that holds several layers.
class Pages {
 public:
  Pages(Random* random, size_t page_floats, int ring)
      : page_floats_(page_floats),
        stride_(page_floats + 32),
        ring_(ring),
        memory_(stride_ * (ring + 3)),
        places_(ring + 3) {
    std::iota(places_.begin(), places_.end(), 0);
    random->Shuffle(&places_);
  }
  PagedState state() {
    return {reinterpret_cast<std::byte*>(memory_.data() + kOffset), stride_ * sizeof(float),
            places_.data(), ring_};
  }
  // Page `b` of the ring.
  float* page(int b) { return memory_.data() + kOffset + places_[b] * stride_; }

  // Is all untouched that is not one of the first `used` pages?
  bool OthersIntact(int used) const {
    for (size_t b = 0; b < places_.size(); ++b) {
      const auto at = static_cast<ptrdiff_t>(places_[b] * stride_);
      const auto begin = at + static_cast<ptrdiff_t>(kOffset);
      const auto end = begin + static_cast<ptrdiff_t>(page_floats_);
      if (!memory_.Unwritten(at, begin) || !memory_.Unwritten(end, at + stride_)) return false;
      if (static_cast<int>(b) >= used && !memory_.Unwritten(begin, end)) return false;
    }
    return memory_.GuardsIntact();
  }

 private:
  static constexpr size_t kOffset = 16;
  size_t page_floats_, stride_;
  int ring_;
  GuardedFloats memory_;
  std::vector<int32_t> places_;
};

}  // namespace packrat

#endif  // PACKRAT_TESTS_KERNELS_TEXTS_H_
