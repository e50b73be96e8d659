// Writes a copy of a model's folder with its matrices quantised, so that loading it need not
// quantise and reads less.
#ifndef PACKRAT_MODELS_TOOLS_QUANTIZE_H_
#define PACKRAT_MODELS_TOOLS_QUANTIZE_H_

#include <cstddef>
#include <functional>
#include <string>

#include "absl/status/status.h"

namespace packrat {

struct QuantizeOptions {
  std::string model;    // Folder with config.json and safetensors.
  std::string output;   // Folder to be made; it may be there, and must then be empty.
  std::string weights;  // int8 or int4: of the layers' matrices.
  // Of the output matrix: auto (int8), stored, int8, int4. One that is tied to the embedding stays
  // with it, as stored; a server quantises it when it loads.
  std::string output_weights = "auto";
  // Called while the weights are written, unless it is empty.
  std::function<void(size_t done_bytes, size_t total_bytes)> progress = nullptr;
};

// INVALID_ARGUMENT naming the option, or file, tensor and reason. What else lies in the folder
// (tokenizer, configs; not other weights) is copied. One tensor is in memory at a time. If it
// fails, nothing of the output is left.
absl::Status QuantizeModel(const QuantizeOptions& options);

}  // namespace packrat

#endif  // PACKRAT_MODELS_TOOLS_QUANTIZE_H_
