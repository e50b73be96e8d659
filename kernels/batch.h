// What the operations of both devices share: the batch, and how a kernel reaches the state of its
// sequences. Pointers are to the memory of the device that runs the operation.
//
// An operation has one name and one list of arguments on both devices: in namespace packrat for the
// CPU, where a KernelContext comes last and the status is always OK, and in packrat::gpu, where
// scratch and a stream come last (kernels/gpu.h), before them for attention that decodes a list of
// work (kernels/attend_plan.h). On the CPU every type is float32.
#ifndef PACKRAT_KERNELS_BATCH_H_
#define PACKRAT_KERNELS_BATCH_H_

#include <cstddef>
#include <cstdint>
#include <limits>

namespace packrat {

namespace gpu {
struct AttendItem;
}

// Positions are cut into blocks of this many tokens. State is sealed at the end of a block, and a
// page of attention holds one block.
inline constexpr int kBlockTokens = 16;

// Heads are padded to whole groups of sixteen lanes wherever they are stored; padding is zero.
constexpr int PadTo16(int n) { return (n + 15) / 16 * 16; }

inline constexpr int kMaxHeadDim = 256;  // Bounds what lies on kernels' stacks.

// How exactly Mesa layers solve their systems; named as on the wire and on the command line.
struct SolverOptions {
  float cg_tolerance = 1e-4f;  // A solve stops at this residual, relative to max(|q|, 1e-10)...
  int32_t cg_max_steps = 64;   // ...or after this many steps, whichever comes first.
};

// The tokens of one sequence within a batch: rows [first_token, first_token + num_tokens) of every
// activation.
struct BatchSpan {
  int32_t first_token = 0;
  int32_t num_tokens = 0;  // 0: an unused place; nothing of the span is read or written.
  int32_t position = 0;    // Of the first token in its text.
  // Sealed state: read from slot_in where the text has a finished block before these rows, written
  // to slot_out, which may be the same, at each block's end.
  int32_t slot_in = 0, slot_out = 0;
  int32_t tail = 0;
  SolverOptions solver;
};

// Spans are of distinct sequences.
struct BatchView {
  const BatchSpan* spans = nullptr;     // (num_spans)
  const int32_t* token_span = nullptr;  // (num_tokens): each token's span, -1: an unused place. The
                                        // CPU goes by spans and does not read it.
  int num_spans = 0;                    // Unused places included, as in num_tokens.
  int num_tokens = 0;
  int max_span_tokens = 1;  // At least the tokens of every span; 1: all decode.
  int max_context = 1;      // At least position + num_tokens of every span.
  int max_prompts = std::numeric_limits<int>::max();  // At least the spans of more than one token.
  // Lists of work for these spans (kernels/attend_plan.h), by numbers that the models' GPU gives to
  // their kinds; an array of the host. The operations do not read it.
  const gpu::AttendItem* const* attend_lists = nullptr;
};

// The pages of one class that a sequence holds: page b of the text is pool page pages[b % ring].
struct PageTable {
  const int32_t* pages = nullptr;
  int32_t ring = 0;
};

// One layer's part of the pages of its class: page b of the batch's span number i is
// base + tables[i].pages[b % tables[i].ring] * page_bytes.
struct StatePages {
  std::byte* base = nullptr;  // Already at this layer's part.
  size_t page_bytes = 0;
  const PageTable* tables = nullptr;  // (num_spans)
};

// One layer's part of slots or tails: part i is base + i * stride.
struct StateParts {
  std::byte* base = nullptr;  // Already at this layer's part.
  size_t stride = 0;          // Bytes.
};

// What the operations of a forward pass report about one span. Zero before the pass; each operation
// adds to it.
struct SpanTotals {
  unsigned long long solver_steps = 0;   // Over all systems.
  unsigned long long solver_solves = 0;  // Systems.
  unsigned solver_unconverged = 0;       // Stopped by cg_max_steps.
  unsigned max_residual_bits = 0;        // Of the largest relative residual. The bits of float32
                                         // numbers that are not negative are ordered as the numbers
                                         // are; a NaN is above all of them.
  unsigned not_finite = 0;               // 1: a NaN or infinity was seen.
};

}  // namespace packrat

#endif  // PACKRAT_KERNELS_BATCH_H_
