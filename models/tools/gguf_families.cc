#include "models/tools/gguf_families.h"

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "models/tools/convert_gguf.h"
#include "models/tools/gguf_configs.h"

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
const Names kQueryKeyValueBiases = {
    {"attn_q.bias", "self_attn.q_proj.bias"},
    {"attn_k.bias", "self_attn.k_proj.bias"},
    {"attn_v.bias", "self_attn.v_proj.bias"},
};
const Names kQueryKeyNorms = {
    {"attn_q_norm.weight", "self_attn.q_norm.weight"},
    {"attn_k_norm.weight", "self_attn.k_norm.weight"},
};
Names Mamba2(const std::string& prefix) {
  return {
      {"ssm_in.weight", prefix + "in_proj.weight"},
      {"ssm_conv1d.weight", prefix + "conv1d.weight"},
      {"ssm_conv1d.bias", prefix + "conv1d.bias"},
      {"ssm_dt.bias", prefix + "dt_bias"},
      {"ssm_a", prefix + "A_log"},
      {"ssm_d", prefix + "D"},
      {"ssm_norm.weight", prefix + "norm.weight"},
      {"ssm_out.weight", prefix + "out_proj.weight"},
  };
}
const Names kGatedDelta = {
    {"attn_qkv.weight", "linear_attn.in_proj_qkv.weight"},
    {"attn_gate.weight", "linear_attn.in_proj_z.weight"},
    {"ssm_alpha.weight", "linear_attn.in_proj_a.weight"},
    {"ssm_beta.weight", "linear_attn.in_proj_b.weight"},
    {"ssm_ba.weight", "linear_attn.in_proj_b.weight+linear_attn.in_proj_a.weight"},
    {"ssm_conv1d.weight", "linear_attn.conv1d.weight"},
    {"ssm_a", "linear_attn.A_log"},
    {"ssm_dt.bias", "linear_attn.dt_bias"},
    {"ssm_norm.weight", "linear_attn.norm.weight"},
    {"ssm_out.weight", "linear_attn.out_proj.weight"},
    {"post_attention_norm.weight", "post_attention_layernorm.weight"},
};
Names Experts(const std::string& router, const std::string& up, const std::string& down) {
  return {
      {"ffn_gate_inp.weight", router},
      {"ffn_gate_exps.weight", up},
      {"ffn_up_exps.weight", up},
      {"ffn_down_exps.weight", down},
  };
}
const Names kLlamaOthers = {
    {"token_embd.weight", "model.embed_tokens.weight"},
    {"output_norm.weight", "model.norm.weight"},
    {"output.weight", "lm_head.weight"},
};

