// The architectures of GGUF files that are read, by the names and the keys that llama.cpp's
// converter gives them: what a file says of a model, as the config.json of our family of it.
#ifndef PACKRAT_MODELS_TOOLS_GGUF_FAMILIES_H_
#define PACKRAT_MODELS_TOOLS_GGUF_FAMILIES_H_

#include <cstdint>
#include <map>
#include <string>

#include "models/files/json.h"
#include "models/tools/gguf_fields.h"

namespace packrat {

// What the layout of tensors needs to know of a model.
struct GgufShape {
  int64_t layers = 0, blocks = 0;  // Blocks beyond the layers guess tokens ahead.
  int64_t heads = 0, kv_heads = 0, head_dim = 0;
  // Of gated delta layers; a key head has several value heads.
  int64_t key_heads = 0, value_heads = 0, value_dim = 0;
  // Of these one of each key head follows the other, and not all of one key head.
  bool tiled_values = false;
};

struct GgufFamily {
  const char* architecture;
  // Completes a config.json that has what all families share.
  void (*config)(GgufFields* fields, GgufShape* shape, Json* config);
  // Of tensors, from theirs to ours: what follows "blk.N." and "model.layers.N.", and the rest.
  // Two of theirs with one name of ours follow each other there, in the order of their names: the
  // rows, of each expert where there are several. One of theirs with two of ours, parted by "+",
  // has the rows of the first before those of the second.
  std::map<std::string, std::string> layer_names, names;
  // The two channels that are rotated together lie side by side, half a head apart in ours.
  bool rotary_pairs = false;
  // Norms have their 1 added.
  bool norms_plus_one = false;
  bool experts = false;  // There may be some.
};

// Null for one that is not read.
const GgufFamily* FindGgufFamily(const std::string& architecture);

// The whole config.json, but for rope_scaling. Complaints are the fields'.
Json GgufConfig(const GgufFamily& family, GgufFields* fields, GgufShape* shape);

}  // namespace packrat

#endif  // PACKRAT_MODELS_TOOLS_GGUF_FAMILIES_H_
