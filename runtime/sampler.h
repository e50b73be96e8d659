// From a row of logits to a token. A token is a function of the logits, the sequence's parameters,
// its own tokens, the seed and the position, whatever else runs.
#ifndef PACKRAT_RUNTIME_SAMPLER_H_
#define PACKRAT_RUNTIME_SAMPLER_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "kernels/sampling.h"
#include "runtime/request.h"

namespace packrat {

// A uniform number in [0, 1) that depends on (seed, position) alone: Philox 4x32-10 with the seed
// as key and the position as counter.
double CounterUniform(uint64_t seed, uint64_t position);

// The distinct tokens of a sequence with their counts: a list and a hash index into it, sized once
// by the number of tokens that may come (not by the vocabulary).
class TokenCounts {
 public:
  struct Entry {
    int32_t token;
    int32_t generated;  // 0: only in the prompt.
  };
  // Room for `max_distinct` distinct tokens.
  void Reserve(int max_distinct);
  void AddPrompt(int32_t token) { Find(token); }
  void AddGenerated(int32_t token) { ++Find(token)->generated; }
  absl::Span<const Entry> entries() const { return entries_; }

 private:
  Entry* Find(int32_t token);  // Added if new.
  std::vector<Entry> entries_;
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

 private:
  friend class Sampler;
  SamplingParams params_;
  bool allow_list_;     // Only allowed_ids may be sampled.
  bool penalties_;      // Any is on.
  TokenCounts counts_;  // Only where penalties_.
};

// True if something is left to sample: allowed (or all) ids below num_ids, less banned and
// `masked`.
bool AnythingToSample(const SamplingParams& params, absl::Span<const int32_t> masked, int num_ids);

// Scratch of the engine's one sampling thread. Allocates nothing after the constructor, but for the
// list inside of TokenLogprobs.
class Sampler {
 public:
  // `num_ids`: ids in [num_ids, vocab_size) are padding and never sampled.
  Sampler(int vocab_size, int num_ids);

  // Draws the token that will stand at `position`. Changes `logits` (vocab_size). `masked` ids are
  // excluded, this time. `logprobs`, where not null, is filled as SamplingParams::num_logprobs
  // asks. INTERNAL: a logit is not finite, or nothing is left to choose from.
  absl::Status Sample(const SamplingState& state, absl::Span<const int32_t> masked,
                      uint64_t position, float* logits, int32_t* token, TokenLogprobs* logprobs);

 private:
  struct Row {
    const float* x;
    int n;
    const int32_t* ids;  // Null: element i is id i.
  };
  int DrawIndex(const SamplingParams& params, const Row& row, IndexedValue best, double uniform);
  int DrawFromList(const SamplingParams& params, int n, double mass, double uniform);
  void FillLogprobs(const Row& row, IndexedValue best, int chosen, int top, TokenLogprobs* out);

  const int num_ids_;
  std::vector<float> values_;          // (num_ids): rows of allowed ids.
  std::vector<float> weights_;         // (num_ids)
  std::vector<IndexedValue> list_;     // (num_ids): candidates in index order.
  std::vector<IndexedValue> scratch_;  // For TopK() and TopMassCut().
};

}  // namespace packrat

#endif  // PACKRAT_RUNTIME_SAMPLER_H_
