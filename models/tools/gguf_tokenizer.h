// The tokenizer that a GGUF file carries, as tokenizer.json and tokenizer_config.json.
#ifndef PACKRAT_MODELS_TOOLS_GGUF_TOKENIZER_H_
#define PACKRAT_MODELS_TOOLS_GGUF_TOKENIZER_H_

#include <string>

#include "absl/status/statusor.h"
#include "models/files/gguf.h"
#include "models/files/json.h"

namespace packrat {

struct GgufTokenizer {
  Json json, config;  // Null: the file carries none.
};

// INVALID_ARGUMENT, naming the file, for a model other than byte pairs ("gpt2"), for a way of
// cutting words that is not known, and for lists that do not fit each other.
absl::StatusOr<GgufTokenizer> TokenizerOfGguf(const GgufHeader& header, const std::string& file);

}  // namespace packrat

#endif  // PACKRAT_MODELS_TOOLS_GGUF_TOKENIZER_H_
