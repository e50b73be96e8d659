#include "models/tools/gguf_configs.h"

#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace packrat {
namespace {

bool Has(const GgufFields& fields, const std::string& tensor) {
  return fields.header().tensors.count(tensor) > 0;
}
// In any layer.
bool LayersHave(const GgufFields& fields, const GgufShape& shape, const std::string& tensor) {
  for (int64_t i = 0; i < shape.layers; ++i) {
    if (Has(fields, absl::StrCat("blk.", i, ".", tensor))) return true;
  }
  return false;
}

// A mixer's name for each layer: `attention` where the layer has key heads.
std::vector<std::string> TypesByHeads(GgufFields* fields, const GgufShape& shape,
                                      const std::string& attention, const std::string& other) {
  std::vector<std::string> types;
  for (const int64_t heads : fields->Each(".attention.head_count_kv", shape.layers)) {
    types.push_back(heads > 0 ? attention : other);
  }
  return types;
}

void Mamba2Fields(GgufFields* fields, const GgufShape& shape, Json* config) {
  const int64_t width = fields->Count(".ssm.inner_size");
  const int64_t heads = fields->Count(".ssm.time_step_rank");
  if (width % heads != 0) {
    fields->Fail(".ssm.inner_size",
                 absl::StrCat("is ", width, ", no multiple of ", heads, " heads"));
  }
  (*config)["mamba_n_heads"] = heads;
  (*config)["mamba_d_head"] = width / heads;
  (*config)["mamba_d_state"] = fields->Count(".ssm.state_size");
  (*config)["mamba_n_groups"] = fields->Count(".ssm.group_count");
  (*config)["mamba_d_conv"] = fields->Count(".ssm.conv_kernel");
  (*config)["mamba_conv_bias"] = LayersHave(*fields, shape, "ssm_conv1d.bias");
}

// Of a mixture of experts, under the names of the family's own config.json.
void ExpertFields(GgufFields* fields, const std::string& count, Json* config) {
  (*config)[count] = fields->Count(".expert_count");
  (*config)["num_experts_per_tok"] = fields->Count(".expert_used_count");
}

// How the router's scores become shares, which no field of the family's says.
void ExpertRouting(GgufFields* fields, int64_t gating) {
  // llama.cpp's number: 1 is a softmax, 2 a sigmoid.
  const int64_t function = fields->Integer(".expert_gating_func", gating);
  if (function != gating) {
    fields->Fail(".expert_gating_func", absl::StrCat("is ", function, "; must be ", gating));
  }
  if (!fields->Bool(".expert_weights_norm", true)) {
    fields->Fail(".expert_weights_norm", "is false; must be true");
  }
  if (const double is = fields->Number(".expert_weights_scale", 1); is != 1) {
    fields->Fail(".expert_weights_scale", absl::StrCat("is ", is, "; must be 1"));
  }
}

}  // namespace

void GgufLlama(GgufFields* fields, GgufShape* shape, Json* config) {
  (*config)["architectures"] = {"LlamaForCausalLM"};
  (*config)["attention_bias"] = LayersHave(*fields, *shape, "attn_q.bias");
  (*config)["mlp_bias"] = LayersHave(*fields, *shape, "ffn_up.bias");
}

void GgufQwen2(GgufFields* /*fields*/, GgufShape* /*shape*/, Json* config) {
  (*config)["architectures"] = {"Qwen2ForCausalLM"};
}

void GgufQwen3(GgufFields* /*fields*/, GgufShape* /*shape*/, Json* config) {
  (*config)["architectures"] = {"Qwen3ForCausalLM"};
  (*config)["attention_bias"] = false;
}

