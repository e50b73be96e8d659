// The folder that a tool writes a model to.
#ifndef PACKRAT_MODELS_TOOLS_OUTPUT_FOLDER_H_
#define PACKRAT_MODELS_TOOLS_OUTPUT_FOLDER_H_

#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"

namespace packrat {

// Makes the folder `dir`, which may be there and must then be empty, and calls `fill` to write into
// it. If that fails, what it wrote is taken away, and the folder too if it was made here.
// INVALID_ARGUMENT if the folder is not empty or cannot be made, or what `fill` returns.
absl::Status FillOutputFolder(const std::string& dir, absl::FunctionRef<absl::Status()> fill);

}  // namespace packrat

#endif  // PACKRAT_MODELS_TOOLS_OUTPUT_FOLDER_H_