bool Has(const GgufFields& fields, const std::string& tensor) {
  return fields.header().tensors.count(tensor) > 0;
}
std::vector<GgufFamily> MakeFamilies() {
  const Names granite =
      With(kLlamaLayers, {{"ffn_gate.weight", "shared_mlp.input_linear.weight"},
                          {"ffn_up.weight", "shared_mlp.input_linear.weight"},
                          {"ffn_down.weight", "shared_mlp.output_linear.weight"}});
  const Names granite_experts =
      With(Experts("block_sparse_moe.router.layer.weight", "block_sparse_moe.input_linear.weight",
                   "block_sparse_moe.output_linear.weight"),
           {{"ffn_gate_shexp.weight", "shared_mlp.input_linear.weight"},
            {"ffn_up_shexp.weight", "shared_mlp.input_linear.weight"},
            {"ffn_down_shexp.weight", "shared_mlp.output_linear.weight"}});
  const Names lfm2 = With(kLlamaLayers, {{"attn_norm.weight", "operator_norm.weight"},
                                         {"attn_output.weight", "self_attn.out_proj.weight"},
                                         {"attn_q_norm.weight", "self_attn.q_layernorm.weight"},
                                         {"attn_k_norm.weight", "self_attn.k_layernorm.weight"},
                                         {"shortconv.in_proj.weight", "conv.in_proj.weight"},
                                         {"shortconv.conv.weight", "conv.conv.weight"},
                                         {"shortconv.out_proj.weight", "conv.out_proj.weight"},
                                         {"ffn_norm.weight", "ffn_norm.weight"},
                                         {"ffn_gate.weight", "feed_forward.w1.weight"},
                                         {"ffn_up.weight", "feed_forward.w3.weight"},
                                         {"ffn_down.weight", "feed_forward.w2.weight"}});
  const Names lfm2_experts =
      With(Experts("feed_forward.gate.weight", "feed_forward.experts.gate_up_proj",
                   "feed_forward.experts.down_proj"),
           {{"exp_probs_b.bias", "feed_forward.expert_bias"}});
  // The last norm, of whose two names files have one.
  const Names lfm2_others =
      With(kLlamaOthers, {{"output_norm.weight", "model.embedding_norm.weight"},
                          {"token_embd_norm.weight", "model.embedding_norm.weight"}});
  const Names nemotron_h = With(Mamba2("mixer."), {{"attn_norm.weight", "norm.weight"},
                                                   {"attn_q.weight", "mixer.q_proj.weight"},
                                                   {"attn_k.weight", "mixer.k_proj.weight"},
                                                   {"attn_v.weight", "mixer.v_proj.weight"},
                                                   {"attn_output.weight", "mixer.o_proj.weight"},
                                                   {"ffn_up.weight", "mixer.up_proj.weight"},
                                                   {"ffn_up.bias", "mixer.up_proj.bias"},
                                                   {"ffn_down.weight", "mixer.down_proj.weight"},
                                                   {"ffn_down.bias", "mixer.down_proj.bias"},
                                                   {"ssm_in.bias", "mixer.in_proj.bias"},
                                                   {"ssm_out.bias", "mixer.out_proj.bias"}});
  const Names qwen3 = With(kLlamaLayers, kQueryKeyNorms), qwen35 = With(qwen3, kGatedDelta);
  const Names qwen_experts =
      With(Experts("mlp.gate.weight", "mlp.experts.gate_up_proj", "mlp.experts.down_proj"),
           {{"ffn_gate_inp_shexp.weight", "mlp.shared_expert_gate.weight"},
            {"ffn_gate_shexp.weight", "mlp.shared_expert.gate_proj.weight"},
            {"ffn_up_shexp.weight", "mlp.shared_expert.up_proj.weight"},
            {"ffn_down_shexp.weight", "mlp.shared_expert.down_proj.weight"}});

  return {
      {"falcon-h1", GgufFalconH1,
       With(With(kLlamaLayers, Mamba2("mamba.")),
            {{"ffn_norm", "pre_ff_layernorm.weight"},
             {"ffn_gate.weight", "feed_forward.gate_proj.weight"},
             {"ffn_up.weight", "feed_forward.up_proj.weight"},
             {"ffn_down.weight", "feed_forward.down_proj.weight"}}),
       With(kLlamaOthers, {{"output_norm.weight", "model.final_layernorm.weight"}})},
      {"granite", GgufGranite, granite, kLlamaOthers, true},
      {"granitehybrid", GgufGranite, With(With(granite, Mamba2("mamba.")), granite_experts),
       kLlamaOthers, true, false, true},
      {"lfm2", GgufLfm2, lfm2, lfm2_others},
      {"lfm2moe", GgufLfm2Moe, With(lfm2, lfm2_experts), lfm2_others, false, false, true},
      {"llama", GgufLlama,
       With(With(kLlamaLayers, kQueryKeyValueBiases),
            {{"attn_output.bias", "self_attn.o_proj.bias"},
             {"ffn_gate.bias", "mlp.gate_proj.bias"},
             {"ffn_up.bias", "mlp.up_proj.bias"},
             {"ffn_down.bias", "mlp.down_proj.bias"}}),
       kLlamaOthers, true},
      {"nemotron_h",
       GgufNemotronH,
       nemotron_h,
       {{"token_embd.weight", "model.embeddings.weight"},
        {"output_norm.weight", "model.norm_f.weight"},
        {"output.weight", "lm_head.weight"}},
       true},
      {"qwen2", GgufQwen2, With(kLlamaLayers, kQueryKeyValueBiases), kLlamaOthers},
      {"qwen3", GgufQwen3, qwen3, kLlamaOthers},
      {"qwen35", GgufQwen35, qwen35, kLlamaOthers, false, true},
      {"qwen35moe", GgufQwen35Moe, With(qwen35, qwen_experts), kLlamaOthers, false, true, true},
      {"qwen3next", GgufQwen3Next, With(qwen35, qwen_experts), kLlamaOthers, false, true, true},
  };
}

const std::vector<GgufFamily>& Families() {
  static const auto* const families = new std::vector<GgufFamily>(MakeFamilies());
  return *families;
}

