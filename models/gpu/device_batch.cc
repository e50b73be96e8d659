#include "models/gpu/device_batch.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <tuple>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"

namespace packrat::gpu {
namespace {

// For each row, of lists of sampling: those of ordinary requests, penalties over some hundred
// tokens included.
constexpr size_t kListBytes = 2048;

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

size_t DeviceBatch::Parts::Carve(std::byte* base, const DeviceBatch& batch, const StepSize& size) {
  Carver carver(base);
  const size_t views = batch.views();
  spans = carver.Take<BatchSpan>(views * size.spans);
  token_span = carver.Take<int32_t>(views * size.tokens);
  tokens = carver.Take<int32_t>(size.tokens);
  rows = carver.Take<int32_t>(size.rows);
  tables = carver.Take<PageTable>(batch.most_pages_.size() * size.spans);
  lists.clear();
  for (size_t view = 0; view < views; ++view) {
    for (const AttendPlanner& planner : batch.planners_) {
      const bool read = batch.reads_[lists.size()] && Runs(size, view);
      const int items = AttendItems(planner.kind(), size.spans, size.max_context);
      lists.push_back(read ? carver.Take<AttendItem>(items) : nullptr);
    }
  }
  sampling = carver.Take<std::byte>(0);
  return carver.used();
}

absl::StatusOr<DeviceBatch::Memory> DeviceBatch::Memory::Allocate(size_t bytes) {
  constexpr char kWhat[] = "batches with their sampling parameters";
  Memory memory;
  for (PinnedMemory& side : memory.host) {
    auto host = PinnedMemory::Allocate(bytes, kWhat);
    if (!host.ok()) return host.status();
    side = *std::move(host);
  }
  auto device = DeviceMemory::Allocate(bytes, kWhat);
  if (!device.ok()) return device.status();
  memory.device = *std::move(device);
  return memory;
}

absl::StatusOr<std::unique_ptr<DeviceBatch>> DeviceBatch::Create(
    const ModelConfig& config, const StateLayout& layout, const Limits& limits,
    absl::Span<const AttendKind> kinds) {
  std::unique_ptr<DeviceBatch> batch(new DeviceBatch(layout));
  batch->limits_ = limits;
  const int dials = layout.num_dials();
  if (dials > 1) batch->dials_.resize(dials);
  for (const AttendKind& kind : kinds) batch->planners_.emplace_back(kind, limits.spans);
  for (size_t view = 0; view < batch->views(); ++view) {
    for (const AttendKind& kind : kinds) batch->reads_.push_back(IsRead(config, view, kind));
  }
  size_t pages = 0;
  for (size_t c = 0; c < layout.page_classes.size(); ++c) {
    batch->most_pages_.push_back(layout.MostPages(c, limits.context));
    pages += batch->most_pages_.back();
  }
  batch->tables_.resize(batch->most_pages_.size());
  StepSize most = {limits.spans, limits.tokens, limits.rows, 1, limits.context};
  most.dials = ~0u;
  batch->fixed_bytes_ = Parts().Carve(nullptr, *batch, most) +
                        PackedSamplingBytes({}, limits.rows) +
                        limits.spans * pages * sizeof(int32_t);
  batch->list_bytes_ = limits.rows * kListBytes;
  auto memory = Memory::Allocate(batch->fixed_bytes_ + batch->list_bytes_);
  if (!memory.ok()) return memory.status();
  batch->memory_ = *std::move(memory);
  return batch;
}

absl::Status DeviceBatch::Reserve(size_t list_bytes, CudaStream stream, bool* moved) {
  *moved = false;
  if (list_bytes <= list_bytes_) return absl::OkStatus();
  const size_t most = kMostPackedBytes - PackedSamplingBytes({}, limits_.rows);
  if (list_bytes > most) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the lists of sampling parameters of all requests that run take ", list_bytes,
                     " bytes; a step has room for ", most));
  }
  // Twice as much, so that it happens rarely; where that is not there, what is needed.
  size_t room = std::clamp(2 * list_bytes_, list_bytes, most);
  auto grown = Memory::Allocate(fixed_bytes_ + room);
  if (!grown.ok()) grown = Memory::Allocate(fixed_bytes_ + (room = list_bytes));
  if (!grown.ok()) return grown.status();
  absl::Status status = CudaStatus(cudaStreamSynchronize(stream), "running a step");
  if (!status.ok()) return status;
  memory_ = *std::move(grown);
  list_bytes_ = room;
  *moved = true;
  return absl::OkStatus();
}

BatchView DeviceBatch::View() const {
  BatchView view;
  view.spans = device_.spans;
  view.token_span = device_.token_span;
  view.num_spans = size_.spans;
  view.num_tokens = size_.tokens;
  view.max_span_tokens = size_.max_span_tokens;
  view.max_context = size_.max_context;
  view.max_prompts = size_.prompts;
  view.attend_lists = attend_lists_.data();
  return view;
}

