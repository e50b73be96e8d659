#include <algorithm>
#include <string>
#include <vector>

#include "models/families/families.h"

namespace packrat {

void ReadPackratConfig(JsonFields* f, ModelConfig* config) {
  config->names.embedding = "model.embeddings.weight";
  config->names.mixer_norm = "mixer_norm.weight";
  config->names.mixer = "mixer.";
  config->names.feed_forward_norm = "mlp_norm.weight";
  const int num_layers = ReadSizes(f, {{}, {}, {}, {}, 4096, -1, -1, "norm_eps"}, config);
  f->Only("hidden_act", "silu");
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
}

}  // namespace packrat
