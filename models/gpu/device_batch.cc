#include "models/gpu/device_batch.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <tuple>
#include <utility>
#include <variant>

#include "kernels/check.h"

namespace packrat::gpu {
namespace {

// Sequences of a captured step: 1, 2, 4, 8, then eight sizes to each doubling.
int RoundUpSpans(int n) {
  int step = 1;
  while (n > 16 * step) step *= 2;
  if (n <= 8) {
    int size = 1;
    while (size < n) size *= 2;
    return size;
  }
  return (n + step - 1) / step * step;
}

// Context only sizes the grids over splits of the softmax: one size to each doubling.
int RoundUpContext(int n) {
  int size = 1024;
  while (size < n) size *= 2;
  return size;
}

// Whether anybody decodes by a list of this kind in a view: 0 is of all texts, 1 + d of those of
// dial d, which only layers of RAT+ look at.
bool IsRead(const ModelConfig& config, size_t view, const AttendKind& kind) {
  if (config.num_dials() == 1) return true;
  if (view == 0) return !kind.rat_plus();
  const std::vector<MixerSpec> mixers = MixersAt(config, static_cast<int>(view) - 1);
  return std::any_of(mixers.begin(), mixers.end(), [&](const MixerSpec& mixer) {
    const auto* layer = std::get_if<RatPlusSpec>(&mixer);
    if (layer == nullptr) return false;
    return layer->dial.dense() ? !kind.rat_plus() : kind.shape == layer->shape();
  });
}

}  // namespace

bool StepSize::operator<(const StepSize& o) const {
  return std::tie(spans, tokens, rows, max_span_tokens, max_context, prompts, sampled, dials) <
         std::tie(o.spans, o.tokens, o.rows, o.max_span_tokens, o.max_context, o.prompts, o.sampled,
                  o.dials);
}

StepSize SizeFor(const Batch& batch, const Limits& limits) {
  const BatchSizes sizes = SizesOf(batch);
  StepSize size = {batch.num_spans,       batch.num_tokens,  sizes.rows,
                   sizes.max_span_tokens, sizes.max_context, sizes.prompts};
  PACKRAT_CHECK(size.max_context <= limits.context) << size.max_context;
  PACKRAT_CHECK(size.rows <= limits.rows) << size.rows << " rows of logits";
  for (int i = 0; i < batch.num_spans; ++i) size.dials |= 1u << batch.spans[i].dial;
  if (size.max_span_tokens > 1) return size;
  const int spans =
      std::min({RoundUpSpans(batch.num_spans), limits.spans, limits.tokens, limits.rows});
  if (spans < batch.num_spans) return size;
  size.spans = size.tokens = size.rows = spans;
  size.max_context = std::min(RoundUpContext(size.max_context), limits.context);
  return size;
}

size_t DeviceBatch::Parts::Carve(std::byte* base, const DeviceBatch& batch) {
  const Limits& limits = batch.limits_;
  Carver carver(base);
  const size_t views = batch.views();
  spans = carver.Take<BatchSpan>(views * limits.spans);
  token_span = carver.Take<int32_t>(views * limits.tokens);
  tokens = carver.Take<int32_t>(limits.tokens);
  rows = carver.Take<int32_t>(limits.rows);
  lists.clear();
  for (size_t v = 0; v < views; ++v) {
    for (const AttendPlanner& planner : batch.planners_) {
      const int items = AttendItems(planner.kind(), limits.spans, limits.context);
      lists.push_back(batch.reads_[lists.size()] ? carver.Take<AttendItem>(items) : nullptr);
    }
  }
  tables = carver.Take<PageTable>(batch.strides_.size() * limits.spans);
  pages.clear();
  // Last, since they are long and a step uses little of them.
  for (int stride : batch.strides_) {
    pages.push_back(carver.Take<int32_t>(static_cast<size_t>(limits.spans) * stride));
  }
  return carver.used();
}

absl::StatusOr<std::unique_ptr<DeviceBatch>> DeviceBatch::Create(
    const ModelConfig& config, const StateLayout& layout, const Limits& limits,
    absl::Span<const AttendKind> kinds) {
  std::unique_ptr<DeviceBatch> batch(new DeviceBatch(layout));
  batch->limits_ = limits;
  batch->used_pages_.resize(layout.page_classes.size());
  const int dials = layout.num_dials();
  if (dials > 1) batch->dials_.resize(dials);
  for (const AttendKind& kind : kinds) batch->planners_.emplace_back(kind, limits.spans);
  for (size_t view = 0; view < batch->views(); ++view) {
    for (const AttendKind& kind : kinds) batch->reads_.push_back(IsRead(config, view, kind));
  }
  for (size_t c = 0; c < layout.page_classes.size(); ++c) {
    batch->strides_.push_back(std::max(1, layout.MostPages(c, limits.context)));
  }
  const size_t bytes = Parts().Carve(nullptr, *batch);
  auto memory = DeviceMemory::Allocate(bytes, "batches");
  if (!memory.ok()) return memory.status();
  batch->memory_ = *std::move(memory);
  for (int turn = 0; turn < kMaxStepsInFlight; ++turn) {
    auto staging = PinnedMemory::Allocate(bytes, "batches");
    if (!staging.ok()) return staging.status();
    batch->staging_[turn] = *std::move(staging);
    batch->host_[turn].Carve(batch->staging_[turn].data(), *batch);
  }
  batch->device_.Carve(batch->memory_.data(), *batch);
  batch->attend_lists_.assign(batch->device_.lists.begin(), batch->device_.lists.end());
  for (size_t c = 0; c < batch->strides_.size(); ++c) {
    batch->tables_.push_back(batch->device_.tables + c * limits.spans);
  }
  return batch;
}

BatchView DeviceBatch::View(const StepSize& size) const {
  BatchView view;
  view.spans = device_.spans;
  view.token_span = device_.token_span;
  view.num_spans = size.spans;
  view.num_tokens = size.tokens;
  view.max_span_tokens = size.max_span_tokens;
  view.max_context = size.max_context;
  view.max_prompts = size.prompts;
  view.attend_lists = attend_lists_.data();
  return view;
}

absl::Span<const BatchView> DeviceBatch::DialViews(const StepSize& size) {
  for (size_t d = 0; d < dials_.size(); ++d) {
    BatchView& view = dials_[d] = View(size);
    view.spans += (1 + d) * limits_.spans;
    view.token_span += (1 + d) * limits_.tokens;
    view.attend_lists += (1 + d) * planners_.size();
    if ((size.dials >> d & 1) == 0) view.num_spans = 0;
  }
  return dials_;
}

absl::Status DeviceBatch::Upload(const Batch& batch, const StepSize& size, int turn,
                                 CudaStream stream) {
  PACKRAT_CHECK(size.spans <= limits_.spans && size.tokens <= limits_.tokens);
  const Parts& host = host_[turn];
  const std::byte* staging = staging_[turn].data();
  for (size_t v = 0; v < views(); ++v) {
    std::fill_n(host.spans + v * limits_.spans, size.spans, BatchSpan());
    std::fill_n(host.token_span + v * limits_.tokens, size.tokens, -1);
  }
  std::fill_n(host.tokens, size.tokens, -1);
  std::fill_n(host.rows, size.rows, -1);
  std::copy_n(batch.tokens, batch.num_tokens, host.tokens);
  std::vector<size_t>& used = used_pages_;
  std::fill(used.begin(), used.end(), 0);
  int row = 0;
  for (int i = 0; i < batch.num_spans; ++i) {
    const Span& span = batch.spans[i];
    host.spans[i] = {
        span.first_token,           span.num_tokens, span.position, std::max(span.slot_in, 0),
        std::max(span.slot_out, 0), span.tail,       span.solver};
    std::fill_n(host.token_span + span.first_token, span.num_tokens, i);
    PACKRAT_CHECK(span.dial >= 0 && span.dial < layout_.num_dials()) << span.dial;
    if (!dials_.empty()) {
      const size_t view = 1 + span.dial;
      host.spans[view * limits_.spans + i] = host.spans[i];
      std::fill_n(host.token_span + view * limits_.tokens + span.first_token, span.num_tokens, i);
    }
    for (int t = span.num_tokens - span.num_logits; t < span.num_tokens; ++t) {
      host.rows[row++] = span.first_token + t;
    }
    for (size_t c = 0; c < strides_.size(); ++c) {
      const PageTable& table = span.pages[c];
      const size_t first = static_cast<size_t>(i) * strides_[c];
      host.tables[c * limits_.spans + i] = {device_.pages[c] + first, std::max(table.ring, 1)};
      // A window's ring may be read anywhere, of other tables what the text has reached.
      const PageClass& page_class = layout_.ForDial(span.dial).page_classes[c];
      const int pages = std::min(table.ring, page_class.PagesFor(span.position + span.num_tokens));
      PACKRAT_CHECK(pages <= strides_[c]);
      std::copy_n(table.pages, pages, host.pages[c] + first);
      used[c] = std::max(used[c], static_cast<size_t>(pages));
    }
  }
  for (size_t v = 0, list = 0; v < views(); ++v) {
    const absl::Span<const BatchSpan> spans(host.spans + v * limits_.spans, size.spans);
    const bool runs = v == 0 || (size.dials >> (v - 1) & 1) != 0;
    for (AttendPlanner& planner : planners_) {
      AttendItem* const items = host.lists[list++];
      if (runs && items != nullptr) planner.Plan(spans, size.max_context, items);
    }
  }
  // Everything before the pages in one copy, then of each class the corner that is in use.
  const auto head = reinterpret_cast<std::byte*>(host.tables + strides_.size() * limits_.spans);
  absl::Status status = CudaStatus(
      cudaMemcpyAsync(memory_.data(), staging, head - staging, cudaMemcpyHostToDevice, stream),
      "copying a batch");
  for (size_t c = 0; c < strides_.size() && status.ok(); ++c) {
    if (used[c] == 0) continue;
    const size_t pitch = strides_[c] * sizeof(int32_t);
    status = CudaStatus(
        cudaMemcpy2DAsync(device_.pages[c], pitch, host.pages[c], pitch, used[c] * sizeof(int32_t),
                          batch.num_spans, cudaMemcpyHostToDevice, stream),
        "copying page tables");
  }
  return status;
}

}  // namespace packrat::gpu
