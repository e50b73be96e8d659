// The steps of texts (tests/kernels/texts.h) as batches on a device, and the device memory that
// holds their state.
#ifndef PACKRAT_TESTS_KERNELS_STEPS_H_
#define PACKRAT_TESTS_KERNELS_STEPS_H_

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <vector>

#include "kernels/attend_plan.h"
#include "kernels/batch.h"
#include "kernels/rope.h"
#include "tests/kernels/device.h"
#include "tests/kernels/random.h"
#include "tests/kernels/texts.h"

namespace packrat {

// One step: texts without tokens have no span; the others' spans and tokens stand in any order,
// unused ones between and after them.
class DeviceStep {
 public:
  DeviceStep(Random* random, std::vector<Rows> rows, const std::vector<int>& tails)
      : rows_(std::move(rows)), places_(rows_.size(), -1), order_(rows_.size()) {
    std::iota(order_.begin(), order_.end(), 0);
    random->Shuffle(&order_);
    BatchSpan unused;  // Whoever looks at it, reads or writes far away.
    unused.first_token = unused.position = unused.tail = 1 << 30;
    unused.slot_in = unused.slot_out = 1 << 30;
    int token = 0, longest = 1, context = 1, prompts = 0;
    for (const size_t i : order_) {
      Rows& r = rows_[i];
      for (int gap = random->OneOf<int>({0, 0, 0, 1, 3}); gap > 0; --gap, ++token) {
        token_span_.push_back(-1);
      }
      if (r.num_tokens == 0 || random->Int(0, 3) == 0) spans_.push_back(unused);
      if (r.num_tokens == 0) continue;
      places_[i] = static_cast<int>(spans_.size());
      BatchSpan span;
      span.first_token = r.first_token = token;
      span.num_tokens = r.num_tokens;
      span.position = r.position;
      span.tail = tails[i];
      spans_.push_back(span);
      token_span_.insert(token_span_.end(), r.num_tokens, places_[i]);
      token += r.num_tokens;
      longest = std::max(longest, r.num_tokens);
      prompts += r.num_tokens > 1 ? 1 : 0;
      context = std::max(context, r.position + r.num_tokens);
    }
    if (token == 0) token_span_.push_back(-1);
    device_spans_ = std::make_unique<DeviceArray<BatchSpan>>(spans_);
    device_token_span_ = std::make_unique<DeviceArray<int32_t>>(token_span_);
    batch_.spans = device_spans_->data();
    batch_.token_span = device_token_span_->data();
    batch_.num_spans = static_cast<int>(spans_.size());
    batch_.num_tokens = static_cast<int>(token_span_.size());
    // Bounds, as for a graph that serves several batches.
    batch_.max_span_tokens = longest == 1 ? random->OneOf<int>({1, 2}) : longest;
    batch_.max_context = context + random->OneOf<int>({0, 0, 100});
    batch_.max_prompts = prompts + random->OneOf<int>({0, 0, 9});
  }

  const BatchView& batch() const { return batch_; }
  const std::vector<Rows>& rows() const { return rows_; }
  int num_spans() const { return batch_.num_spans; }
  int num_tokens() const { return batch_.num_tokens; }
  int place(size_t text) const { return places_[text]; }  // Of its span, or -1.

