// Feeds texts to a model piece by piece, without an engine, for tools that want the logits of all
// tokens.
#ifndef PACKRAT_MODELS_TOOLS_TEXT_FEED_H_
#define PACKRAT_MODELS_TOOLS_TEXT_FEED_H_

#include <algorithm>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "models/model.h"
#include "models/owned_state.h"

namespace packrat {

struct FeedOptions {
  std::string model;  // Folder with config.json and safetensors.
  int piece = 256;    // Tokens fed at a time; 1 is pure decoding. Range [1, 65536].
  SolverOptions solver;
  int threads = 0;                      // 0: one per CPU that it may use. Range [0, 1024].
  std::string activations = "float32";  // See ActivationTypeOf().
  std::string weights = "stored", output_weights = "auto";  // See SetWeightFormats().
};

// INVALID_ARGUMENT names the option and its range.
absl::Status CheckFeedOptions(const FeedOptions& options);
ModelOptions ModelOptionsOf(const FeedOptions& options);

class TextFeed {
 public:
  // ids: (count), a text of its own. `state`: of one sequence of at least `count` tokens. All must
  // outlive the feed.
  TextFeed(LanguageModel* model, OwnedState* state, const FeedOptions& options, const int32_t* ids,
           int count)
      : model_(model), state_(state), options_(options), ids_(ids), count_(count) {}

  bool done() const { return first_ == count_; }
  // The piece that comes next: its first token's index, and its tokens.
  int first() const { return first_; }
  int size() const { return std::min(options_.piece, count_ - first_); }
  // Feeds it: logits (size(), vocab), valid until the next call. INTERNAL: they are not finite.
  absl::StatusOr<float*> Next();

 private:
  LanguageModel* const model_;
  OwnedState* const state_;
  const FeedOptions& options_;
  const int32_t* const ids_;
  const int count_;
  int first_ = 0;
};

}  // namespace packrat

#endif  // PACKRAT_MODELS_TOOLS_TEXT_FEED_H_
