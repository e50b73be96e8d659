// What a sequence brings along to have its rows of logits sampled (see kernels/sampling.h).
#ifndef PACKRAT_RUNTIME_SAMPLING_STATE_H_
#define PACKRAT_RUNTIME_SAMPLING_STATE_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "kernels/sampling.h"
#include "runtime/request.h"

namespace packrat {

// The distinct tokens of a sequence with their counts: a list and a hash index into it.
class TokenCounts {
 public:
  // Room for so many distinct tokens, at least. More of them double it.
  void Reserve(size_t distinct);
  void AddPrompt(int32_t token) { Find(token); }
  void AddGenerated(int32_t token) { ++Find(token)->generated; }
  absl::Span<const TokenCount> entries() const { return entries_; }

 private:
  TokenCount* Find(int32_t token);  // Added if new.
  // Where `token` stands in the index, or would.
  size_t Place(int32_t token) const;
  std::vector<TokenCount> entries_;
  std::vector<int32_t> index_;  // Into entries_, -1: empty. A power of two, at most half full.
};

// What a sequence brings along to be sampled: its parameters, put in order, and its tokens.
//
// Tokens are counted from Begin() on: a request that waits has none. Nor is there room for
// max_tokens of them, which is what a client claims, but for kReservedTokens: a text that brings
// more distinct ones doubles the room. That is the one thing that decoding may allocate, once in
// as many tokens as the text has, where everything else is taken at admission.
class SamplingState {
 public:
  static constexpr int kReservedTokens = 1024;

  // `params` valid (see validate.h); `num_ids`: ids from there on are never sampled.
  SamplingState(const SamplingParams& params, int num_ids);
  // Of the lists of any of its rows (SamplingListBytes()), at most: `distinct` tokens may be in the
  // text, and Row() is given so many masked ids and words of a mask. Before Begin().
  size_t MostListBytes(size_t distinct, size_t masked, size_t mask_words) const;
  // The text begins: takes room for its counts where they are needed. Once, before Row().
  void Begin(absl::Span<const int32_t> prompt, int max_tokens);
  void AddGenerated(int32_t token) {
    if (penalties_) counts_.AddGenerated(token);
  }
  const SamplingParams& params() const { return params_; }
  // Whether the tokens of the text change how the next is drawn.
  bool depends_on_text() const { return penalties_; }

  // How the token at `position` is drawn; valid until the next AddGenerated(). `masked` ids are
  // excluded, this time, and stay where they are as long; so does `mask`, as in SamplingRow.
  SamplingRow Row(absl::Span<const int32_t> masked, uint64_t position,
                  absl::Span<const uint32_t> mask = {}) const;

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

#endif  // PACKRAT_RUNTIME_SAMPLING_STATE_H_
