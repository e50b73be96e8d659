// The state of a fixed number of sequences, in memory of its own on the model's device, for tools
// and tests that run a model without an engine. A server uses runtime/state_pool.h.
#ifndef PACKRAT_MODELS_OWNED_STATE_H_
#define PACKRAT_MODELS_OWNED_STATE_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "models/batch.h"
#include "models/model.h"

namespace packrat {

class OwnedState {
 public:
  // Room for `sequences` sequences of up to `max_tokens` tokens each. The model outlives it.
  // RESOURCE_EXHAUSTED: its device has not so much memory.
  static absl::StatusOr<std::unique_ptr<OwnedState>> Create(LanguageModel* model, int sequences,
                                                            int max_tokens);
  OwnedState(const OwnedState&) = delete;
  OwnedState& operator=(const OwnedState&) = delete;

  const StateMemory& memory() const { return memory_; }
  // A span of one sequence with its state filled in; the rest is the caller's.
  Span SpanFor(int sequence, int first_token, int num_tokens, int position) const;
  // Sets all memory to NaN: nothing may depend on what was there.
  void Poison();

 private:
  OwnedState() = default;

  std::unique_ptr<StateBuffer> buffer_;
  bool has_slots_ = false;
  std::vector<PageMemory> pages_;
  std::vector<std::vector<int32_t>> page_ids_;  // (sequence, class)
  std::vector<PageTable> tables_;               // (sequence, class)
  size_t num_classes_ = 0;
  StateMemory memory_;
};

}  // namespace packrat

#endif  // PACKRAT_MODELS_OWNED_STATE_H_
