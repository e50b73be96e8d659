#include "tests/bench/gpu/decoder.h"

#include <algorithm>
#include <chrono>
#include <numeric>
#include <thread>
#include <utility>

namespace packrat::gpu_bench {
namespace {

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Sizes of the parts of one buffer: slots, tails, then pages by class.
std::vector<size_t> Parts(const StateLayout& layout, size_t sequences, int max_tokens) {
  std::vector<size_t> parts{sequences * layout.slot_bytes, sequences * layout.tail_bytes};
  for (const PageClass& c : layout.page_classes) {
    parts.push_back(sequences * c.PagesFor(max_tokens) * c.page_bytes);
  }
  for (size_t& part : parts) part = (part + 255) / 256 * 256;
  return parts;
}

}  // namespace

double Decoder::BytesFor(const LanguageModel& model, int sequences, int max_tokens) {
  const std::vector<size_t> parts = Parts(model.state_layout(), sequences, max_tokens);
  return static_cast<double>(std::accumulate(parts.begin(), parts.end(), size_t{0}));
}

absl::StatusOr<std::unique_ptr<Decoder>> Decoder::Make(LanguageModel* model, int sequences,
                                                       int max_tokens) {
  std::unique_ptr<Decoder> d(new Decoder(model));
  const StateLayout& layout = model->state_layout();
  const std::vector<size_t> parts = Parts(layout, sequences, max_tokens);
  const size_t bytes = std::accumulate(parts.begin(), parts.end(), size_t{0});
  BENCH_ASSIGN(d->buffer_, model->AllocateState(bytes));
  d->buffer_->Fill(0, bytes, 0x3c);  // 0.0115 in bfloat16 and in float32.
  std::byte* at = d->buffer_->data();
  d->memory_.slots = at;
  d->memory_.tails = at += parts[0];
  at += parts[1];
  const size_t classes = layout.page_classes.size();
  for (size_t c = 0; c < classes; ++c) {
    const PageClass& pages = layout.page_classes[c];
    d->pages_.push_back(d->buffer_->PlacePages(at - d->buffer_->data(), pages.page_bytes,
                                               pages.part_bytes,
                                               sequences * pages.PagesFor(max_tokens)));
    at += parts[2 + c];
  }
  d->memory_.pages = d->pages_.data();
  d->page_ids_.resize(sequences * classes);
  d->tables_.resize(sequences * classes);
  for (int s = 0; s < sequences; ++s) {
    for (size_t c = 0; c < classes; ++c) {
      const int pages = layout.page_classes[c].PagesFor(max_tokens);
      std::vector<int32_t>& ids = d->page_ids_[s * classes + c];
      ids.resize(pages);
      std::iota(ids.begin(), ids.end(), s * pages);
      d->tables_[s * classes + c] = {ids.data(), pages};
    }
  }
  d->positions_.assign(sequences, 0);
  return d;
}

absl::StatusOr<StepTime> Decoder::Feed(int first, int count, int tokens, const int32_t* next,
                                       double pause) {
  const size_t classes = pages_.size();
  const int vocabulary = model_->config().vocab_size;
  ids_.clear(), spans_.clear(), rows_.clear();
  for (int i = 0; i < count; ++i) {
    const int s = first + i;
    Span span;
    span.first_token = static_cast<int32_t>(ids_.size());
    span.num_tokens = tokens, span.position = positions_[s], span.num_logits = 1;
    if (model_->state_layout().slot_bytes > 0) span.slot_in = span.slot_out = s;
    span.tail = s;
    span.pages = tables_.data() + s * classes;
    spans_.push_back(span);
    for (int t = 0; t < tokens; ++t) {
      const uint64_t hash = (uint64_t(s) * 1000003 + positions_[s] + t + 1) * 6364136223846793005u;
      ids_.push_back(next != nullptr ? next[i] : static_cast<int32_t>((hash >> 33) % vocabulary));
    }
    SamplingRow row;
    row.num_ids = vocabulary;
    row.position = positions_[s] + tokens;
    rows_.push_back(row);
    positions_[s] += tokens;
  }
  stats_.resize(count), sampled_.resize(count);
  StepTime time;
  const double begin = Now();
  BENCH_RETURN_IF_ERROR(model_->Start({ids_.data(), static_cast<int32_t>(ids_.size()),
                                       spans_.data(), static_cast<int32_t>(spans_.size())},
                                      memory_, rows_));
  time.start = Now() - begin;
  if (pause > 0) std::this_thread::sleep_for(std::chrono::duration<double>(pause));
  const double waiting = Now();
  BENCH_RETURN_IF_ERROR(model_->Wait(stats_.data(), sampled_.data()));
  time.wait = Now() - waiting;
  for (const SpanStats& stats : stats_) {
    if (!stats.finite) return absl::InternalError("a sequence is not finite");
  }
  return time;
}

}  // namespace packrat::gpu_bench
