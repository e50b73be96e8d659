// How gpu::PackSampling() hands rows to gpu::Sample(): (places) PackedRow, then their lists.
#ifndef PACKRAT_KERNELS_PACKED_SAMPLING_H_
#define PACKRAT_KERNELS_PACKED_SAMPLING_H_

#include <cstdint>

namespace packrat::gpu {

struct PackedBias {
  int32_t id;
  float bias;
};

// Lists begin at so many bytes from the first row.
struct PackedRow {
  double uniform;   // CounterUniform() of the row; where it draws.
  int32_t num_ids;  // 0: an unused place.
  float scale;      // Of logits to exponents: TemperatureScale(); 0: greedy.
  int32_t top_k;    // As in SamplingRow, and the next five.
  float top_p, min_p;
  float repetition_penalty, presence_penalty, frequency_penalty;
  int32_t num_logprobs;
  int32_t given;
  int32_t num_biases, num_excluded, num_counts;
  int32_t num_allowed;     // -1: all are.
  int32_t num_mask_words;  // 0: no mask.
  uint32_t biases;         // PackedBias
  uint32_t excluded;       // int32_t: banned and masked ids, some perhaps twice.
  uint32_t counts;         // TokenCount
  uint32_t allowed;        // int32_t
  uint32_t mask;           // uint32_t
};

}  // namespace packrat::gpu

#endif  // PACKRAT_KERNELS_PACKED_SAMPLING_H_
