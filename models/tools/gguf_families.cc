#include "models/tools/gguf_families.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace packrat {
namespace {

using Names = std::map<std::string, std::string>;

// More layers than any model has.
constexpr int64_t kMostLayers = 4096;

Names With(Names names, const Names& more) {
  for (const auto& [theirs, ours] : more) names[theirs] = ours;
  return names;
}

const Names kLlamaLayers = {
    {"attn_norm.weight", "input_layernorm.weight"},
    {"attn_q.weight", "self_attn.q_proj.weight"},
    {"attn_k.weight", "self_attn.k_proj.weight"},
    {"attn_v.weight", "self_attn.v_proj.weight"},
    {"attn_output.weight", "self_attn.o_proj.weight"},
    {"ffn_norm.weight", "post_attention_layernorm.weight"},
    {"ffn_gate.weight", "mlp.gate_proj.weight"},
    {"ffn_up.weight", "mlp.up_proj.weight"},
    {"ffn_down.weight", "mlp.down_proj.weight"},
};
const Names kQueryKeyNorms = {
    {"attn_q_norm.weight", "self_attn.q_norm.weight"},
    {"attn_k_norm.weight", "self_attn.k_norm.weight"},
};
const Names kMamba2 = {
    {"ssm_in.weight", "mamba.in_proj.weight"},
    {"ssm_conv1d.weight", "mamba.conv1d.weight"},
    {"ssm_conv1d.bias", "mamba.conv1d.bias"},
    {"ssm_dt.bias", "mamba.dt_bias"},
    {"ssm_a", "mamba.A_log"},
    {"ssm_d", "mamba.D"},
    {"ssm_norm.weight", "mamba.norm.weight"},
    {"ssm_out.weight", "mamba.out_proj.weight"},
};
const Names kLlamaOthers = {
    {"token_embd.weight", "model.embed_tokens.weight"},
    {"output_norm.weight", "model.norm.weight"},
    {"output.weight", "lm_head.weight"},
};

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

void Llama(GgufFields* /*fields*/, GgufShape* /*shape*/, Json* config) {
  (*config)["architectures"] = {"LlamaForCausalLM"};
  (*config)["attention_bias"] = false;
}

void Qwen2(GgufFields* /*fields*/, GgufShape* /*shape*/, Json* config) {
  (*config)["architectures"] = {"Qwen2ForCausalLM"};
}

void Qwen3(GgufFields* /*fields*/, GgufShape* /*shape*/, Json* config) {
  (*config)["architectures"] = {"Qwen3ForCausalLM"};
  (*config)["attention_bias"] = false;
}

void Qwen35(GgufFields* fields, GgufShape* shape, Json* config) {
  (*config)["architectures"] = {"Qwen3_5ForCausalLM"};
  (*config)["model_type"] = "qwen3_5_text";
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

void Lfm2(GgufFields* fields, GgufShape* shape, Json* config) {
  (*config)["architectures"] = {"Lfm2ForCausalLM"};
  (*config)["norm_eps"] = (*config)["rms_norm_eps"];
  config->erase("rms_norm_eps");
  config->erase("hidden_act");  // It has no such field.
  (*config)["block_auto_adjust_ff_dim"] = false;
  (*config)["conv_L_cache"] = fields->Count(".shortconv.l_cache");
  (*config)["conv_bias"] = false;
  (*config)["layer_types"] = TypesByHeads(fields, *shape, "full_attention", "conv");
}

void FalconH1(GgufFields* fields, GgufShape* shape, Json* config) {
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
void Granite(GgufFields* fields, GgufShape* shape, Json* config) {
  (*config)["architectures"] = {"GraniteMoeHybridForCausalLM"};
  (*config)["model_type"] = "granitemoehybrid";
  (*config)["num_local_experts"] = 0;
  (*config)["num_experts_per_tok"] = 0;
  (*config)["shared_intermediate_size"] = (*config)["intermediate_size"];
  const double usual = 1 / std::sqrt(static_cast<double>(shape->head_dim));
  (*config)["attention_multiplier"] = fields->Number(".attention.scale", usual);
  (*config)["embedding_multiplier"] = fields->Number(".embedding_scale", 1);
  (*config)["residual_multiplier"] = fields->Number(".residual_scale", 1);
  (*config)["logits_scaling"] = fields->Number(".logit_scale", 1);
  const bool hybrid = fields->architecture() == "granitehybrid";
  const bool rotated = fields->Bool(".rope.scaling.finetuned", !hybrid);
  (*config)["position_embedding_type"] = rotated ? "rope" : "nope";
  (*config)["layer_types"] =
      hybrid ? TypesByHeads(fields, *shape, "attention", "mamba")
             : std::vector<std::string>(static_cast<size_t>(shape->layers), "attention");
  if (!hybrid) return;
  Mamba2Fields(fields, *shape, config);
  const int64_t width = fields->Integer(".ssm.inner_size", 0);
  const int64_t hidden = (*config)["hidden_size"];
  if (width % hidden != 0) {
    fields->Fail(".ssm.inner_size", absl::StrCat("is ", width, ", no multiple of ", hidden));
  }
  (*config)["mamba_expand"] = width / hidden;
}

const Names kGraniteFeedForward = {
    {"ffn_gate.weight", "shared_mlp.input_linear.weight"},
    {"ffn_up.weight", "shared_mlp.input_linear.weight"},
    {"ffn_down.weight", "shared_mlp.output_linear.weight"},
};

const std::vector<GgufFamily>& Families() {
  static const auto* const families = new std::vector<GgufFamily>{
      {"falcon-h1", FalconH1,
       With(With(kLlamaLayers, kMamba2), {{"ffn_norm", "pre_ff_layernorm.weight"},
                                          {"ffn_gate.weight", "feed_forward.gate_proj.weight"},
                                          {"ffn_up.weight", "feed_forward.up_proj.weight"},
                                          {"ffn_down.weight", "feed_forward.down_proj.weight"}}),
       With(kLlamaOthers, {{"output_norm.weight", "model.final_layernorm.weight"}})},
      {"granite", Granite, With(kLlamaLayers, kGraniteFeedForward), kLlamaOthers, true},
      {"granitehybrid", Granite, With(With(kLlamaLayers, kGraniteFeedForward), kMamba2),
       kLlamaOthers, true},
      {"lfm2", Lfm2,
       With(kLlamaLayers, {{"attn_norm.weight", "operator_norm.weight"},
                           {"attn_output.weight", "self_attn.out_proj.weight"},
                           {"attn_q_norm.weight", "self_attn.q_layernorm.weight"},
                           {"attn_k_norm.weight", "self_attn.k_layernorm.weight"},
                           {"shortconv.in_proj.weight", "conv.in_proj.weight"},
                           {"shortconv.conv.weight", "conv.conv.weight"},
                           {"shortconv.out_proj.weight", "conv.out_proj.weight"},
                           {"ffn_norm.weight", "ffn_norm.weight"},
                           {"ffn_gate.weight", "feed_forward.w1.weight"},
                           {"ffn_up.weight", "feed_forward.w3.weight"},
                           {"ffn_down.weight", "feed_forward.w2.weight"}}),
       // The last norm, of whose two names files have one.
       With(kLlamaOthers, {{"output_norm.weight", "model.embedding_norm.weight"},
                           {"token_embd_norm.weight", "model.embedding_norm.weight"}})},
      {"llama", Llama, kLlamaLayers, kLlamaOthers, true},
      {"qwen2", Qwen2,
       With(kLlamaLayers, {{"attn_q.bias", "self_attn.q_proj.bias"},
                           {"attn_k.bias", "self_attn.k_proj.bias"},
                           {"attn_v.bias", "self_attn.v_proj.bias"}}),
       kLlamaOthers},
      {"qwen3", Qwen3, With(kLlamaLayers, kQueryKeyNorms), kLlamaOthers},
      {"qwen35", Qwen35,
       With(With(kLlamaLayers, kQueryKeyNorms),
            {{"attn_qkv.weight", "linear_attn.in_proj_qkv.weight"},
             {"attn_gate.weight", "linear_attn.in_proj_z.weight"},
             {"ssm_alpha.weight", "linear_attn.in_proj_a.weight"},
             {"ssm_beta.weight", "linear_attn.in_proj_b.weight"},
             {"ssm_conv1d.weight", "linear_attn.conv1d.weight"},
             {"ssm_a", "linear_attn.A_log"},
             {"ssm_dt.bias", "linear_attn.dt_bias"},
             {"ssm_norm.weight", "linear_attn.norm.weight"},
             {"ssm_out.weight", "linear_attn.out_proj.weight"},
             {"post_attention_norm.weight", "post_attention_layernorm.weight"}}),
       kLlamaOthers, false, true},
  };
  return *families;
}

}  // namespace

const GgufFamily* FindGgufFamily(const std::string& architecture) {
  for (const GgufFamily& family : Families()) {
    if (family.architecture == architecture) return &family;
  }
  return nullptr;
}

std::string GgufFamilyNames() {
  std::vector<std::string> names;
  for (const GgufFamily& family : Families()) names.emplace_back(family.architecture);
  const std::string last = names.back();
  names.pop_back();
  return absl::StrCat(absl::StrJoin(names, ", "), " and ", last);
}

Json GgufConfig(const GgufFamily& family, GgufFields* fields, GgufShape* shape) {
  if (const int64_t experts = fields->Integer(".expert_count", 0); experts != 0) {
    fields->Fail(".expert_count", absl::StrCat("is ", experts, "; experts are not read"));
  }
  // The last ones guess tokens ahead.
  const int64_t blocks = fields->Count(".block_count");
  const int64_t ahead = fields->Integer(".nextn_predict_layers", 0);
  if (blocks > kMostLayers) {
    fields->Fail(".block_count", absl::StrCat("is ", blocks, "; must be 1 to ", kMostLayers));
  }
  if (ahead < 0 || ahead >= blocks) {
    fields->Fail(".nextn_predict_layers",
                 absl::StrCat("is ", ahead, "; must be 0 to ", blocks - 1));
  }
  if (!fields->status().ok()) return {};
  shape->layers = blocks - ahead;
  const int64_t width = fields->Count(".embedding_length");
  shape->heads = fields->Count(".attention.head_count");
  shape->kv_heads = shape->heads;
  if (fields->header().metadata.count(fields->architecture() + ".attention.head_count_kv") > 0) {
    shape->kv_heads = 0;
    for (const int64_t heads : fields->Each(".attention.head_count_kv", shape->layers)) {
      if (heads == 0) continue;  // No attention.
      if (shape->kv_heads > 0 && heads != shape->kv_heads) {
        fields->Fail(".attention.head_count_kv",
                     absl::StrCat("holds ", shape->kv_heads, " and ", heads,
                                  "; must be one number for all layers with attention"));
      }
      shape->kv_heads = heads;
    }
    if (shape->kv_heads == 0) fields->Fail(".attention.head_count_kv", "has no key heads");
  }
  shape->head_dim = fields->Integer(".attention.key_length", width / shape->heads);
  if (shape->head_dim < 2 || shape->head_dim > INT32_MAX || shape->head_dim % 2 != 0) {
    fields->Fail(".attention.key_length",
                 absl::StrCat("is ", shape->head_dim, "; must be an even number of channels"));
    return {};
  }
  const auto embedding = fields->header().tensors.find("token_embd.weight");
  if (embedding == fields->header().tensors.end() || embedding->second.shape.size() != 2) {
    fields->Fail("tensor \"token_embd.weight\"", "is missing or no matrix");
    return {};
  }
  Json config = {
      {"model_type", family.architecture},
      {"vocab_size", embedding->second.shape[0]},
      {"hidden_size", width},
      {"intermediate_size", fields->Count(".feed_forward_length")},
      {"num_hidden_layers", shape->layers},
      {"num_attention_heads", shape->heads},
      {"num_key_value_heads", shape->kv_heads},
      {"head_dim", shape->head_dim},
      {"hidden_act", "silu"},
      {"max_position_embeddings", fields->Count(".context_length")},
      {"rms_norm_eps", fields->Number(".attention.layer_norm_rms_epsilon", 1e-5)},
      {"rope_theta", fields->Number(".rope.freq_base", 10000.0)},
      {"tie_word_embeddings", !Has(*fields, "output.weight")},
  };
  for (const char* end : {"bos", "eos"}) {
    const int64_t id = fields->Integer(absl::StrCat("tokenizer.ggml.", end, "_token_id"), -1);
    // Null: there is none. Left out, it would be the family's default.
    config[absl::StrCat(end, "_token_id")] = id >= 0 ? Json(id) : Json();
  }
  family.config(fields, shape, &config);
  const int64_t value_dim = fields->Integer(".attention.value_length", shape->head_dim);
  if (value_dim != shape->head_dim) {
    fields->Fail(".attention.value_length",
                 absl::StrCat("is ", value_dim, "; must be ", shape->head_dim));
  }
  // Scaling is read beside this. A text's positions are the same in all sections of a rotation.
  fields->RefuseOthers({".vocab_size", ".rope.scaling.", ".rope.dimension_sections",
                        ".rope.dimension_count", ".rope.freq_base", ".pooling_type",
                        ".expert_used_count", ".expert_shared_feed_forward_length"});
  if (config.contains("partial_rotary_factor")) return config;
  const int64_t rotated = fields->Integer(".rope.dimension_count", shape->head_dim);
  if (rotated != shape->head_dim && config.value("position_embedding_type", "rope") == "rope") {
    fields->Fail(".rope.dimension_count", absl::StrCat("is ", rotated, " of ", shape->head_dim,
                                                       " channels; all of them must be rotated"));
  }
  return config;
}

}  // namespace packrat
