#include <algorithm>
#include <string>
#include <vector>

#include "models/families/families.h"

namespace packrat {

void ReadPackratConfig(JsonFields* f, ModelConfig* config) {
  config->names = {"model.embeddings.weight", "model.norm.weight",  "lm_head.weight",
                   "model.layers.",           "mixer_norm.weight",  "mixer.",
                   "mlp_norm.weight",         "mlp.up_proj.weight", "mlp.gate_proj.weight",
                   "mlp.down_proj.weight"};
  config->activation = Activation::kSwiglu;
  config->vocab_size = f->Int("vocab_size", 1, kMaxVocab);
  config->hidden_size = f->Int("hidden_size", 1, kMaxHidden);
  config->intermediate_size = f->Int("intermediate_size", 1, kMaxIntermediate);
  config->norm_eps = ReadNormEps(f, "norm_eps");
  config->tie_embeddings = f->Bool("tie_word_embeddings", false);
  config->max_context = f->Int("max_position_embeddings", 1, kMaxContext, 4096);
  ReadEndIds(f, config);
  IgnoreBookkeeping(f);
  f->Only("hidden_act", "silu");
  const SharedFields shared{config->hidden_size, ReadRopeTheta(f, 10000.0)};
  const int num_layers = f->Int("num_hidden_layers", 1, kMaxLayers);
  const std::vector<std::string> types = ReadLayerTypes(f, num_layers);
  if (types.empty()) f->Fail("layer_types", "missing; must list the mixer of every layer");
  const std::vector<std::string> known = MixerNames();
  f->Ignore(known);  // Those that no layer uses may hold anything.

  for (size_t i = 0; i < types.size() && f->status().ok(); ++i) {
    const std::string& type = types[i];
    if (std::find(known.begin(), known.end(), type) == known.end()) {
      return FailLayerType(f, i, type, known);
    }
    const Json* object = f->Find(type);
    if (object == nullptr) return f->Fail(type, "missing, but layer_types uses it");
    JsonFields fields(*object, type);
    config->layers.push_back(*ReadMixer(type, &fields, shared));
    fields.RefuseOthers();
    f->Check(fields.status());
  }
}

}  // namespace packrat
