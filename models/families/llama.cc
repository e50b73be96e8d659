#include "models/families/families.h"

namespace packrat {

// Defaults are those of transformers' LlamaConfig.
void ReadLlamaConfig(JsonFields* f, ModelConfig* config) {
  AttentionSpec attention;
  attention.qkv_bias = attention.out_bias = f->Bool("attention_bias", false);
  config->feed_forward_bias = f->Bool("mlp_bias", false);
  const int num_layers = ReadSizes(f, {32000, 4096, 11008, 32, 2048, 1, 2}, config);
  f->Ignore({"is_llama_config", "transformers.js_config"});
  OnlySilu(f, "hidden_act");
  f->Only("rope_interleaved", false);
  ReadHeads(f, {32, {}, {}}, config->hidden_size, &attention);
  attention.rope_base = ReadRopeTheta(f, 10000.0, &attention.rope_scaling);
  for (int i = 0; i < num_layers; ++i) config->AddLayer(attention);
}

}  // namespace packrat
