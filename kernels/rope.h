// Rotary position embedding, rotate-half convention: with the halves (x1, x2) of a head,
// (x1 cos - x2 sin, x2 cos + x1 sin).
#ifndef PACKRAT_KERNELS_ROPE_H_
#define PACKRAT_KERNELS_ROPE_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "kernels/batch.h"
#include "kernels/context.h"

namespace packrat {

// How a model trained on short texts is made to read long ones: channels that turn fast keep their
// frequency, slow ones turn `factor` times more slowly, and between the two one goes over into the
// other. Fast: a turn takes at most original_context / high_freq_factor positions. Slow: at least
// original_context / low_freq_factor. Without an original context all are slow (transformers'
// "linear").
struct RopeScaling {
  // What it goes over with, in a straight line: the turns that a channel makes in the original
  // context (Llama 3.1; "llama3"), or the channel's number (YaRN, arXiv 2309.00071; "yarn"), of
  // which the two ends are whole or not.
  enum class Ramp { kTurns, kChannels, kWholeChannels };

  double factor = 1.0;                                   // 1: no frequency is scaled.
  double low_freq_factor = 1.0, high_freq_factor = 4.0;  // The latter is larger, or as large.
  int original_context = 0;
  Ramp ramp = Ramp::kTurns;       // Of channels: only of a base above 1.
  double attention_factor = 1.0;  // Of cosines and sines; scores get its square.
  // LongRoPE (arXiv 2402.13753): each channel turns so many times more slowly, and the above does
  // not count. Then texts of more than `longest` tokens have other frequencies, all along. Empty
  // and 0 without it.
  std::vector<double> divisors;
  int longest = 0;

  bool operator==(const RopeScaling& other) const;
};

// base^(-2i / head_dim) for i in [0, head_dim / 2), scaled. head_dim even; as many divisors as
// channels, if any.
std::vector<double> RopeFrequencies(double base, int head_dim, const RopeScaling& scaling = {});

// Cosines and sines of the tokens of a batch, shared by all heads and by all layers of equal base
// and head size: rope (tokens, head_dim), in each row (head_dim / 2) cosines, then as many sines,
// of (position / divisor) * frequencies[i], times `factor`, formed in double precision. `divisor`:
// RAT rotates by chunk index, position / chunk_size; else 1. Rows of unused places are not written.
absl::Status FillRope(const BatchView& batch, const double* frequencies, int head_dim, int divisor,
                      double factor, float* rope, KernelContext* context);

// The same as data: what it is filled with, and where. On a GPU Embed() fills them
// (kernels/elementwise.h).
struct RopeTable {
  double* frequencies = nullptr;
  float* rows = nullptr;
  int head_dim = 0, divisor = 1;
  double factor = 1.0;
};

// Rotates one head in place or to `out`. cos_sin: a row of FillRope().
inline void Rotate(const float* x, const float* cos_sin, int head_dim, float* out) {
  const int half = head_dim / 2;
  for (int i = 0; i < half; ++i) {
    const float x1 = x[i], x2 = x[i + half], c = cos_sin[i], s = cos_sin[i + half];
    out[i] = x1 * c - x2 * s;
    out[i + half] = x2 * c + x1 * s;
  }
}

}  // namespace packrat

#endif  // PACKRAT_KERNELS_ROPE_H_
