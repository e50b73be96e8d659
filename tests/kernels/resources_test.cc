#include "kernels/resources.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <map>

#include "tests/models/test_files.h"

namespace packrat {
namespace {

constexpr int64_t kMiB = 1 << 20;
constexpr int64_t kMachine = 8192 * kMiB;

// A machine with 8 GiB, of which 6 are available, and four CPUs; this process holds 10 MiB.
class ResourcesTest : public testing::Test {
 protected:
  ResourcesTest() {
    Put("proc/meminfo",
        "MemTotal:        8388608 kB\nMemFree: 12 kB\nMemAvailable:    6291456 kB\n");
    Put("proc/self/status",
        "Name:\tx\nVmSize:\t  204800 kB\nVmData:\t  102400 kB\nRssAnon:\t   10240 kB\n"
        "Cpus_allowed_list:\t0-2,5\n");
    SetLimits("unlimited", "unlimited");
  }
  void Put(const std::string& path, const std::string& text) {
    const std::filesystem::path file = root_.File(path);
    std::filesystem::create_directories(file.parent_path());
    root_.Write(path, text);
  }
  void SetLimits(const std::string& address_space, const std::string& data) {
    Put("proc/self/limits",
        "Limit                     Soft Limit           Hard Limit           Units\n"
        "Max data size             " +
            data +
            "            unlimited            bytes\n"
            "Max address space         " +
            address_space + "            unlimited            bytes\n");
  }
  // One line of mountinfo.
  static std::string Mount(const std::string& root, const std::string& point,
                           const std::string& type, const std::string& options) {
    return "32 31 0:29 " + root + " " + point + " rw,relatime shared:9 - " + type + " none rw," +
           options + "\n";
  }
  void UseV2(const std::string& path, const std::string& mount_root = "/") {
    Put("proc/self/cgroup", "0::" + path + "\n");
    Put("proc/self/mountinfo", "27 1 254:0 / / rw - ext4 /dev/vda rw\n" +
                                   Mount(mount_root, "/sys/fs/cgroup", "cgroup2", ""));
  }
  void UseV1(const std::string& path, const std::string& mount_root = "/") {
    Put("proc/self/cgroup", "4:memory:" + path + "\n3:cpu,cpuacct:" + path + "\n0::/\n");
    Put("proc/self/mountinfo",
        Mount(mount_root, "/sys/fs/cgroup/memory", "cgroup", "memory") +
            Mount(mount_root, "/sys/fs/cgroup/cpu,cpuacct", "cgroup", "cpu,cpuacct") +
            Mount("/", "/sys/fs/cgroup/unified", "cgroup2", ""));
  }
  Resources Read() { return ReadResources(root_.path()); }

