// The parts of a layer: a mixer, which sees other tokens, and a feed-forward, which does not. Each
// kind of mixer has a file of its own.
#ifndef PACKRAT_MODELS_LAYER_H_
#define PACKRAT_MODELS_LAYER_H_

#include <memory>
#include <string>
#include <vector>

#include "kernels/attention.h"
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
  // Without `allocate` they are there to be counted.
  RopeTables(int max_tokens, bool allocate) : max_tokens_(max_tokens), allocate_(allocate) {}
  const RopeTable* Get(double base, int head_dim, int divisor);
  void Set(int token, int64_t position) {
    for (auto& table : tables_) table->Set(token, position);
  }
  size_t bytes() const;

 private:
  const int max_tokens_;
  const bool allocate_;
  std::vector<std::unique_ptr<RopeTable>> tables_;
};

// Memory of a forward pass that layers use one after the other.
struct Scratch {
  AlignedFloats floats;                      // A layer's activations.
  std::vector<AttentionSequence> attention;  // Room for a span each.
  std::vector<RatSequence> rat;
  std::vector<MesaSequence> mesa;
  std::vector<MesaSolves> solves;  // (spans, heads)
};

// What a layer's forward pass reads beside its input.
struct Step {
  const Batch& batch;
  const StateMemory& memory;
  const StateLayout& layout;
  SpanStats* stats;
  Scratch* scratch;
  KernelContext* context;

  Rows RowsOf(const Span& span) const { return {span.first_token, span.num_tokens, span.position}; }
  // One layer's part of a span's pages and tail.
  PagedState Pages(const Span& span, const LayerState& layer) const {
    const PageTable& table = span.pages[layer.page_class];
    return {memory.pages[layer.page_class] + layer.page_offset,
            layout.page_classes[layer.page_class].page_bytes, table.pages, table.ring};
  }
  float* Tail(const Span& span, const LayerState& layer) const {
    return reinterpret_cast<float*>(memory.tails + span.tail * layout.tail_bytes +
                                    layer.tail_offset);
  }
  float* Slot(int slot, const LayerState& layer) const {
    PACKRAT_CHECK(slot >= 0);
    return reinterpret_cast<float*>(memory.slots + slot * layout.slot_bytes + layer.slot_offset);
  }
};

class Mixer {
 public:
  virtual ~Mixer() = default;
  // x += mixer(h). h, x: (tokens, hidden_size), dense.
  virtual void Forward(const Step& step, const LayerState& state, const float* h, float* x) = 0;
  virtual size_t scratch_floats_per_token() const = 0;  // Of Scratch::floats.
  virtual size_t thread_scratch_floats() const = 0;     // Of KernelContext's, per thread.
  virtual int max_linear_inputs() const = 0;            // Widest input of a MatMul().
  virtual int solves_per_span() const { return 0; }     // Of Scratch::solves.
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
    return size_t{2} * config.intermediate_size;
  }

 private:
  int hidden_size_, intermediate_size_;
  Activation activation_;
  PackedMatrix gate_, up_, down_;  // gate_ is empty for GELU.
};

}  // namespace packrat

#endif  // PACKRAT_MODELS_LAYER_H_
