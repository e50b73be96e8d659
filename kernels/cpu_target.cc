#include "kernels/cpu_target.h"

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
};

// Best first.
constexpr Target kTargets[] = {{"avx512", HWY_AVX3}, {"avx2", HWY_AVX2}, {"sse4", HWY_SSE4}};

int64_t MachineTargets() {
  static const int64_t targets = hwy::SupportedTargets();
  return targets;
}

int64_t chosen = 0;  // 0: not chosen yet, the best.

}  // namespace

std::vector<std::string> SupportedCpuTargets() {
  std::vector<std::string> names;
  for (const Target& target : kTargets) {
    if (MachineTargets() & target.bit) names.push_back(target.name);
  }
  PACKRAT_CHECK(!names.empty()) << "this processor has no SSE4";
  return names;
}

absl::Status SetCpuTarget(const std::string& name) {
  const std::string wanted = name == "auto" ? SupportedCpuTargets().front() : name;
  for (const Target& target : kTargets) {
    if (wanted != target.name) continue;
    if (!(MachineTargets() & target.bit)) {
      return absl::FailedPreconditionError(
          absl::StrCat("cpu_target: this machine has no ", name, "; it has ",
                       absl::StrJoin(SupportedCpuTargets(), ", ")));
    }
    chosen = target.bit;
    hwy::GetChosenTarget().Update(target.bit);
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("cpu_target must be one of auto, sse4, avx2, avx512, got '", name, "'"));
}

std::string CpuTargetName() {
  if (chosen == 0) PACKRAT_CHECK(SetCpuTarget("auto").ok());
  for (const Target& target : kTargets) {
    if (chosen == target.bit) return target.name;
  }
  PACKRAT_CHECK(false);
  return "";
}

bool CpuHasBFloat16() {
  return CpuTargetName() == "avx512" && __builtin_cpu_supports("avx512bf16") != 0;
}

}  // namespace packrat
