// What a model is: config.json of any family, normalised to one description that the layer stack,
// the state layout and the weight loader read. Families: models/families/, one file each.
#ifndef PACKRAT_MODELS_CONFIG_H_
#define PACKRAT_MODELS_CONFIG_H_

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "models/experts.h"
#include "models/generation_config.h"
#include "models/mixers/mixers.h"

namespace packrat {

// The feed-forward: kGelu, f(up) down' with the exact (erf) GELU; kSquaredRelu, max(up, 0)^2 down';
// kSwiglu, (silu(gate) * up) down'; kGeglu, (gelu(gate) * up) down' with the GELU by tanh.
enum class Activation { kGelu, kSquaredRelu, kSwiglu, kGeglu };
inline bool IsGated(Activation a) { return a == Activation::kSwiglu || a == Activation::kGeglu; }

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
  // The feed-forward's matrices. A gate has the name of `up` where one matrix holds both, with the
  // rows of `up` first, or with gate_first those of the gate.
  std::string up = "mlp.up_proj.weight";
  std::string gate = "mlp.gate_proj.weight";
  std::string down = "mlp.down_proj.weight";
  bool gate_first = false;
};

// The place of a mixer in its sublayer.
struct MixerPlace {
  std::string tensors;       // As TensorNames::mixer.
  float input_scale = 1.0f;  // Of what it reads. Only where norms come first.
  float scale = 1.0f;        // Of what it adds.
};

// A part of a layer, which adds to the residual stream: x += f(norm(x)), or x += norm(f(x)).
struct Sublayer {
  int layer;  // Whose names its tensors have.
  std::string norm;
  // f: mixers side by side, each of the same input, whose results are added up. They are the next
  // so many of ModelConfig::mixers. Where there are none: the feed-forward.
  std::vector<MixerPlace> mixers;
  bool norm_after = false;
  std::string norm_or;  // What other files call `norm`.
  // Mixtures of experts beside the feed-forward, or in its place.
  std::vector<ExpertsSpec> experts;
  bool experts_alone = false;

  // Puts them in its place.
  void SetExperts(const std::vector<ExpertsSpec>& specs) {
    experts = specs;
    experts_alone = true;
  }
};

struct ModelConfig {
  std::string family;  // As in model_type.
  TensorNames names;
  // A checkpoint that holds more than a language model has `nested` where `names` say "model.", and
  // everything else under names that begin with one of `others`. Empty: the family has none such.
  std::string nested;
  std::vector<std::string> others;
  int vocab_size = 0;
  int hidden_size = 0;
  int intermediate_size = 0;
  Activation activation = Activation::kSwiglu;
  bool feed_forward_bias = false;   // Tensors of the matrices' names with "bias" for "weight".
  float gate_scale = 1.0f;          // Of the gate, before its function.
  float feed_forward_scale = 1.0f;  // Of what the feed-forward and experts add.
  float embedding_scale = 1.0f;
  float logits_scale = 1.0f;
  float logits_cap = 0.0f;  // Logits become cap * tanh(logits / cap); 0: they stay.
  float norm_eps = 1e-6f;
  bool norm_plus_one = false;  // Norms of the residual stream are scaled by 1 + weight.
  bool tie_embeddings = false;
  int max_context = 0;       // Tokens: max_position_embeddings.
  int bos_id = -1;           // -1: none.
  std::vector<int> eos_ids;  // Of config.json, then those that generation_config.json adds.
  SamplingDefaults sampling;
  StopDefaults stop;
  std::vector<MixerSpec> mixers;    // In the order in which they run.
  std::vector<Sublayer> sublayers;  // Of all layers, from the first on.
  // What a request may choose for the layers of RAT+, the first if it chooses none: texts of dials,
  // or kOwnDial where the layers' own differ. Empty: there are none, or nothing was chosen of them.
  std::vector<std::string> dials;
  // A sentence for the log about each thing that the files ask for and that is done differently.
  std::vector<std::string> warnings;

  int num_dials() const { return std::max(1, static_cast<int>(dials.size())); }
  int num_layers() const { return sublayers.empty() ? 0 : sublayers.back().layer + 1; }
  // Adds a layer as most families have them: a mixer, then the feed-forward, each behind its norm,
  // under `names`. `tensors`: those of the mixer, if not names.mixer.
  void AddLayer(const MixerSpec& mixer, const std::string& tensors = "");
  // Adds a sublayer, with the mixers for its places.
  void AddSublayer(Sublayer sublayer, const std::vector<MixerSpec>& specs = {});
};

// Parses the text of a config.json. Refuses, with the field and the accepted range, everything that
// the layer stack could not run: unknown model_type or layer type, non-positive or absurd sizes,
// heads that do not divide, NaN or infinite numbers, duplicate keys. A field that no family's
// reader reads, nor lists as one that does not matter, is refused by name.
absl::StatusOr<ModelConfig> ParseModelConfig(const std::string& json_text);

// What the model's user may choose of its configuration.
struct ModelChoices {
  // What RAT+ layers see: for requests that choose nothing, then for those that do. Of none: the
  // configuration's own.
  std::vector<LayerDials> rat_plus_dials;
  bool rat_plus_unadapted = false;  // Also dials that the weights were not trained for.
};

// Puts all RAT+ layers on the chosen dials. FAILED_PRECONDITION if there are none, or if the
// weights of one were not trained for a dial and that was not asked for, if a dial is named twice
// or is of another number of layers, or if there are too many.
absl::Status Choose(const ModelChoices& choices, ModelConfig* config);

// The number of a dial of ModelConfig::dials by its name, which may be spelt in another way; of no
// name: 0. INVALID_ARGUMENT: it is none; FAILED_PRECONDITION, with the list: it is not there.
absl::StatusOr<int> FindDial(const std::vector<std::string>& dials, const std::string& name);

// Whether a text that dial `from` has brought so far can go on with dial `to`. FAILED_PRECONDITION
// says what it has not kept.
absl::Status CheckCoarser(const ModelConfig& config, int from, int to);

// The mixers where all sequences have dial number `dial`.
std::vector<MixerSpec> MixersAt(const ModelConfig& config, int dial);

// Reads DIR/config.json and, where present, DIR/generation_config.json. `problems`, if not null, is
// told of all errors as far as each is sure, and not only of the first.
absl::StatusOr<ModelConfig> LoadModelConfig(const std::string& dir,
                                            std::vector<std::string>* problems = nullptr);

// The names of all families, as in model_type.
std::vector<std::string> FamilyNames();

// A hash of config, with this dial, and weights. `weights_hash` comes from a WeightLoader that has
// taken everything in the order of the layers.
std::string Fingerprint(const ModelConfig& config, uint64_t weights_hash, int dial = 0);
// LanguageModel::fingerprints().
std::vector<std::string> Fingerprints(const ModelConfig& config, uint64_t weights_hash);

}  // namespace packrat

#endif  // PACKRAT_MODELS_CONFIG_H_
