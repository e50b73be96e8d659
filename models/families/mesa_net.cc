#include <algorithm>
#include <string>
#include <variant>

#include "absl/strings/str_cat.h"
#include "models/families/families.h"

namespace packrat {
namespace {

// With fewer steps, what the authors' code computes is no longer the solution that is computed here
// (5 steps: a difference of 4.8e-2 in the logits).
constexpr int kEnoughSteps = 10;

// One object of `attn`: puts its mixer into the layers that it lists.
void ReadAttentionLayers(const Json& json, const std::string& where, int hidden_size,
                         JsonFields* all, std::vector<MixerSpec>* mixers) {
  JsonFields f(json, where);
  const SharedFields shared{hidden_size, 10000.0};
  AttentionSpec attention = AttentionSpec::Read("attention", &f, shared);
  attention.window = f.Int("window_size", 1, AttentionSpec::kMaxWindow, 0);
  attention.qkv_bias = f.Bool("qkv_bias", false);
  const Json* layers = f.Get("layers");
  const int last = static_cast<int>(mixers->size()) - 1;
  if (layers == nullptr || !layers->is_array()) {
    f.Fail("layers", "must be a list of layer numbers");
  } else {
    for (const Json& item : *layers) {
      int layer;
      if (!JsonFields::ToInt(item, 0, last, &layer)) {
        f.Fail("layers", absl::StrCat("holds ", JsonFields::Shown(item), "; a layer ",
                                      JsonFields::Range(0, last)));
      } else if (std::holds_alternative<AttentionSpec>((*mixers)[layer])) {
        f.Fail("layers", absl::StrCat("layer ", layer, " is listed twice"));
      } else {
        (*mixers)[layer] = attention;
      }
      if (!f.status().ok()) break;
    }
  }
  f.RefuseOthers();
  all->Check(f);
}

void ReadSteps(JsonFields* f, const std::string& name, ModelConfig* config) {
  const int steps = f->Int(name, 1, 1 << 20, kEnoughSteps);
  if (steps >= kEnoughSteps) return;
  config->warnings.push_back(absl::StrCat(
      name, " is ", steps,
      ": the model's own code stops solving there, this server goes on to "
      "cg_tolerance, so that its logits differ; cg_max_steps of a request sets such a limit"));
}

}  // namespace

void ReadMesaNetConfig(JsonFields* f, ModelConfig* config) {
  config->names.embedding = "model.embeddings.weight";
  config->names.mixer_norm = "attn_norm.weight";
  config->names.mixer = "attn.";
  config->names.feed_forward_norm = "mlp_norm.weight";
  const int num_layers = ReadSizes(f, {32000, 2048, 0, 24, 2048, 1, 2, "norm_eps"}, config);
  // Which kernels compute it. Short convolutions are there whatever use_short_conv says, and their
  // tensors tell whether they have biases.
  f->Ignore({"attn_mode", "fuse_norm", "fuse_swiglu", "fuse_cross_entropy",
             "fuse_linear_cross_entropy", "use_l2warp", "use_short_conv", "conv_bias"});
  OnlySilu(f, "hidden_act");
  const double ratio = f->Number("hidden_ratio", 1e-3, 64.0, 4.0);
  if (config->intermediate_size == 0) {
    const int wide = static_cast<int>(config->hidden_size * ratio * 2 / 3);
    config->intermediate_size = std::max((wide + 255) / 256, 1) * 256;
    if (config->intermediate_size > kMaxIntermediate) {
      f->Fail("hidden_ratio",
              absl::StrCat("makes an intermediate size of ", config->intermediate_size,
                           "; must be at most ", kMaxIntermediate));
    }
  }
  ReadSteps(f, "max_cg_step_training", config);
  ReadSteps(f, "max_cg_step_decoding", config);
  MesaSpec mesa = MesaSpec::Read("mesa", f, {});
  // An earlier name of use_output_gate.
  if (f->Bool("use_gate", false) && f->Get("use_output_gate") == nullptr) {
    mesa.use_output_gate = true;
  }
  std::vector<MixerSpec> mixers(num_layers, mesa);
  const Json* attn = f->Get("attn");
  const auto read = [&](const Json& json, const std::string& where) {
    ReadAttentionLayers(json, where, config->hidden_size, f, &mixers);
  };
  if (attn != nullptr && !attn->is_array()) read(*attn, "attn");
  for (size_t i = 0; attn != nullptr && attn->is_array() && i < attn->size(); ++i) {
    read((*attn)[i], absl::StrCat("attn[", i, "]"));
  }
  for (const MixerSpec& mixer : mixers) config->AddLayer(mixer);
}

}  // namespace packrat
