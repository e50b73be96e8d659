#include "kernels/cpu_target.h"

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "hwy/highway.h"
#include "kernels/check.h"

namespace packrat {
namespace {

struct Target {
  const char* name;
  int64_t bit;
  bool tiles = false;
};

// Best first.
constexpr Target kTargets[] = {
    {"amx", HWY_AVX3, true}, {"avx512", HWY_AVX3}, {"avx2", HWY_AVX2}, {"sse4", HWY_SSE4}};

const Target* chosen = nullptr;  // Null: not chosen yet, the best.

// The kernel lets a process use tiles once it has asked. Not every compiler knows them by name.
bool MachineHasTiles() {
  constexpr int kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XTILEDATA.
  constexpr unsigned kTiles = 1u << 24 | 1u << 22;            // AMX-TILE, AMX-BF16.
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d & kTiles) == kTiles &&
         __builtin_cpu_supports("avx512bf16") != 0 &&
         syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

bool MachineHas(const Target& target) {
  static const int64_t targets = hwy::SupportedTargets();
  static const bool tiles = MachineHasTiles();
  return (targets & target.bit) != 0 && (tiles || !target.tiles);
}

const Target& Chosen() {
  if (chosen == nullptr) PACKRAT_CHECK(SetCpuTarget("auto").ok());
  return *chosen;
}

}  // namespace

std::vector<std::string> SupportedCpuTargets() {
  std::vector<std::string> names;
  for (const Target& target : kTargets) {
    if (MachineHas(target)) names.push_back(target.name);
  }
  PACKRAT_CHECK(!names.empty()) << "this processor has no SSE4";
  return names;
}

absl::Status SetCpuTarget(const std::string& name) {
  const std::string wanted = name == "auto" ? SupportedCpuTargets().front() : name;
  for (const Target& target : kTargets) {
    if (wanted != target.name) continue;
    if (!MachineHas(target)) {
      return absl::FailedPreconditionError(
          absl::StrCat("cpu_target: this machine has no ", name, "; it has ",
                       absl::StrJoin(SupportedCpuTargets(), ", ")));
    }
    chosen = &target;
    hwy::GetChosenTarget().Update(target.bit);
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("cpu_target must be one of auto, sse4, avx2, avx512, amx, got '", name, "'"));
}

std::string CpuTargetName() { return Chosen().name; }

bool CpuHasBFloat16() {
  return Chosen().bit == HWY_AVX3 && __builtin_cpu_supports("avx512bf16") != 0;
}

bool CpuPrefersBFloat16() {
  return CpuHasBFloat16() && (CpuHasTiles() || __builtin_cpu_is("intel") == 0);
}

bool CpuHasTiles() { return Chosen().tiles; }

}  // namespace packrat
