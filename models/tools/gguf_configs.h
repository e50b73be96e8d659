// What the config.json of our family says beyond what all share (GgufConfig), for each architecture
// of GGUF files, from the keys and tensors of its file. Complaints are the fields'.
#ifndef PACKRAT_MODELS_TOOLS_GGUF_CONFIGS_H_
#define PACKRAT_MODELS_TOOLS_GGUF_CONFIGS_H_

#include "models/files/json.h"
#include "models/tools/gguf_families.h"
#include "models/tools/gguf_fields.h"

namespace packrat {

void GgufLlama(GgufFields* fields, GgufShape* shape, Json* config);
void GgufQwen2(GgufFields* fields, GgufShape* shape, Json* config);
void GgufQwen3(GgufFields* fields, GgufShape* shape, Json* config);
void GgufQwen3Next(GgufFields* fields, GgufShape* shape, Json* config);
void GgufQwen35(GgufFields* fields, GgufShape* shape, Json* config);
void GgufQwen35Moe(GgufFields* fields, GgufShape* shape, Json* config);
void GgufLfm2(GgufFields* fields, GgufShape* shape, Json* config);
void GgufLfm2Moe(GgufFields* fields, GgufShape* shape, Json* config);
void GgufFalconH1(GgufFields* fields, GgufShape* shape, Json* config);
// With attention in every layer, and with Mamba-2 in most of them; with experts or without.
void GgufGranite(GgufFields* fields, GgufShape* shape, Json* config);
void GgufNemotronH(GgufFields* fields, GgufShape* shape, Json* config);

}  // namespace packrat

#endif  // PACKRAT_MODELS_TOOLS_GGUF_CONFIGS_H_
