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
  const int num_layers = ReadSizes(f, {151936, 4096, 22016, 32, 32768}, config);
  OnlySilu(f, "hidden_act");
  // Key heads that are null are as many as heads.
  std::optional<int> kv_heads;
  if (f->Find("num_key_value_heads") == nullptr) kv_heads = 32;
  ReadHeads(f, {32, kv_heads, head_dim}, config->hidden_size, &attention);
  attention.rope_base = ReadRopeTheta(f, 10000.0, &attention.rope_scaling);

  // Without use_sliding_window the other fields of windows mean nothing. A window that is null is
  // none.
  AttentionSpec sliding = attention;
  std::vector<LayerType> accepted = {{"full_attention", attention}};
  int first_sliding = num_layers;
  const bool windowed =
      f->Bool("use_sliding_window", false) &&
      (f->Find("sliding_window") == nullptr || f->Get("sliding_window") != nullptr);
  if (windowed) {
    sliding.window = f->Int("sliding_window", 1, AttentionSpec::kMaxWindow, 4096);
    first_sliding = f->Int("max_window_layers", 0, kMaxContext, 28);
    accepted.push_back({"sliding_attention", sliding});
  } else {
    f->Ignore({"sliding_window", "max_window_layers"});
  }
  std::vector<std::string> types = ReadLayerTypes(f, num_layers);
  for (int i = static_cast<int>(types.size()); i < num_layers; ++i) {
    types.emplace_back(i < first_sliding ? "full_attention" : "sliding_attention");
  }
  SetLayers(f, types, accepted, config);
}

}  // namespace

// Defaults are those of transformers' Qwen2Config: heads divide the model's width.
void ReadQwen2Config(JsonFields* f, ModelConfig* config) {
  f->Only("use_mrope", false);
  f->Ignore({"attention_bias"});  // transformers has those of q, k and v whatever this says.
  AttentionSpec attention;
  attention.qkv_bias = true;
  ReadQwen(f, config, attention, std::nullopt);
}

// Defaults are those of transformers' Qwen3Config: heads have a width of their own.
void ReadQwen3Config(JsonFields* f, ModelConfig* config) {
  AttentionSpec attention;
  attention.qk_norm = true;
  attention.qkv_bias = attention.out_bias = f->Bool("attention_bias", false);
  ReadQwen(f, config, attention, 128);
}

}  // namespace packrat
