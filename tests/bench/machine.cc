#include "tests/bench/machine.h"

#include <cblas.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <thread>
#include <utility>

#include "kernels/cpu_target.h"
#include "kernels/matmul_tiles-inl.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "tests/bench/machine.cc"
// Keep after the define.
#include "hwy/foreach_target.h"
// Keep after foreach_target.h.
#include "kernels/vec16-inl.h"

HWY_BEFORE_NAMESPACE();
namespace packrat {
namespace HWY_NAMESPACE {

// Reads n floats (a multiple of 128) in order; the sum keeps the compiler honest.
float SumFloats(const float* p, size_t n) {
  V16 sums[8];
  for (V16& s : sums) s = Zero();
  for (size_t i = 0; i < n; i += 128) {
    for (int s = 0; s < 8; ++s) sums[s] = Add(sums[s], Load(p + i + s * 16));
  }
  for (int s = 1; s < 8; ++s) sums[0] = Add(sums[0], sums[s]);
  return SumLanes(sums[0]);
}

// rounds * kGroups * kChains * kVecLanes multiply-adds on registers. The compiler unrolls a loop of
// up to sixteen rounds and would keep the accumulators of a longer one in memory: hence two.
constexpr int kGroups = HWY_TARGET == HWY_AVX3 ? 2 : 1, kChains = 12;
float FmaLoop(int64_t rounds, double* flops) {
  const Lanes d;
  Vec acc[kGroups][kChains], sum = hn::Zero(d);
  for (int g = 0; g < kGroups; ++g) {
    for (int c = 0; c < kChains; ++c) acc[g][c] = hn::Set(d, 1.0f + 0.01f * c);
  }
  const Vec a = hn::Set(d, 0.999f), b = hn::Set(d, 0.001f);
  for (int64_t r = 0; r < rounds; ++r) {
    for (int g = 0; g < kGroups; ++g) {
      for (int c = 0; c < kChains; ++c) acc[g][c] = hn::MulAdd(acc[g][c], a, b);
    }
  }
  for (int g = 0; g < kGroups; ++g) {
    for (int c = 0; c < kChains; ++c) sum = hn::Add(sum, acc[g][c]);
  }
  *flops = 2.0 * rounds * kGroups * kChains * kVecLanes;
  return hn::GetLane(sum);
}

}  // namespace HWY_NAMESPACE
}  // namespace packrat
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
// Keep before the attributes.
#include <immintrin.h>

extern "C" void openblas_set_num_threads(int);

namespace packrat {

HWY_EXPORT(SumFloats);
HWY_EXPORT(FmaLoop);

namespace {

float Float32Loop(int64_t rounds, double* flops) {
  return HWY_DYNAMIC_DISPATCH(FmaLoop)(rounds, flops);
}

// Dot products into 24 registers, in assembly: compilers keep some of so many sums in memory, and
// then it is stores that are measured. What the registers hold costs no time.
#define PACKRAT_DOTS(name)                                                                        \
  asm volatile(".irp i, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23\n\t" name   \
               " %%zmm30, %%zmm31, %%zmm\\i\n\t.endr"                                             \
               :                                                                                  \
               :                                                                                  \
               : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",  \
                 "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "xmm16", "xmm17", "xmm18", \
                 "xmm19", "xmm20", "xmm21", "xmm22", "xmm23")
constexpr double kDots = 24, kDotLanes = 16;

HWY_PUSH_ATTRIBUTES("avx512f")

// Of bfloat16 pairs.
float BFloat16Loop(int64_t rounds, double* flops) {
  for (int64_t r = 0; r < rounds; ++r) PACKRAT_DOTS("vdpbf16ps");
  *flops = 4.0 * static_cast<double>(rounds) * kDots * kDotLanes;
  return 0;
}

// Of four bytes.
float ByteLoop(int64_t rounds, double* ops) {
  for (int64_t r = 0; r < rounds; ++r) PACKRAT_DOTS("vpdpbusd");
  *ops = 8.0 * static_cast<double>(rounds) * kDots * kDotLanes;
  return 0;
}

HWY_POP_ATTRIBUTES

#undef PACKRAT_DOTS

// Of bfloat16 pairs in tiles. The sums are those of zeros.
float TilesLoop(int64_t rounds, double* flops) {
  constexpr int kGroups = 4;
  const TileConfig config = ConfigOf({0, {kTileRows, kTileRows}}, kTilePairs);
  asm volatile("ldtilecfg %0" : : "m"(config));
  const int64_t steps = rounds / kTileRows;
  for (int64_t r = 0; r < steps; ++r) {
    asm volatile(
        "tdpbf16ps %tmm6, %tmm4, %tmm0\n\ttdpbf16ps %tmm7, %tmm4, %tmm1\n\t"
        "tdpbf16ps %tmm6, %tmm5, %tmm2\n\ttdpbf16ps %tmm7, %tmm5, %tmm3");
  }
  asm volatile("tilerelease");
  *flops = 4.0 * static_cast<double>(steps) * kGroups * kTileRows * kTilePairs * kTileOutputs;
  return 0;
}

constexpr int kRuns = 7;
volatile float sink;  // NOLINT: keeps results alive.

// mbw copies: a byte copied is a byte read and a byte written. Its best of MEMCPY, DUMB and MCBLOCK
// on one core, as bytes moved.
double Mbw() {
  FILE* pipe = popen("mbw -q -n 5 256 2>/dev/null", "r");
  if (pipe == nullptr) return 0;
  char line[512];
  double best = 0;
  while (std::fgets(line, sizeof(line), pipe) != nullptr) {
    const std::string text = line;
    const size_t at = text.find("Copy: ");
    if (text.find("AVG") == std::string::npos || at == std::string::npos) continue;
    best = std::max(best, std::atof(text.c_str() + at + 6));
  }
  pclose(pipe);
  return 2 * best * (1 << 20);
}

bool HasByteDots() { return __builtin_cpu_supports("avx512vnni") != 0; }

auto LoopOf(Arithmetic arithmetic) {
  if (arithmetic == Arithmetic::kBFloat16 && CpuHasBFloat16()) {
    return CpuHasTiles() ? TilesLoop : BFloat16Loop;
  }
  return arithmetic == Arithmetic::kInt8 && HasByteDots() ? ByteLoop : Float32Loop;
}

double OwnPeak(Arithmetic arithmetic, int threads) {
  PeakLoop loop(arithmetic, threads);
  std::vector<double> passes;
  for (int run = 0; run <= kRuns; ++run) passes.push_back(loop.OpsPerSecond());
  return Median(passes);
}

double Sgemm(int threads) {
  openblas_set_num_threads(threads);
  const int n = 2048;
  std::vector<float> a(n * n, 0.5f), b(n * n, 0.25f), c(n * n);
  const double seconds = MedianSeconds(kRuns, [&] {
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, n, n, n, 1.0f, a.data(), n, b.data(), n,
                0.0f, c.data(), n);
  });
  // OpenBLAS's threads go on spinning for 2^26 cycles, on a core that what comes next is to have.
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  return 2.0 * n * n * n / seconds;
}

}  // namespace

