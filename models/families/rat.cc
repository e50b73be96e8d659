#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "models/families/families.h"

namespace packrat {

int ReadRatSizes(JsonFields* f, ModelConfig* config) {
  config->names = {"embedding.wte.weight",        "backbone.ln.weight",
                   "head.lm_head.weight",         "backbone.layers.",
                   "seq_layer.input_norm.weight", "seq_layer.",
                   "hidden_layer.ln.weight",      "hidden_layer.fc1.weight",
                   "hidden_layer.fc1.weight",     "hidden_layer.fc2.weight"};
  config->vocab_size = f->Int("vocab_size", 1, kMaxVocab);
  config->hidden_size = f->Int("d_model", 1, kMaxHidden);
  config->intermediate_size = f->Int("d_ffn", 1, kMaxIntermediate);
  config->norm_eps = ReadNormEps(f, "norm_eps");
  config->tie_embeddings = f->Bool("tie_embedding", true);
  config->max_context = f->Int("max_position_embeddings", 1, kMaxContext, 4096);
  ReadEndIds(f, config);
  IgnoreBookkeeping(f);

  const std::string act = f->String("act_fn", "gelu");
  if (act != "gelu" && act != "swiglu") {
    f->Fail("act_fn", absl::StrCat("is ", Quoted(act), "; must be gelu or swiglu"));
  }
  config->activation = act == "gelu" ? Activation::kGelu : Activation::kSwiglu;
  return f->Int("num_layers", 1, kMaxLayers);
}

void ReadRatConfig(JsonFields* f, ModelConfig* config) {
  const int num_layers = ReadRatSizes(f, config);
  std::vector<std::string> types = ReadLayerTypes(f, num_layers);
  f->Ignore({"interleave_step"});  // Where there is a list.
  if (types.empty()) {
    // Every interleave_step-th layer, from the first, is RAT; without a step, all are.
    const int step = f->Int("interleave_step", 1, kMaxLayers, 1);
    for (int i = 0; i < num_layers; ++i) {
      types.push_back(i % step == 0 ? "rat" : "local_attention");
    }
  }

  RatSpec rat;
  rat.num_heads = f->Int("num_head", 1, kMaxHeads);
  rat.head_dim = EvenHeadDim(f, "num_head", rat.num_heads, config->hidden_size);
  rat.rope_base = f->Number("rope_base", 1.0, kMaxRopeBase, 10000.0);
  AttentionSpec local;
  local.num_heads = local.num_kv_heads = rat.num_heads;
  local.head_dim = rat.head_dim;
  local.rope_base = rat.rope_base;
  local.fused_in_proj = true;
  // Fields of a mixer that no layer uses may hold anything.
  f->Ignore({"ngroups", "chunk_size", "window_size"});
  if (std::count(types.begin(), types.end(), "rat") > 0) {
    rat.num_groups = DivisorOfHeads(f, "ngroups", rat.num_heads, {});
    rat.chunk_size = f->Int("chunk_size", 1, RatSpec::kMaxChunk);
  }
  if (std::count(types.begin(), types.end(), "local_attention") > 0) {
    local.window = f->Int("window_size", 0, AttentionSpec::kMaxWindow - 1) + 1;
  }
  AttentionSpec full = local;
  full.window = 0;
  SetLayers(f, types, {{"rat", rat}, {"local_attention", local}, {"attention", full}}, config);
}

}  // namespace packrat
