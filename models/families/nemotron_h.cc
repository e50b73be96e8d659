#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "models/families/families.h"

namespace packrat {
namespace {

enum class Kind { kMamba, kAttention, kMlp };

struct KindName {
  char letter;  // Of hybrid_override_pattern.
  const char *name, *older;
  Kind kind;
};
constexpr KindName kKinds[] = {{'M', "linear_attention", "mamba", Kind::kMamba},
                               {'*', "full_attention", "attention", Kind::kAttention},
                               {'-', "mlp", "mlp", Kind::kMlp}};

// What every layer is: a list under the name of today, or a letter for each.
std::vector<Kind> ReadKinds(JsonFields* f) {
  std::vector<std::string> given;
  std::string field = "layers_block_type";
  const Json* first = nullptr;
  for (const char* name : {"layers_block_type", "layer_types"}) {
    const Json* list = f->Get(name);
    if (list == nullptr) continue;
    if (first != nullptr) {
      if (*list != *first) f->Fail(name, "is not as layers_block_type; must be the same");
      continue;
    }
    first = list;
    field = name;
    if (!list->is_array() || list->empty() || list->size() > size_t{kMaxLayers}) {
      f->Fail(name, absl::StrCat("must list the kinds of 1 to ", kMaxLayers, " layers"));
      return {};
    }
    for (const Json& item : *list) {
      given.push_back(item.is_string() ? item.get<std::string>() : JsonFields::Shown(item));
    }
  }
  const std::string pattern = f->String("hybrid_override_pattern", "");
  if (given.empty()) {
    field = "hybrid_override_pattern";
    if (pattern.empty() || pattern.size() > size_t{kMaxLayers}) {
      f->Fail(field, absl::StrCat("must have a letter for each of 1 to ", kMaxLayers, " layers"));
      return {};
    }
    for (const char letter : pattern) given.emplace_back(1, letter);
  }
  std::vector<Kind> kinds;
  for (size_t i = 0; i < given.size(); ++i) {
    const std::string& is = given[i];
    for (const KindName& kind : kKinds) {
      if (is == kind.name || is == kind.older || is == std::string(1, kind.letter)) {
        kinds.push_back(kind.kind);
        break;
      }
    }
    if (kinds.size() == i + 1) continue;
    const bool experts = is == "moe" || is == "E";
    f->Fail(field, absl::StrCat("layer ", i, " is ", Quoted(is),
                                experts ? "; experts are not served, a Nemotron-H without them is"
                                        : "; must be linear_attention, full_attention or mlp"));
    return {};
  }
  return kinds;
}

// Of two names for a field, transformers takes the older one where it is there.
const char* NameOf(JsonFields* f, const char* older, const char* name) {
  if (f->Find(older) == nullptr) return name;
  f->Ignore({name});
  return older;
}

Mamba2Spec ReadMamba(JsonFields* f) {
  Mamba2Spec mamba;
  mamba.num_heads = f->Int("mamba_num_heads", 1, kMaxHeads, 128);
  mamba.head_dim = f->Int("mamba_head_dim", 1, kMaxHeadDim, 64);
  const char* groups = NameOf(f, "mamba_n_groups", "n_groups");
  mamba.num_groups = DivisorOfHeads(f, groups, mamba.num_heads, 8);
  mamba.state_size = f->Int("ssm_state_size", 1, kMaxHeadDim, 128);
  mamba.conv_size = f->Int(NameOf(f, "mamba_d_conv", "conv_kernel"), 1, kMaxConvSize, 4);
  // Some published files have these sizes twice.
  f->Only("mamba_num_groups", mamba.num_groups);
  f->Only("mamba_state_dim", mamba.state_size);
  mamba.Check(f, {"mamba_num_heads", groups, "mamba_head_dim", "ssm_state_size"});
  mamba.norm = Mamba2Norm::kAfterGate;
  mamba.norm_groups = mamba.num_groups;
  mamba.conv_bias = f->TrueUnlessNull(NameOf(f, "mamba_conv_bias", "use_conv_bias"));
  mamba.in_bias = mamba.out_bias = f->Bool("use_bias", false);
  // transformers takes the least step of time_step_min, which training began with, and not that of
  // time_step_limit.
  mamba.dt_min =
      static_cast<float>(f->Number(NameOf(f, "mamba_dt_min", "time_step_min"), 0.0, 1e6, 0.001));
  OnlySilu(f, "mamba_hidden_act");
  f->Ignore({"time_step_limit", "time_step_max", "time_step_floor", "time_step_rank",
             "mamba_proj_bias", "expand", "chunk_size", "use_mamba_kernels",
             "mamba_ssm_cache_dtype", "mamba_expand", "mamba_chunk_size", "mamba_dt_max",
             "mamba_dt_limit", "mamba_dt_init_floor"});
  return mamba;
}

AttentionSpec ReadAttention(JsonFields* f) {
  AttentionSpec attention;
  std::optional<int> kv_heads;
  if (f->Find("num_key_value_heads") == nullptr) kv_heads = 8;
  ReadHeads(f, {32, kv_heads, 128}, 0, &attention);
  attention.rotary_dim = 0;
  if (f->Get("attention_head_dim") != nullptr) f->Only("attention_head_dim", attention.head_dim);
  // transformers has no biases here whatever this says. If the files do, they are surplus tensors.
  f->Ignore({"attention_bias", "sliding_window"});
  return attention;
}

}  // namespace

// Defaults are those of transformers' NemotronHConfig. A layer is one mixer, or one feed-forward.
void ReadNemotronHConfig(JsonFields* f, ModelConfig* config) {
  config->nested = "backbone.";
  config->others = {"mtp."};  // Guessing of tokens ahead.
  TensorNames& names = config->names;
  names.embedding = "model.embeddings.weight";
  names.final_norm = "model.norm_f.weight";
  names.up = "mixer.up_proj.weight";
  names.down = "mixer.down_proj.weight";
  config->activation = Activation::kSquaredRelu;
  config->feed_forward_bias = f->Bool("mlp_bias", false);
  const AttentionSpec attention = ReadAttention(f);
  SizeDefaults defaults{131072, 4096, 21504, 1, 4096, 1, 2, "layer_norm_epsilon"};
  defaults.norm_eps = 1e-5;
  ReadSizes(f, defaults, config);  // The list of layers counts them.
  config->tie_embeddings = false;  // transformers ties none, whatever tie_word_embeddings says.
  f->Only("mlp_hidden_act", "relu2");
  f->Ignore({"num_logits_to_keep", "rescale_prenorm_residual", "residual_in_fp32", "rms_norm_eps",
             "norm_eps"});
  // Nothing is rotated.
  f->Ignore({"rope_theta", "partial_rotary_factor", "rope_scaling", "rope_parameters"});
  // Of experts and of guessing ahead, which no layer has.
  f->Ignore({"n_routed_experts", "num_local_experts", "n_shared_experts", "moe_intermediate_size",
             "moe_shared_expert_intermediate_size", "moe_latent_size", "moe_shared_expert_overlap",
             "num_experts_per_tok", "routed_scaling_factor", "n_group", "topk_group",
             "norm_topk_prob", "output_router_logits", "num_nextn_predict_layers",
             "mtp_layers_block_type", "mtp_hybrid_override_pattern"});
  const Mamba2Spec mamba = ReadMamba(f);
  if (mamba.dt_min > 0) {
    config->warnings.push_back(absl::StrCat(
        "steps of time are at least ", mamba.dt_min,
        " (time_step_min), as transformers computes prompts; its authors' code, vLLM and llama.cpp "
        "have no such bound, and \"time_step_min\": 0 in config.json removes it"));
  }
  const std::vector<Kind> kinds = ReadKinds(f);
  for (size_t i = 0; i < kinds.size(); ++i) {
    Sublayer layer{static_cast<int>(i), "norm.weight", {}};
    if (kinds[i] == Kind::kMlp) {
      config->AddSublayer(layer);
      continue;
    }
    layer.mixers = {{"mixer."}};
    config->AddSublayer(layer,
                        {kinds[i] == Kind::kMamba ? MixerSpec(mamba) : MixerSpec(attention)});
  }
}

}  // namespace packrat
