// Memory is counted before it is taken, refused with the numbers, and all there once it is taken.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <functional>
#include <vector>

#include "kernels/aligned.h"
#include "kernels/resources.h"
#include "models/cpu_model.h"
#include "models/host_model.h"
#include "tests/models/model_files.h"

namespace packrat {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr int64_t kMiB = 1 << 20;

// Pages that are in memory, of those that lie wholly inside.
size_t ResidentBytes(const std::byte* data, size_t bytes) {
  const size_t page = sysconf(_SC_PAGESIZE);
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + page - 1) / page * page;
  const uintptr_t end = reinterpret_cast<uintptr_t>(data + bytes) / page * page;
  std::vector<unsigned char> in_memory((end - begin) / page);
  EXPECT_EQ(mincore(reinterpret_cast<void*>(begin), end - begin, in_memory.data()), 0);
  size_t resident = 0;
  for (unsigned char one : in_memory) resident += (one & 1) * page;
  return resident;
}

TEST(HostState, IsAllThereAndZero) {
  const size_t bytes = 40 * kMiB;
  const auto state = AllocateHostState(bytes);
  ASSERT_TRUE(state.ok()) << state.status();
  EXPECT_EQ((*state)->size(), bytes);
  EXPECT_EQ(ResidentBytes((*state)->data(), bytes), bytes);
  for (size_t i = 0; i < bytes; i += 4001) ASSERT_EQ((*state)->data()[i], std::byte{0});
  const AlignedFloats scratch(bytes / 4);
  EXPECT_GE(ResidentBytes(reinterpret_cast<const std::byte*>(scratch.data()), bytes),
            bytes - 2 * 4096);
}

TEST(HostState, IsFilledCopiedWrittenAndRead) {
  const auto state = *AllocateHostState(256);
  std::vector<std::byte> bytes(256);
  for (int i = 0; i < 256; ++i) bytes[i] = std::byte(i);
  state->Write(0, bytes.data(), 256);
  state->Copy(3, 200, 50);
  state->Copy(100, 64, 36);  // Neighbours.
  state->Fill(254, 2, 0xFF);
  std::memcpy(&bytes[200], &bytes[3], 50);
  std::memcpy(&bytes[64], &bytes[100], 36);
  bytes[254] = bytes[255] = std::byte{0xFF};
  std::vector<std::byte> read(256);
  EXPECT_EQ(state->Read({{100, 156}, {0, 100}}, read.data()), absl::OkStatus());
  std::rotate(bytes.begin(), bytes.begin() + 100, bytes.end());
  EXPECT_EQ(read, bytes);
}

TEST(HostStateDeathTest, NothingIsOutsideAndCopiesDoNotOverlap) {
  const auto state = *AllocateHostState(256);
  std::byte byte{};
  EXPECT_DEATH(state->Fill(250, 7, 0), "250 \\+ 7");
  EXPECT_DEATH(state->Write(256, &byte, 1), "256 \\+ 1");
  EXPECT_DEATH(state->Read({{~size_t{0}, 1}}, &byte).IgnoreError(), "\\+ 1");
  EXPECT_DEATH(state->Copy(200, 0, 57), "200 \\+ 57");
  EXPECT_DEATH(state->Copy(10, 19, 10), "10 and 19 are less than 10 apart");
  EXPECT_DEATH(state->Copy(19, 10, 10), "19 and 10 are less than 10 apart");
}

