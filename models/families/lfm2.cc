#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "models/families/families.h"

namespace packrat {
namespace {

// The feed-forward's width: what the file says, or two thirds of it, times a factor, rounded up to
// a multiple.
int ReadFeedForward(JsonFields* f, int intermediate_size) {
  const int width = f->Int("block_ff_dim", 1, kMaxIntermediate, intermediate_size);
  const bool adjust = f->TrueUnlessNull("block_auto_adjust_ff_dim");
  const char* factor_name = "block_ffn_dim_multiplier";
  const bool rounded = f->Find(factor_name) == nullptr || f->Get(factor_name) != nullptr;
  const double factor = f->Number(factor_name, 1e-6, 1e6, 1.0);
  const int multiple = f->Int("block_multiple_of", 1, kMaxIntermediate, 256);
  if (!adjust) return width;
  const int thirds = 2 * width / 3;
  if (!rounded) return thirds;  // A factor of null.
  const double scaled = factor * thirds;
  if (scaled < 1 || scaled > kMaxIntermediate - multiple) {
    f->Fail(factor_name, absl::StrCat("is ", factor, ", which makes of intermediate_size ", width,
                                      " a feed-forward of ", scaled,
                                      " channels; must be from 1 to ", kMaxIntermediate));
    return width;
  }
  return (static_cast<int>(scaled) + multiple - 1) / multiple * multiple;
}

std::vector<std::string> ReadTypes(JsonFields* f, int num_layers) {
  std::vector<std::string> types = ReadLayerTypes(f, num_layers);
  const std::vector<bool> attention = ReadLayerNumbers(f, "full_attn_idxs", num_layers);
  if (!types.empty()) return types;
  const bool all = f->Get("full_attn_idxs") == nullptr;
  for (const bool named : attention) types.emplace_back(all || named ? "full_attention" : "conv");
  return types;
}

// Adds the layers, and reads what their mixers are.
void SetMixers(JsonFields* f, const std::vector<std::string>& types, ModelConfig* config) {
  AttentionSpec attention;
  ReadHeads(f, {32, 8, {}}, config->hidden_size, &attention);
  attention.rope_base = ReadRopeTheta(f, 1e6, &attention.rope_scaling);
  attention.qk_norm = true;
  attention.names = {"out_proj", "q_layernorm", "k_layernorm"};
  const ShortConvSpec conv{config->hidden_size, f->Int("conv_L_cache", 1, kMaxConvSize, 3),
                           f->Bool("conv_bias", false)};
  SetLayers(f, types, {{"conv", conv, "conv."}, {"full_attention", attention, "self_attn."}},
            config);
  f->Only("theta", attention.rope_base);
  f->Only("num_heads", attention.num_heads);
}

// Returns the number of layers.
int ReadLfm2Sizes(JsonFields* f, const SizeDefaults& defaults, ModelConfig* config) {
  TensorNames& names = config->names;
  names.final_norm = "model.embedding_norm.weight";
  names.mixer_norm = "operator_norm.weight";
  names.feed_forward_norm = "ffn_norm.weight";
  names.gate = "feed_forward.w1.weight";
  names.up = "feed_forward.w3.weight";
  names.down = "feed_forward.w2.weight";
  const int num_layers = ReadSizes(f, defaults, config);
  config->tie_embeddings = f->Bool("tie_embedding", config->tie_embeddings);  // An older name.
  return num_layers;
}

}  // namespace

// Defaults are those of transformers' Lfm2Config.
void ReadLfm2Config(JsonFields* f, ModelConfig* config) {
  const int num_layers =
      ReadLfm2Sizes(f, {65536, 2560, 12288, 32, 128000, 1, 2, "norm_eps", 1e-5, true}, config);
  config->intermediate_size = ReadFeedForward(f, config->intermediate_size);
  SetMixers(f, ReadTypes(f, num_layers), config);

  // What the first files say a second time, and how their weights began.
  for (const char* name : {"block_dim", "conv_dim", "conv_dim_out"}) {
    f->Only(name, config->hidden_size);
  }
  f->Only("block_norm_eps", f->Number("norm_eps", 0.0, 1.0, 1e-5));
  f->Only("block_use_swiglu", true);
  f->Only("use_pos_enc", true);
  f->Ignore({"block_mlp_init_scale", "block_out_init_scale", "block_use_xavier_init",
             "conv_use_xavier_init", "block__name_mlp", "block_ffn_te_autocast", "ffn_te_autocast",
             "block_sequence_parallel_norm_across_tp", "sequence_parallel_norm_across_tp"});
  for (const char* name : {"block_ffn_use_quantized_params", "ffn_use_quantized_params"}) {
    f->Only(name, false);
  }
}

// Defaults are those of transformers' Lfm2MoeConfig.
void ReadLfm2MoeConfig(JsonFields* f, ModelConfig* config) {
  const int num_layers =
      ReadLfm2Sizes(f, {65536, 2048, 7168, 32, 128000, 1, 2, "norm_eps", 1e-5, true}, config);
  const std::vector<std::string> types = ReadLayerTypes(f, num_layers);
  if (types.empty()) f->Fail("layer_types", "missing; must list the mixer of every layer");
  SetMixers(f, types, config);

  ExpertsSpec experts;
  experts.ReadNumbers(f, "num_experts", 32, "num_experts_per_tok", 4);
  experts.width = f->Int("moe_intermediate_size", 1, kMaxIntermediate, 1792);
  experts.score = RouterScore::kSigmoid;
  experts.normalize = f->TrueUnlessNull("norm_topk_prob");
  experts.normalize_eps = 1e-6f;
  experts.route_scale = static_cast<float>(f->Number("routed_scaling_factor", 1e-6, 1e6, 1.0));
  experts.names.router = "feed_forward.gate.weight";
  if (f->TrueUnlessNull("use_expert_bias")) experts.names.bias = "feed_forward.expert_bias";
  experts.names.gate = "feed_forward.experts.*.w1.weight";
  experts.names.up = "feed_forward.experts.*.w3.weight";
  experts.names.down = "feed_forward.experts.*.w2.weight";
  experts.names.all_up = "feed_forward.experts.gate_up_proj";
  experts.names.all_down = "feed_forward.experts.down_proj";
  const int dense = f->Int("num_dense_layers", 0, kMaxLayers, 2);
  for (Sublayer& sublayer : config->sublayers) {
    if (sublayer.mixers.empty() && sublayer.layer >= dense) sublayer.SetExperts({experts});
  }
  f->Ignore({"output_router_logits"});
}

}  // namespace packrat