ReadLoop::ReadLoop(int threads) : memory_(size_t{1} << 28), pool_(threads) {
  std::fill_n(memory_.data(), memory_.size(), 1.0f);
}

double ReadLoop::BytesPerSecond() {
  const size_t pieces = 64, floats = memory_.size() / pieces;
  const double start = Now();
  pool_.Run(pieces, [&](int64_t i, int) {
    sink = HWY_DYNAMIC_DISPATCH(SumFloats)(memory_.data() + i * floats, floats);
  });
  return static_cast<double>(memory_.size() * sizeof(float)) / (Now() - start);
}

PeakLoop::PeakLoop(Arithmetic arithmetic, int threads)
    : loop_(LoopOf(arithmetic)), pool_(threads) {}

double PeakLoop::OpsPerSecond() {
  double ops = 0;
  const double start = Now();
  pool_.Run(pool_.size(), [&](int64_t task, int) {
    double mine;
    sink = loop_(20'000'000, &mine);
    if (task == 0) ops = mine;
  });
  return ops * pool_.size() / (Now() - start);
}

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

double MedianSeconds(int runs, const std::function<void()>& work) {
  std::vector<double> seconds;
  for (int run = 0; run <= runs; ++run) {
    const double start = Now();
    work();
    if (run > 0) seconds.push_back(Now() - start);
  }
  return Median(std::move(seconds));
}

MachineLimits MeasureMachine(int threads) {
  MachineLimits limits{};
  ReadLoop read(threads);
  std::vector<double> passes;
  for (int run = 0; run <= kRuns; ++run) passes.push_back(read.BytesPerSecond());
  limits.own_read = Median(passes);
  limits.mbw = Mbw();
  limits.own_fma = OwnPeak(Arithmetic::kFloat32, threads);
  if (CpuHasBFloat16()) {
    limits.bfloat16_flops_per_second = OwnPeak(Arithmetic::kBFloat16, threads);
  }
  if (HasByteDots()) limits.byte_ops_per_second = OwnPeak(Arithmetic::kInt8, threads);
  limits.sgemm = Sgemm(threads);
  limits.read_bytes_per_second = std::max(limits.own_read, limits.mbw);
  limits.flops_per_second = std::max(limits.own_fma, limits.sgemm);
  return limits;
}

std::string CpuModelName() {
  std::ifstream info("/proc/cpuinfo");
  std::string line;
  while (std::getline(info, line)) {
    if (line.rfind("model name", 0) == 0) return line.substr(line.find(':') + 2);
  }
  return "unknown";
}

}  // namespace packrat
#endif  // HWY_ONCE
