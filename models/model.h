// A loaded model on its device. One step runs one flat batch and samples from its logits; see
// batch.h for the contract of state.
//
// The bits of every logit depend on the sequence's tokens and solver options alone: not on the
// batch, on how a text is cut into spans, or on the number of threads.
#ifndef PACKRAT_MODELS_MODEL_H_
#define PACKRAT_MODELS_MODEL_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/sampling.h"
#include "models/batch.h"
#include "models/config.h"
#include "models/state_layout.h"

namespace packrat {

// For tools: sees the residual stream x (num_tokens of the batch, hidden_size) of a Forward(), on
// the host: as it begins (layer -1), then of each layer after its mixer and after its feed-forward.
enum class LayerPart { kMixer, kFeedForward };
using ActivationObserver = std::function<void(int layer, LayerPart part, const float* x)>;

// What products multiply in on the CPU (kernels/matmul.h): in float32, which loses nothing, or
// where weights are stored in bfloat16 in its dot products, for which activations are rounded.
// kAuto: the quicker one, bfloat16 where the processor has it. For quantised weights activations
// are rounded to 8 bits, but with kFloat32.
enum class ActivationType { kAuto, kFloat32, kBFloat16 };

// How the CPU keeps matrices: as the checkpoint has them, or quantised while it is read
// (kernels/quantized.h). Embedding, norms, gates and convolutions stay as stored in any case.
enum class WeightFormat { kStored, kInt8, kInt4 };
constexpr const char* WeightFormatName(WeightFormat format) {
  return format == WeightFormat::kStored ? "stored"
         : format == WeightFormat::kInt8 ? "int8"
                                         : "int4";
}

struct ModelOptions {
  int max_batch_tokens = 512;  // Tokens of one Forward(); scratch grows with it.
  int max_logit_rows = 512;    // Rows of logits of one Forward().
  int max_context = 0;         // Tokens of the longest text; 0: the model's own limit.
  int threads = 0;             // Of the CPU; 0: Resources::DefaultThreads().
  ActivationType activations = ActivationType::kFloat32;
  WeightFormat weights = WeightFormat::kStored;  // Of the layers' matrices.
  // Of the output matrix. None: int8 where those of the layers are quantised, else stored.
  std::optional<WeightFormat> output_weights;
  ActivationObserver observe;  // Empty: nobody looks.
};

// Memory for sequences' state, where the model's device reads it. Offsets and sizes are in bytes
// and within size(). All that changes or reads it here comes after the steps that were started
// before and before those that are started after; where only one step may be in flight, none is.
class StateBuffer {
 public:
  virtual ~StateBuffer() = default;
  virtual std::byte* data() const = 0;  // Aligned to 64 bytes. An address of the device's.
  virtual size_t size() const = 0;
  virtual void Fill(size_t offset, size_t bytes, unsigned char value) = 0;
  // The two ranges have no byte in common.
  virtual void Copy(size_t from, size_t to, size_t bytes) = 0;
  // `from` is ordinary (pageable) memory of the process, which may change again afterwards.
  virtual void Write(size_t to, const std::byte* from, size_t bytes) = 0;
  // Waits until `to`, memory of the process, has the bytes. An error says that the device is lost.
  virtual absl::Status Read(size_t from, std::byte* to, size_t bytes) = 0;
};

// What the engine runs. An interface so that the scheduler and engine are tested with a fake. One
// thread at a time.
//
// A status that is not OK from Forward(), Start() or Wait() says that the device is lost: nothing
// that it computed may be used, and no later call will do better.
class LanguageModel {
 public:
  virtual ~LanguageModel() = default;
  virtual const ModelConfig& config() const = 0;
  virtual const StateLayout& state_layout() const = 0;
  virtual const ModelOptions& options() const = 0;

  // The two halves of a step, so that the caller has time of its own while the device works. `rows`
  // has an entry for each row of logits (sum of num_logits), in span order. What the arguments
  // point to stays as it is until Wait(); where several steps may be in flight, until Start()
  // returns.
  virtual absl::Status Start(const Batch& batch, const StateMemory& state,
                             absl::Span<const SamplingRow> rows) = 0;
  // Waits for the earliest step that was started. `stats` has one entry per span, `sampled` one per
  // row; what a span that is not finite sampled means nothing.
  virtual absl::Status Wait(SpanStats* stats, SampledToken* sampled) = 0;
  // How many steps may be started before the first of them is waited for. They run in the order of
  // their starts, and what they read and write of the state follows it.
  virtual int max_steps_in_flight() const { return 1; }
  // Of the last Wait(): the seconds that went into sampling; 0 where they cannot be told apart.
  virtual double sampling_seconds() const { return 0; }

  // A step at once, for tools and tests: runs the batch and returns the logits (sum of num_logits,
  // vocab_size), on the host, rows in span order, valid until the next call; the caller may write
  // to them.
  virtual absl::StatusOr<float*> Forward(const Batch& batch, const StateMemory& state,
                                         SpanStats* stats) = 0;

  // RESOURCE_EXHAUSTED: there is not so much. The buffer must be gone before the model.
  virtual absl::StatusOr<std::unique_ptr<StateBuffer>> AllocateState(size_t bytes) = 0;
  // Bytes that state may take if nobody says otherwise.
  virtual size_t state_memory_limit() const = 0;

  virtual size_t weight_bytes() const = 0;
  virtual size_t scratch_bytes() const = 0;
  // Hash of config and weights, hex. Together with numerics_id() it names whose state is whose.
  virtual const std::string& fingerprint() const = 0;
  // Build, device type, instruction set, activations and C library. Equal ids promise equal bits on
  // a CPU, and on a GPU that is deterministic; other GPUs choose their products' algorithms by
  // timing, so that two processes may differ by rounding.
  virtual std::string numerics_id() const = 0;
  // What computes, for people: "cpu avx512", or a GPU's name.
  virtual std::string device() const = 0;
};

// What a model that computes on the CPU takes, beside its state.
struct ModelMemory {
  ModelConfig config;
  size_t weight_bytes = 0;
  size_t scratch_bytes = 0;
};

}  // namespace packrat

#endif  // PACKRAT_MODELS_MODEL_H_
