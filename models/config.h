// What a model is: config.json of any family, normalised to one description that the layer stack,
// the state layout and the weight loader read. Families: `rat`, `mesa_net`, `packrat`.
#ifndef PACKRAT_MODELS_CONFIG_H_
#define PACKRAT_MODELS_CONFIG_H_

#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/paged.h"

namespace packrat {

enum class Family { kRat, kMesaNet, kPackrat };

struct RatSpec {
  int num_heads = 0;
  int num_groups = 0;  // Query and key groups; head j uses group j % num_groups.
  int head_dim = 0;
  int chunk_size = 0;  // Tokens per chunk.
  double rope_base = 10000.0;
};

// Full, sliding-window and RAT's local attention.
struct AttentionSpec {
  int num_heads = 0;
  int num_kv_heads = 0;  // Query head j uses key head j / (num_heads / num_kv_heads).
  int head_dim = 0;
  int window = 0;  // Visible keys, the query's own included (RAT's window_size + 1); 0: all.
  double rope_base = 10000.0;
  bool qkv_bias = false;
  bool fused_in_proj = false;  // RAT family: one in_proj.weight holding v, q, k in that order.
};

struct MesaSpec {
  int num_heads = 0;
  int head_dim = 0;
  int conv_size = 0;  // Taps, the current token's included.
  float lambda_lower_bound = 0.0f;
  bool use_output_gate = false;
};

using MixerSpec = std::variant<RatSpec, AttentionSpec, MesaSpec>;

// kGelu: act(x fc1') fc2' with the exact (erf) GELU; kSwiglu: (silu(gate) * up) down'.
enum class Activation { kGelu, kSwiglu };

// What the model's makers recommend, for requests that leave it open: generation_config.json.
struct SamplingDefaults {
  float temperature = 1.0f;
  int top_k = 0;  // 0: off.
  float top_p = 1.0f;
};

struct ModelConfig {
  Family family = Family::kPackrat;
  int vocab_size = 0;
  int hidden_size = 0;
  int intermediate_size = 0;
  Activation activation = Activation::kSwiglu;
  float norm_eps = 1e-6f;
  bool tie_embeddings = false;
  int max_context = 0;       // Tokens: max_position_embeddings.
  int bos_id = -1;           // -1: none.
  std::vector<int> eos_ids;  // From config.json, replaced by generation_config.json if there.
  SamplingDefaults sampling;
  std::vector<MixerSpec> layers;  // One mixer per layer, each followed by the feed-forward.
};

// The name of a mixer as in `layer_types`: rat, local_attention, attention, mesa.
const char* MixerName(const MixerSpec& spec);

// Parses the text of a config.json. Refuses, with the field and the accepted range, everything that
// the layer stack could not run: unknown model_type or layer type, non-positive or absurd sizes
// (limits in config.cc), heads that do not divide, NaN or infinite numbers, duplicate keys,
// use_short_conv false. Unknown fields are ignored, as in every reader of such files.
absl::StatusOr<ModelConfig> ParseModelConfig(const std::string& json_text);

// Reads DIR/config.json and, where present, DIR/generation_config.json (its eos_token_id, one id or
// a list, wins; every id must be below vocab_size) and temperature, top_k, top_p.
absl::StatusOr<ModelConfig> LoadModelConfig(const std::string& dir);

}  // namespace packrat

#endif  // PACKRAT_MODELS_CONFIG_H_
