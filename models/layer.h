// The parts of a layer: a mixer, which sees other tokens, and a feed-forward, which does not. Each
// kind of mixer has a file of its own.
#ifndef PACKRAT_MODELS_LAYER_H_
#define PACKRAT_MODELS_LAYER_H_

#include <memory>
#include <string>
#include <vector>

#include "kernels/attention.h"
#include "kernels/batch.h"
#include "kernels/check.h"
#include "kernels/context.h"
#include "kernels/matmul.h"
#include "kernels/mesa.h"
#include "kernels/rat.h"
#include "kernels/rope.h"
#include "models/batch.h"
#include "models/config.h"
#include "models/state_layout.h"
#include "models/weights.h"

namespace packrat {

// Rotary tables, one for each distinct (base, head_dim, divisor) of the layers.
class RopeTables {
 public:
  struct Table {
    double base;
    int head_dim, divisor;
    std::vector<double> frequencies;  // (head_dim / 2)
    AlignedFloats rows;               // (max_tokens, head_dim)
  };
  // Without `allocate` they are there to be counted.
  RopeTables(int max_tokens, bool allocate) : max_tokens_(max_tokens), allocate_(allocate) {}
  const Table* Get(double base, int head_dim, int divisor);
  void Fill(const BatchView& batch, KernelContext* context);
  size_t bytes() const;

 private:
  const int max_tokens_;
  const bool allocate_;
  std::vector<std::unique_ptr<Table>> tables_;
};

// What a layer's forward pass reads beside its input.
struct Step {
  const BatchView& batch;
  const StateMemory& memory;
  const StateLayout& layout;
  const std::vector<std::vector<PageTable>>& tables;  // Per page class: (spans).
  SpanTotals* totals;                                 // (spans)
  float* activations;                                 // A layer's.
  KernelContext* context;

  // One layer's part of pages, slots and tails.
  StatePages Pages(const LayerState& layer) const {
    return {memory.pages[layer.page_class] + layer.page_offset,
            layout.page_classes[layer.page_class].page_bytes, tables[layer.page_class].data()};
  }
  StateParts Slots(const LayerState& layer) const {
    return {memory.slots + layer.slot_offset, layout.slot_bytes};
  }
  StateParts Tails(const LayerState& layer) const {
    return {memory.tails + layer.tail_offset, layout.tail_bytes};
  }
};

class Mixer {
 public:
  virtual ~Mixer() = default;
  // x += mixer(h). h, x: (tokens, hidden_size), dense.
  virtual void Forward(const Step& step, const LayerState& state, const float* h, float* x) = 0;
  virtual size_t scratch_floats_per_token() const = 0;  // Of Step::activations.
  virtual size_t thread_scratch_floats() const = 0;     // Of KernelContext's, per thread.
  virtual int max_linear_inputs() const = 0;            // Widest input of a MatMul().
};

// What loading a mixer needs beside its spec.
struct MixerLoad {
  int hidden_size;
  float norm_eps;
  std::string prefix;  // Of tensor names, up to and including the dot.
  WeightLoader* weights;
  RopeTables* ropes;
};
std::unique_ptr<Mixer> LoadMixer(const RatSpec& spec, const MixerLoad& load);
std::unique_ptr<Mixer> LoadMixer(const AttentionSpec& spec, const MixerLoad& load);
std::unique_ptr<Mixer> LoadMixer(const MesaSpec& spec, const MixerLoad& load);

// x += down(act(up(h))).
class FeedForward {
 public:
  FeedForward(const ModelConfig& config, const std::string& prefix, WeightLoader* weights);
  void Forward(const Step& step, const float* h, float* x);
  static size_t ScratchFloatsPerToken(const ModelConfig& config) {
    return size_t{3} * config.intermediate_size;
  }

 private:
  int hidden_size_, intermediate_size_;
  Activation activation_;
  PackedMatrix gate_, up_, down_;  // gate_ is empty for GELU.
};

}  // namespace packrat

#endif  // PACKRAT_MODELS_LAYER_H_
