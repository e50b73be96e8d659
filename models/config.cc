#include "models/config.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "models/files/json.h"
#include "models/files/json_fields.h"

namespace packrat {
namespace {

constexpr size_t kMaxConfigBytes = 1 << 20;

// Far above any real model, low enough that no product of two sizes leaves 40 bits.
constexpr int kMaxVocab = 1 << 20;
constexpr int kMaxHidden = 1 << 16;
constexpr int kMaxIntermediate = 1 << 19;
constexpr int kMaxLayers = 1024;
constexpr int kMaxHeads = 4096;
constexpr int kMaxConvSize = 16;
constexpr int kMaxChunk = 4096;
constexpr int kMaxIds = 256;
constexpr int kMaxContext = 1 << 30;
constexpr int kMaxWindow = kMaxContext;
constexpr double kMinEps = 1e-20;  // Positive also as a float32.

absl::Status Invalid(const std::string& why) { return absl::InvalidArgumentError(why); }

// Ids of `name`: one, a list, or none.
std::vector<int> Ids(JsonFields* fields, const std::string& name, int vocab_size) {
  const Json* value = fields->Get(name);
  if (value == nullptr) return {};
  if (value->is_array() && value->size() > size_t{kMaxIds}) {
    fields->Fail(name, absl::StrCat("has ", value->size(), " ids; must be at most ", kMaxIds));
    return {};
  }
  const std::vector<Json> list =
      value->is_array() ? value->get<std::vector<Json>>() : std::vector<Json>{*value};
  std::vector<int> ids;
  for (const Json& item : list) {
    int id;
    if (!JsonFields::ToInt(item, 0, vocab_size - 1, &id)) {
      fields->Fail(name, absl::StrCat("holds ", JsonFields::Shown(item), "; an id ",
                                      JsonFields::Range(0, vocab_size - 1)));
      return {};
    }
    if (std::find(ids.begin(), ids.end(), id) == ids.end()) ids.push_back(id);
  }
  return ids;
}

// Width of a head where heads divide the model's width. Rotate-half pairs the two halves of a head,
// so an odd one cannot be rotated.
int EvenHeadDim(JsonFields* fields, const std::string& heads_name, int num_heads, int hidden_size) {
  const int head_dim = hidden_size / num_heads;
  if (hidden_size % num_heads != 0) {
    fields->Fail(heads_name,
                 absl::StrCat("is ", num_heads, "; must divide the hidden size ", hidden_size));
  } else if (head_dim % 2 != 0 || head_dim > kMaxHeadDim) {
    fields->Fail(heads_name, absl::StrCat("is ", num_heads, ", which makes heads of ", head_dim,
                                          " channels; must be even and at most ", kMaxHeadDim));
  }
  return head_dim;
}

int DivisorOfHeads(JsonFields* fields, const std::string& name, int num_heads,
                   std::optional<int> fallback) {
  const int count = fields->Int(name, 1, num_heads, fallback);
  if (num_heads % count != 0) {
    fields->Fail(name, absl::StrCat("is ", count, "; must divide the ", num_heads, " heads"));
  }
  return count;
}

void ReadIds(JsonFields* fields, ModelConfig* config) {
  config->bos_id = fields->Int("bos_token_id", 0, config->vocab_size - 1, -1);
  config->eos_ids = Ids(fields, "eos_token_id", config->vocab_size);
}

// `layer_types` or nothing.
std::vector<std::string> LayerTypes(JsonFields* fields, int num_layers) {
  const Json* list = fields->Get("layer_types");
  if (list == nullptr) return {};
  std::vector<std::string> types;
  if (list->is_array()) {
    for (const Json& item : *list) {
      types.push_back(item.is_string() ? item.get<std::string>() : JsonFields::Shown(item));
    }
  }
  if (types.size() != static_cast<size_t>(num_layers)) {
    fields->Fail("layer_types", absl::StrCat("must list the mixers of all ", num_layers,
                                             " layers, has ", types.size()));
    return {};
  }
  return types;
}

void UnknownLayerType(JsonFields* fields, size_t layer, const std::string& type,
                      const std::string& accepted) {
  fields->Fail("layer_types",
               absl::StrCat("layer ", layer, " is ", Quoted(type), "; must be ", accepted));
}

absl::Status ParseRat(const Json& json, ModelConfig* config) {
  JsonFields f(json, "");
  config->vocab_size = f.Int("vocab_size", 1, kMaxVocab);
  config->hidden_size = f.Int("d_model", 1, kMaxHidden);
  config->intermediate_size = f.Int("d_ffn", 1, kMaxIntermediate);
  config->norm_eps = static_cast<float>(f.Number("norm_eps", kMinEps, 1.0, 1e-6));
  config->tie_embeddings = f.Bool("tie_embedding", true);
  config->max_context = f.Int("max_position_embeddings", 1, kMaxContext, 4096);
  ReadIds(&f, config);

  const std::string act = f.String("act_fn", "gelu");
  if (act != "gelu" && act != "swiglu") {
    f.Fail("act_fn", absl::StrCat("is ", Quoted(act), "; must be gelu or swiglu"));
  }
  config->activation = act == "gelu" ? Activation::kGelu : Activation::kSwiglu;

  const int num_layers = f.Int("num_layers", 1, kMaxLayers);
  std::vector<std::string> types = LayerTypes(&f, num_layers);
  if (types.empty()) {
    // Every interleave_step-th layer, from the first, is RAT; without a step, all are.
    const int step = f.Int("interleave_step", 1, kMaxLayers, 1);
    for (int i = 0; i < num_layers; ++i) {
      types.push_back(i % step == 0 ? "rat" : "local_attention");
    }
  }

  RatSpec rat;
  rat.num_heads = f.Int("num_head", 1, kMaxHeads);
  rat.head_dim = EvenHeadDim(&f, "num_head", rat.num_heads, config->hidden_size);
  rat.rope_base = f.Number("rope_base", 1.0, 1e12, 10000.0);
  AttentionSpec local;
  local.num_heads = local.num_kv_heads = rat.num_heads;
  local.head_dim = rat.head_dim;
  local.rope_base = rat.rope_base;
  local.fused_in_proj = true;
  // JsonFields of a mixer that no layer uses may be absent or null.
  if (std::count(types.begin(), types.end(), "rat") > 0) {
    rat.num_groups = DivisorOfHeads(&f, "ngroups", rat.num_heads, {});
    rat.chunk_size = f.Int("chunk_size", 1, kMaxChunk);
  }
  if (std::count(types.begin(), types.end(), "local_attention") > 0) {
    local.window = f.Int("window_size", 0, kMaxWindow - 1) + 1;
  }
  for (size_t i = 0; i < types.size(); ++i) {
    if (types[i] == "rat") {
      config->layers.push_back(rat);
    } else if (types[i] == "local_attention") {
      config->layers.push_back(local);
    } else {
      UnknownLayerType(&f, i, types[i], "rat or local_attention");
    }
  }
  return f.status();
}

// A Mesa mixer from the object that holds its fields; defaults as in flash-linear-attention.
MesaSpec ReadMesa(JsonFields* f) {
  MesaSpec mesa;
  mesa.num_heads = f->Int("num_heads", 1, kMaxHeads, 16);
  mesa.head_dim = f->Int("head_dim", 1, kMaxHeadDim, 128);
  mesa.conv_size = f->Int("conv_size", 1, kMaxConvSize, 4);
  mesa.lambda_lower_bound = static_cast<float>(f->Number("lambda_lower_bound", 0.0, 1e6, 0.25));
  mesa.use_output_gate = f->Bool("use_output_gate", false);
  if (!f->Bool("use_short_conv", true)) {
    f->Fail("use_short_conv", "is false; only layers with short convolutions are served");
  }
  if (mesa.num_heads * mesa.head_dim > kMaxHidden) {
    f->Fail("num_heads", absl::StrCat("is ", mesa.num_heads,
                                      "; num_heads * head_dim must be at most ", kMaxHidden));
  }
  return mesa;
}

// Attention of the two families whose projections are separate matrices.
AttentionSpec ReadAttention(JsonFields* f, int hidden_size, double rope_base) {
  AttentionSpec attention;
  attention.num_heads = f->Int("num_heads", 1, kMaxHeads);
  attention.head_dim = EvenHeadDim(f, "num_heads", attention.num_heads, hidden_size);
  attention.num_kv_heads =
      DivisorOfHeads(f, "num_kv_heads", attention.num_heads, attention.num_heads);
  attention.rope_base = f->Number("rope_theta", 1.0, 1e12, rope_base);
  return attention;
}

// One object of mesa_net's `attn`: puts its mixer into the layers that it lists.
absl::Status ParseMesaNetAttention(const Json& json, const std::string& where,
                                   ModelConfig* config) {
  JsonFields f(json, where);
  AttentionSpec attention = ReadAttention(&f, config->hidden_size, 10000.0);
  attention.window = f.Int("window_size", 1, kMaxWindow, 0);
  attention.qkv_bias = f.Bool("qkv_bias", false);
  const Json* layers = f.Get("layers");
  const int last = static_cast<int>(config->layers.size()) - 1;
  if (layers == nullptr || !layers->is_array()) {
    f.Fail("layers", "must be a list of layer numbers");
    return f.status();
  }
  for (const Json& item : *layers) {
    int layer;
    if (!JsonFields::ToInt(item, 0, last, &layer)) {
      f.Fail("layers", absl::StrCat("holds ", JsonFields::Shown(item), "; a layer ",
                                    JsonFields::Range(0, last)));
    } else if (std::holds_alternative<AttentionSpec>(config->layers[layer])) {
      f.Fail("layers", absl::StrCat("layer ", layer, " is listed twice"));
    } else {
      config->layers[layer] = attention;
    }
    if (!f.status().ok()) break;
  }
  return f.status();
}

absl::Status ParseMesaNet(const Json& json, ModelConfig* config) {
  JsonFields f(json, "");
  config->activation = Activation::kSwiglu;
  config->vocab_size = f.Int("vocab_size", 1, kMaxVocab, 32000);
  config->hidden_size = f.Int("hidden_size", 1, kMaxHidden, 2048);
  config->norm_eps = static_cast<float>(f.Number("norm_eps", kMinEps, 1.0, 1e-6));
  config->tie_embeddings = f.Bool("tie_word_embeddings", false);
  config->max_context = f.Int("max_position_embeddings", 1, kMaxContext, 2048);
  ReadIds(&f, config);
  const std::string act = f.String("hidden_act", "swish");
  if (act != "swish" && act != "silu") {
    f.Fail("hidden_act", absl::StrCat("is ", Quoted(act), "; must be swish or silu"));
  }
  const double ratio = f.Number("hidden_ratio", 1e-3, 64.0, 4.0);
  const int wide = static_cast<int>(config->hidden_size * ratio * 2 / 3);
  config->intermediate_size =
      f.Int("intermediate_size", 1, kMaxIntermediate, std::max((wide + 255) / 256, 1) * 256);
  if (config->intermediate_size > kMaxIntermediate) {
    f.Fail("hidden_ratio", absl::StrCat("makes an intermediate size of ", config->intermediate_size,
                                        "; must be at most ", kMaxIntermediate));
  }
  const int num_layers = f.Int("num_hidden_layers", 1, kMaxLayers, 24);
  const MesaSpec mesa = ReadMesa(&f);
  if (!f.status().ok()) return f.status();
  config->layers.assign(num_layers, mesa);

  const Json* attn = f.Get("attn");
  if (attn == nullptr) return absl::OkStatus();
  if (!attn->is_array()) return ParseMesaNetAttention(*attn, "attn", config);
  for (size_t i = 0; i < attn->size(); ++i) {
    const absl::Status status =
        ParseMesaNetAttention((*attn)[i], absl::StrCat("attn[", i, "]"), config);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status ParsePackratMixer(const Json& json, const std::string& type, double rope_base,
                               const ModelConfig& config, MixerSpec* mixer) {
  const auto found = json.find(type);
  if (found == json.end()) {
    return Invalid(absl::StrCat(type, ": missing, but layer_types uses it"));
  }
  JsonFields f(*found, type);
  if (type == "rat") {
    RatSpec rat;
    rat.num_heads = f.Int("num_heads", 1, kMaxHeads);
    rat.head_dim = EvenHeadDim(&f, "num_heads", rat.num_heads, config.hidden_size);
    rat.num_groups = DivisorOfHeads(&f, "num_groups", rat.num_heads, {});
    rat.chunk_size = f.Int("chunk_size", 1, kMaxChunk);
    rat.rope_base = rope_base;
    *mixer = rat;
  } else if (type == "mesa") {
    *mixer = ReadMesa(&f);
  } else {
    AttentionSpec attention = ReadAttention(&f, config.hidden_size, rope_base);
    if (type == "local_attention") attention.window = f.Int("window_size", 1, kMaxWindow);
    *mixer = attention;
  }
  return f.status();
}

absl::Status ParsePackrat(const Json& json, ModelConfig* config) {
  JsonFields f(json, "");
  config->activation = Activation::kSwiglu;
  config->vocab_size = f.Int("vocab_size", 1, kMaxVocab);
  config->hidden_size = f.Int("hidden_size", 1, kMaxHidden);
  config->intermediate_size = f.Int("intermediate_size", 1, kMaxIntermediate);
  config->norm_eps = static_cast<float>(f.Number("norm_eps", kMinEps, 1.0, 1e-6));
  config->tie_embeddings = f.Bool("tie_word_embeddings", false);
  config->max_context = f.Int("max_position_embeddings", 1, kMaxContext, 4096);
  ReadIds(&f, config);
  const double rope_base = f.Number("rope_theta", 1.0, 1e12, 10000.0);
  const int num_layers = f.Int("num_hidden_layers", 1, kMaxLayers);
  const std::vector<std::string> types = LayerTypes(&f, num_layers);
  if (types.empty()) f.Fail("layer_types", "missing; must list the mixer of every layer");
  if (!f.status().ok()) return f.status();

  for (size_t i = 0; i < types.size(); ++i) {
    const std::string& type = types[i];
    if (type != "rat" && type != "local_attention" && type != "attention" && type != "mesa") {
      UnknownLayerType(&f, i, type, "rat, local_attention, attention or mesa");
      return f.status();
    }
    MixerSpec mixer;
    const absl::Status status = ParsePackratMixer(json, type, rope_base, *config, &mixer);
    if (!status.ok()) return status;
    config->layers.push_back(mixer);
  }
  return absl::OkStatus();
}

absl::StatusOr<ModelConfig> ParseConfig(const std::string& text, const std::string& where) {
  absl::StatusOr<Json> json = ParseJson(text.data(), text.size(), where);
  if (!json.ok()) return json.status();
  ModelConfig config;
  JsonFields f(*json, "");
  const std::string type = f.String("model_type", "");
  absl::Status status = f.status();
  if (status.ok()) {
    if (type == "rat") {
      config.family = Family::kRat;
      status = ParseRat(*json, &config);
    } else if (type == "mesa_net") {
      config.family = Family::kMesaNet;
      status = ParseMesaNet(*json, &config);
    } else if (type == "packrat") {
      config.family = Family::kPackrat;
      status = ParsePackrat(*json, &config);
    } else {
      status = Invalid(
          absl::StrCat("model_type: is ", Quoted(type), "; must be rat, mesa_net or packrat"));
    }
  }
  if (status.ok()) return config;
  return Invalid(absl::StrCat(where, ": ", status.message()));
}

}  // namespace

const char* MixerName(const MixerSpec& spec) {
  if (std::holds_alternative<RatSpec>(spec)) return "rat";
  if (std::holds_alternative<MesaSpec>(spec)) return "mesa";
  return std::get<AttentionSpec>(spec).window > 0 ? "local_attention" : "attention";
}

absl::StatusOr<ModelConfig> ParseModelConfig(const std::string& json_text) {
  return ParseConfig(json_text, "config.json");
}

absl::StatusOr<ModelConfig> LoadModelConfig(const std::string& dir) {
  const std::string path = dir + "/config.json";
  absl::StatusOr<std::string> text = ReadSmallFile(path, kMaxConfigBytes);
  if (!text.ok()) return text.status();
  absl::StatusOr<ModelConfig> config = ParseConfig(*text, path);
  if (!config.ok()) return config;

  const std::string generation_path = dir + "/generation_config.json";
  text = ReadSmallFile(generation_path, kMaxConfigBytes);
  if (absl::IsNotFound(text.status())) return config;
  if (!text.ok()) return text.status();
  absl::StatusOr<Json> json = ParseJson(text->data(), text->size(), generation_path);
  if (!json.ok()) return json.status();
  JsonFields f(*json, "");
  const std::vector<int> eos_ids = Ids(&f, "eos_token_id", config->vocab_size);
  SamplingDefaults& sampling = config->sampling;
  sampling.temperature = static_cast<float>(f.Number("temperature", 0, 100, sampling.temperature));
  sampling.top_k = f.Int("top_k", 0, config->vocab_size, sampling.top_k);
  sampling.top_p = static_cast<float>(f.Number("top_p", 1e-6, 1, sampling.top_p));
  if (!f.status().ok()) {
    return Invalid(absl::StrCat(generation_path, ": ", f.status().message()));
  }
  if (!eos_ids.empty()) config->eos_ids = eos_ids;
  return config;
}

}  // namespace packrat