  TempDir root_;
};

TEST_F(ResourcesTest, WithoutLimitsTheMachine) {
  const Resources r = Read();
  EXPECT_EQ(r.memory_limit, kMachine);
  EXPECT_EQ(r.memory_limit_source, "memory of the machine");
  EXPECT_FALSE(r.memory_limit_is_own);
  // With what the process holds already.
  EXPECT_EQ(r.memory_available, 6144 * kMiB + 10 * kMiB);
  EXPECT_EQ(r.cpus, 4);
  EXPECT_EQ(r.DefaultThreads(), 4);
}

TEST_F(ResourcesTest, V2TakesTheTightestOnTheWayUp) {
  UseV2("/a/b/c");
  Put("sys/fs/cgroup/a/b/c/memory.max", "max\n");
  Put("sys/fs/cgroup/a/b/c/cpu.max", "max 100000\n");
  Put("sys/fs/cgroup/a/b/memory.max", "536870912\n");
  Put("sys/fs/cgroup/a/b/memory.current", "104857600\n");
  Put("sys/fs/cgroup/a/b/memory.stat", "anon 1\ninactive_file 20971520\nactive_file 31457280\n");
  Put("sys/fs/cgroup/a/memory.max", "1073741824\n");
  Put("sys/fs/cgroup/a/cpu.max", "150000 100000\n");
  Resources r = Read();
  EXPECT_EQ(r.memory_limit, 512 * kMiB);
  EXPECT_EQ(r.memory_limit_source, "memory.max of cgroup /a/b");
  EXPECT_TRUE(r.memory_limit_is_own);
  // 100 MiB are used, of them 50 page cache and 10 this process's own.
  EXPECT_EQ(r.memory_available, 472 * kMiB);
  EXPECT_EQ(r.cpus, 1.5);
  EXPECT_EQ(r.cpus_source, "cpu.max of cgroup /a");
  EXPECT_EQ(r.DefaultThreads(), 2);

  // Above memory.high the kernel makes a group slow, so that is a limit as well.
  Put("sys/fs/cgroup/a/b/c/memory.high", "268435456\n");
  r = Read();
  EXPECT_EQ(r.memory_limit, 256 * kMiB);
  EXPECT_EQ(r.memory_limit_source, "memory.high of cgroup /a/b/c");

  // What others of the parent's group hold is missing, whatever the inmost limit is.
  Put("sys/fs/cgroup/a/memory.current", "1048576000\n");
  r = Read();
  EXPECT_EQ(r.memory_limit, 256 * kMiB);
  EXPECT_EQ(r.memory_available, 1024 * kMiB - 1000 * kMiB + 10 * kMiB);
  EXPECT_EQ(r.memory_available_source, "memory.max of cgroup /a");
}

TEST_F(ResourcesTest, V1TakesTheTightestOnTheWayUp) {
  UseV1("/box/inner");
  Put("sys/fs/cgroup/memory/box/inner/memory.limit_in_bytes", "9223372036854771712\n");
  Put("sys/fs/cgroup/memory/box/memory.limit_in_bytes", "134217728\n");
  Put("sys/fs/cgroup/memory/box/memory.usage_in_bytes", "52428800\n");
  Put("sys/fs/cgroup/memory/box/memory.stat",
      "active_file 1\ntotal_inactive_file 5242880\ntotal_active_file 5242880\n");
  Put("sys/fs/cgroup/cpu,cpuacct/box/inner/cpu.cfs_quota_us", "-1\n");
  Put("sys/fs/cgroup/cpu,cpuacct/box/inner/cpu.cfs_period_us", "100000\n");
  Put("sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_quota_us", "50000\n");
  Put("sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_period_us", "100000\n");
  const Resources r = Read();
  EXPECT_EQ(r.memory_limit, 128 * kMiB);
  EXPECT_EQ(r.memory_limit_source, "memory.limit_in_bytes of cgroup /box");
  EXPECT_EQ(r.memory_available, (128 - 50 + 10 + 10) * kMiB);
  EXPECT_EQ(r.cpus, 0.5);
  EXPECT_EQ(r.cpus_source, "cpu.cfs_quota_us of cgroup /box");
  EXPECT_EQ(r.DefaultThreads(), 1);
}

// A container sees its own group as the mount's root; its path may be told as the machine has it or
// as "/".
TEST_F(ResourcesTest, AContainerThatSeesOnlyItsOwnSubtree) {
  const std::string limit = "268435456\n", quota = "200000 100000\n";
  for (const std::string path : {"/kubepods/pod1/box", "/"}) {
    UseV2(path, path == "/" ? "/" : "/kubepods/pod1/box");
    Put("sys/fs/cgroup/memory.max", limit);
    Put("sys/fs/cgroup/cpu.max", quota);
    const Resources r = Read();
    EXPECT_EQ(r.memory_limit, 256 * kMiB) << path;
    EXPECT_EQ(r.memory_limit_source, "memory.max of cgroup /");
    EXPECT_EQ(r.cpus, 2) << path;
  }
  // A group below the mounted one, and one that the mount does not hold.
  UseV2("/kubepods/pod1/box/part", "/kubepods/pod1/box");
  Put("sys/fs/cgroup/part/memory.max", "134217728\n");
  EXPECT_EQ(Read().memory_limit, 128 * kMiB);
  UseV2("/kubepods/pod10", "/kubepods/pod1");
  EXPECT_EQ(Read().memory_limit, 256 * kMiB);
}

TEST_F(ResourcesTest, V1ContainerKnowsItsParentsLimit) {
  UseV1("/docker/0abc", "/docker/0abc");
  Put("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  Put("sys/fs/cgroup/memory/memory.stat", "hierarchical_memory_limit 402653184\n");
  EXPECT_EQ(Read().memory_limit, 384 * kMiB);
}

TEST_F(ResourcesTest, ResourceLimits) {
  SetLimits("1073741824", "unlimited");
  Resources r = Read();
  EXPECT_EQ(r.memory_limit, 1024 * kMiB);
  EXPECT_EQ(r.memory_limit_source, "RLIMIT_AS (ulimit -v)");
  EXPECT_TRUE(r.memory_limit_is_own);
  // Less what threads that are yet to come take of it.
  EXPECT_EQ(r.memory_available, (1024 - 200 - 256 + 10) * kMiB);
  SetLimits("1073741824", "536870912");
  r = Read();
  EXPECT_EQ(r.memory_limit, 512 * kMiB);
  EXPECT_EQ(r.memory_available, (512 - 100 + 10) * kMiB);
}

TEST_F(ResourcesTest, WhatCannotBeReadSetsNoLimit) {
  TempDir nothing;
  const Resources r = ReadResources(nothing.path());
  EXPECT_GT(r.memory_limit, kMiB);
  EXPECT_GE(r.cpus, 1);
  UseV2("/a");
  Put("sys/fs/cgroup/a/memory.max", "many\n");
  Put("sys/fs/cgroup/a/cpu.max", "0 0\n");
  EXPECT_EQ(Read().memory_limit, kMachine);
  EXPECT_EQ(Read().cpus, 4);
}

TEST_F(ResourcesTest, HugePagesAreThereUnlessTheSystemNeverGivesThem) {
  EXPECT_TRUE(Read().huge_pages);
  Put("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n");
  EXPECT_TRUE(Read().huge_pages);
  Put("sys/kernel/mm/transparent_hugepage/enabled", "always madvise [never]\n");
  EXPECT_FALSE(Read().huge_pages);
}

TEST_F(ResourcesTest, MoreQuotaThanCpusIsNoMore) {
  UseV2("/");
  Put("sys/fs/cgroup/cpu.max", "6400000 100000\n");
  EXPECT_EQ(Read().cpus, 4);
}

TEST_F(ResourcesTest, WhatCanBeHadNow) {
  UseV2("/a");
  Put("sys/fs/cgroup/a/memory.max", "268435456\n");
  Put("sys/fs/cgroup/a/memory.current", "104857600\n");
  const Resources r = Read();
  EXPECT_EQ(r.memory_held, 10 * kMiB);
  EXPECT_TRUE(r.CheckAvailable(156 * kMiB, "it takes").ok());
  const absl::Status status = r.CheckAvailable(157 * kMiB, "it takes");
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(status.message(),
            "it takes 157 MiB, and this process can have 156 MiB more (memory.max of cgroup /a)");
}

TEST(ThisMachine, HasWhatTheSystemSays) {
  const Resources r = ReadResources();
  EXPECT_GT(r.memory_available, 0);
  EXPECT_LE(r.memory_available, r.memory_limit);
  cpu_set_t set;
  CPU_ZERO(&set);
  ASSERT_EQ(sched_getaffinity(0, sizeof set, &set), 0);
  EXPECT_GT(r.cpus, 0);
  EXPECT_LE(r.cpus, CPU_COUNT(&set));
}

}  // namespace
}  // namespace packrat