  // As Gather(), NaN for unused tokens. The texts' rows begin with that of position `from`.
  std::vector<float> Gather(const std::vector<const std::vector<float>*>& texts, int width,
                            int from = 0) const {
    std::vector<float> all(token_span_.size() * width, kNaN);
    for (size_t i = 0; i < rows_.size(); ++i) {
      std::copy_n(texts[i]->data() + static_cast<size_t>(rows_[i].position - from) * width,
                  static_cast<size_t>(rows_[i].num_tokens) * width,
                  all.data() + static_cast<size_t>(rows_[i].first_token) * width);
    }
    return all;
  }
  // Rows of FillRope() by the table of the CPU, whose bits do not matter here; NaN for unused
  // tokens.
  std::vector<float> Rope(double base, int head_dim, int divisor) const {
    std::vector<float> all(token_span_.size() * head_dim, kNaN);
    BatchView batch = batch_;
    batch.spans = spans_.data();
    EXPECT_TRUE(FillRope(batch, RopeFrequencies(base, head_dim).data(), head_dim, divisor, 1.0,
                         all.data(), nullptr)
                    .ok());
    return all;
  }
#ifdef PACKRAT_GPU
  // The list by which attention of this kind decodes the step.
  DeviceArray<gpu::AttendItem> Plan(const gpu::AttendKind& kind) const {
    const int n = num_spans(), context = batch_.max_context;
    std::vector<gpu::AttendItem> items(gpu::AttendItems(kind, n, context));
    gpu::AttendPlanner(kind, n).Plan(spans_, context, items.data());
    return DeviceArray<gpu::AttendItem>(items);
  }
#endif
  // As Scatter(); unused rows must not have been written.
  template <class T>
  void Scatter(const std::vector<T>& out, int width, std::vector<std::vector<float>>* texts) const {
    const std::vector<unsigned char> unwritten(width * sizeof(T), 0xFF);
    for (size_t t = 0; t < token_span_.size(); ++t) {
      if (token_span_[t] >= 0) continue;
      EXPECT_EQ(std::memcmp(&out[t * width], unwritten.data(), unwritten.size()), 0)
          << "an unused row was written";
    }
    const std::vector<float> floats = Stored<T>::Floats(out);
    packrat::Scatter(rows_, floats.data(), width, texts);
  }

 private:
  std::vector<Rows> rows_;
  std::vector<int> places_;
  std::vector<size_t> order_;
  std::vector<BatchSpan> spans_;
  std::vector<int32_t> token_span_;
  std::unique_ptr<DeviceArray<BatchSpan>> device_spans_;
  std::unique_ptr<DeviceArray<int32_t>> device_token_span_;
  BatchView batch_;
};

// Pages of several texts in shuffled places among those of others, parts of a longer stride, all
// bytes 0xFF until written.
template <class T>
class DevicePages {
 public:
  // rings[i]: pages of text i.
  DevicePages(Random* random, size_t page_elements, const std::vector<int>& rings)
      : elements_(page_elements),
        stride_(page_elements + 64),
        rings_(rings),
        places_(std::accumulate(rings.begin(), rings.end(), 3)),
        memory_(stride_ * places_.size()) {
    std::iota(places_.begin(), places_.end(), 0);
    random->Shuffle(&places_);
  }

  // The tables for a step, valid until the next call.
  StatePages For(const DeviceStep& step) {
    const int longest = *std::max_element(rings_.begin(), rings_.end());
    // Entries that nobody may read lead far away.
    std::vector<int32_t> pages(static_cast<size_t>(step.num_spans()) * longest, 1 << 30);
    device_pages_ = std::make_unique<DeviceArray<int32_t>>(pages.size());
    std::vector<PageTable> tables(step.num_spans());
    for (size_t i = 0, first = 0; i < rings_.size(); first += rings_[i++]) {
      if (step.place(i) < 0) continue;
      tables[step.place(i)] = {device_pages_->data() + step.place(i) * longest, rings_[i]};
      const Rows& r = step.rows()[i];
      const int reached = std::min(rings_[i], r.position + r.num_tokens);
      std::copy_n(places_.data() + first, reached, pages.data() + step.place(i) * longest);
    }
    device_pages_->Set(pages);
    device_tables_ = std::make_unique<DeviceArray<PageTable>>(tables);
    return {reinterpret_cast<std::byte*>(memory_.data() + kOffset), stride_ * sizeof(T),
            device_tables_->data()};
  }