bool Says(const GgufFields& fields, const std::string& key) {
  return fields.header().metadata.count(fields.architecture() + key) > 0;
}

// The number that all layers have which have any; 0: none has.
int64_t OfAllLayers(GgufFields* fields, const std::string& key, int64_t layers,
                    const std::string& which) {
  int64_t number = 0;
  for (const int64_t each : fields->Each(key, layers)) {
    if (each == 0) continue;
    if (number > 0 && each != number) {
      fields->Fail(key, absl::StrCat("holds ", number, " and ", each,
                                     "; must be one number for all layers ", which));
    }
    number = each;
  }
  return number;
}

// Of the feed-forwards, in the layers that have one.
int64_t Width(GgufFields* fields, int64_t layers) {
  const auto found =
      fields->header().metadata.find(fields->architecture() + ".feed_forward_length");
  const bool list =
      found != fields->header().metadata.end() && found->second.kind == GgufValue::Kind::kNumbers;
  if (!list) return fields->Count(".feed_forward_length");
  return OfAllLayers(fields, ".feed_forward_length", layers, "with a feed-forward");
}

double Epsilon(GgufFields* fields) {
  double epsilon = 0;
  // Files of that family have had it under either name.
  if (fields->architecture() == "nemotron_h") {
    epsilon = fields->Number(".attention.layer_norm_epsilon", 0);
  }
  return fields->Number(".attention.layer_norm_rms_epsilon", epsilon);
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
  const int64_t experts = fields->Integer(".expert_count", 0);
  if (experts != 0 && !family.experts) {
    fields->Fail(".expert_count", absl::StrCat("is ", experts, "; experts of a ",
                                               family.architecture, " are not read"));
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
  shape->blocks = blocks;
  const int64_t width = fields->Count(".embedding_length");
  shape->heads = fields->Count(".attention.head_count");
  shape->kv_heads = shape->heads;
  if (Says(*fields, ".attention.head_count_kv")) {
    shape->kv_heads =
        OfAllLayers(fields, ".attention.head_count_kv", shape->layers, "with attention");
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
      {"num_hidden_layers", shape->layers},
      {"num_attention_heads", shape->heads},
      {"num_key_value_heads", shape->kv_heads},
      {"head_dim", shape->head_dim},
      {"hidden_act", "silu"},
      {"max_position_embeddings", fields->Count(".context_length")},
      {"rms_norm_eps", Epsilon(fields)},
      {"rope_theta", fields->Number(".rope.freq_base", 10000.0)},
      {"tie_word_embeddings", !Has(*fields, "output.weight")},
  };
  if (!family.experts || Says(*fields, ".feed_forward_length")) {
    config["intermediate_size"] = Width(fields, shape->layers);
  }
  if (const double epsilon = config["rms_norm_eps"]; !(epsilon > 0)) {
    fields->Fail(".attention.layer_norm_rms_epsilon",
                 absl::StrCat("is ", epsilon, " or missing; must be above 0"));
  }
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
  if (const double factor = fields->Number(".rope.scaling.attn_factor", 1); factor != 1) {
    fields->Fail(".rope.scaling.attn_factor", absl::StrCat("is ", factor, "; must be 1"));
  }
  // Scaling is read beside this; the context that it began with matters to YaRN alone, as what is
  // called by its name. A text's positions are the same in all sections of a rotation.
  fields->RefuseOthers(
      {".vocab_size", ".rope.scaling.type", ".rope.scaling.factor", ".rope.scaling.finetuned",
       ".rope.scaling.original_context_length", ".rope.scaling.yarn_beta_fast",
       ".rope.scaling.yarn_beta_slow", ".rope.scaling.yarn_ext_factor", ".rope.dimension_sections",
       ".rope.dimension_count", ".rope.freq_base", ".pooling_type", ".expert_used_count",
       ".expert_group_used_count", ".expert_shared_feed_forward_length"});
  if (config.contains("partial_rotary_factor") || !config.contains("rope_theta")) return config;
  const int64_t rotated = fields->Integer(".rope.dimension_count", shape->head_dim);
  if (rotated != shape->head_dim && config.value("position_embedding_type", "rope") == "rope") {
    fields->Fail(".rope.dimension_count", absl::StrCat("is ", rotated, " of ", shape->head_dim,
                                                       " channels; all of them must be rotated"));
  }
  return config;
}

}  // namespace packrat
