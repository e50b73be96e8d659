// The parts of a layer, written once, over a Device: mixers, which see other tokens and are in the
// same file as their spec (models/mixers), and the feed-forward, which does not and is otherwise
// the same.
#ifndef PACKRAT_MODELS_LAYER_H_
#define PACKRAT_MODELS_LAYER_H_

#include <cstddef>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "models/device.h"

namespace packrat {

// For the alignment of the parts of Step::activations.
inline constexpr size_t kActivationSlack = 4096;

class Mixer {
 public:
  virtual ~Mixer() = default;
  // Adds mixer(h), rows of the step's tokens. h may be made of what it is added to.
  virtual absl::Status Forward(const Step& step, const Normed& h, const Residual& to) const = 0;
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