void GgufQwen35(GgufFields* fields, GgufShape* shape, Json* config) {
  (*config)["architectures"] = {"Qwen3_5ForCausalLM"};
  (*config)["model_type"] = "qwen3_5_text";
  shape->tiled_values = true;
  const GgufValue* list = fields->Find(".attention.recurrent_layers", GgufValue::Kind::kNumbers);
  const int64_t interval = fields->Integer(".full_attention_interval", 4);
  if (interval < 1) {
    fields->Fail(".full_attention_interval", absl::StrCat("is ", interval, "; must be at least 1"));
  }
  std::vector<std::string> types;
  for (int64_t i = 0; i < shape->layers && interval >= 1; ++i) {
    // The list may go on with the layers that guess ahead.
    const bool listed = list != nullptr && i < static_cast<int64_t>(list->numbers.size());
    const bool recurrent = listed ? list->numbers[i] != 0 : (i + 1) % interval != 0;
    types.emplace_back(recurrent ? "linear_attention" : "full_attention");
  }
  (*config)["layer_types"] = types;
  shape->key_heads = fields->Count(".ssm.group_count");
  shape->value_heads = fields->Count(".ssm.time_step_rank");
  const int64_t width = fields->Count(".ssm.inner_size");
  if (width % shape->value_heads != 0 || shape->value_heads % shape->key_heads != 0) {
    fields->Fail(".ssm.time_step_rank",
                 absl::StrCat("is ", shape->value_heads, ", which must divide an inner_size of ",
                              width, " and be a multiple of a group_count of ", shape->key_heads));
  }
  shape->value_dim = width / shape->value_heads;
  (*config)["linear_num_key_heads"] = shape->key_heads;
  (*config)["linear_num_value_heads"] = shape->value_heads;
  (*config)["linear_key_head_dim"] = fields->Count(".ssm.state_size");
  (*config)["linear_value_head_dim"] = shape->value_dim;
  (*config)["linear_conv_kernel_dim"] = fields->Count(".ssm.conv_kernel");
  const int64_t rotated = fields->Integer(".rope.dimension_count", shape->head_dim);
  if (rotated < 1 || rotated > shape->head_dim) {
    fields->Fail(".rope.dimension_count",
                 absl::StrCat("is ", rotated, "; must be 1 to ", shape->head_dim));
  }
  (*config)["partial_rotary_factor"] =
      static_cast<double>(rotated) / static_cast<double>(shape->head_dim);
}

void GgufQwen35Moe(GgufFields* fields, GgufShape* shape, Json* config) {
  GgufQwen35(fields, shape, config);
  (*config)["architectures"] = {"Qwen3_5MoeForCausalLM"};
  (*config)["model_type"] = "qwen3_5_moe_text";
  config->erase("intermediate_size");  // No layer is of it.
  ExpertFields(fields, "num_experts", config);
  ExpertRouting(fields, 1);
  (*config)["moe_intermediate_size"] = fields->Count(".expert_feed_forward_length");
  (*config)["shared_expert_intermediate_size"] =
      fields->Count(".expert_shared_feed_forward_length");
}

// The model that files of this architecture have is also Qwen3.5's: the two differ in how
// checkpoints hold the projections, and the file has those of each kind together.
void GgufQwen3Next(GgufFields* fields, GgufShape* shape, Json* config) {
  GgufQwen35Moe(fields, shape, config);
  shape->tiled_values = false;
}

void GgufLfm2(GgufFields* fields, GgufShape* shape, Json* config) {
  (*config)["architectures"] = {"Lfm2ForCausalLM"};
  (*config)["norm_eps"] = (*config)["rms_norm_eps"];
  config->erase("rms_norm_eps");
  config->erase("hidden_act");  // It has no such field.
  (*config)["block_auto_adjust_ff_dim"] = false;
  (*config)["conv_L_cache"] = fields->Count(".shortconv.l_cache");
  (*config)["conv_bias"] = false;
  (*config)["layer_types"] = TypesByHeads(fields, *shape, "full_attention", "conv");
}

void GgufLfm2Moe(GgufFields* fields, GgufShape* shape, Json* config) {
  GgufLfm2(fields, shape, config);
  for (const char* name : {"block_auto_adjust_ff_dim", "conv_bias"}) config->erase(name);
  (*config)["architectures"] = {"Lfm2MoeForCausalLM"};
  (*config)["model_type"] = "lfm2_moe";
  ExpertFields(fields, "num_experts", config);
  ExpertRouting(fields, 2);
  (*config)["moe_intermediate_size"] = fields->Count(".expert_feed_forward_length");
  (*config)["num_dense_layers"] = fields->Integer(".leading_dense_block_count", 0);
  (*config)["use_expert_bias"] = LayersHave(*fields, *shape, "exp_probs_b.bias");
}

void GgufFalconH1(GgufFields* fields, GgufShape* shape, Json* config) {
  (*config)["architectures"] = {"FalconH1ForCausalLM"};
  (*config)["model_type"] = "falcon_h1";
  // Its multipliers are in the weights.
  Mamba2Fields(fields, *shape, config);
  (*config)["mamba_d_ssm"] = fields->Integer(".ssm.inner_size", 0);
  // Files do not tell the order; the gate comes first wherever they are run.
  (*config)["mamba_rms_norm"] = LayersHave(*fields, *shape, "ssm_norm.weight");
  (*config)["mamba_norm_before_gate"] = false;
}

