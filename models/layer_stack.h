// The model itself: embedding, layers, final norm and output matrix, over a Device.
#ifndef PACKRAT_MODELS_LAYER_STACK_H_
#define PACKRAT_MODELS_LAYER_STACK_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "models/batch.h"
#include "models/config.h"
#include "models/device.h"
#include "models/layer.h"
#include "models/model.h"
#include "models/state_layout.h"

namespace packrat {

class LayerStack {
 public:
  // Takes every tensor out of `weights`, which keeps the first error. `config`, `layout` and
  // `device` outlive it.
  LayerStack(const ModelConfig& config, const StateLayout& layout, Device* device,
             DeviceWeights* weights);

  // Hands out the parts of the scratch memory, the device's included, and returns their size.
  // Without memory it only returns the size.
  size_t Carve(const Limits& limits, std::byte* base);

  // A batch where the device reads it.
  struct Input {
    BatchView batch;
    // Where there are several dials, by number: see Step::dials.
    absl::Span<const BatchView> dials;
    const int32_t* tokens;  // (tokens)
    const int32_t* rows;    // Tokens whose logits are wanted; -1: unused.
    int num_rows;           // Of them.
    const StateMemory& memory;
    const std::vector<const PageTable*>& tables;  // One per page class: (spans)
    SpanTotals* totals;                           // (spans)
  };
  // Writes logits() and input.totals. `observe` may be empty.
  absl::Status Forward(const Input& input, const ActivationObserver& observe);

  float* logits() const { return logits_; }  // (rows, vocab_size)

 private:
  // A Sublayer, loaded.
  struct Part {
    std::unique_ptr<Mixer> mixer;
    int index;          // Of ModelConfig::mixers; -1: none, it keeps no state.
    const float* norm;  // Of its input; null: it reads the residual stream as it is.
    float scale;        // Of what it adds.
  };
  struct Parts {
    std::vector<Part> parts;
    const float* norm_after = nullptr;  // Null: the norm comes first.
  };
  Parts Load(const Sublayer& sublayer, int first_mixer, DeviceWeights* weights) const;
  absl::Status Run(const Parts& sublayer, const Input& input);
  absl::Status Run(const Part& part, const Input& input, const float* norm, std::byte* h, float* x);
  Step StepOf(const Input& input, const BatchView& batch, int mixer, int dial) const;
  absl::Status Observe(const Input& input, const ActivationObserver& observe, int point);

  const ModelConfig& config_;
  const StateLayout& layout_;
  Device* const device_;
  Weight embedding_, head_;  // head_ is the embedding where tied.
  std::vector<Parts> sublayers_;
  const float* final_norm_ = nullptr;

  float *x_ = nullptr, *logits_ = nullptr;  // Residual stream.
  float* before_norm_ = nullptr;            // What a sublayer adds, where its norm comes after.
  std::vector<std::byte*> h_;               // Inputs of the mixers of a sublayer.
  std::byte* activations_ = nullptr;
  std::vector<Step> dials_;  // Step::dials of the mixer at work.
};

}  // namespace packrat

#endif  // PACKRAT_MODELS_LAYER_STACK_H_
