#include <algorithm>
#include <cstdlib>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "models/families/families.h"

namespace packrat {
namespace {

// Where B and C have several groups, transformers norms each group's heads by themselves since
// 5.23, as training kernels do, and normed all together before: a file means what its writer did.
bool NormsByGroup(const std::string& transformers_version) {
  const std::vector<std::string> parts = absl::StrSplit(transformers_version, '.');
  if (parts.size() < 2) return true;
  const int major = std::atoi(parts[0].c_str()), minor = std::atoi(parts[1].c_str());
  return major > 5 || (major == 5 && minor >= 23);
}

Mamba2Spec ReadMamba(JsonFields* f, int hidden_size) {
  Mamba2Spec mamba;
  const int expand = f->Int("mamba_expand", 1, 64, 2);
  const int width = std::min(expand * hidden_size, kMaxHidden);
  mamba.num_heads = f->Int("mamba_n_heads", 1, kMaxHeads, 128);
  mamba.num_groups = DivisorOfHeads(f, "mamba_n_groups", mamba.num_heads, 1);
  mamba.state_size = f->Int("mamba_d_state", 1, kMaxHeadDim, 256);
  mamba.conv_size = f->Int("mamba_d_conv", 1, kMaxConvSize, 4);
  const Json* head_dim = f->Get("mamba_d_head");
  mamba.head_dim = head_dim == nullptr || *head_dim == "auto"
                       ? std::max(1, width / mamba.num_heads)
                       : f->Int("mamba_d_head", 1, kMaxHeadDim);
  if (mamba.num_heads * mamba.head_dim != expand * hidden_size || mamba.head_dim > kMaxHeadDim) {
    f->Fail("mamba_n_heads",
            absl::StrCat("is ", mamba.num_heads, ", of ", mamba.head_dim,
                         " channels each; must make up mamba_expand * hidden_size, ", expand, " * ",
                         hidden_size, ", and have at most ", kMaxHeadDim));
  }
  mamba.Check(f, {"mamba_n_heads", "mamba_n_groups", "mamba_d_head", "mamba_d_state"});
  mamba.conv_bias = f->TrueUnlessNull("mamba_conv_bias");
  mamba.in_bias = mamba.out_bias = f->Bool("mamba_proj_bias", false);
  mamba.ReadStepLimits(f, "time_step_limit");
  if (NormsByGroup(f->String("transformers_version", ""))) mamba.norm_groups = mamba.num_groups;
  f->Ignore({"mamba_chunk_size"});  // How it is computed there.
  return mamba;
}

AttentionSpec ReadAttention(JsonFields* f, int hidden_size) {
  AttentionSpec attention;
  ReadHeads(f, {32, {}, {}}, hidden_size, &attention);
  const Json* multiplier = f->Find("attention_multiplier");
  if (multiplier != nullptr && multiplier->is_null()) {
    f->Fail("attention_multiplier", "is null; must be a number");  // It would be the usual scale.
  }
  attention.scale = f->Number("attention_multiplier", 1e-6, 1e6, 1.0);
  attention.qkv_bias = attention.out_bias = f->Bool("attention_bias", false);
  const std::string positions = f->String("position_embedding_type", "nope");
  if (positions == "rope") {
    attention.rope_base = ReadRopeTheta(f, 10000.0, &attention.rope_scaling);
    return attention;
  }
  if (positions != "nope") {
    f->Fail("position_embedding_type",
            absl::StrCat("is ", Quoted(positions), "; must be nope or rope"));
  }
  attention.rotary_dim = 0;
  f->Ignore({"rope_theta", "rope_parameters", "rope_scaling"});
  return attention;
}

}  // namespace

// Defaults are those of transformers' GraniteMoeHybridConfig.
void ReadGraniteMoeHybridConfig(JsonFields* f, ModelConfig* config) {
  ExpertsSpec experts;
  const bool mixed =
      experts.ReadNumbers(f, "num_local_experts", 8, "num_experts_per_tok", 2, /*least=*/0);
  experts.names.router = "block_sparse_moe.router.layer.weight";
  experts.names.all_up = "block_sparse_moe.input_linear.weight";
  experts.names.all_down = "block_sparse_moe.output_linear.weight";
  // What transformers' own code calls them, and writes with save_original_format=False.
  experts.names.router_or = "block_sparse_moe.router.weight";
  experts.names.all_up_or = "block_sparse_moe.experts.gate_up_proj";
  experts.names.all_down_or = "block_sparse_moe.experts.down_proj";
  f->Ignore({"output_router_logits", "router_aux_loss_coef", "init_method"});
  config->names.up = config->names.gate = "shared_mlp.input_linear.weight";
  config->names.gate_first = true;
  config->names.down = "shared_mlp.output_linear.weight";
  f->Find("attention_bias");  // For the attention.
  const int num_layers = ReadSizes(f, {32000, 4096, 11008, 32, 2048, 1, 2}, config);
  experts.width = config->intermediate_size;
  config->intermediate_size = f->Int("shared_intermediate_size", 1, kMaxIntermediate, 1024);
  OnlySilu(f, "hidden_act");
  f->Only("normalization_function", "rmsnorm");
  const auto multiplier = [f](const char* name) {
    return static_cast<float>(f->Number(name, 1e-6, 1e6, 1.0));
  };
  config->embedding_scale = multiplier("embedding_multiplier");
  config->logits_scale = 1.0f / multiplier("logits_scaling");
  const float residual = multiplier("residual_multiplier");
  config->feed_forward_scale = residual;

  const AttentionSpec attention = ReadAttention(f, config->hidden_size);
  const Mamba2Spec mamba = ReadMamba(f, config->hidden_size);
  std::vector<std::string> types = ReadLayerTypes(f, num_layers, "layers_block_type");
  if (types.empty()) types.assign(num_layers, "linear_attention");
  // As transformers calls them since 5.19, and before.
  SetLayers(f, types,
            {{"linear_attention", mamba, "mamba."},
             {"full_attention", attention, "self_attn."},
             {"mamba", mamba, "mamba."},
             {"attention", attention, "self_attn."}},
            config);
  for (Sublayer& sublayer : config->sublayers) {
    for (MixerPlace& place : sublayer.mixers) place.scale = residual;
    // The "shared" feed-forward is beside them.
    if (mixed && sublayer.mixers.empty()) sublayer.experts = {experts};
  }
}

}  // namespace packrat
