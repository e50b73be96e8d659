// Kinds of checkpoints: a family reads its config.json and knows the names of its tensors. Each has
// a file beside this one; models/config.cc lists them.
#ifndef PACKRAT_MODELS_FAMILIES_FAMILIES_H_
#define PACKRAT_MODELS_FAMILIES_FAMILIES_H_

#include <optional>
#include <string>
#include <vector>

#include "models/config.h"
#include "models/files/json_fields.h"

namespace packrat {

struct Family {
  const char* name;  // model_type
  // Fills `config` from the whole file. The caller refuses what was neither read nor ignored.
  void (*read)(JsonFields* fields, ModelConfig* config);
};

// The RAT authors' models, in the form that models/convert writes.
void ReadRatConfig(JsonFields* fields, ModelConfig* config);
// Sizes and tensor names of both RAT and RAT+. Returns the number of layers.
int ReadRatSizes(JsonFields* fields, ModelConfig* config);
inline constexpr Family kRatFamily = {"rat", &ReadRatConfig};
// The RAT+ authors' models, likewise.
void ReadRatPlusConfig(JsonFields* fields, ModelConfig* config);
inline constexpr Family kRatPlusFamily = {"rat_plus", &ReadRatPlusConfig};
inline constexpr Family kRatplusFamily = {"ratplus", &ReadRatPlusConfig};  // Spelt in one word.
// MesaNetForCausalLM of flash-linear-attention, also with attention layers.
void ReadMesaNetConfig(JsonFields* fields, ModelConfig* config);
inline constexpr Family kMesaNetFamily = {"mesa_net", &ReadMesaNetConfig};
// Our own: any mixers in any order.
void ReadPackratConfig(JsonFields* fields, ModelConfig* config);
inline constexpr Family kPackratFamily = {"packrat", &ReadPackratConfig};
// LlamaForCausalLM of transformers: Llama, SmolLM and their like.
void ReadLlamaConfig(JsonFields* fields, ModelConfig* config);
inline constexpr Family kLlamaFamily = {"llama", &ReadLlamaConfig};
// Qwen2ForCausalLM of transformers: Qwen2 and Qwen2.5.
void ReadQwen2Config(JsonFields* fields, ModelConfig* config);
inline constexpr Family kQwen2Family = {"qwen2", &ReadQwen2Config};
// Qwen3ForCausalLM of transformers.
void ReadQwen3Config(JsonFields* fields, ModelConfig* config);
inline constexpr Family kQwen3Family = {"qwen3", &ReadQwen3Config};

// Qwen3NextForCausalLM of transformers.
void ReadQwen3NextConfig(JsonFields* fields, ModelConfig* config);
inline constexpr Family kQwen3NextFamily = {"qwen3_next", &ReadQwen3NextConfig};
// Qwen3_5ForCausalLM of transformers, and the language model within
// Qwen3_5ForConditionalGeneration.
void ReadQwen35TextConfig(JsonFields* fields, ModelConfig* config);
inline constexpr Family kQwen35TextFamily = {"qwen3_5_text", &ReadQwen35TextConfig};
void ReadQwen35Config(JsonFields* fields, ModelConfig* config);
inline constexpr Family kQwen35Family = {"qwen3_5", &ReadQwen35Config};
// The same with mixtures of experts, Qwen3_5MoeForCausalLM and what it is within.
void ReadQwen35MoeTextConfig(JsonFields* fields, ModelConfig* config);
inline constexpr Family kQwen35MoeTextFamily = {"qwen3_5_moe_text", &ReadQwen35MoeTextConfig};
void ReadQwen35MoeConfig(JsonFields* fields, ModelConfig* config);
inline constexpr Family kQwen35MoeFamily = {"qwen3_5_moe", &ReadQwen35MoeConfig};

// FalconH1ForCausalLM of transformers.
void ReadFalconH1Config(JsonFields* fields, ModelConfig* config);
inline constexpr Family kFalconH1Family = {"falcon_h1", &ReadFalconH1Config};
// NemotronHForCausalLM of transformers, without experts.
void ReadNemotronHConfig(JsonFields* fields, ModelConfig* config);
inline constexpr Family kNemotronHFamily = {"nemotron_h", &ReadNemotronHConfig};
// OlmoHybridForCausalLM of transformers.
void ReadOlmoHybridConfig(JsonFields* fields, ModelConfig* config);
inline constexpr Family kOlmoHybridFamily = {"olmo_hybrid", &ReadOlmoHybridConfig};
// Lfm2ForCausalLM of transformers.
void ReadLfm2Config(JsonFields* fields, ModelConfig* config);
inline constexpr Family kLfm2Family = {"lfm2", &ReadLfm2Config};
// Lfm2MoeForCausalLM of transformers.
void ReadLfm2MoeConfig(JsonFields* fields, ModelConfig* config);
inline constexpr Family kLfm2MoeFamily = {"lfm2_moe", &ReadLfm2MoeConfig};

// GraniteMoeHybridForCausalLM of transformers, with experts and without.
void ReadGraniteMoeHybridConfig(JsonFields* fields, ModelConfig* config);
inline constexpr Family kGraniteMoeHybridFamily = {"granitemoehybrid", &ReadGraniteMoeHybridConfig};
// RecurrentGemmaForCausalLM of transformers.
void ReadRecurrentGemmaConfig(JsonFields* fields, ModelConfig* config);
inline constexpr Family kRecurrentGemmaFamily = {"recurrent_gemma", &ReadRecurrentGemmaConfig};

// What families have in common.

inline constexpr int kMaxVocab = 1 << 20;
inline constexpr int kMaxIntermediate = 1 << 19;
inline constexpr int kMaxLayers = 1024;

// The ids of field `name`: one, a list, or none.
std::vector<int> ReadIds(JsonFields* fields, const std::string& name, int vocab_size);
// bos_token_id and eos_token_id, for which vocab_size must have been read. Where the file does not
// name one, it is the default, -1 for none; a null says that there is none.
void ReadEndIds(JsonFields* fields, ModelConfig* config, int default_bos = -1,
                int default_eos = -1);
float ReadNormEps(JsonFields* fields, const std::string& name, double fallback = 1e-6);

// The values of fields that the file leaves out. A field without a default must be there.
struct SizeDefaults {
  std::optional<int> vocab_size, hidden_size, intermediate_size, num_layers;
  int max_context = 0;
  int bos_id = -1, eos_id = -1;  // As in ReadEndIds().
  const char* norm_eps_name = "rms_norm_eps";
  double norm_eps = 1e-6;
  bool tie = false;
};
// Reads the sizes of a model, its norms' eps, its tying and its ids under the names that
// transformers gives them, and ignores its bookkeeping. Returns the number of layers.
int ReadSizes(JsonFields* fields, const SizeDefaults& defaults, ModelConfig* config);

// The same for its attention. Without a default for `num_kv_heads` there are as many as heads;
// without one for `head_dim`, the heads divide `hidden_size`.
struct HeadDefaults {
  int num_heads;
  std::optional<int> num_kv_heads, head_dim;
};
void ReadHeads(JsonFields* fields, const HeadDefaults& defaults, int hidden_size,
               AttentionSpec* attention);

// Refuses another activation than SiLU, for which transformers has two names, or none.
void OnlySilu(JsonFields* fields, const char* name);

// Channels of a head that are rotated, of a partial_rotary_factor that was read as `part`.
int RotaryDim(JsonFields* fields, double part, int head_dim);

// `layer_types`: a name for each layer, or nothing. `older`: another name of the field, if it has
// one.
std::vector<std::string> ReadLayerTypes(JsonFields* fields, int num_layers,
                                        const char* older = nullptr);
// Which layers a field names, a list of their numbers; all false where there is none. Numbers
// beyond the last layer are nobody's.
std::vector<bool> ReadLayerNumbers(JsonFields* fields, const std::string& name, int num_layers);
struct LayerType {
  std::string name;
  MixerSpec mixer;
  std::string tensors;  // As for ModelConfig::AddLayer().
};
// Adds the usual layer for each type, with its mixer; refuses a type that is not `accepted`.
void SetLayers(JsonFields* fields, const std::vector<std::string>& types,
               const std::vector<LayerType>& accepted, ModelConfig* config);

// Ignores what `transformers` writes into every config.json and what does not change what the model
// computes: names and versions, and settings of training and of generate(). Refuses what it may
// write there and what would change it, as biases that the family has not read, and models of other
// tasks (`architectures`).
void IgnoreBookkeeping(JsonFields* fields);

// "a", "a or b", "a, b or c".
std::string OneOf(const std::vector<std::string>& names);

}  // namespace packrat

#endif  // PACKRAT_MODELS_FAMILIES_FAMILIES_H_
