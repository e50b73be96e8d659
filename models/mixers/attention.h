// Softmax attention: full, sliding-window and RAT's local attention; kernels/attention.h.
#ifndef PACKRAT_MODELS_MIXERS_ATTENTION_H_
#define PACKRAT_MODELS_MIXERS_ATTENTION_H_

#include <array>
#include <memory>
#include <optional>
#include <string>

#include "models/layer.h"
#include "models/mixers/spec.h"

namespace packrat {

struct AttentionSpec {
  int num_heads = 0;
  int num_kv_heads = 0;  // Query head j uses key head j / (num_heads / num_kv_heads).
  int head_dim = 0;
  int window = 0;  // Visible keys, the query's own included; 0: all.
  double rope_base = 10000.0;
  RopeScaling rope_scaling;
  std::optional<int> rotary_dim;  // First channels of a head that are rotated; all if not said.
  std::optional<double> scale;    // Of the scores, not 0; head_dim^-0.5 if not said.
  bool qkv_bias = false;
  bool out_bias = false;
  // RMSNorm of queries and keys before rotation: of each head (head_dim), or with qk_norm_whole of
  // all heads of a token together.
  bool qk_norm = false;
  bool qk_norm_whole = false;
  bool norm_plus_one = false;  // Scaled by 1 + weight.
  // Each query head of q_proj is followed by a gate: the head's result times sigmoid(gate) goes to
  // o_proj.
  bool output_gate = false;
  // What the checkpoint calls its tensors.
  struct Names {
    const char *out_proj = "o_proj", *q_norm = "q_norm", *k_norm = "k_norm";
  } names;
  bool fused_in_proj = false;  // One in_proj.weight holding v, q, k in that order.

  static constexpr int kMaxWindow = kMaxContext;
  static constexpr std::array kNames{"attention", "local_attention"};
  static AttentionSpec Read(const std::string& type, JsonFields* fields,
                            const SharedFields& shared);
  MixerState State(const StateTypes& types) const;
  MixerInfo Info() const;
  std::string Identity() const;
  std::unique_ptr<Mixer> Load(const MixerLoad& load) const;

 private:
  std::string type() const { return kNames[window > 0 ? 1 : 0]; }
};

}  // namespace packrat

#endif  // PACKRAT_MODELS_MIXERS_ATTENTION_H_
