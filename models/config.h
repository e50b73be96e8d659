// What a model is: config.json of any family, normalised to one description that the layer stack,
// the state layout and the weight loader read. Families: models/families/, one file each.
#ifndef PACKRAT_MODELS_CONFIG_H_
#define PACKRAT_MODELS_CONFIG_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "models/generation_config.h"
#include "models/mixers/mixers.h"

namespace packrat {

// kGelu: act(x fc1') fc2' with the exact (erf) GELU; kSwiglu: (silu(gate) * up) down'.
enum class Activation { kGelu, kSwiglu };

// What a checkpoint calls its tensors: the names of transformers' Llama, unless its family says
// otherwise. A layer's names begin with `layers`, its number and a dot; a mixer's go on with
// `mixer`.
struct TensorNames {
  std::string embedding = "model.embed_tokens.weight";
  std::string final_norm = "model.norm.weight";
  std::string head = "lm_head.weight";
  std::string layers = "model.layers.";
  std::string mixer_norm = "input_layernorm.weight";
  std::string mixer = "self_attn.";
  std::string feed_forward_norm = "post_attention_layernorm.weight";
  // The feed-forward's matrices. Only kSwiglu has a gate. It has the name of `up` where one matrix
  // holds both, with the rows of `up` first.
  std::string up = "mlp.up_proj.weight";
  std::string gate = "mlp.gate_proj.weight";
  std::string down = "mlp.down_proj.weight";
};

struct ModelConfig {
  std::string family;  // As in model_type.
  TensorNames names;
  std::vector<std::string> mixer_names;  // `names.mixer` for each layer. Empty: all have the same.
  // A checkpoint that holds more than a language model has `nested` where `names` say "model.", and
  // everything else under names that begin with one of `others`. Empty: the family has none such.
  std::string nested;
  std::vector<std::string> others;
  int vocab_size = 0;
  int hidden_size = 0;
  int intermediate_size = 0;
  Activation activation = Activation::kSwiglu;
  float norm_eps = 1e-6f;
  bool norm_plus_one = false;  // Norms of the residual stream are scaled by 1 + weight.
  bool tie_embeddings = false;
  int max_context = 0;       // Tokens: max_position_embeddings.
  int bos_id = -1;           // -1: none.
  std::vector<int> eos_ids;  // Of config.json, then those that generation_config.json adds.
  SamplingDefaults sampling;
  StopDefaults stop;
  std::vector<MixerSpec> layers;  // One mixer per layer, each followed by the feed-forward.
  // A sentence for the log about each thing that the files ask for and that is done differently.
  std::vector<std::string> warnings;
};

// Parses the text of a config.json. Refuses, with the field and the accepted range, everything that
// the layer stack could not run: unknown model_type or layer type, non-positive or absurd sizes,
// heads that do not divide, NaN or infinite numbers, duplicate keys. A field that no family's
// reader reads, nor lists as one that does not matter, is refused by name.
absl::StatusOr<ModelConfig> ParseModelConfig(const std::string& json_text);

// Reads DIR/config.json and, where present, DIR/generation_config.json.
absl::StatusOr<ModelConfig> LoadModelConfig(const std::string& dir);

// LanguageModel::fingerprint() of config and weights. `weights_hash` comes from a WeightLoader that
// has taken everything in the order of the layers.
std::string Fingerprint(const ModelConfig& config, uint64_t weights_hash);

}  // namespace packrat

#endif  // PACKRAT_MODELS_CONFIG_H_
