// How a GGUF file scales rotary frequencies, as `rope_scaling` of a config.json.
#ifndef PACKRAT_MODELS_TOOLS_GGUF_ROPE_H_
#define PACKRAT_MODELS_TOOLS_GGUF_ROPE_H_

#include <string>

#include "absl/status/statusor.h"
#include "models/files/gguf.h"
#include "models/files/json.h"
#include "models/tools/gguf_fields.h"

namespace packrat {

// By what each frequency is divided, (head_dim / 2): how Llama 3.1's scaling stands in a file.
inline constexpr char kGgufRopeFactors[] = "rope_freqs.weight";

// Null: nothing is scaled. INVALID_ARGUMENT, naming the file, for a type other than none, linear
// and yarn, and for factors that no scaling of Llama 3.1's form makes.
absl::StatusOr<Json> RopeScalingOfGguf(const GgufFile& file, GgufFields* fields, double base,
                                       int head_dim);

}  // namespace packrat

#endif  // PACKRAT_MODELS_TOOLS_GGUF_ROPE_H_
