// Which instruction set the kernels use. All are compiled from one source and chosen at run time.
#ifndef PACKRAT_KERNELS_CPU_TARGET_H_
#define PACKRAT_KERNELS_CPU_TARGET_H_

#include <string>
#include <vector>

#include "absl/status/status.h"

namespace packrat {

// Chooses the instruction set for the whole process: "auto" (the best that this machine has, the
// default), "sse4", "avx2", "avx512" or "amx". Call before any kernel runs; not thread-safe.
// INVALID_ARGUMENT for an unknown name, FAILED_PRECONDITION if this machine lacks it.
absl::Status SetCpuTarget(const std::string& name);

// The one in use: "sse4", "avx2", "avx512" or "amx", which is avx512 with products of bfloat16 in
// tiles (AMX). Part of what two machines must share to get equal
// bits.
std::string CpuTargetName();

// Whether dot products of bfloat16 (AVX512-BF16) can be used: this machine has them, and avx512 or
// amx is in use.
bool CpuHasBFloat16();
// Whether they are a quicker way to multiply than float32, too: they are on AMD's (twice its rate,
// from Zen 4 on), and with tiles; alone on Intel's they have half of its rate, for they take two
// cycles and float32 multiplies in two places at once.
bool CpuPrefersBFloat16();
// Whether amx is in use.
bool CpuHasTiles();

// The instruction sets that this machine has, best first.
std::vector<std::string> SupportedCpuTargets();

}  // namespace packrat

#endif  // PACKRAT_KERNELS_CPU_TARGET_H_
