#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "models/families/families.h"

namespace packrat {
namespace {

ExpertsSpec ReadExperts(JsonFields* f) {
  ExpertsSpec experts;
  experts.num_experts = f->Int("num_experts", 1, kMaxExperts);
  experts.num_chosen = f->Int("num_chosen", 1, experts.num_experts);
  experts.width = f->Int("width", 1, kMaxIntermediate);
  const std::string score = f->String("score", "softmax");
  if (score == "sigmoid") {
    experts.score = RouterScore::kSigmoid;
  } else if (score != "softmax") {
    f->Fail("score", absl::StrCat("is ", Quoted(score), "; must be softmax or sigmoid"));
  }
  experts.normalize = f->Bool("normalize", true);
  experts.route_scale = static_cast<float>(f->Number("scale", 1e-6, 1e6, 1.0));
  experts.names.router = "mlp.router.weight";
  if (f->Bool("bias", false)) experts.names.bias = "mlp.router.bias";
  experts.names.gate = "mlp.experts.*.gate_proj.weight";
  experts.names.up = "mlp.experts.*.up_proj.weight";
  experts.names.down = "mlp.experts.*.down_proj.weight";
  return experts;
}

}  // namespace

void ReadPackratConfig(JsonFields* f, ModelConfig* config) {
  config->names.embedding = "model.embeddings.weight";
  config->names.mixer_norm = "mixer_norm.weight";
  config->names.mixer = "mixer.";
  config->names.feed_forward_norm = "mlp_norm.weight";
  const int num_layers = ReadSizes(f, {{}, {}, {}, {}, 4096, -1, -1, "norm_eps"}, config);
  OnlySilu(f, "hidden_act");
  const SharedFields shared{config->hidden_size, ReadRopeTheta(f, 10000.0)};
  const std::vector<std::string> types = ReadLayerTypes(f, num_layers);
  if (types.empty()) f->Fail("layer_types", "missing; must list the mixer of every layer");

  std::vector<LayerType> mixers;
  for (const std::string& type : MixerNames()) {
    mixers.push_back({type});
    const Json* object = f->Find(type);  // One that no layer uses may hold anything.
    if (std::find(types.begin(), types.end(), type) == types.end()) continue;
    if (object == nullptr) return f->Fail(type, "missing, but layer_types uses it");
    JsonFields fields(*object, type);
    mixers.back().mixer = *ReadMixer(type, &fields, shared);
    fields.RefuseOthers();
    f->Check(fields);
  }
  SetLayers(f, types, mixers, config);

  const Json* object = f->Get("experts");  // Beside every feed-forward.
  if (object == nullptr) return;
  JsonFields fields(*object, "experts");
  const ExpertsSpec experts = ReadExperts(&fields);
  fields.RefuseOthers();
  f->Check(fields);
  for (Sublayer& sublayer : config->sublayers) {
    if (sublayer.mixers.empty()) sublayer.experts = {experts};
  }
}

}  // namespace packrat
