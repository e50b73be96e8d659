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
  const bool adjust = f->Bool("block_auto_adjust_ff_dim", true);
  const char* factor_name = "block_ffn_dim_multiplier";
  const bool rounded = f->Find(factor_name) == nullptr || f->Get(factor_name) != nullptr;
  const double factor = f->Number(factor_name, 1e-6, 1e6, 1.0);
  const int multiple = f->Int("block_multiple_of", 1, kMaxIntermediate, 256);
  if (!adjust) return width;
  const int thirds = 2 * width / 3;
  if (!rounded) return thirds;  // A factor of null.
  const double scaled = factor * thirds;
  if (scaled < 1 || scaled > kMaxIntermediate - multiple) {
    f->Fail(factor_name, absl::StrCat("is ", factor, ", which makes a feed-forward of ", scaled,
                                      " channels; must be from 1 to ", kMaxIntermediate));
    return width;
  }
  return (static_cast<int>(scaled) + multiple - 1) / multiple * multiple;
}

std::vector<std::string> ReadTypes(JsonFields* f, int num_layers) {
  std::vector<std::string> types = ReadLayerTypes(f, num_layers);
  const Json* attention = f->Get("full_attn_idxs");
  if (!types.empty()) return types;
  types.assign(num_layers, attention == nullptr ? "full_attention" : "conv");
  if (attention == nullptr) return types;
  if (!attention->is_array()) f->Fail("full_attn_idxs", "must be a list of layer numbers");
  for (const Json& item : *attention) {
    int layer;
    if (!JsonFields::ToInt(item, 0, kMaxLayers, &layer)) {
      f->Fail("full_attn_idxs", absl::StrCat("holds ", JsonFields::Shown(item), "; a layer ",
                                             JsonFields::Range(0, kMaxLayers)));
    } else if (layer < num_layers) {
      types[layer] = "full_attention";
    }
  }
  return types;
}

}  // namespace

// Defaults are those of transformers' Lfm2Config.
void ReadLfm2Config(JsonFields* f, ModelConfig* config) {
  TensorNames& names = config->names;
  names.final_norm = "model.embedding_norm.weight";
  names.mixer_norm = "operator_norm.weight";
  names.feed_forward_norm = "ffn_norm.weight";
  names.gate = "feed_forward.w1.weight";
  names.up = "feed_forward.w3.weight";
  names.down = "feed_forward.w2.weight";
  const int num_layers =
      ReadSizes(f, {65536, 2560, 12288, 32, 128000, 1, 2, "norm_eps", 1e-5, true}, config);
  config->tie_embeddings = f->Bool("tie_embedding", config->tie_embeddings);  // An older name.
  config->intermediate_size = ReadFeedForward(f, config->intermediate_size);

  AttentionSpec attention;
  ReadHeads(f, {32, 8, {}}, config->hidden_size, &attention);
  attention.rope_base = ReadRopeTheta(f, 1e6, &attention.rope_scaling);
  attention.qk_norm = true;
  attention.names = {"out_proj", "q_layernorm", "k_layernorm"};
  const ShortConvSpec conv{config->hidden_size, f->Int("conv_L_cache", 1, kMaxConvSize, 3),
                           f->Bool("conv_bias", false)};
  SetLayers(f, ReadTypes(f, num_layers),
            {{"conv", conv, "conv."}, {"full_attention", attention, "self_attn."}}, config);

  // What the first files say a second time, and how their weights began.
  f->Only("theta", attention.rope_base);
  f->Only("num_heads", attention.num_heads);
  for (const char* name : {"block_dim", "conv_dim", "conv_dim_out"}) {
    f->Only(name, config->hidden_size);
  }
  f->Only("block_norm_eps", f->Number("norm_eps", 0.0, 1.0, 1e-5));
  f->Only("block_use_swiglu", true);
  f->Only("use_pos_enc", true);
  f->Ignore({"block_mlp_init_scale", "block_out_init_scale", "block_use_xavier_init",
             "conv_use_xavier_init", "block__name_mlp"});
}

}  // namespace packrat
