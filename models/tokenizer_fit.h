// Whether a folder's tokenizer is the one that its configuration means.
#ifndef PACKRAT_MODELS_TOKENIZER_FIT_H_
#define PACKRAT_MODELS_TOKENIZER_FIT_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "models/config.h"
#include "models/text/tokenizer.h"

namespace packrat {

// Sentences for the log: BOS and EOS of the tokenizer that are not those of the configuration.
// INVALID_ARGUMENT, with the field, for an end id that has no token, so that no text would end.
absl::StatusOr<std::vector<std::string>> CompareTokenizer(const Tokenizer& tokenizer,
                                                          const ModelConfig& config);

}  // namespace packrat

#endif  // PACKRAT_MODELS_TOKENIZER_FIT_H_
