// The parts of a layer on a GPU: the same mathematics as models/layer.h, on device memory. All work
// is queued on the step's stream.
#ifndef PACKRAT_MODELS_GPU_LAYER_H_
#define PACKRAT_MODELS_GPU_LAYER_H_

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "kernels/gpu.h"
#include "kernels/matmul.h"
#include "models/batch.h"
#include "models/config.h"
#include "models/gpu/weights.h"
#include "models/state_layout.h"

namespace packrat::gpu {

inline constexpr size_t kActivationSlack = 2048;

// The host prepares one while another runs.
inline constexpr int kMaxStepsInFlight = 2;

// The largest batch that scratch is made for.
struct Limits {
  int spans = 0, tokens = 0, context = 0;
};

// Rotary rows of a batch's tokens, one table for each distinct (base, head_dim, divisor) of the
// layers.
class RopeRows {
 public:
  struct Table {
    double base;
    int head_dim, divisor;
    const double* frequencies = nullptr;  // (head_dim / 2)
    float* rows = nullptr;                // (tokens, head_dim)
  };
  // The table's number.
  int Get(double base, int head_dim, int divisor);
  const float* rows(int table) const { return tables_[table].rows; }

  void Carve(int max_tokens, Carver* carver);
  // After Carve() with memory: computes and uploads the frequencies.
  absl::Status Upload() const;
  absl::Status Fill(const BatchView& batch, CudaStream stream) const;

 private:
  std::vector<Table> tables_;
};

// Memory of kernels between their launches, one region for each kind and shape of mixer: layers
// that are alike use it one after the other, and leave it as the next one expects it.
class KernelScratch {
 public:
  // `key` names kind and shape. Returns the region's number.
  int Get(const std::string& key, size_t bytes);
  std::byte* region(int number) const { return regions_[number].memory; }
  void Carve(Carver* carver);

 private:
  struct Region {
    std::string key;
    size_t bytes;
    std::byte* memory = nullptr;
  };
  std::vector<Region> regions_;
};

// What a layer's forward pass reads beside its input.
struct Step {
  BatchView batch;
  StateMemory memory;
  const StateLayout& layout;
  const std::vector<const PageTable*>& tables;  // One per page class: (spans)
  SpanTotals* totals;                           // (spans)
  std::byte* activations;                       // A layer's: tokens * bytes_per_token(), and
                                                // kActivationSlack for the alignment of its parts.
  const RopeRows& ropes;
  const KernelScratch& scratch;
  MatMul* matmul;
  CudaStream stream;
  DType type;  // Of activations.

  // One layer's part of pages, slots and tails.
  StatePages Pages(const LayerState& layer) const;
  StateParts Slots(const LayerState& layer) const {
    return {memory.slots + layer.slot_offset, layout.slot_bytes};
  }
  StateParts Tails(const LayerState& layer) const {
    return {memory.tails + layer.tail_offset, layout.tail_bytes};
  }
  // y = x W' (+ bias), of the activations' type.
  absl::Status Multiply(const Matrix& weight, const void* x, void* y,
                        const float* bias = nullptr) const;
  // x += h W', on the residual stream.
  absl::Status Accumulate(const Matrix& weight, const void* h, float* x) const;
};

class Mixer {
 public:
  virtual ~Mixer() = default;
  // x += mixer(h). h: (tokens, hidden_size) of the activations' type; x: float32.
  virtual absl::Status Forward(const Step& step, const LayerState& state, const void* h,
                               float* x) = 0;
  virtual size_t bytes_per_token() const = 0;  // Of Step::activations.
};

// What loading a mixer needs beside its spec.
struct MixerLoad {
  int hidden_size;
  float norm_eps;
  DType type;        // Of matrices and activations.
  DType mesa_state;  // Of Mesa slots.
  Limits limits;
  std::string prefix;  // Of tensor names, up to and including the dot.
  DeviceWeights* weights;
  RopeRows* ropes;
  KernelScratch* scratch;
};
std::unique_ptr<Mixer> LoadMixer(const RatSpec& spec, const MixerLoad& load);
std::unique_ptr<Mixer> LoadMixer(const AttentionSpec& spec, const MixerLoad& load);
std::unique_ptr<Mixer> LoadMixer(const MesaSpec& spec, const MixerLoad& load);

// x += down(act(up(h))).
class FeedForward {
 public:
  FeedForward(const ModelConfig& config, const std::string& prefix, DeviceWeights* weights);
  absl::Status Forward(const Step& step, const void* h, float* x) const;
  static size_t BytesPerToken(const ModelConfig& config, DType type) {
    return size_t{3} * config.intermediate_size * DTypeBytes(type);
  }

 private:
  int intermediate_size_;
  Activation activation_;
  Matrix up_;    // SwiGLU: (2 * intermediate_size, hidden_size), the gate's rows first.
  Matrix down_;  // (hidden_size, intermediate_size)
};

}  // namespace packrat::gpu

#endif  // PACKRAT_MODELS_GPU_LAYER_H_