absl::Span<const BatchView> DeviceBatch::DialViews() {
  for (size_t d = 0; d < dials_.size(); ++d) {
    BatchView& view = dials_[d] = View();
    view.spans += (1 + d) * size_.spans;
    view.token_span += (1 + d) * size_.tokens;
    view.attend_lists += (1 + d) * planners_.size();
    if (!Runs(size_, 1 + d)) view.num_spans = 0;
  }
  return dials_;
}

void DeviceBatch::WriteSpans(const Batch& batch) {
  std::fill_n(host_.spans, views() * size_.spans, BatchSpan());
  std::fill_n(host_.token_span, views() * size_.tokens, -1);
  std::fill_n(host_.tokens, size_.tokens, -1);
  std::fill_n(host_.rows, size_.rows, -1);
  std::copy_n(batch.tokens, batch.num_tokens, host_.tokens);
  int row = 0;
  for (int i = 0; i < batch.num_spans; ++i) {
    const Span& span = batch.spans[i];
    host_.spans[i] = {
        span.first_token,           span.num_tokens, span.position, std::max(span.slot_in, 0),
        std::max(span.slot_out, 0), span.tail,       span.solver};
    std::fill_n(host_.token_span + span.first_token, span.num_tokens, i);
    PACKRAT_CHECK(span.dial >= 0 && span.dial < layout_.num_dials()) << span.dial;
    if (!dials_.empty()) {
      const size_t view = 1 + span.dial;
      host_.spans[view * size_.spans + i] = host_.spans[i];
      std::fill_n(host_.token_span + view * size_.tokens + span.first_token, span.num_tokens, i);
    }
    for (int t = span.num_tokens - span.num_logits; t < span.num_tokens; ++t) {
      host_.rows[row++] = span.first_token + t;
    }
  }
}

void DeviceBatch::PlanLists() {
  size_t list = 0;
  for (size_t view = 0; view < views(); ++view) {
    const absl::Span<const BatchSpan> spans(host_.spans + view * size_.spans, size_.spans);
    for (AttendPlanner& planner : planners_) {
      AttendItem* const items = host_.lists[list++];
      if (items != nullptr) planner.Plan(spans, size_.max_context, items);
    }
  }
}

size_t DeviceBatch::WritePages(const Batch& batch, int32_t* to, const int32_t* on_device) {
  std::fill_n(host_.tables, most_pages_.size() * size_.spans, PageTable());
  size_t used = 0;
  for (int i = 0; i < batch.num_spans; ++i) {
    const Span& span = batch.spans[i];
    for (size_t c = 0; c < most_pages_.size(); ++c) {
      const PageTable& table = span.pages[c];
      host_.tables[c * size_.spans + i] = {on_device + used, std::max(table.ring, 1)};
      // A window's ring may be read anywhere, of other tables what the text has reached.
      const PageClass& page_class = layout_.ForDial(span.dial).page_classes[c];
      const int pages = std::min(table.ring, page_class.PagesFor(span.position + span.num_tokens));
      PACKRAT_CHECK(pages <= most_pages_[c]);
      std::copy_n(table.pages, pages, to + used);
      used += pages;
    }
  }
  return used;
}

absl::Status DeviceBatch::Upload(const Batch& batch, absl::Span<const SamplingRow> sampled,
                                 const StepSize& size, int turn, CudaStream stream) {
  PACKRAT_CHECK(size.spans <= limits_.spans && size.tokens <= limits_.tokens);
  std::byte* const host = memory_.host[turn].data();
  std::byte* const device = memory_.device.data();
  size_ = size;
  size_t bytes = host_.Carve(host, *this, size);
  device_.Carve(device, *this, size);
  attend_lists_.assign(device_.lists.begin(), device_.lists.end());
  for (size_t c = 0; c < tables_.size(); ++c) tables_[c] = device_.tables + c * size.spans;

  WriteSpans(batch);
  PlanLists();
  if (size.sampled) {
    const size_t packed = PackedSamplingBytes(sampled, size.rows);
    PACKRAT_CHECK(packed <= PackedSamplingBytes({}, size.rows) + list_bytes_)
        << packed << " bytes of sampling: lists that nobody has reserved memory for";
    PackSampling(sampled, size.rows, host_.sampling);
    bytes += packed;
  }
  bytes += WritePages(batch, reinterpret_cast<int32_t*>(host + bytes),
                      reinterpret_cast<const int32_t*>(device + bytes)) *
           sizeof(int32_t);
  return CudaStatus(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, stream),
                    "copying a batch");
}

}  // namespace packrat::gpu
