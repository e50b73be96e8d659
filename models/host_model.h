// What all models that compute on the host share: Start() remembers, Wait() computes and samples,
// and state is the process's own memory.
#ifndef PACKRAT_MODELS_HOST_MODEL_H_
#define PACKRAT_MODELS_HOST_MODEL_H_

#include <memory>
#include <string>
#include <vector>

#include "kernels/resources.h"
#include "kernels/thread_pool.h"
#include "models/model.h"

namespace packrat {

// Memory of this process, every page of it touched. RESOURCE_EXHAUSTED if it cannot have that much.
absl::StatusOr<std::unique_ptr<StateBuffer>> AllocateHostState(size_t bytes);

// Bytes that the state of all sequences takes if no option says otherwise. Of a limit that is this
// process's own: everything but `rest`, which is all else that the process will hold, what it holds
// already included. Of memory that it shares with others: at most a quarter. Never more than is
// free now, less `to_take`, the part of `rest` that is not taken yet.
int64_t HostStateRoom(const Resources& resources, int64_t rest, int64_t to_take);

// A derived class adds Forward(), which is the first half of Wait().
class HostModel : public LanguageModel {
 public:
  absl::Status Start(const Batch& batch, const StateMemory& state,
                     absl::Span<const SamplingRow> rows) override;
  absl::Status Wait(SpanStats* stats, SampledToken* sampled) override;
  double sampling_seconds() const override { return sampling_seconds_; }
  absl::StatusOr<std::unique_ptr<StateBuffer>> AllocateState(size_t bytes) override;
  size_t state_memory_limit() const override;
  std::string numerics_id() const override;
  std::string device() const override;

 protected:
  // Makes the samplers; before the first Start(). The threads of `pool`, which outlives this
  // object, share the rows. If it is null, the rows are sampled one after the other.
  void TakeSamplers(int vocab_size, ThreadPool* pool = nullptr);

 private:
  ThreadPool* pool_ = nullptr;
  std::vector<std::unique_ptr<Sampler>> samplers_;  // One for each thread.
  std::vector<int> sampled_rows_;                   // Of the spans that are finite.
  bool started_ = false;
  // As started.
  Batch batch_;
  StateMemory state_;
  absl::Span<const SamplingRow> rows_;
  double sampling_seconds_ = 0;
};

}  // namespace packrat

#endif  // PACKRAT_MODELS_HOST_MODEL_H_
