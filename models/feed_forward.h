// The feed-forward, which a token goes through without a look at any other: down(f(up(h))), or with
// a gate down(f(gate(h)) * up(h)).
#ifndef PACKRAT_MODELS_FEED_FORWARD_H_
#define PACKRAT_MODELS_FEED_FORWARD_H_

#include <string>

#include "models/config.h"
#include "models/layer.h"

namespace packrat {

class FeedForward : public Mixer {
 public:
  // `prefix`: of the layer's tensor names.
  FeedForward(const ModelConfig& config, const std::string& prefix, const Device& device,
              DeviceWeights* weights);
  absl::Status Forward(const Step& step, const Normed& h, const Residual& to) const override;
  size_t bytes_per_token() const override { return size_t{3} * width_ * DTypeBytes(type_); }

 private:
  int width_;
  Activation activation_;
  Gating gating_;
  DType type_;
  Weight up_;    // With a gate: (2 * width, hidden_size), the gate's rows first.
  Weight down_;  // (hidden_size, width)
  const float *up_bias_ = nullptr, *down_bias_ = nullptr;
};

}  // namespace packrat

#endif  // PACKRAT_MODELS_FEED_FORWARD_H_