// With attention in every layer, and with Mamba-2 in most of them.
void GgufGranite(GgufFields* fields, GgufShape* shape, Json* config) {
  (*config)["architectures"] = {"GraniteMoeHybridForCausalLM"};
  (*config)["model_type"] = "granitemoehybrid";
  (*config)["num_local_experts"] = (*config)["num_experts_per_tok"] = 0;
  (*config)["shared_intermediate_size"] = (*config)["intermediate_size"];
  if (fields->Integer(".expert_count", 0) > 0) {
    ExpertFields(fields, "num_local_experts", config);
    ExpertRouting(fields, 1);
    (*config)["shared_intermediate_size"] = fields->Count(".expert_shared_feed_forward_length");
  }
  const double usual = 1 / std::sqrt(static_cast<double>(shape->head_dim));
  (*config)["attention_multiplier"] = fields->Number(".attention.scale", usual);
  (*config)["embedding_multiplier"] = fields->Number(".embedding_scale", 1);
  (*config)["residual_multiplier"] = fields->Number(".residual_scale", 1);
  (*config)["logits_scaling"] = fields->Number(".logit_scale", 1);
  const bool hybrid = fields->architecture() == "granitehybrid";
  const bool rotated = fields->Bool(".rope.scaling.finetuned", true);
  (*config)["position_embedding_type"] = rotated ? "rope" : "nope";
  (*config)["layer_types"] =
      hybrid ? TypesByHeads(fields, *shape, "attention", "mamba")
             : std::vector<std::string>(static_cast<size_t>(shape->layers), "attention");
  if (!hybrid) {
    // Files of the family have Mamba-2's sizes even where no layer is one.
    for (const char* size :
         {"conv_kernel", "state_size", "group_count", "inner_size", "time_step_rank"}) {
      fields->Integer(absl::StrCat(".ssm.", size), 0);
    }
    return;
  }
  Mamba2Fields(fields, *shape, config);
  const int64_t width = fields->Integer(".ssm.inner_size", 0);
  const int64_t hidden = (*config)["hidden_size"];
  if (width % hidden != 0) {
    fields->Fail(".ssm.inner_size", absl::StrCat("is ", width, ", no multiple of ", hidden));
  }
  (*config)["mamba_expand"] = width / hidden;
}

// A layer is one mixer, or one feed-forward.
void GgufNemotronH(GgufFields* fields, GgufShape* shape, Json* config) {
  (*config)["architectures"] = {"NemotronHForCausalLM"};
  (*config)["model_type"] = "nemotron_h";
  (*config)["layer_norm_epsilon"] = (*config)["rms_norm_eps"];
  for (const char* name : {"rms_norm_eps", "rope_theta", "hidden_act", "num_hidden_layers"}) {
    config->erase(name);
  }
  (*config)["mlp_hidden_act"] = "relu2";
  (*config)["mlp_bias"] = LayersHave(*fields, *shape, "ffn_up.bias");
  (*config)["time_step_min"] = 0.0;  // llama.cpp bounds no step.
  (*config)["use_bias"] = LayersHave(*fields, *shape, "ssm_in.bias");
  // What Mamba-2's fields are called here.
  Json mamba;
  Mamba2Fields(fields, *shape, &mamba);
  for (const auto& [theirs, ours] : {std::pair("mamba_n_heads", "mamba_num_heads"),
                                     {"mamba_d_head", "mamba_head_dim"},
                                     {"mamba_d_state", "ssm_state_size"},
                                     {"mamba_n_groups", "n_groups"},
                                     {"mamba_d_conv", "conv_kernel"},
                                     {"mamba_conv_bias", "use_conv_bias"}}) {
    (*config)[ours] = mamba[theirs];
  }
  std::vector<std::string> types =
      TypesByHeads(fields, *shape, "full_attention", "linear_attention");
  const std::vector<int64_t> widths = fields->Each(".feed_forward_length", shape->layers);
  for (size_t i = 0; i < types.size() && i < widths.size(); ++i) {
    if (widths[i] > 0) types[i] = "mlp";
  }
  (*config)["layers_block_type"] = types;
}

}  // namespace packrat
