// From rows of logits to tokens: what a row is sampled with, the sampler, and the passes over one
// row that it is made of. A token is a function of the logits, the row's parameters, the seed and
// the position, whatever else runs.
//
// The CPU form is plain C++ in fixed lanes that every compiler turns into vector instructions,
// without dispatch: a few passes over 32,000 logits are nothing beside the matrix product that made
// them, and so a drawn token does not depend on the instruction set.
#ifndef PACKRAT_KERNELS_SAMPLING_H_
#define PACKRAT_KERNELS_SAMPLING_H_

#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "kernels/exp.h"
#include "kernels/gpu.h"

namespace packrat {

inline constexpr int kMaxLogprobs = 20;  // Of the best tokens, for one sampled token.

// A token of a text and how often it was generated; 0: it is only in the prompt.
struct TokenCount {
  int32_t token;
  int32_t generated;
};

// How one row of logits is sampled. Plain data: who fills it in keeps what the spans point to until
// the token is there. Order: bias, bans, penalties, temperature, top-k, top-p, min-p.
struct SamplingRow {
  int32_t num_ids = 0;              // Ids from here on are padding and never sampled. At least 1.
  float temperature = 0.0f;         // 0: greedy.
  int32_t top_k = 0;                // 0: off.
  float top_p = 1.0f;               // (0, 1]
  float min_p = 0.0f;               // [0, 1)
  float repetition_penalty = 1.0f;  // On all of `counts`.
  float presence_penalty = 0.0f;    // On what was generated, as the next.
  float frequency_penalty = 0.0f;
  uint64_t seed = 0;
  uint64_t position = 0;      // Of the token to be drawn, in its text.
  int32_t num_logprobs = -1;  // -1: none; n >= 0: the token's and the n best. At most kMaxLogprobs.
  absl::Span<const std::pair<int32_t, float>> logit_bias;  // Ids distinct.
  absl::Span<const int32_t> banned, masked;                // Both are excluded.
  bool allow_list = false;                                 // Only `allowed` may be sampled.
  absl::Span<const int32_t> allowed;                       // Ascending, distinct, below num_ids.
  // Bit i of word i / 32: id i may be sampled. Empty: all may; else words for num_ids bits at
  // least.
  absl::Span<const uint32_t> mask;
  absl::Span<const TokenCount> counts;  // Tokens distinct. Empty: no penalties.
  // -1: a token is drawn. Else, below num_ids, this one is taken, and what the distribution says of
  // it is told beside it; nothing of how to draw matters then. Not with allow_list or mask.
  int32_t given = -1;
};

// Bytes of a row's lists, as they are beside the row where a device samples.
inline size_t SamplingListBytes(const SamplingRow& row) {
  return row.logit_bias.size() * sizeof(std::pair<int32_t, float>) +
         (row.banned.size() + row.masked.size() + row.allowed.size()) * sizeof(int32_t) +
         row.mask.size() * sizeof(uint32_t) + row.counts.size() * sizeof(TokenCount);
}

struct TokenLogprob {
  int32_t token;
  float logprob;
};

struct SampledToken {
  enum class Status : int32_t {
    kOk,
    kNotFinite,    // A logit below num_ids was NaN or infinite.
    kNothingLeft,  // All ids are excluded.
  };
  int32_t token;  // This and the rest only where kOk.
  Status status;
  // Natural log, under the distribution after bias, bans and penalties, before temperature and
  // cuts. Only where SamplingRow::num_logprobs >= 0.
  float logprob;
  int32_t num_top;
  TokenLogprob top[kMaxLogprobs];  // Best first; the first num_top.
  // Of the same distribution. Only where SamplingRow::given >= 0.
  int32_t best;   // The likeliest token; of equals the lowest id.
  float entropy;  // Nats.
  float margin;   // The best token's log-probability less the next one's; infinite for one token.
};

// In place of a token's id where the host does not know it yet: what the step before this one
// samples in its row `row`. -1 is no token at all.
constexpr int32_t SampledInRow(int row) { return -2 - row; }
constexpr bool IsSampledInRow(int32_t token) { return token <= -2; }
constexpr int RowOf(int32_t token) { return -2 - token; }

// INTERNAL with words for the status, or OK.
absl::Status ToStatus(SampledToken::Status status);

// A uniform number in [0, 1) that depends on (seed, position) alone: Philox 4x32-10 with the seed
// as key and the position as counter.
double CounterUniform(uint64_t seed, uint64_t position);

// What logits are multiplied with where temperature > 0: 1 / temperature, but finite.
float TemperatureScale(float temperature);

// --- Passes over one row. It may hold -inf (an excluded token), but no NaN. Where elements are
// ranked, the order is total: larger value first, of equal values the lower index first. ---

struct IndexedValue {
  int32_t index;
  float value;
};

// The ranking above.
inline bool RanksBefore(const IndexedValue& a, const IndexedValue& b) {
  return a.value > b.value || (a.value == b.value && a.index < b.index);
}

// The first in rank of x[0, n). n >= 1.
IndexedValue ArgMax(const float* x, int n);

// Room that TopK() and TopKCut() need, in elements.
constexpr int TopKScratch(int k) { return 2 * k + 256; }

// The k first in rank of x[0, n), unordered, in scratch[0, min(k, n)); returns how many. `scratch`
// has TopKScratch(k) elements. k >= 1.
int TopK(const float* x, int n, int k, IndexedValue* scratch);

// The last in rank of those k.
IndexedValue TopKCut(const float* x, int n, int k, IndexedValue* scratch);

// Copies what ranks not after `cut` to `out`, of n elements, in index order; returns how many.
int GatherFromCut(const float* x, int n, IndexedValue cut, IndexedValue* out);

// w[i] = ExpNonPositive((x[i] - shift) * scale), 0 for -inf. Returns the sum, in the order that
// PickByMass() uses. shift >= all x, scale > 0 and finite. `w` may be `x`; null: only the sum.
double ExpSum(const float* x, int n, float shift, float scale, float* w);

// The sum of exp(x[i] - shift) * (shift - x[i]), to which -inf adds 0: what the entropy is made of.
// shift >= all x.
double EntropySum(const float* x, int n, float shift);

// The index i of w[0, n) at which the running sum first exceeds `target`, in [0, sum of w). If
// rounding lets it run past the end, the last with w > 0; -1 if all are 0.
int PickByMass(const float* w, int n, double target);

// Of list[0, n), weights >= 0 of which some are > 0: the last in rank of the shortest prefix (in
// rank order) whose sum is at least `mass`; the last of all if there is none. Expected time O(n).
// Reorders the list.
IndexedValue TopMassCut(IndexedValue* list, int n, double mass);

// The same of all weights w[0, n) in [0, 1], each at its index, of which `sum` is ExpSum()'s and
// the mass `share` of that, in [0, 1]: in some ten passes that do not depend on what the weights
// are. `scratch` has n elements. How sums round decides which of two neighbours is the cut.
IndexedValue TopMassCut(const float* w, int n, double sum, double share, IndexedValue* scratch);

// What those passes are made of. The sum of the weights that are at least `bar`, in PickByMass()'s
// order; and the x in [low, high), of at most n, in index order, with how many there are.
double MassFrom(const float* w, int n, float bar);
int GatherBetween(const float* x, int n, float low, float high, IndexedValue* out);

// Makes the weights w[0, n) that rank after `cut` 0, and returns the sum of the others in
// PickByMass()'s order.
double KeepFromCut(IndexedValue cut, int n, float* w);

// Samples rows on the CPU, by one thread at a time. Allocates nothing after the constructor.
class Sampler {
 public:
  // For rows of num_ids up to `max_ids`.
  explicit Sampler(int max_ids);
  // Changes `logits`.
  void Sample(const SamplingRow& row, float* logits, SampledToken* sampled);
  // Of a sampler for max_ids.
  static size_t Bytes(int max_ids);

