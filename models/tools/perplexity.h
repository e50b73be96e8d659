// How well a model predicts a text: negative log-likelihood by the code that serves. The same
// documents, counts and conventions as models/train/evaluate.py, the PyTorch reference.
#ifndef PACKRAT_MODELS_TOOLS_PERPLEXITY_H_
#define PACKRAT_MODELS_TOOLS_PERPLEXITY_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "models/tools/text_feed.h"

namespace packrat {

struct PerplexityOptions : FeedOptions {  // The folder needs a tokenizer.
  std::string file;                       // UTF-8.
  // Tokens that are scored at a time; what a longer document has more begins anew. 0: 4095, or the
  // model's max_context where that is less. Range [0, max_context].
  int length = 0;
  // Whether each stretch begins with BOS, which is not scored; without it the first token of a
  // stretch is not. "": as the server would put it before a text; "true", "false".
  std::string bos;
};

struct TextScore {
  int64_t documents = 0, bytes = 0, tokens = 0;  // Of what is scored.
  double nats = 0;                               // Negative log-likelihood.
  // Of at least one document:
  double bits_per_byte() const;
  double nats_per_token() const { return nats / tokens; }
  double perplexity() const;  // Per token.
};

struct PerplexityScores {
  TextScore short_ones, long_ones;  // Under 4,000 characters, and the others.
  TextScore all() const;
};

// INVALID_ARGUMENT where an option is out of its range.
absl::Status CheckOptions(const PerplexityOptions& options);

// INVALID_ARGUMENT, with the file, also where there is nothing to score.
absl::StatusOr<PerplexityScores> MeasurePerplexity(const PerplexityOptions& options);

// The documents of a text, closed by lines `<|endoftext|>` (the last need not be): lines without
// the white space around them, joined by line breaks. Empty ones are left out.
std::vector<std::string> DocumentsOf(const std::string& text);

}  // namespace packrat

#endif  // PACKRAT_MODELS_TOOLS_PERPLEXITY_H_
