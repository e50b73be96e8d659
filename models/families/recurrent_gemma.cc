#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "models/families/families.h"

namespace packrat {
namespace {

// To nearest, ties to even: the model's code keeps the embedding's scale in bfloat16, whatever type
// it computes in.
float AsBFloat16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  bits = (bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u;
  std::memcpy(&x, &bits, sizeof bits);
  return x;
}

// The mixers that the layers repeat, under the name of today or that of transformers 4.
std::vector<std::string> ReadPattern(JsonFields* f) {
  const char* name = f->Get("block_types") != nullptr ? "block_types" : "_block_types";
  const Json* list = f->Get(name);
  if (list == nullptr) return {"recurrent", "recurrent", "attention"};
  f->Only("_block_types", *list);
  std::vector<std::string> pattern;
  for (const Json& item : list->is_array() ? *list : Json::array()) {
    if (item != "recurrent" && item != "attention") {
      f->Fail(name,
              absl::StrCat("holds ", JsonFields::Shown(item), "; must be recurrent or attention"));
    }
    pattern.push_back(item == "recurrent" ? "recurrent" : "attention");
  }
  if (pattern.empty()) f->Fail(name, "must be a list of mixers");
  return pattern;
}

AttentionSpec ReadAttention(JsonFields* f, int hidden_size) {
  AttentionSpec attention;
  ReadHeads(f, {10, {}, {}}, hidden_size, &attention);
  attention.window = f->Int("attention_window_size", 1, AttentionSpec::kMaxWindow, 2048);
  attention.qkv_bias = f->Bool("attention_bias", false);
  attention.out_bias = true;
  double part = 0.5;
  attention.rope_base = ReadRopeTheta(f, 10000.0, nullptr, &part);
  attention.rotary_dim = RotaryDim(f, part, attention.head_dim);
  return attention;
}

}  // namespace

// Defaults are those of transformers' RecurrentGemmaConfig. It knows no longest text; the published
// models learnt from texts of 8192 tokens.
void ReadRecurrentGemmaConfig(JsonFields* f, ModelConfig* config) {
  TensorNames& names = config->names;
  names.final_norm = "model.final_norm.weight";
  names.mixer_norm = "temporal_pre_norm.weight";
  names.mixer = "temporal_block.";
  names.feed_forward_norm = "channel_pre_norm.weight";
  names.gate = "mlp_block.gate_proj.weight";
  names.up = "mlp_block.up_proj.weight";
  names.down = "mlp_block.down_proj.weight";
  config->norm_plus_one = config->feed_forward_bias = true;
  config->activation = Activation::kGeglu;
  f->Bool("attention_bias", false);  // Read below, and not to be refused before that.
  const int num_layers =
      ReadSizes(f, {256000, 2560, 7680, 26, 8192, 2, 1, "rms_norm_eps", 1e-6, true}, config);
  if (config->intermediate_size < 2) {
    f->Fail("intermediate_size", "is 1; must be at least 2, the gate's half and the other");
  }
  config->intermediate_size /= 2;
  config->embedding_scale = AsBFloat16(std::sqrt(static_cast<float>(config->hidden_size)));
  config->logits_cap = static_cast<float>(f->Number("logits_soft_cap", 1e-3, 1e6, 30.0));
  f->Only("hidden_activation", "gelu_pytorch_tanh");
  f->Only("embeddings_scale_by_sqrt_dim", true);
  f->Ignore({"w_init_variance_scale", "final_w_init_variance_scale"});

  const AttentionSpec attention = ReadAttention(f, config->hidden_size);
  const RgLruSpec defaults{10, 0, 4};
  const RgLruSpec lru = RgLruSpec::Read(f, {"num_attention_heads", "lru_width", "conv1d_width"},
                                        config->hidden_size, defaults);
  const std::vector<std::string> pattern = ReadPattern(f);
  for (int i = 0; i < num_layers && f->status().ok(); ++i) {
    if (pattern[i % pattern.size()] == "recurrent") {
      config->AddLayer(lru);
    } else {
      config->AddLayer(attention);
    }
  }
}

}  // namespace packrat
