// Turns a GGUF file into a folder that every other command loads: config.json, model.safetensors,
// and tokenizer.json as far as the file carries one.
//
// F32, F16, BF16, Q8_0, Q4_0 and Q4_1 lose nothing. Q4_K keeps its values, but the product of its
// two scales is rounded to float16. Q6_K has no counterpart here and is quantised once more, to
// int8.
#ifndef PACKRAT_MODELS_TOOLS_CONVERT_GGUF_H_
#define PACKRAT_MODELS_TOOLS_CONVERT_GGUF_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "models/files/checkpoint.h"
#include "models/files/gguf.h"

namespace packrat {

struct ConvertOptions {
  std::string gguf;    // One file.
  std::string output;  // Folder to be made; it may be there, and must then be empty.
  // Called while the weights are written, unless it is empty.
  std::function<void(size_t done_bytes, size_t total_bytes)> progress = nullptr;
};

// The architectures that are read: "falcon-h1, granite, ... and qwen3next".
std::string GgufFamilyNames();

// INVALID_ARGUMENT naming the file and what of it is not supported: other architectures, keys and
// tensors that nothing reads, values of another kind or beyond their range, rotary frequencies
// scaled otherwise than linearly, as in Llama 3.1 or by YaRN, tokenizers that gguf_tokenizer.h does
// not know, and files that lack tensors of their model or have them in other shapes. If it fails,
// nothing of the output is left. One tensor is in memory at a time: each is converted twice, to
// know whether all can be before the first is written.
absl::Status ConvertGguf(const ConvertOptions& options);

// The rows of a weight (out, in), `data` as the file has them, in the type of ours that holds them
// best. INVALID_ARGUMENT, without the tensor's name, for a value that it cannot hold.
struct ConvertedTensor {
  TensorType type;
  std::vector<uint8_t> bytes;
};
absl::StatusOr<ConvertedTensor> ConvertGgufTensor(const GgufTensor& tensor,
                                                  const std::vector<uint8_t>& data);

}  // namespace packrat

#endif  // PACKRAT_MODELS_TOOLS_CONVERT_GGUF_H_
