// What the CPU's gated delta and Mamba-2 do with the matrix of a head, S (rows, padded), where they
// compute in the processor's dot products of pairs of bfloat16 (AVX512-BF16): reading it for a
// block's tokens, and sealing it at the block's end. kernels/block_state-inl.h is the same in
// float32; kernels/matmul_bf16.cc states how the dot products round. Where the processor has tiles
// (AMX), both are products in them, of one vector too (kernels/tiles-inl.h); what a block adds is
// summed up by itself then, before the state as it has decayed is added.
//
// S itself stays float32, cut in two: of every number the nearest bfloat16, which is all that is
// read for a token, and the other half of its bits. So nothing is lost from block to block, and
// decoding reads half the memory. A head's upper halves are (rows / 2, padded, 2), pairs of rows
// side by side, and so are its lower halves; a slot has the upper halves of all heads, then the
// lower ones.
//
// Only where CpuHasBFloat16() (kernels/cpu_target.h). Bits do not depend on how many vectors are
// read at once.
#ifndef PACKRAT_KERNELS_PAIRED_STATE_H_
#define PACKRAT_KERNELS_PAIRED_STATE_H_

#include <cstddef>

namespace packrat {

// out_r (padded) = x_r S for n vectors x_r of (num_pairs) pairs (RoundToPairs()), which begin
// x_stride floats after each other, their results out_stride. state: the upper halves of twice
// num_pairs rows; of eights of pairs, the last of which x and the state fill up with zeros.
void ReadPairedState(const float* x, ptrdiff_t x_stride, int n, const float* state, int num_pairs,
                     int padded, float* out, ptrdiff_t out_stride);

// out = decay * in (zero where nothing is sealed) + sum_s b[s]' (c[s] u[s]): the sealed state after
// the block whose sixteen tokens fill b (each state_padded) and u (16, padded). Both widths are
// multiples of 16, kMaxHeadDim at most. `in` and `out`, which may be the same: upper halves; lower
// halves are `lower` floats behind.
void SealPairedState(bool sealed, float decay, const float* c, const float* const* b,
                     const float* u, int state_padded, int padded, const float* in, float* out,
                     ptrdiff_t lower);

}  // namespace packrat

#endif  // PACKRAT_KERNELS_PAIRED_STATE_H_
