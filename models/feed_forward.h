// x += down(act(up(h))), the half of a layer that sees no other token.
#ifndef PACKRAT_MODELS_FEED_FORWARD_H_
#define PACKRAT_MODELS_FEED_FORWARD_H_

#include <string>

#include "models/config.h"
#include "models/layer.h"

namespace packrat {

class FeedForward {
 public:
  // `prefix`: of the layer's tensor names.
  FeedForward(const ModelConfig& config, const std::string& prefix, const Device& device,
              DeviceWeights* weights);
  absl::Status Forward(const Step& step, const Normed& h, float* x) const;
  size_t bytes_per_token() const { return size_t{3} * width_ * DTypeBytes(type_); }

 private:
  int width_;
  Activation activation_;
  DType type_;
  Weight up_;    // SwiGLU: (2 * width, hidden_size), the gate's rows first.
  Weight down_;  // (hidden_size, width)
};

}  // namespace packrat

#endif  // PACKRAT_MODELS_FEED_FORWARD_H_
