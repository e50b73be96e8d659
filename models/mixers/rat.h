// RAT: a gated running average inside each chunk of tokens, attention over chunks; kernels/rat.h.
#ifndef PACKRAT_MODELS_MIXERS_RAT_H_
#define PACKRAT_MODELS_MIXERS_RAT_H_

#include <array>
#include <memory>
#include <string>

#include "models/layer.h"
#include "models/mixers/spec.h"

namespace packrat {

struct RatSpec {
  int num_heads = 0;
  int num_groups = 0;  // Query and key groups; head j uses group j % num_groups.
  int head_dim = 0;
  int chunk_size = 0;  // Tokens per chunk.
  double rope_base = 10000.0;

  static constexpr int kMaxChunk = 4096;
  static constexpr std::array kNames{"rat"};
  static RatSpec Read(const std::string& type, JsonFields* fields, const SharedFields& shared);
  MixerState State(const StateTypes& types) const;
  MixerInfo Info() const;
  std::string Identity() const;
  std::unique_ptr<Mixer> Load(const MixerLoad& load) const;
};

}  // namespace packrat

#endif  // PACKRAT_MODELS_MIXERS_RAT_H_
