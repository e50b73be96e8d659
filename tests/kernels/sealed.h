// Slots and tails of texts that are fed in steps, for mixers that seal a state at each block's end,
// and the check that nothing else of them is touched.
#ifndef PACKRAT_TESTS_KERNELS_SEALED_H_
#define PACKRAT_TESTS_KERNELS_SEALED_H_

#include <memory>
#include <numeric>
#include <set>
#include <vector>

#include "tests/kernels/device.h"
#include "tests/kernels/random.h"
#include "tests/kernels/texts.h"

namespace packrat {

using Bytes = std::vector<unsigned char>;

// Types of activations and of slots. in_bfloat16: the CPU's operation of that name.
struct Types {
  DType activations = DType::kF32, state = DType::kF32;
  bool in_bfloat16 = false;
};

inline std::vector<float> OnDevice(const std::vector<float>& values, DType type) {
  return Storage{type == DType::kBF16}(values);
}

// Parts of slots or tails: `n` of them in shuffled places of a pool with gaps, all of it NaN.
class Pool {
 public:
  Pool(Random* random, int n, size_t bytes)
      : bytes_(bytes), stride_(bytes + 128), memory_(kOffset + stride_ * (n + 2)), places_(n + 2) {
    std::iota(places_.begin(), places_.end(), 0);
    random->Shuffle(&places_);
  }
  StateParts parts() const {
    return {reinterpret_cast<std::byte*>(memory_.data()) + kOffset, stride_};
  }
  int place(int i) const { return places_[i]; }
  Bytes Get() const { return memory_.Get(); }
  Bytes Part(const Bytes& all, int i) const {
    const auto at = all.begin() + static_cast<ptrdiff_t>(kOffset + places_[i] * stride_);
    return Bytes(at, at + static_cast<ptrdiff_t>(bytes_));
  }
  void Poison(int i) {
    Bytes all = Get();
    std::fill_n(all.begin() + static_cast<ptrdiff_t>(kOffset + places_[i] * stride_), bytes_, 0xFF);
    memory_.Set(all);
  }
  // Did nothing change but in parts `written`?
  bool OthersIntact(const Bytes& before, const Bytes& after, const std::set<int>& written) const {
    Bytes a = before, b = after;
    for (const int i : written) {
      const auto at = static_cast<ptrdiff_t>(kOffset + places_[i] * stride_);
      std::fill_n(a.begin() + at, bytes_, 0);
      std::fill_n(b.begin() + at, bytes_, 0);
    }
    return a == b;
  }

 private:
  static constexpr size_t kOffset = 64;
  size_t bytes_, stride_;
  DeviceArray<unsigned char> memory_;
  std::vector<int> places_;
};

// Is sealed state written where it is read?
enum class Placing { kAny, kInPlace, kElsewhere };

// Two slots and a tail for each text. A step is Begin(), the operation on batch(), End().
class SealedState {
 public:
  SealedState(Random* random, int texts, size_t slot_bytes, size_t tail_bytes)
      : random_(random),
        slots_(random, 2 * texts, slot_bytes),
        tails_(random, texts, tail_bytes),
        current_(texts) {}

  Placing placing = Placing::kAny;
  float cg_tolerance = 0;
  int cg_max_steps = 0;

