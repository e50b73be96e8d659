// The parts of a layer: a mixer, which sees other tokens, and a feed-forward, which does not. Both
// are written once, over a Device. A mixer is in the same file as its spec (models/mixers).
#ifndef PACKRAT_MODELS_LAYER_H_
#define PACKRAT_MODELS_LAYER_H_

#include <cstddef>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "models/device.h"

namespace packrat {

// For the alignment of the parts of Step::activations.
inline constexpr size_t kActivationSlack = 2048;

class Mixer {
 public:
  virtual ~Mixer() = default;
  // x += mixer(h), rows of the step's tokens. h may be made of x.
  virtual absl::Status Forward(const Step& step, const Normed& h, float* x) const = 0;
  virtual size_t bytes_per_token() const = 0;  // Of Step::activations.
};

// What loading a mixer needs besides its spec.
struct MixerLoad {
  int hidden_size;
  float norm_eps;
  std::string prefix;  // Of tensor names, up to and including the dot.
  Device* device;
  DeviceWeights* weights;
};

}  // namespace packrat

#endif  // PACKRAT_MODELS_LAYER_H_
