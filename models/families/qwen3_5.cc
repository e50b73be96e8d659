#include <algorithm>
#include <string>
#include <vector>

#include "models/families/families.h"

namespace packrat {
namespace {

AttentionSpec ReadFullAttention(JsonFields* f, int hidden_size) {
  AttentionSpec attention;
  ReadHeads(f, {16, 4, 256}, hidden_size, &attention);
  attention.qk_norm = attention.norm_plus_one = attention.output_gate = true;
  f->Only("attn_output_gate", true);
  double part = 0.25;
  attention.rope_base = ReadRopeTheta(f, 10000.0, &attention.rope_scaling, &part);
  attention.rotary_dim = RotaryDim(f, part, attention.head_dim);
  return attention;
}

}  // namespace

// Defaults are those of transformers' Qwen3_5TextConfig.
void ReadQwen35TextConfig(JsonFields* f, ModelConfig* config) {
  config->nested = "model.language_model.";
  config->others = {"model.visual.", "mtp."};  // The vision model, and guessing of tokens ahead.
  config->norm_plus_one = true;
  const int num_layers = ReadSizes(f, {248320, 4096, 12288, 32, 32768}, config);
  f->Only("hidden_act", "silu");
  f->Only("mlp_only_layers", Json::array());
  f->Only("output_gate_type", "swish");
  // Guessing ahead, and a type of state that is float32 here in any case.
  f->Ignore({"mtp_num_hidden_layers", "mtp_use_dedicated_embeddings", "mamba_ssm_dtype"});

  const AttentionSpec attention = ReadFullAttention(f, config->hidden_size);
  const GatedDeltaSpec delta =
      GatedDeltaSpec::Read(f,
                           {"linear_num_key_heads", "linear_num_value_heads", "linear_key_head_dim",
                            "linear_value_head_dim", "linear_conv_kernel_dim"},
                           GatedDeltaSpec{16, 32, 128, 128, 4});
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

void ReadQwen35Config(JsonFields* f, ModelConfig* config) {
  const Json* object = f->Get("text_config");
  if (object == nullptr) return f->Fail("text_config", "missing; must say the language model");
  JsonFields text(*object, "text_config");
  text.Only("model_type", "qwen3_5_text");
  ReadQwen35TextConfig(&text, config);
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

}  // namespace packrat
