// All that a step's kernels read of its batch: built by the host in one piece of pinned memory, and
// brought to the device by one copy.
//
// First comes what has a place by the step's size alone, so that a captured graph finds it: spans,
// tokens, tables of pages, lists of work and the rows that are sampled. Behind it come, as long as
// this step has them, the lists of sampling and the numbers of pages, to which rows and tables
// point.
#ifndef PACKRAT_MODELS_GPU_DEVICE_BATCH_H_
#define PACKRAT_MODELS_GPU_DEVICE_BATCH_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "kernels/attend_plan.h"
#include "kernels/gpu.h"
#include "kernels/sampling.h"
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
  // For texts of up to limits.context tokens. `layout`, of `config`, outlives it. Decoding
  // attention gets a list for each of `kinds`.
  static absl::StatusOr<std::unique_ptr<DeviceBatch>> Create(const ModelConfig& config,
                                                             const StateLayout& layout,
                                                             const Limits& limits,
                                                             absl::Span<const AttendKind> kinds);

  // Room for lists of sampling of so many bytes in one step. If the memory has to grow, it waits
  // for the stream and sets *moved: what was captured with the old addresses is void.
  // RESOURCE_EXHAUSTED: there is not so much, and nothing has changed.
  absl::Status Reserve(size_t list_bytes, CudaStream stream, bool* moved);

  // Writes the batch to the host's side `turn` and queues its copy, which must be done before that
  // side is written again. Where the step is sampled, `sampled` says with what: rows from
  // sampled.size() to size.rows are unused, and there must be room for their lists.
  absl::Status Upload(const Batch& batch, absl::Span<const SamplingRow> sampled,
                      const StepSize& size, int turn, CudaStream stream);

  // Of the step that was uploaded last. Until Reserve() moves them, addresses go by its size alone.
  BatchView View() const;
  // LayerStack::Input::dials. Good until the next call.
  absl::Span<const BatchView> DialViews();
  const int32_t* tokens() const { return device_.tokens; }  // (tokens), -1: unused
  const int32_t* rows() const { return device_.rows; }      // (rows): token of each, -1: unused
  const std::vector<const PageTable*>& tables() const { return tables_; }
  const std::byte* sampling() const { return device_.sampling; }  // For Sample().

  size_t bytes() const { return memory_.device.size(); }

 private:
  // The same on host and device.
  struct Memory {
    static absl::StatusOr<Memory> Allocate(size_t bytes);
    PinnedMemory host[kMaxStepsInFlight];
    DeviceMemory device;
  };
  // Places in it, by the size of a step.
  struct Parts {
    BatchSpan* spans;  // Of all, then where there are several dials of each: (1 + dials, spans).
    int32_t *token_span, *tokens, *rows;  // The first likewise: (1 + dials, tokens).
    PageTable* tables;                    // (page classes, spans)
    std::vector<AttendItem*> lists;       // Of all, then of each dial: one for each kind, or null.
    std::byte* sampling;                  // PackSampling()'s, and behind it the numbers of pages.
    // Returns the bytes before `sampling`.
    size_t Carve(std::byte* base, const DeviceBatch& batch, const StepSize& size);
  };
  explicit DeviceBatch(const StateLayout& layout) : layout_(layout) {}
  size_t views() const { return dials_.empty() ? 1 : 1 + dials_.size(); }
  // Whether a text of this step has the dial of a view.
  static bool Runs(const StepSize& size, size_t view) {
    return view == 0 || (size.dials >> (view - 1) & 1) != 0;
  }
  // These write a part of the batch to host_; the last returns how many numbers of pages.
  void WriteSpans(const Batch& batch);
  void PlanLists();
  size_t WritePages(const Batch& batch, int32_t* to, const int32_t* on_device);

  const StateLayout& layout_;
  Limits limits_;
  std::vector<BatchView> dials_;                 // Empty: there is one.
  std::vector<AttendPlanner> planners_;          // Of each kind of list.
  std::vector<bool> reads_;                      // As Parts::lists: whether anybody reads it.
  std::vector<const AttendItem*> attend_lists_;  // device_.lists.
  std::vector<int> most_pages_;                  // Of a text, per class.
  size_t fixed_bytes_ = 0;  // Of a step at most, without the lists of sampling.
  size_t list_bytes_ = 0;   // There is room for.
  Memory memory_;
  StepSize size_;  // Of the last step, as are host_ and what follows.
  Parts host_, device_;
  std::vector<const PageTable*> tables_;
};

}  // namespace packrat::gpu

#endif  // PACKRAT_MODELS_GPU_DEVICE_BATCH_H_
