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
  // Tokens that are scored at a time. A longer document is scored in stretches, each from an empty
  // context. 0: 4095, or the model's max_context if that is less. Range [0, max_context].
  int length = 0;
  // Whether each stretch begins with BOS: "true", "false", or "" for what the server would do. A
  // BOS is not scored; without one, the first token of a stretch is not.
  std::string bos;
};

struct TextScore {
  int64_t documents = 0, bytes = 0, tokens = 0;  // That are scored.
  double nats = 0;                               // Negative log-likelihood.
  // If there is at least one document:
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

// The documents of a text. A line `<|endoftext|>` closes each (the last may lack it): lines without
// the white space around them, joined by line breaks. Empty ones are left out.
std::vector<std::string> DocumentsOf(const std::string& text);

}  // namespace packrat

#endif  // PACKRAT_MODELS_TOOLS_PERPLEXITY_H_
