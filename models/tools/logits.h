// Writes the logits of given texts to a file, for people who port a model and compare.
#ifndef PACKRAT_MODELS_TOOLS_LOGITS_H_
#define PACKRAT_MODELS_TOOLS_LOGITS_H_

#include <string>

#include "absl/status/status.h"
#include "models/tools/text_feed.h"

namespace packrat {

struct LogitsOptions : FeedOptions {  // The folder needs no tokenizer.
  std::string tokens;                 // safetensors file with input_ids (B, T) int32
  std::string output;  // safetensors file to write: logits (B, T, vocab_size) float32
  // If not empty: safetensors file to write with the residual stream, (B, T, hidden_size) float32
  // each: `embeddings`, and for each layer i `layers.{i}.mixer`, after its mixer, and `layers.{i}`,
  // after its feed-forward, which is what the next layer reads. The first tensor that differs from
  // another implementation's shows which part differs.
  std::string layers;
};

// INVALID_ARGUMENT where an option is out of its range.
absl::Status CheckOptions(const LogitsOptions& options);

// INVALID_ARGUMENT names the option, or the file, the tensor and the reason.
absl::Status WriteLogits(const LogitsOptions& options);

}  // namespace packrat

#endif  // PACKRAT_MODELS_TOOLS_LOGITS_H_
