#include <string>

#include "models/families/families.h"

namespace packrat {

// Defaults are those of transformers' LlamaConfig.
void ReadLlamaConfig(JsonFields* f, ModelConfig* config) {
  config->names = {"model.embed_tokens.weight",
                   "model.norm.weight",
                   "lm_head.weight",
                   "model.layers.",
                   "input_layernorm.weight",
                   "self_attn.",
                   "post_attention_layernorm.weight",
                   "mlp.up_proj.weight",
                   "mlp.gate_proj.weight",
                   "mlp.down_proj.weight"};
  config->activation = Activation::kSwiglu;
  config->vocab_size = f->Int("vocab_size", 1, kMaxVocab, 32000);
  config->hidden_size = f->Int("hidden_size", 1, kMaxHidden, 4096);
  config->intermediate_size = f->Int("intermediate_size", 1, kMaxIntermediate, 11008);
  config->norm_eps = ReadNormEps(f, "rms_norm_eps");
  config->tie_embeddings = f->Bool("tie_word_embeddings", false);
  config->max_context = f->Int("max_position_embeddings", 1, kMaxContext, 2048);
  ReadEndIds(f, config);
  IgnoreBookkeeping(f);
  f->Ignore({"is_llama_config", "transformers.js_config"});
  f->Only("hidden_act", "silu");
  f->Only("rope_interleaved", false);
  const int num_layers = f->Int("num_hidden_layers", 1, kMaxLayers, 32);

  AttentionSpec attention;
  attention.num_heads = f->Int("num_attention_heads", 1, kMaxHeads, 32);
  attention.num_kv_heads =
      DivisorOfHeads(f, "num_key_value_heads", attention.num_heads, attention.num_heads);
  attention.head_dim =
      ReadHeadDim(f, "num_attention_heads", attention.num_heads, config->hidden_size);
  attention.rope_base = ReadRopeTheta(f, 10000.0, &attention.rope_scaling);
  config->layers.assign(num_layers, attention);
}

}  // namespace packrat
