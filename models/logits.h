// The logits of given texts, written to a file: what a person who ports a model compares with.
#ifndef PACKRAT_MODELS_LOGITS_H_
#define PACKRAT_MODELS_LOGITS_H_

#include <string>

#include "absl/status/status.h"

namespace packrat {

struct LogitsOptions {
  std::string model;   // Folder with config.json and safetensors; needs no tokenizer.
  std::string tokens;  // safetensors file with input_ids (B, T) int32
  std::string output;  // safetensors file to write: logits (B, T, vocab_size) float32
  // If not empty: safetensors file to write with the residual stream, (B, T, hidden_size) float32
  // each: `embeddings`, and for each layer i `layers.{i}.mixer`, after its mixer, and `layers.{i}`,
  // after its feed-forward, which is what the next layer reads. The first tensor that differs from
  // another implementation's names the part that does.
  std::string activations;
  int piece = 256;             // Tokens fed at a time; 1 is pure decoding. Range [1, 65536].
  float cg_tolerance = 1e-4f;  // Mesa: relative residual. Range [1e-7, 0.1].
  int cg_max_steps = 64;       // Range [1, 1024].
  int threads = 0;             // 0: one per core. Range [0, 1024].
};

// INVALID_ARGUMENT where an option is out of its range.
absl::Status CheckOptions(const LogitsOptions& options);

// INVALID_ARGUMENT names the option, or the file, the tensor and the reason.
absl::Status WriteLogits(const LogitsOptions& options);

}  // namespace packrat

#endif  // PACKRAT_MODELS_LOGITS_H_
