// A step's batch as the kernels see it: built in pinned memory by the host, brought to the device
// by one copy.
#ifndef PACKRAT_MODELS_GPU_DEVICE_BATCH_H_
#define PACKRAT_MODELS_GPU_DEVICE_BATCH_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "kernels/attend_plan.h"
#include "kernels/gpu.h"
#include "models/batch.h"
#include "models/device.h"
#include "models/gpu/flights.h"
#include "models/gpu/memory.h"
#include "models/state_layout.h"

namespace packrat::gpu {

// The sizes that a step's launches depend on. Decoding steps are rounded up to few such sizes, so
// that few graphs serve them all; what is added are unused places.
struct StepSize {
  int spans = 0, tokens = 0, rows = 0;  // rows: of logits.
  int max_span_tokens = 1, max_context = 1, prompts = 0;
  bool sampled = false;  // Tokens are drawn from the logits.
  unsigned dials = 0;    // A bit for each that occurs.
  bool operator<(const StepSize& other) const;
};

// The size of this batch: rounded up if it only decodes, exact otherwise.
StepSize SizeFor(const Batch& batch, const Limits& limits);

class DeviceBatch {
 public:
  // A page table has room for the pages of limits.context tokens. `layout`, of `config`, outlives
  // it. Decoding attention gets a list for each of `kinds`.
  static absl::StatusOr<std::unique_ptr<DeviceBatch>> Create(const ModelConfig& config,
                                                             const StateLayout& layout,
                                                             const Limits& limits,
                                                             absl::Span<const AttendKind> kinds);

  // Writes the batch to the host's side `turn` and queues its copy, which must be done before that
  // side is written again.
  absl::Status Upload(const Batch& batch, const StepSize& size, int turn, CudaStream stream);

  BatchView View(const StepSize& size) const;
  // LayerStack::Input::dials. Good until the next call.
  absl::Span<const BatchView> DialViews(const StepSize& size);
  const int32_t* tokens() const { return device_.tokens; }  // (tokens), -1: unused
  const int32_t* rows() const { return device_.rows; }      // (rows): token of each, -1: unused
  const std::vector<const PageTable*>& tables() const { return tables_; }
  size_t bytes() const { return memory_.size(); }

 private:
  // Places in one block of memory, the same on host and device.
  struct Parts {
    BatchSpan* spans;  // Of all, then where there are several dials of each: (1 + dials, spans).
    int32_t *token_span, *tokens, *rows;  // The first likewise: (1 + dials, tokens).
    std::vector<AttendItem*> lists;       // Of all, then of each dial: one for each kind, or null.
    PageTable* tables;                    // (page classes, limits.spans)
    std::vector<int32_t*> pages;          // What they point to, per page class: (spans, stride)
    size_t Carve(std::byte* base, const DeviceBatch& batch);
  };
  explicit DeviceBatch(const StateLayout& layout) : layout_(layout) {}
  size_t views() const { return dials_.empty() ? 1 : 1 + dials_.size(); }

  const StateLayout& layout_;
  Limits limits_;
  std::vector<BatchView> dials_;                 // Empty: there is one.
  std::vector<AttendPlanner> planners_;          // Of each kind of list.
  std::vector<bool> reads_;                      // As Parts::lists: whether anybody reads it.
  std::vector<const AttendItem*> attend_lists_;  // device_.lists.
  std::vector<int> strides_;                     // Of page tables, per class.
  std::vector<size_t> used_pages_;               // Per class, of the step that is being built.
  PinnedMemory staging_[kMaxStepsInFlight];
  DeviceMemory memory_;
  Parts host_[kMaxStepsInFlight], device_;
  std::vector<const PageTable*> tables_;
};

}  // namespace packrat::gpu

#endif  // PACKRAT_MODELS_GPU_DEVICE_BATCH_H_
