#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "models/families/families.h"

namespace packrat {
namespace {

GatedDeltaSpec ReadDelta(JsonFields* f, int hidden_size, int num_heads) {
  const int key_heads = f->Int("linear_num_key_heads", 1, kMaxHeads, num_heads);
  const int wide = std::max(1, static_cast<int>(0.75 * hidden_size / key_heads));
  const int key_dim = f->Int("linear_key_head_dim", 1, kMaxHeadDim, wide);
  GatedDeltaSpec delta =
      GatedDeltaSpec::Read(f,
                           {"linear_num_key_heads", "linear_num_value_heads", "linear_key_head_dim",
                            "linear_value_head_dim", "linear_conv_kernel_dim"},
                           GatedDeltaSpec{key_heads, num_heads, key_dim, 2 * key_dim, 4});
  for (const auto& [name, dim] : {std::pair("linear_key_head_dim", delta.key_dim),
                                  std::pair("linear_value_head_dim", delta.value_dim)}) {
    if (dim > kMaxHeadDim) {
      f->Fail(name, absl::StrCat("is ", dim, " by default; must be at most ", kMaxHeadDim));
    }
  }
  delta.beta_scale = f->TrueUnlessNull("linear_allow_neg_eigval") ? 2.0f : 1.0f;
  delta.norm_eps = 1e-5f;  // Whatever the model's.
  delta.separate = true;
  f->Only("linear_use_gate", true);
  // How training begins.
  f->Ignore({"linear_a_log_min", "linear_a_log_max", "linear_dt_min", "linear_dt_max",
             "linear_dt_init_floor"});
  return delta;
}

AttentionSpec ReadAttention(JsonFields* f, int hidden_size, bool bias) {
  AttentionSpec attention;
  ReadHeads(f, {30, {}, {}}, hidden_size, &attention);
  attention.qkv_bias = attention.out_bias = bias;
  attention.qk_norm = attention.qk_norm_whole = true;
  // A theta of null says that nothing is rotated: that of rope_parameters, which older files call
  // rope_scaling, or where it has none or is not there, the one beside it, as the authors'
  // converter writes it.
  const Json* theta = f->Find("rope_theta");
  const Json* rope = f->Get("rope_parameters");
  if (const Json* older = f->Get("rope_scaling"); older != nullptr && !older->empty()) {
    rope = older;
  }
  if (rope != nullptr && rope->is_object() && rope->contains("rope_theta")) {
    theta = &(*rope)["rope_theta"];
  }
  if (theta != nullptr && theta->is_null() && (rope == nullptr || rope->is_object())) {
    attention.rotary_dim = 0;
  } else {
    attention.rope_base = ReadRopeTheta(f, 10000.0, &attention.rope_scaling);
  }
  return attention;
}

}  // namespace

// Defaults are those of transformers' OlmoHybridConfig. Layers of attention have their norms after,
// layers of gated delta before. transformers writes some norms under other names than its code has.
void ReadOlmoHybridConfig(JsonFields* f, ModelConfig* config) {
  config->others = {"mtp."};  // Guessing of tokens ahead.
  const bool bias = f->Bool("attention_bias", false);
  const int num_layers = ReadSizes(f, {100352, 3840, 11008, 32, 65536, -1, 100257}, config);
  OnlySilu(f, "hidden_act");
  const AttentionSpec attention = ReadAttention(f, config->hidden_size, bias);
  const GatedDeltaSpec delta = ReadDelta(f, config->hidden_size, attention.num_heads);
  std::vector<std::string> types = ReadLayerTypes(f, num_layers);
  for (int i = static_cast<int>(types.size()); i < num_layers; ++i) {
    // Every fourth, and in any case one.
    const bool full = i % 4 == 3 || (num_layers < 4 && i == num_layers - 1);
    types.emplace_back(full ? "full_attention" : "linear_attention");
  }
  for (int i = 0; i < num_layers; ++i) {
    if (types[i] == "linear_attention") {
      config->AddSublayer(
          {i, "input_layernorm.weight", {{"linear_attn."}}, false, "attention_layer_norm.weight"},
          {delta});
      config->AddSublayer(
          {i, "post_attention_layernorm.weight", {}, false, "feedforward_layer_norm.weight"});
    } else if (types[i] == "full_attention") {
      config->AddSublayer({i,
                           "post_attention_layernorm.weight",
                           {{"self_attn."}},
                           true,
                           "feedforward_layer_norm.weight"},
                          {attention});
      config->AddSublayer({i, "post_feedforward_layernorm.weight", {}, true});
    } else {
      return f->Fail("layer_types", absl::StrCat("layer ", i, " is ", Quoted(types[i]),
                                                 "; must be linear_attention or full_attention"));
    }
  }
}

}  // namespace packrat