  // Fills all texts' pages, and returns them as floats, one after the other.
  std::vector<float> Fill(Random* random) {
    std::vector<T> all = memory_.Get();
    std::vector<float> filled;
    const int pages = std::accumulate(rings_.begin(), rings_.end(), 0);
    for (int b = 0; b < pages; ++b) {
      const std::vector<T> page = Stored<T>::From(random->Normals(elements_));
      std::copy(page.begin(), page.end(), all.begin() + places_[b] * stride_ + kOffset);
      const std::vector<float> floats = Stored<T>::Floats(page);
      filled.insert(filled.end(), floats.begin(), floats.end());
    }
    memory_.Set(all);
    return filled;
  }

  // Is all untouched that is not one of the first used[i] pages of text i? In those, the columns
  // beyond `dim` of every row of `padded` must be zero where the row has been written.
  void ExpectOthersIntact(const std::vector<int>& used, int dim, int padded) const {
    const std::vector<T> all = memory_.Get();
    const std::vector<unsigned char> unwritten(stride_ * sizeof(T), 0xFF);
    const auto intact = [&](size_t begin, size_t end) {
      return std::memcmp(&all[begin], unwritten.data(), (end - begin) * sizeof(T)) == 0;
    };
    std::vector<bool> is_used(places_.size());
    for (size_t i = 0, first = 0; i < rings_.size(); first += rings_[i++]) {
      for (int b = 0; b < used[i]; ++b) is_used[places_[first + b]] = true;
    }
    for (size_t place = 0; place < places_.size(); ++place) {
      const size_t at = place * stride_, begin = at + kOffset, end = begin + elements_;
      EXPECT_TRUE(intact(at, begin) && intact(end, at + stride_)) << "written beside a page";
      if (!is_used[place]) {
        EXPECT_TRUE(intact(begin, end)) << "the page of another was written";
        continue;
      }
      const std::vector<float> page =
          Stored<T>::Floats(std::vector<T>(all.begin() + begin, all.begin() + end));
      for (size_t row = 0; row < elements_; row += padded) {
        if (intact(begin + row, begin + row + padded)) continue;
        for (int d = dim; d < padded; ++d) ASSERT_EQ(page[row + d], 0.0f) << "padding";
      }
    }
  }

 private:
  static constexpr size_t kOffset = 32;
  size_t elements_, stride_;
  std::vector<int> rings_;
  std::vector<int32_t> places_;
  DeviceArray<T> memory_;
  std::unique_ptr<DeviceArray<int32_t>> device_pages_;
  std::unique_ptr<DeviceArray<PageTable>> device_tables_;
};

// Tails of several texts, each a part of a longer stride, in shuffled places among others'.
class DeviceTails {
 public:
  DeviceTails(Random* random, size_t floats, size_t texts)
      : floats_(floats), places_(texts + 2), memory_((floats + kBeside) * places_.size()) {
    std::iota(places_.begin(), places_.end(), 0);
    random->Shuffle(&places_);
  }
  const std::vector<int>& places() const { return places_; }
  StateParts parts() const {
    return {reinterpret_cast<std::byte*>(memory_.data()), (floats_ + kBeside) * sizeof(float)};
  }
  void ExpectOthersIntact() const {
    const std::vector<float> all = memory_.Get();
    const std::vector<unsigned char> unwritten((floats_ + kBeside) * sizeof(float), 0xFF);
    for (size_t i = 0; i < places_.size(); ++i) {
      const bool other = i + 2 >= places_.size();
      const float* tail = &all[places_[i] * (floats_ + kBeside)] + (other ? 0 : floats_);
      EXPECT_EQ(std::memcmp(tail, unwritten.data(), ((other ? floats_ : 0) + kBeside) * 4), 0)
          << "written beside a tail";
    }
  }

 private:
  static constexpr size_t kBeside = 16;
  size_t floats_;
  std::vector<int> places_;
  DeviceArray<float> memory_;
};

}  // namespace packrat

#endif  // PACKRAT_TESTS_KERNELS_STEPS_H_
