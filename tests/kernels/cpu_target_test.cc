#include "kernels/cpu_target.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "absl/status/status.h"

namespace packrat {
namespace {

TEST(CpuTargetTest, AutoIsTheBest) {
  const std::vector<std::string> supported = SupportedCpuTargets();
  ASSERT_FALSE(supported.empty());
  EXPECT_EQ(CpuTargetName(), supported.front());
  for (const std::string& name : supported) {
    ASSERT_TRUE(SetCpuTarget(name).ok());
    EXPECT_EQ(CpuTargetName(), name);
  }
  ASSERT_TRUE(SetCpuTarget("auto").ok());
  EXPECT_EQ(CpuTargetName(), supported.front());
}

TEST(CpuTargetTest, RefusesWhatIsNotThere) {
  const std::vector<std::string> supported = SupportedCpuTargets();
  const std::string before = CpuTargetName();
  for (const std::string name : {"", "AVX2", "avx", "neon", "sse4 "}) {
    const absl::Status status = SetCpuTarget(name);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_NE(std::string(status.message()).find("'" + name + "'"), std::string::npos);
  }
  for (const std::string name : {"amx", "avx512", "avx2", "sse4"}) {
    if (std::count(supported.begin(), supported.end(), name) > 0) continue;
    EXPECT_EQ(SetCpuTarget(name).code(), absl::StatusCode::kFailedPrecondition);
  }
  EXPECT_EQ(CpuTargetName(), before) << "a refused name changes nothing";
}

}  // namespace
}  // namespace packrat
