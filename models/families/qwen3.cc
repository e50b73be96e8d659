#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "models/families/families.h"

namespace packrat {
namespace {

// What qwen2 and qwen3 have in common. `attention` says how a layer differs; `head_dim` is that of
// a configuration without one, where heads do not divide the model's width.
void ReadQwen(JsonFields* f, ModelConfig* config, AttentionSpec attention,
              std::optional<int> head_dim) {
  config->names = {"model.embed_tokens.weight",
                   "model.norm.weight",
                   "lm_head.weight",
                   "model.layers.",
                   "input_layernorm.weight",
                   "self_attn.",
                   "post_attention_layernorm.weight",
                   "mlp.up_proj.weight",
                   "mlp.gate_proj.weight",
                   "mlp.down_proj.weight"};
  config->activation = Activation::kSwiglu;
  config->vocab_size = f->Int("vocab_size", 1, kMaxVocab, 151936);
  config->hidden_size = f->Int("hidden_size", 1, kMaxHidden, 4096);
  config->intermediate_size = f->Int("intermediate_size", 1, kMaxIntermediate, 22016);
  config->norm_eps = ReadNormEps(f, "rms_norm_eps");
  config->tie_embeddings = f->Bool("tie_word_embeddings", false);
  config->max_context = f->Int("max_position_embeddings", 1, kMaxContext, 32768);
  ReadEndIds(f, config);
  IgnoreBookkeeping(f);
  f->Only("hidden_act", "silu");
  const int num_layers = f->Int("num_hidden_layers", 1, kMaxLayers, 32);

  attention.num_heads = f->Int("num_attention_heads", 1, kMaxHeads, 32);
  // null: one for each head.
  const int kv_heads = f->Find("num_key_value_heads") == nullptr ? 32 : attention.num_heads;
  attention.num_kv_heads = DivisorOfHeads(f, "num_key_value_heads", attention.num_heads, kv_heads);
  attention.head_dim =
      ReadHeadDim(f, "num_attention_heads", attention.num_heads, config->hidden_size, head_dim);
  attention.rope_base = ReadRopeTheta(f, 10000.0, &attention.rope_scaling);
  config->layers.assign(num_layers, attention);

  // Without use_sliding_window the other fields of windows mean nothing. A window that is null is
  // none.
  AttentionSpec sliding = attention;
  std::vector<std::string> accepted = {"full_attention"};
  int first_sliding = num_layers;
  const bool windowed =
      f->Bool("use_sliding_window", false) &&
      (f->Find("sliding_window") == nullptr || f->Get("sliding_window") != nullptr);
  if (windowed) {
    sliding.window = f->Int("sliding_window", 1, AttentionSpec::kMaxWindow, 4096);
    first_sliding = f->Int("max_window_layers", 0, kMaxContext, 28);
    accepted.emplace_back("sliding_attention");
  } else {
    f->Ignore({"sliding_window", "max_window_layers"});
  }
  std::vector<std::string> types = ReadLayerTypes(f, num_layers);
  for (int i = static_cast<int>(types.size()); i < num_layers; ++i) {
    types.emplace_back(i < first_sliding ? "full_attention" : "sliding_attention");
  }
  for (int i = 0; i < num_layers; ++i) {
    if (std::find(accepted.begin(), accepted.end(), types[i]) == accepted.end()) {
      return FailLayerType(f, i, types[i], accepted);
    }
    if (types[i] == "sliding_attention") config->layers[i] = sliding;
  }
}

}  // namespace

// Defaults are those of transformers' Qwen2Config: heads divide the model's width.
void ReadQwen2Config(JsonFields* f, ModelConfig* config) {
  f->Only("use_mrope", false);
  AttentionSpec attention;
  attention.qkv_bias = true;
  ReadQwen(f, config, attention, std::nullopt);
}

// Defaults are those of transformers' Qwen3Config: heads have a width of their own.
void ReadQwen3Config(JsonFields* f, ModelConfig* config) {
  AttentionSpec attention;
  attention.qk_norm = true;
  ReadQwen(f, config, attention, 128);
}

}  // namespace packrat
