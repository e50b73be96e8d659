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
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/sampling.h"
#include "models/batch.h"
#include "models/config.h"
#include "models/state_layout.h"

namespace packrat {

// For tools: sees the residual stream x (num_tokens of the batch, hidden_size) of a Forward(), on
// the host: at its beginning (point 0), then after each sublayer (from point 1 on).
using ActivationObserver = std::function<void(int point, const float* x)>;

// What products multiply in on the CPU (kernels/matmul.h). kFloat32 rounds no activation. kBFloat16
// uses dot products of bfloat16 for weights that are stored in bfloat16, and rounds the activations
// for them. kAuto is the quicker of the two: bfloat16 where CpuPrefersBFloat16(). Unless it is
// kFloat32, activations are rounded to 8 bits for quantised weights. Where products round
// activations, attention rounds to bfloat16 as well, by the same choice (kernels/attention.h).
enum class ActivationType { kAuto, kFloat32, kBFloat16 };

// How matrices are kept: as the checkpoint has them, or quantised while they are read
// (kernels/quantized.h). Embedding, norms, gates and convolutions always stay as stored.
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
  // Of the output matrix. None: int8 if the layers' matrices are quantised, else stored.
  std::optional<WeightFormat> output_weights;
  ModelChoices choices;        // Part of the fingerprint.
  ActivationObserver observe;  // May be empty.
};

// Memory for sequences' state, where the model's device reads it. Offsets and sizes are in bytes
// and within size(). All that changes or reads it here comes after the steps that were started
// before and before those that are started after; where only one step may be in flight, none is.
class StateBuffer {
 public:
  virtual ~StateBuffer() = default;
  virtual std::byte* data() const = 0;  // An address on the device, aligned to 64 bytes.
  virtual size_t size() const = 0;
  // `count` pages of `page_bytes`, each of parts of `part_bytes` (0: not all alike), shall lie from
  // `offset` on. Asked once for each class, before anything there is read or written. Whether they
  // are whole or in planes is the device's affair: the calls below mean whole pages in either case.
  virtual PageMemory PlacePages(size_t offset, [[maybe_unused]] size_t page_bytes,
                                [[maybe_unused]] size_t part_bytes,
                                [[maybe_unused]] int32_t count) {
    return {data() + offset, 0};
  }
  virtual void Fill(size_t offset, size_t bytes, unsigned char value) = 0;
  // The two ranges have no byte in common.
  virtual void Copy(size_t from, size_t to, size_t bytes) = 0;
  // `from` is ordinary (pageable) memory of the process, which may change again afterwards.
  virtual void Write(size_t to, const std::byte* from, size_t bytes) = 0;
  struct Piece {
    size_t from, bytes;
  };
  // Waits until `to`, memory of the process, has the pieces, one after the other. An error says
  // that the device is lost.
  virtual absl::Status Read(absl::Span<const Piece> pieces, std::byte* to) = 0;
};

// What the engine runs. It is an interface so that scheduler and engine can be tested with a fake.
// For one thread at a time.
//
// If Forward(), Start() or Wait() returns an error, the device is lost: nothing that it computed
// may be used, and later calls fail too.
class LanguageModel {
 public:
  virtual ~LanguageModel() = default;
  virtual const ModelConfig& config() const = 0;
  virtual const StateLayout& state_layout() const = 0;
  virtual const ModelOptions& options() const = 0;

  // Before a step whose rows' lists take more together (SamplingListBytes()) than was reserved so
  // far; steps may be in flight. RESOURCE_EXHAUSTED: the device has not so much, and all is as it
  // was. Another error: the device is lost.
  virtual absl::Status ReserveSampling([[maybe_unused]] size_t list_bytes) {
    return absl::OkStatus();
  }

  // The two halves of a step, so that the caller can work while the device does. `rows` has an
  // entry for each row of logits (sum of num_logits), in span order. What the arguments point to
  // must not change until Wait(), or, where several steps may be in flight, until Start() returns.
  virtual absl::Status Start(const Batch& batch, const StateMemory& state,
                             absl::Span<const SamplingRow> rows) = 0;
  // Waits for the earliest step that was started. `stats` has one entry per span, `sampled` one per
  // row; the tokens of a span that is not finite mean nothing.
  virtual absl::Status Wait(SpanStats* stats, SampledToken* sampled) = 0;
  // How many steps may be started before the first of them is waited for. They run, and read and
  // write the state, in the order in which they were started.
  virtual int max_steps_in_flight() const { return 1; }
  // The seconds of the last Wait() that went into sampling; 0 if the model cannot tell.
  virtual double sampling_seconds() const { return 0; }

  // A whole step, for tools and tests: runs the batch and returns the logits (sum of num_logits,
  // vocab_size) on the host, rows in span order. They are valid until the next call, and the caller
  // may write to them.
  virtual absl::StatusOr<float*> Forward(const Batch& batch, const StateMemory& state,
                                         SpanStats* stats) = 0;

  // RESOURCE_EXHAUSTED if there is not that much. The buffer must be destroyed before the model.
  virtual absl::StatusOr<std::unique_ptr<StateBuffer>> AllocateState(size_t bytes) = 0;
  // Bytes that state takes at most if no option says otherwise.
  virtual size_t state_memory_limit() const = 0;

  virtual size_t weight_bytes() const = 0;
  virtual size_t scratch_bytes() const = 0;
  // Hashes of config and weights, in hex, for each of ModelConfig::dials: that of a model which has
  // this one alone. State fits a model if its dial's and numerics_id() are equal.
  virtual const std::vector<std::string>& fingerprints() const = 0;
  const std::string& fingerprint() const { return fingerprints()[0]; }
  // Build, device type, instruction set, activations and C library. Equal ids promise equal bits on
  // a CPU, and on a GPU that is deterministic; other GPUs choose their products' algorithms by
  // timing, so that two processes may differ by rounding.
  virtual std::string numerics_id() const = 0;
  // The device, for people: "cpu avx512", or a GPU's name.
  virtual std::string device() const = 0;
};

// The memory that a model on the CPU takes besides its state.
struct ModelMemory {
  ModelConfig config;
  size_t weight_bytes = 0;
  size_t scratch_bytes = 0;
  StateTypes state_types;
};

}  // namespace packrat

#endif  // PACKRAT_MODELS_MODEL_H_
