// The model itself: embedding, layers, final norm and output matrix, over a Device.
#ifndef PACKRAT_MODELS_LAYER_STACK_H_
#define PACKRAT_MODELS_LAYER_STACK_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "models/batch.h"
#include "models/config.h"
#include "models/device.h"
#include "models/feed_forward.h"
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
    const int32_t* tokens;  // (tokens)
    const int32_t* rows;    // Tokens whose logits are wanted; -1: unused.
    int num_rows;           // Of them.
    const StateMemory& memory;
    const std::vector<const PageTable*>& tables;  // One per page class: (spans)
  };
  // Writes logits() and totals(). `observe` may be empty.
  absl::Status Forward(const Input& input, const ActivationObserver& observe);

  float* logits() const { return logits_; }       // (rows, vocab_size)
  SpanTotals* totals() const { return totals_; }  // (spans)

 private:
  struct Layer {
    const float* mixer_norm;
    std::unique_ptr<Mixer> mixer;
    const float* feed_forward_norm;
    FeedForward feed_forward;
  };
  Step StepOf(const Input& input, int layer) const;
  absl::Status Observe(const Input& input, const ActivationObserver& observe, int layer,
                       LayerPart part);

  const ModelConfig& config_;
  const StateLayout& layout_;
  Device* const device_;
  Weight embedding_, head_;  // head_ is the embedding where tied.
  std::vector<Layer> layers_;
  const float* final_norm_ = nullptr;

  float *x_ = nullptr, *logits_ = nullptr;  // Residual stream.
  std::byte *h_ = nullptr, *activations_ = nullptr;
  SpanTotals* totals_ = nullptr;
};

}  // namespace packrat

#endif  // PACKRAT_MODELS_LAYER_STACK_H_