 private:
  // What is left of a row.
  struct Candidates {
    const float* x;
    int n;
    const int32_t* ids;  // Null: element i is id i.
  };
  int DrawIndex(const SamplingRow& row, const Candidates& all, IndexedValue best, double uniform);
  int DrawFromList(const SamplingRow& row, int n, double mass, double uniform);
  void FillLogprobs(const Candidates& all, IndexedValue best, double log_sum, int chosen, int top,
                    SampledToken* sampled);

  const int max_ids_;
  // Not written to before they are used: most rows need little of it, and every thread has its own.
  std::unique_ptr<float[]> values_;          // (max_ids): logits of allowed ids.
  std::unique_ptr<float[]> weights_;         // (max_ids)
  std::unique_ptr<IndexedValue[]> list_;     // (max_ids): candidates in index order.
  std::unique_ptr<IndexedValue[]> scratch_;  // For TopK() and TopMassCut().
};

// --- On the GPU: many rows at once. ---
namespace gpu {

// Bytes of PackSampling()'s result, which may be kMostPackedBytes at most. Rows from rows.size() to
// `places` are unused.
inline constexpr size_t kMostPackedBytes = std::numeric_limits<uint32_t>::max();
size_t PackedSamplingBytes(absl::Span<const SamplingRow> rows, int places);
// Writes what Sample() reads, lists and all, in one piece for one copy to the device. `packed`:
// host memory, aligned to 8 bytes.
void PackSampling(absl::Span<const SamplingRow> rows, int places, std::byte* packed);

// Largest vocab_stride.
inline constexpr int kMaxSampledVocab = 1 << 19;

// Samples row i of `logits`, (places, vocab_stride) float32, which it changes, to sampled[i]: of
// num_ids, token, status and what else the row asks for; what an unused place has is not
// touched. `packed` as above, on the device and aligned to 8 bytes. Sums are of integers, so the
// token does not depend on the order of anything; it is the CPU's but where the uniform number
// comes within rounding of the border between two tokens.
absl::Status Sample(const std::byte* packed, int places, int vocab_stride, float* logits,
                    SampledToken* sampled, CudaStream stream);

}  // namespace gpu

}  // namespace packrat

#endif  // PACKRAT_KERNELS_SAMPLING_H_
