#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "models/families/families.h"

namespace packrat {
namespace {

constexpr double kMostMultiplied = 1e4;

float CheckMultiplier(JsonFields* f, const std::string& name, double value) {
  const auto multiplier = static_cast<float>(value);
  if (multiplier == 0.0f) f->Fail(name, absl::StrCat("is ", value, "; must not be 0"));
  return multiplier;
}

float ReadMultiplier(JsonFields* f, const std::string& name) {
  return CheckMultiplier(f, name, f->Number(name, -kMostMultiplied, kMostMultiplied, 1.0));
}

// A list of so many; ones where there is none.
std::vector<float> ReadMultipliers(JsonFields* f, const std::string& name, size_t count) {
  std::vector<float> values(count, 1.0f);
  const Json* list = f->Get(name);
  if (list == nullptr) return values;
  if (!list->is_array() || list->size() != count) {
    f->Fail(name, absl::StrCat("must be a list of ", count, " numbers"));
    return values;
  }
  for (size_t i = 0; i < count; ++i) {
    const Json& item = (*list)[i];
    const double value = item.is_number() ? item.get<double>() : kMostMultiplied + 1;
    if (!(value >= -kMostMultiplied && value <= kMostMultiplied)) {
      f->Fail(name, absl::StrCat("holds ", JsonFields::Shown(item), "; must be numbers from ",
                                 -kMostMultiplied, " to ", kMostMultiplied));
      return values;
    }
    values[i] = CheckMultiplier(f, name, value);
  }
  return values;
}

AttentionSpec ReadAttention(JsonFields* f, int hidden_size, bool bias) {
  AttentionSpec attention;
  // Key heads that are null are as many as heads.
  std::optional<int> kv_heads;
  if (f->Find("num_key_value_heads") == nullptr) kv_heads = 8;
  ReadHeads(f, {32, kv_heads, {}}, hidden_size, &attention);
  attention.rope_base = ReadRopeTheta(f, 10000.0, &attention.rope_scaling);
  attention.qkv_bias = attention.out_bias = bias;
  // A factor of the keys is one of the scores.
  attention.scale = ReadMultiplier(f, "key_multiplier") / std::sqrt(attention.head_dim);
  return attention;
}

Mamba2Spec ReadMamba(JsonFields* f, int hidden_size) {
  Mamba2Spec mamba;
  mamba.num_heads = f->Int("mamba_n_heads", 1, kMaxHeads, 128);
  int width = f->Int("mamba_expand", 1, 64, 2) * hidden_size;
  if (f->Find("mamba_d_ssm") == nullptr || f->Get("mamba_d_ssm") != nullptr) {
    width = f->Int("mamba_d_ssm", 1, kMaxHidden, 1024);
  }
  const Json* dim = f->Get("mamba_d_head");
  mamba.head_dim = std::max(1, width / mamba.num_heads);
  if (dim != nullptr && *dim != "auto") mamba.head_dim = f->Int("mamba_d_head", 1, kMaxHeadDim);
  if (mamba.head_dim * mamba.num_heads != width || mamba.head_dim > kMaxHeadDim) {
    f->Fail("mamba_n_heads",
            absl::StrCat("is ", mamba.num_heads, ", of ", mamba.head_dim, " channels; must have ",
                         width, " together, and at most ", kMaxHeadDim, " each"));
  }
  mamba.num_groups = DivisorOfHeads(f, "mamba_n_groups", mamba.num_heads, 1);
  mamba.state_size = f->Int("mamba_d_state", 1, kMaxHeadDim, 256);
  mamba.conv_size = f->Int("mamba_d_conv", 1, kMaxConvSize, 4);
  mamba.Check(f, {"mamba_n_heads", "mamba_n_groups", "mamba_d_head", "mamba_d_state"});
  const bool first = f->TrueUnlessNull("mamba_norm_before_gate");
  mamba.norm = !f->Bool("mamba_rms_norm", false) ? Mamba2Norm::kNone
               : first                           ? Mamba2Norm::kBeforeGate
                                                 : Mamba2Norm::kAfterGate;
  mamba.norm_groups = mamba.num_groups;
  mamba.conv_bias = f->TrueUnlessNull("mamba_conv_bias");
  mamba.in_bias = f->Bool("mamba_proj_bias", false);
  mamba.out_bias = f->Bool("projectors_bias", false);
  mamba.ReadStepLimits(f, "time_step_limit");
  const std::vector<float> of = ReadMultipliers(f, "ssm_multipliers", 5);
  mamba.gate_scale = of[0], mamba.x_scale = of[1], mamba.b_scale = of[2], mamba.c_scale = of[3];
  mamba.dt_scale = of[4];
  return mamba;
}

}  // namespace

// Defaults are those of transformers' FalconH1Config. Each layer has a Mamba-2 and an attention
// side by side. Its multipliers go into norms, scores, taps and what is added to the residual
// stream.
void ReadFalconH1Config(JsonFields* f, ModelConfig* config) {
  TensorNames& names = config->names;
  names.final_norm = "model.final_layernorm.weight";
  names.up = "feed_forward.up_proj.weight";
  names.gate = "feed_forward.gate_proj.weight";
  names.down = "feed_forward.down_proj.weight";
  config->feed_forward_bias = f->Bool("mlp_bias", false);
  const bool bias = f->Bool("attention_bias", false);
  SizeDefaults defaults{128000, 4096, 14336, 32, 8192, 1, 2};
  defaults.norm_eps = 1e-5;
  const int num_layers = ReadSizes(f, defaults, config);
  OnlySilu(f, "hidden_act");
  f->Only("mamba_use_mlp", true);
  // How much is computed at once, and what earlier versions wrote.
  f->Ignore({"mamba_chunk_size", "num_logits_to_keep", "mlp_expansion_factor"});
  config->embedding_scale = ReadMultiplier(f, "embedding_multiplier");
  config->logits_scale = ReadMultiplier(f, "lm_head_multiplier");
  const std::vector<float> mlp = ReadMultipliers(f, "mlp_multipliers", 2);
  config->gate_scale = mlp[0], config->feed_forward_scale = mlp[1];

  const AttentionSpec attention = ReadAttention(f, config->hidden_size, bias);
  const Mamba2Spec mamba = ReadMamba(f, config->hidden_size);
  const MixerPlace mamba_place{"mamba.", ReadMultiplier(f, "ssm_in_multiplier"),
                               ReadMultiplier(f, "ssm_out_multiplier")};
  const MixerPlace attention_place{"self_attn.", ReadMultiplier(f, "attention_in_multiplier"),
                                   ReadMultiplier(f, "attention_out_multiplier")};
  for (int i = 0; i < num_layers; ++i) {
    config->AddSublayer({i, "input_layernorm.weight", {mamba_place, attention_place}},
                        {mamba, attention});
    config->AddSublayer({i, "pre_ff_layernorm.weight", {}});
  }
}

}  // namespace packrat
