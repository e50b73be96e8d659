// What a sequence brings along to have its rows of logits sampled (see kernels/sampling.h).
#ifndef PACKRAT_RUNTIME_SAMPLER_H_
#define PACKRAT_RUNTIME_SAMPLER_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "kernels/sampling.h"
#include "runtime/request.h"

namespace packrat {

// The distinct tokens of a sequence with their counts: a list and a hash index into it, sized once
// by the number of tokens that may come (not by the vocabulary).
class TokenCounts {
 public:
  // Room for `max_distinct` distinct tokens.
  void Reserve(int max_distinct);
  void AddPrompt(int32_t token) { Find(token); }
  void AddGenerated(int32_t token) { ++Find(token)->generated; }
  absl::Span<const TokenCount> entries() const { return entries_; }

 private:
  TokenCount* Find(int32_t token);  // Added if new.
  std::vector<TokenCount> entries_;
  std::vector<int32_t> index_;  // Into entries_, -1: empty. A power of two, at most half full.
};

// What a sequence brings along to be sampled: its parameters, put in order, and its tokens. All
// memory is taken by the constructor.
class SamplingState {
 public:
  // `params` valid (see validate.h); `num_ids`: ids from there on are never sampled.
  SamplingState(const SamplingParams& params, absl::Span<const int32_t> prompt, int max_tokens,
                int num_ids);
  void AddGenerated(int32_t token) {
    if (penalties_) counts_.AddGenerated(token);
  }
  const SamplingParams& params() const { return params_; }
  // Whether the tokens of the text change how the next is drawn.
  bool depends_on_text() const { return penalties_; }

  // How the token at `position` is drawn; valid until the next AddGenerated(). `masked` ids are
  // excluded, this time, and stay where they are as long.
  SamplingRow Row(absl::Span<const int32_t> masked, uint64_t position) const;

 private:
  const int num_ids_;
  SamplingParams params_;
  bool allow_list_;     // Only allowed_ids may be sampled.
  bool penalties_;      // Any is on.
  TokenCounts counts_;  // Only where penalties_.
};

// True if something is left to sample: allowed (or all) ids below num_ids, less banned and
// `masked`.
bool AnythingToSample(const SamplingParams& params, absl::Span<const int32_t> masked, int num_ids);

}  // namespace packrat

#endif  // PACKRAT_RUNTIME_SAMPLER_H_
