// One step's work as the model sees it: a flat list of tokens cut into spans, one per sequence.
#ifndef PACKRAT_MODELS_BATCH_H_
#define PACKRAT_MODELS_BATCH_H_

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/batch.h"

namespace packrat {

// Tokens [first_token, first_token + num_tokens) of the batch, which follow `position` tokens that
// the sequence's state already holds. The state is updated in place.
struct Span {
  int32_t first_token = 0;
  int32_t num_tokens = 0;
  int32_t position = 0;
  int32_t num_logits = 0;  // Logits wanted, of the span's last tokens: 0 to num_tokens.
  int32_t slot_in = -1;    // Where the sealed state is read; -1 where slot_bytes is 0.
  int32_t slot_out = -1;   // Where finished blocks are written: slot_in unless that is shared.
  int32_t tail = -1;
  int32_t dial = 0;  // Of ModelConfig::dials: what layers of RAT+ see. The same for all of a text.
  // One per page class of the StateLayout. Page b of the text (RAT: chunk b; attention: positions
  // 16b to 16b+15); for all but windows, ring is the table's length.
  const PageTable* pages = nullptr;
  SolverOptions solver;
};

struct Batch {
  const int32_t* tokens = nullptr;  // (num_tokens), each in [0, vocab_size), or SampledInRow()
  int32_t num_tokens = 0;           // At most ModelOptions::max_batch_tokens.
  const Span* spans = nullptr;      // A sequence appears at most once.
  int32_t num_spans = 0;
};

// How large a batch is. Checks that its spans follow each other and cover its tokens.
struct BatchSizes {
  int rows = 0;  // Of logits.
  int max_span_tokens = 1;
  int max_context = 1;  // The largest position + num_tokens.
  int prompts = 0;      // Spans of more than one token.
};
BatchSizes SizesOf(const Batch& batch);

// Where the pages of a class are. Whole: one after the other, each with the parts of all layers. In
// planes: the parts of the first layer of all pages, then those of the second, and so on, so that a
// layer's sweep over many texts touches a plane and not the whole pool.
struct PageMemory {
  std::byte* base = nullptr;
  int32_t plane_pages = 0;  // Parts of a plane; 0: whole.
  friend bool operator==(const PageMemory& a, const PageMemory& b) {
    return a.base == b.base && a.plane_pages == b.plane_pages;
  }
};

// The memory behind slots, tails and pages; owned by the caller, 64-byte aligned, strides multiples
// of 64 bytes.
struct StateMemory {
  std::byte* slots = nullptr;
  std::byte* tails = nullptr;
  const PageMemory* pages = nullptr;  // Of each class.
};

// What Mesa layers solved.
struct SolverStats {
  int64_t solves = 0;       // Systems: tokens x Mesa heads x Mesa layers.
  int64_t steps = 0;        // Over all of them.
  int64_t unconverged = 0;  // Systems that cg_max_steps stopped.

  SolverStats& operator+=(const SolverStats& other) {
    solves += other.solves;
    steps += other.steps;
    unconverged += other.unconverged;
    return *this;
  }
};

// What a forward pass reports about one span besides its logits.
struct SpanStats {
  SpanStats() = default;
  explicit SpanStats(const SpanTotals& totals)
      : solver{static_cast<int64_t>(totals.solver_solves),
               static_cast<int64_t>(totals.solver_steps), totals.solver_unconverged},
        finite(totals.not_finite == 0) {
    std::memcpy(&max_residual, &totals.max_residual_bits, sizeof max_residual);
  }

  SolverStats solver;
  float max_residual = 0.0f;  // Largest carried relative residual at the stop.
  bool finite = true;         // False: a NaN or infinity; the sequence must fail.
};

}  // namespace packrat

#endif  // PACKRAT_MODELS_BATCH_H_
