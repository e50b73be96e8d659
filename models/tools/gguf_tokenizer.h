// The tokenizer that a GGUF file carries, as tokenizer.json or tokenizer.model,
// tokenizer_config.json, and what of it belongs into generation_config.json.
#ifndef PACKRAT_MODELS_TOOLS_GGUF_TOKENIZER_H_
#define PACKRAT_MODELS_TOOLS_GGUF_TOKENIZER_H_

#include <string>

#include "absl/status/statusor.h"
#include "models/files/gguf.h"
#include "models/files/json.h"

namespace packrat {

struct GgufTokenizer {
  Json json;                    // Of byte pairs; else null.
  std::string sentence_pieces;  // Of SentencePiece; else empty.
  Json config;                  // Null: the file carries no tokenizer.
  Json ends = Json::array();    // Ids that end a text: EOS, and ends of turns and of messages.
};

// INVALID_ARGUMENT, naming the file, for a model other than byte pairs ("gpt2") and SentencePiece
// ("llama", "t5"), for a way of cutting words that is not known, and for lists that do not fit each
// other.
absl::StatusOr<GgufTokenizer> TokenizerOfGguf(const GgufHeader& header, const std::string& file);

}  // namespace packrat

#endif  // PACKRAT_MODELS_TOOLS_GGUF_TOKENIZER_H_
