// The conjugate gradients of mesa.cu, for N systems of one block of tokens side by side (1 when
// decoding, 16 for prompts), by a block of P threads: P is the head's size, padded, and thread r
// owns row r of every vector. A system's arithmetic is the same whatever N is.
//
// In the form of Chronopoulos and Gear (Journal of Computational and Applied Mathematics 25, 1989):
// the matrix multiplies the residual, and what it would make of the direction follows by
// recurrence. So both sums of a step, r'r and r'Ar, are known at once, and it takes two barriers.
//
// The matrix is cut into tiles of 8 rows by P / 8 columns, a thread's tile being held in registers
// where it fits (P <= 128): eight lanes share eight rows, multiply, and exchange their sums so that
// each is left with its own row. The tail's k are more such rows.
#ifndef PACKRAT_KERNELS_MESA_SOLVE_CUH_
#define PACKRAT_KERNELS_MESA_SOLVE_CUH_

#include "kernels/device.cuh"
#include "kernels/mesa_state.cuh"

namespace packrat::gpu {

template <int P>
constexpr bool kTileInRegisters = P <= 128;

// In shared memory. With one system, a thread's rows stay in its registers, but for what the matrix
// multiplies.
template <int P, int N>
struct alignas(128) MesaShared {
  static constexpr int kMany = N > 1 ? N* P : 4;
  float k[kBlockTokens * P];  // Rows of the block; zero beyond its tokens and its channels.
  float in[N * P];            // What the matrix multiplies: the first x, then r.
  float x[N * P];
  float p[kMany], ap[kMany], y[kMany];
  float coefficients[N * kBlockTokens];              // C_s of each system; zero beyond its token.
  float weights[N * kBlockTokens];                   // C_s (k_s . p)
  float partial_a[N * P / 8], partial_b[N * P / 8];  // Sums of eight threads each.
  float decay[N];  // exp(G_t). Last, so that all else is aligned to 16 bytes.
};

// A thread's part of the matrices. Rows 8 * group + (0 to 7), columns 32 * i + 4 * lane + (0 to 3)
// where lane is 0 to 7; rows group * kTailRows + j of k.
template <int P, class S>
struct SolverTile {
  static constexpr bool kRegisters = kTileInRegisters<P>;
  static constexpr int kTailRows = P <= 128 ? 128 / P : 1;
  float m[kRegisters ? 8 : 1][kRegisters ? P / 8 : 1];
  float k[kRegisters ? kTailRows : 1][kRegisters ? P / 8 : 1];
  const S* hkk;  // In device memory, where the tile is not in registers.
  int blocks;
  float diagonal;  // Of H_kk, in this thread's row.
};

__device__ __forceinline__ bool HasTailRows(int p, int group) { return p <= 128 || group < 16; }

// hkk: swizzled in shared memory, or plain in device memory. After a barrier behind what wrote it.
template <int P, class S>
__device__ __forceinline__ void LoadTile(const S* hkk, int blocks, SolverTile<P, S>* tile) {
  constexpr bool kRegisters = kTileInRegisters<P>;
  const int row = threadIdx.x, group = row / 8, lane = row % 8;
  tile->hkk = hkk;
  tile->blocks = blocks;
  tile->diagonal = 0.0f;
  if (row / 16 < blocks) {
    tile->diagonal = ToFloat(hkk[HkkOffset<S, kRegisters>(row / 16, row / 16, row % 16, row % 16)]);
  }
  if constexpr (kRegisters) {
#pragma unroll
    for (int i = 0; i < P / 32; ++i) {
      float part[8][4];
      LoadHkk<S, true>(hkk, blocks, group * 8, i * 32 + lane * 4, part);
#pragma unroll
      for (int r = 0; r < 8; ++r) {
#pragma unroll
        for (int c = 0; c < 4; ++c) tile->m[r][i * 4 + c] = part[r][c];
      }
    }
  }
}
// Columns 32 * i + 4 * lane + (0 to 3) of row j of this group's rows of k.
template <int P>
__device__ __forceinline__ void LoadTailRow(const float* k, int j, int i, float* to) {
  const int group = threadIdx.x / 8, lane = threadIdx.x % 8;
  to[0] = to[1] = to[2] = to[3] = 0.0f;
  if (HasTailRows(P, group)) {
    Load4(k + (group * SolverTile<P, float>::kTailRows + j) * P + i * 32 + lane * 4, to);
  }
}
template <int P, class S>
__device__ __forceinline__ void LoadTailRows(const float* k, SolverTile<P, S>* tile) {
  if constexpr (kTileInRegisters<P>) {
#pragma unroll
    for (int j = 0; j < tile->kTailRows; ++j) {
#pragma unroll
      for (int i = 0; i < P / 32; ++i) LoadTailRow<P>(k, j, i, &tile->k[j][i * 4]);
    }
  }
}

// Sums over eight lanes, of which lane r keeps row r.
__device__ __forceinline__ float SumRows(const float (&rows)[8] PACKRAT_CALLER) {
  const int lane = threadIdx.x % 8;
  float four[4], two[2];
#pragma unroll
  for (int r = 0; r < 4; ++r) {
    const float give = lane & 4 ? rows[r] : rows[r + 4], keep = lane & 4 ? rows[r + 4] : rows[r];
    four[r] = keep + __shfl_xor_sync(kAllLanes, give, 4);
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const float give = lane & 2 ? four[r] : four[r + 2], keep = lane & 2 ? four[r + 2] : four[r];
    two[r] = keep + __shfl_xor_sync(kAllLanes, give, 2);
  }
  const float give = lane & 1 ? two[0] : two[1], keep = lane & 1 ? two[1] : two[0];
  return keep + __shfl_xor_sync(kAllLanes, give, 1);
}

// The sum over a block of what its threads give for a system, in two halves with a barrier between:
// three exchanges and four sums for each warp take less time than five and one.
template <int P>
__device__ __forceinline__ void StorePartials(float x, int system, float* partials PACKRAT_CALLER) {
#pragma unroll
  for (int distance = 16; distance >= 4; distance /= 2) {
    x += __shfl_xor_sync(kAllLanes, x, distance);
  }
  if (Lane() < 4) partials[system * (P / 8) + Warp() * 4 + Lane()] = x;
}
template <int P>
__device__ __forceinline__ float SumPartials(const float* partials, int system) {
  float sums[4] = {};
#pragma unroll
  for (int w = 0; w < P / kWarp; ++w) {
    float four[4];
    Load4(partials + system * (P / 8) + w * 4, four);
#pragma unroll
    for (int j = 0; j < 4; ++j) sums[j] += four[j];
  }
  return (sums[0] + sums[2]) + (sums[1] + sums[3]);
}

// For M systems `t`, whose vectors `in` (N, P) are in shared memory: y[m] = this row of
// (exp(G_t) sealed H_kk + diag(lambda)) in_t, and shared->weights the tail's part of the product.
// Sums of in_t' H in_t, the tail's part included, go to partial_a. The matrix is left out where
// kSealed is false, and y is not wanted where kRead (then only the weights are).
template <int P, int N, int M, bool kRead, class S>
__device__ __forceinline__ void Apply(const SolverTile<P, S>& tile, bool sealed, float lambda,
                                      const float* in, const int (&t)[M], MesaShared<P, N>* shared,
                                      float (&y)[M] PACKRAT_CALLER) {
  constexpr int kTailRows = SolverTile<P, S>::kTailRows;
  const int row = threadIdx.x, group = row / 8, lane = row % 8;
  float sums[M][8] = {}, dots[M][kTailRows] = {};
  [[maybe_unused]] constexpr int kUnroll = kTileInRegisters<P> ? P / 32 : 1;
#pragma unroll kUnroll
  for (int i = 0; i < P / 32; ++i) {
    float v[M][4];
#pragma unroll
    for (int m = 0; m < M; ++m) Load4(in + t[m] * P + i * 32 + lane * 4, v[m]);
    if (!kRead && sealed) {
      float part[8][4];
      if constexpr (kTileInRegisters<P>) {
#pragma unroll
        for (int r = 0; r < 8; ++r) {
#pragma unroll
          for (int c = 0; c < 4; ++c) part[r][c] = tile.m[r][i * 4 + c];
        }
      } else {
        LoadHkk<S, false>(tile.hkk, tile.blocks, group * 8, i * 32 + lane * 4, part);
      }
#pragma unroll
      for (int c = 0; c < 4; ++c) {
#pragma unroll
        for (int m = 0; m < M; ++m) {
#pragma unroll
          for (int r = 0; r < 8; ++r) sums[m][r] = fmaf(part[r][c], v[m][c], sums[m][r]);
        }
      }
    }
#pragma unroll
    for (int j = 0; j < kTailRows; ++j) {
      float k[4];
      if constexpr (kTileInRegisters<P>) {
        k[0] = tile.k[j][i * 4], k[1] = tile.k[j][i * 4 + 1];
        k[2] = tile.k[j][i * 4 + 2], k[3] = tile.k[j][i * 4 + 3];
      } else {
        LoadTailRow<P>(shared->k, j, i, k);
      }
#pragma unroll
      for (int c = 0; c < 4; ++c) {
#pragma unroll
        for (int m = 0; m < M; ++m) dots[m][j] = fmaf(k[c], v[m][c], dots[m][j]);
      }
    }
  }
#pragma unroll
  for (int m = 0; m < M; ++m) {
#pragma unroll
    for (int j = 0; j < kTailRows; ++j) dots[m][j] = WarpSum<8>(dots[m][j]);
    float product = 0.0f;
    if constexpr (!kRead) {
      // The product with the matrix's eight rows, so that it need not wait for SumRows().
      const float own = in[t[m] * P + row], decay = sealed ? shared->decay[t[m]] : 0.0f;
      float rows[8];
      Load4(in + t[m] * P + group * 8, rows);
      Load4(in + t[m] * P + group * 8 + 4, rows + 4);
      float even = 0.0f, odd = 0.0f;
#pragma unroll
      for (int r = 0; r < 8; r += 2) {
        even = fmaf(rows[r], sums[m][r], even);
        odd = fmaf(rows[r + 1], sums[m][r + 1], odd);
      }
      product = fmaf(decay, even + odd, own * lambda * own);
      y[m] = fmaf(lambda, own, sealed ? decay * SumRows(sums[m]) : 0.0f);
    }
#pragma unroll
    for (int j = 0; j < kTailRows; ++j) {
      if (lane == j && HasTailRows(P, group)) {
        const int at = t[m] * kBlockTokens + group * kTailRows + j;
        const float weight = shared->coefficients[at] * dots[m][j];
        shared->weights[at] = weight;
        product = fmaf(weight, dots[m][j], product);
      }
    }
    if constexpr (!kRead) {
      StorePartials<P>(product, t[m], shared->partial_a);
    }
  }
}

// y + sum_s weights_s column_s
template <int P, int N>
__device__ __forceinline__ float AddTail(const MesaShared<P, N>& shared, int t,
                                         const float (&column)[kBlockTokens], float y) {
#pragma unroll
  for (int s = 0; s < kBlockTokens; s += 4) {
    float w[4];
    Load4(&shared.weights[t * kBlockTokens + s], w);
#pragma unroll
    for (int j = 0; j < 4; ++j) y = fmaf(w[j], column[s + j], y);
  }
  return y;
}

// What a solve needs to know beside the shared memory's k, coefficients and decay.
struct MesaSystem {
  bool sealed;
  float lambda;  // Of this thread's row; 1 in the padding.
  float tolerance;
  int max_steps;
};
// Of the lane's system, lane % N.
struct MesaSolved {
  int steps;
  bool converged;
  float residual;  // Relative.
};

// The smallest |q|^2 that residuals are relative to: see the CPU's kernel.
constexpr float kTinyQuery = 1e-20f;

// Solves the first n of N systems. q(t): this row of the query. Leaves x in shared->x; what other
// threads wrote of it is there after a barrier.
template <int P, int N, class S, class Query>
__device__ __forceinline__ MesaSolved Solve(const SolverTile<P, S>& tile, const MesaSystem& system,
                                            int n, const Query& q, MesaShared<P, N>* shared) {
  constexpr int kTogether = N > 1 ? 2 : 1;  // Hides one system's latencies behind the other's.
  const int row = threadIdx.x, own = Lane() % N;
  const unsigned all = (1u << n) - 1u;
  float x1 = 0.0f, p1 = 0.0f, ap1 = 0.0f, y1 = 0.0f, r1 = 0.0f;
  const auto x = [&](int t) -> float& { return N == 1 ? x1 : shared->x[t * P + row]; };
  const auto p = [&](int t) -> float& { return N == 1 ? p1 : shared->p[t * P + row]; };
  const auto ap = [&](int t) -> float& { return N == 1 ? ap1 : shared->ap[t * P + row]; };
  const auto y = [&](int t) -> float& { return N == 1 ? y1 : shared->y[t * P + row]; };
  const auto set_r = [&](int t, float value) {
    r1 = value;
    shared->in[t * P + row] = value;
    StorePartials<P>(value * value, t, shared->partial_b);
  };
  float column[kBlockTokens];
#pragma unroll
  for (int s = 0; s < kBlockTokens; ++s) column[s] = shared->k[s * P + row];
  const auto apply_each = [&](unsigned systems) {
    if constexpr (N == 1) {
      float result[1];
      Apply<P, N, 1, false>(tile, system.sealed, system.lambda, shared->in, {0}, shared, result);
      y1 = result[0];
    } else {
      while (systems != 0) {
        int t[kTogether];
#pragma unroll
        for (int m = 0; m < kTogether; ++m) {  // If their number is odd, the last one twice.
          t[m] = systems != 0 ? __ffs(static_cast<int>(systems)) - 1 : t[0];
          systems &= systems - 1u;
        }
        float result[kTogether];
        Apply<P, N, kTogether, false>(tile, system.sealed, system.lambda, shared->in, t, shared,
                                      result);
#pragma unroll
        for (int m = 0; m < kTogether; ++m) y(t[m]) = result[m];
      }
    }
  };

  for (int t = 0; t < n; ++t) {
    float diagonal = system.sealed ? shared->decay[t] * tile.diagonal : 0.0f;
#pragma unroll
    for (int s = 0; s < kBlockTokens; ++s) {
      diagonal = fmaf(shared->coefficients[t * kBlockTokens + s] * column[s], column[s], diagonal);
    }
    const float query = q(t);
    x(t) = query / (diagonal + system.lambda);
    shared->in[t * P + row] = x(t);
    StorePartials<P>(query * query, t, shared->partial_b);
  }
  __syncthreads();
  float qq = SumPartials<P>(shared->partial_b, own);
  if (qq < kTinyQuery) qq = kTinyQuery;
  apply_each(all);
  __syncthreads();
  for (int t = 0; t < n; ++t) {
    set_r(t, q(t) - AddTail(*shared, t, column, y(t)));
    p(t) = ap(t) = 0.0f;
  }
  __syncthreads();

  const float target = system.tolerance * system.tolerance * qq;
  float rr = SumPartials<P>(shared->partial_b, own);
  float before = 0.0f, curvature = 0.0f;  // Of the step before: 1 / r'r, and p'Ap / r'r.
  int steps = 0;
  // Written so that a NaN goes on to the limit and is seen in the residual. A converged system
  // rests while its neighbours go on.
  unsigned active = __ballot_sync(kAllLanes, !(rr <= target)) & all;
  for (int step = 0; active != 0 && step < system.max_steps; ++step) {
    const float inverse = 1.0f / rr, beta = rr * before;  // Known before they are needed.
    apply_each(active);
    __syncthreads();
    const float pap = fmaf(-beta * rr, curvature, SumPartials<P>(shared->partial_a, own));
    const float alpha = rr / pap;
    for (unsigned left = active; left != 0; left &= left - 1u) {
      const int t = N == 1 ? 0 : __ffs(static_cast<int>(left)) - 1;
      const float a = N == 1 ? alpha : __shfl_sync(kAllLanes, alpha, t);
      const float b = N == 1 ? beta : __shfl_sync(kAllLanes, beta, t);
      const float r = N == 1 ? r1 : shared->in[t * P + row];
      p(t) = fmaf(b, p(t), r);
      ap(t) = fmaf(b, ap(t), AddTail(*shared, t, column, y(t)));
      x(t) = fmaf(a, p(t), x(t));
      set_r(t, fmaf(-a, ap(t), r));
    }
    __syncthreads();
    if (active >> own & 1u) {
      before = inverse;
      curvature = pap * inverse;
      rr = SumPartials<P>(shared->partial_b, own);
      ++steps;
    }
    active = __ballot_sync(kAllLanes, !(rr <= target)) & all;
  }
  if constexpr (N == 1) shared->x[row] = x1;
  return {steps, rr <= target, sqrtf(rr / qq)};
}

// Adds to the span's statistics what the lane's system did; by one warp.
__device__ __forceinline__ void Record(const MesaSolved& solved, int n, SpanTotals* stats) {
  if (Lane() >= n) return;
  atomicAdd(&stats->solver_steps, static_cast<unsigned long long>(solved.steps));
  atomicAdd(&stats->solver_solves, 1ull);
  if (!solved.converged) atomicAdd(&stats->solver_unconverged, 1u);
  atomicMax(&stats->max_residual_bits, __float_as_uint(solved.residual) & 0x7fffffffu);
  if (!IsFinite(solved.residual)) atomicOr(&stats->not_finite, 1u);
}

}  // namespace packrat::gpu

#endif  // PACKRAT_KERNELS_MESA_SOLVE_CUH_