  // The first span and the last, and the last two tokens, are not used: span i + 1 is text i's.
  void Begin(const std::vector<Rows>& rows) {
    const int spans = static_cast<int>(rows.size()) + 2, tokens = NumTokens(rows) + 2;
    std::vector<BatchSpan> all(spans);
    all.front().slot_in = all.back().tail = 1 << 28;
    std::vector<int32_t> token_span(tokens, -1);
    targets_.clear();
    int longest = 1;
    for (size_t i = 0; i < rows.size(); ++i) {
      const int slot = static_cast<int>(2 * i);
      targets_.push_back(placing == Placing::kAny       ? random_->Int(0, 1)
                         : placing == Placing::kInPlace ? current_[i]
                                                        : 1 - current_[i]);
      if (targets_[i] != current_[i]) slots_.Poison(slot + targets_[i]);
      all[i + 1] = {rows[i].first_token,
                    rows[i].num_tokens,
                    rows[i].position,
                    slots_.place(slot + current_[i]),
                    slots_.place(slot + targets_[i]),
                    tails_.place(static_cast<int>(i)),
                    {cg_tolerance, cg_max_steps}};
      std::fill_n(token_span.begin() + rows[i].first_token, rows[i].num_tokens, i + 1);
      longest = std::max(longest, rows[i].num_tokens);
    }
    spans_ = std::make_unique<DeviceArray<BatchSpan>>(all);
    token_span_ = std::make_unique<DeviceArray<int32_t>>(token_span);
    totals_ = std::make_unique<DeviceArray<SpanTotals>>(std::vector<SpanTotals>(spans));
    batch_ = {spans_->data(), token_span_->data(), spans, tokens, longest, 1 << 20};
    slots_before_ = slots_.Get();
    tails_before_ = tails_.Get();
  }
  const BatchView& batch() const { return batch_; }
  StateParts slots() const { return slots_.parts(); }
  StateParts tails() const { return tails_.parts(); }
  SpanTotals* totals() const { return totals_->data(); }

  // Sealed state changes at a block's end only, and only where it is told to. Returns the texts'
  // totals.
  std::vector<SpanTotals> End(const std::vector<Rows>& rows) {
    std::set<int> sealed, fed;
    for (size_t i = 0; i < rows.size(); ++i) {
      const int end = rows[i].position + rows[i].num_tokens;
      if (rows[i].num_tokens > 0) fed.insert(static_cast<int>(i));
      if (end / kBlockTokens == rows[i].position / kBlockTokens) continue;
      sealed.insert(static_cast<int>(2 * i) + targets_[i]);
      current_[i] = targets_[i];
    }
    EXPECT_TRUE(slots_.OthersIntact(slots_before_, slots_.Get(), sealed))
        << "a slot changed that should not";
    EXPECT_TRUE(tails_.OthersIntact(tails_before_, tails_.Get(), fed));
    const std::vector<SpanTotals> totals = totals_->Get();
    EXPECT_EQ(totals.front().solver_solves + totals.back().solver_solves, 0u);
    EXPECT_EQ(totals.front().not_finite + totals.back().not_finite, 0u);
    return std::vector<SpanTotals>(totals.begin() + 1, totals.end() - 1);
  }

  // A text's slot.
  Bytes Slot(int text) const { return slots_.Part(slots_.Get(), 2 * text + current_[text]); }

 private:
  Random* random_;
  Pool slots_, tails_;
  std::vector<int> current_;  // Of a text's two slots, the one with its state.
  std::vector<int> targets_;
  std::unique_ptr<DeviceArray<BatchSpan>> spans_;
  std::unique_ptr<DeviceArray<int32_t>> token_span_;
  std::unique_ptr<DeviceArray<SpanTotals>> totals_;
  BatchView batch_;
  Bytes slots_before_, tails_before_;
};

// The parts of a step's rows side by side, each (tokens, width), with `beside` NaNs after each row;
// two rows of NaN at the end.
inline std::vector<float> SideBySide(const std::vector<std::vector<float>>& parts,
                                     const std::vector<int>& widths, int tokens, int beside) {
  const int stride = std::accumulate(widths.begin(), widths.end(), beside);
  std::vector<float> all(static_cast<size_t>(tokens) * stride, kNaN);
  int first = 0;
  for (size_t p = 0; p < parts.size(); first += widths[p++]) {
    for (size_t at = 0; at < parts[p].size(); ++at) {
      all[at / widths[p] * stride + first + at % widths[p]] = parts[p][at];
    }
  }
  return all;
}

}  // namespace packrat

#endif  // PACKRAT_TESTS_KERNELS_SEALED_H_
