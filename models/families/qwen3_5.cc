// Qwen's hybrids, which differ in sizes, feed-forwards, and how projections are stored.
#include <algorithm>
#include <string>
#include <vector>

#include "models/families/families.h"

namespace packrat {
namespace {

AttentionSpec ReadFullAttention(JsonFields* f, int hidden_size, int num_kv_heads, bool bias) {
  AttentionSpec attention;
  ReadHeads(f, {16, num_kv_heads, 256}, hidden_size, &attention);
  attention.qkv_bias = attention.out_bias = bias;
  attention.qk_norm = attention.norm_plus_one = attention.output_gate = true;
  f->Only("attn_output_gate", true);
  double part = 0.25;
  attention.rope_base = ReadRopeTheta(f, 10000.0, &attention.rope_scaling, &part);
  attention.rotary_dim = RotaryDim(f, part, attention.head_dim);
  return attention;
}

struct HybridDefaults {
  SizeDefaults sizes;
  int num_kv_heads;
};

// All but the feed-forwards. `by_key_head`: as GatedDeltaSpec has it.
void ReadHybrid(JsonFields* f, const HybridDefaults& defaults, bool by_key_head,
                ModelConfig* config) {
  config->norm_plus_one = true;
  const bool bias = f->Bool("attention_bias", false);
  const int num_layers = ReadSizes(f, defaults.sizes, config);
  OnlySilu(f, "hidden_act");
  f->Only("output_gate_type", "swish");
  // Guessing ahead, and a type of state that is float32 here in any case.
  f->Ignore({"mtp_num_hidden_layers", "mtp_use_dedicated_embeddings", "mamba_ssm_dtype"});

  const AttentionSpec attention =
      ReadFullAttention(f, config->hidden_size, defaults.num_kv_heads, bias);
  GatedDeltaSpec delta =
      GatedDeltaSpec::Read(f,
                           {"linear_num_key_heads", "linear_num_value_heads", "linear_key_head_dim",
                            "linear_value_head_dim", "linear_conv_kernel_dim"},
                           GatedDeltaSpec{16, 32, 128, 128, 4});
  delta.by_key_head = by_key_head;
  std::vector<std::string> types = ReadLayerTypes(f, num_layers);
  f->Ignore({"full_attention_interval"});  // Where there is a list.
  if (types.empty()) {
    const int interval = f->Int("full_attention_interval", 1, kMaxLayers, 4);
    for (int i = 1; i <= num_layers; ++i) {
      types.emplace_back(i % interval == 0 ? "full_attention" : "linear_attention");
    }
  }
  SetLayers(
      f, types,
      {{"linear_attention", delta, "linear_attn."}, {"full_attention", attention, "self_attn."}},
      config);
}

// The mixture of a router, and the expert that all tokens go through, behind a gate of its own.
// Empty if the file has no experts, which it may say if `least` is 0.
std::vector<ExpertsSpec> ReadExperts(JsonFields* f, int num_experts, int num_chosen, int least) {
  f->Ignore({"output_router_logits", "router_aux_loss_coef"});
  ExpertsSpec routed, shared;
  const bool any =
      routed.ReadNumbers(f, "num_experts", num_experts, "num_experts_per_tok", num_chosen, least);
  routed.width = f->Int("moe_intermediate_size", 1, kMaxIntermediate, 512);
  routed.names.router = "mlp.gate.weight";
  routed.names.gate = "mlp.experts.*.gate_proj.weight";
  routed.names.up = "mlp.experts.*.up_proj.weight";
  routed.names.down = "mlp.experts.*.down_proj.weight";
  routed.names.all_up = "mlp.experts.gate_up_proj";
  routed.names.all_down = "mlp.experts.down_proj";
  shared.width = f->Int("shared_expert_intermediate_size", 1, kMaxIntermediate, 512);
  shared.score = RouterScore::kSigmoid;
  shared.normalize = false;
  shared.names.router = "mlp.shared_expert_gate.weight";
  shared.names.gate = "mlp.shared_expert.gate_proj.weight";
  shared.names.up = "mlp.shared_expert.up_proj.weight";
  shared.names.down = "mlp.shared_expert.down_proj.weight";
  if (!any) return {};
  return {routed, shared};
}

// What checkpoints hold beside the language model: the vision model, and guessing of tokens ahead.
void LeaveOutOthers(ModelConfig* config) {
  config->nested = "model.language_model.";
  config->others = {"model.visual.", "mtp."};
}

// A language model within a multimodal one, both of these types.
void ReadWithin(JsonFields* f, const Family& family, ModelConfig* config) {
  const Json* object = f->Get("text_config");
  if (object == nullptr) return f->Fail("text_config", "missing; must say the language model");
  JsonFields text(*object, "text_config");
  text.Only("model_type", family.name);
  family.read(&text, config);
  text.RefuseOthers();
  f->Check(text);
  IgnoreBookkeeping(f);
  f->Ignore({"vision_config", "image_token_id", "video_token_id", "vision_start_token_id",
             "vision_end_token_id", "language_model_only"});
  if (f->failed()) return;

  // They may be in either place. transformers writes tie_word_embeddings in both, and the outer one
  // decides, whatever text_config says.
  config->tie_embeddings = f->Bool("tie_word_embeddings", config->tie_embeddings);
  config->bos_id = f->Int("bos_token_id", 0, config->vocab_size - 1, config->bos_id);
  for (int id : ReadIds(f, "eos_token_id", config->vocab_size)) {
    std::vector<int>& ids = config->eos_ids;
    if (std::find(ids.begin(), ids.end(), id) == ids.end()) ids.push_back(id);
  }
}

}  // namespace

// Defaults are those of transformers' Qwen3_5TextConfig.
void ReadQwen35TextConfig(JsonFields* f, ModelConfig* config) {
  LeaveOutOthers(config);
  f->Only("mlp_only_layers", Json::array());
  ReadHybrid(f, {{248320, 4096, 12288, 32, 32768}, 4}, false, config);
}

void ReadQwen35Config(JsonFields* f, ModelConfig* config) {
  ReadWithin(f, kQwen35TextFamily, config);
}

// Defaults are those of transformers' Qwen3_5MoeTextConfig.
void ReadQwen35MoeTextConfig(JsonFields* f, ModelConfig* config) {
  LeaveOutOthers(config);
  f->Only("mlp_only_layers", Json::array());
  f->Only("decoder_sparse_step", 1);
  f->Only("norm_topk_prob", true);
  constexpr int kNoWidth = 1;  // No layer has the feed-forward that it is of.
  ReadHybrid(f, {{248320, 2048, kNoWidth, 40, 32768}, 2}, false, config);
  const std::vector<ExpertsSpec> experts = ReadExperts(f, 256, 8, 1);
  for (Sublayer& sublayer : config->sublayers) {
    if (sublayer.mixers.empty()) sublayer.SetExperts(experts);
  }
}

void ReadQwen35MoeConfig(JsonFields* f, ModelConfig* config) {
  ReadWithin(f, kQwen35MoeTextFamily, config);
}

// Defaults are those of transformers' Qwen3NextConfig.
void ReadQwen3NextConfig(JsonFields* f, ModelConfig* config) {
  LeaveOutOthers(config);
  ReadHybrid(f, {{151936, 2048, 5632, 48, 32768}, 2}, true, config);
  f->Only("use_sliding_window", false);
  std::vector<ExpertsSpec> experts = ReadExperts(f, 512, 10, 0);
  const bool normalize = f->TrueUnlessNull("norm_topk_prob");
  const int step = f->Int("decoder_sparse_step", 1, kMaxLayers, 1);
  const std::vector<bool> plain = ReadLayerNumbers(f, "mlp_only_layers", config->num_layers());
  if (experts.empty()) return;
  experts[0].normalize = normalize;
  for (Sublayer& sublayer : config->sublayers) {
    const int layer = sublayer.layer;
    if (!sublayer.mixers.empty() || plain[layer] || (layer + 1) % step != 0) continue;
    sublayer.SetExperts(experts);
  }
}

}  // namespace packrat
