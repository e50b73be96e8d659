// A loaded model on the CPU. Forward() runs one flat batch; see batch.h for the contract of state.
//
// The bits of every logit depend on the sequence's tokens and solver options alone: not on the
// batch, on how a text is cut into spans, or on the number of threads.
#ifndef PACKRAT_MODELS_MODEL_H_
#define PACKRAT_MODELS_MODEL_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "models/batch.h"
#include "models/config.h"
#include "models/state_layout.h"

namespace packrat {

struct ModelOptions {
  int max_batch_tokens = 512;  // Tokens of one Forward(); scratch grows with it.
  int max_logit_rows = 512;    // Rows of logits of one Forward().
  int threads = 0;             // 0: one per core.
};

// What the engine runs. An interface so that the scheduler and engine are tested with a fake.
class LanguageModel {
 public:
  virtual ~LanguageModel() = default;
  virtual const ModelConfig& config() const = 0;
  virtual const StateLayout& state_layout() const = 0;
  virtual const ModelOptions& options() const = 0;
  // Runs the batch. Returns logits (sum of num_logits, vocab_size), rows in span order, valid until
  // the next call; the caller may write to them (sampling works in place). `stats` has one entry
  // per span.
  virtual float* Forward(const Batch& batch, const StateMemory& state, SpanStats* stats) = 0;
  virtual size_t weight_bytes() const = 0;
  virtual size_t scratch_bytes() const = 0;
  // Hash of config and weights, hex. Together with NumericsId() it names whose state is whose.
  virtual const std::string& fingerprint() const = 0;
};

// Loads DIR/config.json and its safetensors. INVALID_ARGUMENT naming file, tensor and reason.
absl::StatusOr<std::unique_ptr<LanguageModel>> LoadModel(const std::string& dir,
                                                         const ModelOptions& options);

// Build and instruction set: equal ids promise equal bits.
std::string NumericsId();

}  // namespace packrat

#endif  // PACKRAT_MODELS_MODEL_H_
