// What a tensor of a GGUF file has to be changed in to become ours: order of rows, shapes, and the
// few whose numbers the writers of such files change.
#ifndef PACKRAT_MODELS_TOOLS_GGUF_LAYOUT_H_
#define PACKRAT_MODELS_TOOLS_GGUF_LAYOUT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "models/tools/convert_gguf.h"
#include "models/tools/gguf_families.h"

namespace packrat {

// `name`: theirs, without "blk.N.". `shape`: the tensor's, row-major. INVALID_ARGUMENT, without the
// tensor's name, for one that cannot be changed so. One of a wrong shape stays as it is, and is
// refused when the folder is loaded.
absl::Status ChangeGgufLayout(const GgufFamily& family, const GgufShape& model,
                              const std::string& name, std::vector<int64_t>* shape,
                              ConvertedTensor* tensor);

}  // namespace packrat

#endif  // PACKRAT_MODELS_TOOLS_GGUF_LAYOUT_H_