TEST(HostState, MoreThanThereIsIsRefusedWithTheNumbers) {
  const int64_t all = ReadResources().memory_limit;
  const auto state = AllocateHostState(all);
  EXPECT_EQ(state.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(
      std::string(state.status().message()),
      AllOf(HasSubstr("the state of all sequences takes " + MiB(all)), HasSubstr("more (")));
}

TEST(HostState, RoomIsWhatALimitLeavesOrAQuarter) {
  Resources r;
  r.memory_limit = r.memory_available = 1000 * kMiB;
  r.memory_held = 50 * kMiB;
  EXPECT_EQ(HostStateRoom(r, 300 * kMiB, 100 * kMiB), 250 * kMiB) << "shared with others";
  EXPECT_EQ(HostStateRoom(r, 900 * kMiB, 0), 100 * kMiB);
  r.memory_limit_is_own = true;
  EXPECT_EQ(HostStateRoom(r, 300 * kMiB, 100 * kMiB), 700 * kMiB);
  EXPECT_EQ(HostStateRoom(r, 1300 * kMiB, 100 * kMiB), 0);
  r.memory_available = 400 * kMiB;  // Others hold the rest: 350 can be had, 100 are spoken for.
  EXPECT_EQ(HostStateRoom(r, 300 * kMiB, 100 * kMiB), 250 * kMiB);
}

TEST(MeasureModel, SaysWhatALoadedModelTakes) {
  for (const char* name :
       {"rat", "rat_local", "mesa_net", "mesa_net_hybrid", "packrat", "gated_delta_net", "mamba2",
        "lfm2", "rat_plus", "qwen3_next", "qwen3_5_biases"}) {
    for (const int tokens : {16, 300}) {
      ModelOptions options;
      options.max_batch_tokens = tokens;
      options.max_logit_rows = 40;
      options.threads = tokens == 16 ? 3 : 0;
      const std::string dir = std::string("tests/golden/") + name;
      const auto measured = MeasureModel(dir, options);
      ASSERT_TRUE(measured.ok()) << measured.status();
      const auto model = LoadCpuModel(dir, options);
      ASSERT_TRUE(model.ok()) << model.status();
      EXPECT_EQ(measured->weight_bytes, (*model)->weight_bytes()) << name;
      EXPECT_EQ(measured->scratch_bytes, (*model)->scratch_bytes()) << name;
      EXPECT_EQ(measured->config.vocab_size, (*model)->config().vocab_size);
    }
  }
}

TEST(MeasureModel, RefusesWhatLoadingRefuses) {
  ModelFiles files("rat");
  files.tensors.pop_back();
  files.Write();
  const absl::Status status = MeasureModel(files.dir().path(), ModelOptions()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(status, LoadCpuModel(files.dir().path(), ModelOptions()).status());
}

// Runs `body` in a process that may take `bytes` more than it holds. True if it ends well.
bool WithLittleMemory(int64_t bytes, const std::function<bool()>& body) {
  const pid_t child = fork();
  if (child == 0) {
    long long held_kb = 0;
    char line[256];
    std::FILE* status = std::fopen("/proc/self/status", "r");
    while (std::fgets(line, sizeof line, status) != nullptr) {
      std::sscanf(line, "VmData: %lld", &held_kb);
    }
    std::fclose(status);
    const auto limit = static_cast<rlim_t>(held_kb * 1024 + bytes);
    const rlimit both = {limit, limit};
    _exit(setrlimit(RLIMIT_DATA, &both) == 0 && body() ? 0 : 1);
  }
  int status = 0;
  return waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

TEST(LoadModel, TooLittleMemoryIsRefusedBeforeItIsTaken) {
  ModelOptions options;
  options.max_batch_tokens = options.max_logit_rows = 1 << 16;
  options.threads = 1;
  EXPECT_TRUE(WithLittleMemory(100 * kMiB, [&] {
    const absl::Status status = LoadCpuModel("tests/golden/packrat", options).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
    EXPECT_THAT(std::string(status.message()),
                AllOf(HasSubstr("weights ("), HasSubstr("scratch ("), HasSubstr("RLIMIT_DATA")));
    return !testing::Test::HasFailure();
  }));
}

// What the plan did not see: the allocation itself is refused.
TEST(AlignedBytes, RefusedMemoryIsAnExceptionThatWhoCanRefuseCatches) {
  EXPECT_TRUE(WithLittleMemory(20 * kMiB, [] {
    try {
      const AlignedBytes bytes(200 * kMiB);
      return false;
    } catch (const std::bad_alloc&) {
      return true;
    }
  }));
}

}  // namespace
}  // namespace packrat
