// Gated delta networks: a decayed sum of outer products from which every token first takes out what
// its key already reads; kernels/gated_delta.h.
#ifndef PACKRAT_MODELS_MIXERS_GATED_DELTA_H_
#define PACKRAT_MODELS_MIXERS_GATED_DELTA_H_

#include <array>
#include <memory>
#include <optional>
#include <string>

#include "kernels/gated_delta.h"
#include "models/layer.h"
#include "models/mixers/spec.h"

namespace packrat {

struct GatedDeltaSpec {
  int num_key_heads = 0;
  int num_value_heads = 0;  // Value head j uses key head j / (num_value_heads / num_key_heads).
  int key_dim = 0;          // Of a head.
  int value_dim = 0;        // Of a head.
  int conv_size = 0;        // Taps, the current token's included.
  float beta_scale = 1.0f;  // kernels/gated_delta.h
  float norm_eps = 0.0f;    // Of the output's norm; 0: the model's.
  // q, k, v and the gates have projections of their own, under the names of flash-linear-attention,
  // and q, k and v may have convolutions of their own.
  bool separate = false;
  // q, k, v and the output gate come from one projection, in_proj_qkvz, those of a key head after
  // those of another, and the gates from in_proj_ba likewise: the names and order of Qwen3-Next.
  bool by_key_head = false;

  static constexpr std::array kNames{"gated_delta_net"};
  static GatedDeltaSpec Read(const std::string& type, JsonFields* fields,
                             const SharedFields& shared);
  // The same for fields of other names. Fields that are missing are as in `fallback`.
  struct Names {
    const char *num_key_heads, *num_value_heads, *key_dim, *value_dim, *conv_size;
  };
  static GatedDeltaSpec Read(JsonFields* fields, const Names& names,
                             const std::optional<GatedDeltaSpec>& fallback);
  MixerState State(const StateTypes& types) const;
  MixerInfo Info() const;
  std::string Identity() const;
  std::unique_ptr<Mixer> Load(const MixerLoad& load) const;

  GatedDeltaShape shape() const {
    return {num_key_heads, num_value_heads, key_dim, value_dim, conv_size};
  }
};

}  // namespace packrat

#endif  // PACKRAT_MODELS_MIXERS_GATED_DELTA_H_
