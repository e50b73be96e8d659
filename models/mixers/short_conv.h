// A short convolution between two gates, LFM2's mixer beside attention; kernels/gated_conv.h.
#ifndef PACKRAT_MODELS_MIXERS_SHORT_CONV_H_
#define PACKRAT_MODELS_MIXERS_SHORT_CONV_H_

#include <array>
#include <memory>
#include <string>

#include "kernels/gated_conv.h"
#include "models/layer.h"
#include "models/mixers/spec.h"

namespace packrat {

struct ShortConvSpec {
  int channels = 0;   // The model's width.
  int conv_size = 0;  // Taps, the current token's included.
  bool bias = false;  // Of both products and the convolution.

  static constexpr std::array kNames{"short_conv"};
  static ShortConvSpec Read(const std::string& type, JsonFields* fields,
                            const SharedFields& shared);
  MixerState State(const StateTypes& types) const;
  MixerInfo Info() const;
  std::string Identity() const;
  std::unique_ptr<Mixer> Load(const MixerLoad& load) const;
};

}  // namespace packrat

#endif  // PACKRAT_MODELS_MIXERS_SHORT_CONV_H_
