// How much memory and CPU this process may use: the least of what the machine has and of what
// control groups (cgroup v1 and v2), resource limits and the CPU affinity allow.
#ifndef PACKRAT_KERNELS_RESOURCES_H_
#define PACKRAT_KERNELS_RESOURCES_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"

namespace packrat {

struct Resources {
  int64_t memory_limit = 0;  // Bytes that the process may hold at most.
  // What sets it, for people: "memory of the machine", "memory.max of cgroup /a".
  std::string memory_limit_source;
  // Whether it was set for this process or its group. Otherwise everything on the machine shares
  // it.
  bool memory_limit_is_own = false;
  // Bytes that the process can hold at this moment: what it holds and what is free, or page cache,
  // under the tightest of the limits; at most memory_limit.
  int64_t memory_available = 0;
  std::string memory_available_source;
  int64_t memory_held = 0;  // By this process: memory of its own, without the pages of files.

  // Whether who asks the system for huge pages gets them, where it says so.
  bool huge_pages = true;

  double cpus = 1;  // CPU time per unit of time: 0.5 is half a CPU. Above 0.
  std::string cpus_source;

  // Threads that compute: `cpus` to the nearest whole number, at least 1. With a thread more than
  // that, a step would stop in its middle until the quota's next period.
  int DefaultThreads() const;
  // As if a group set another limit.
  void LimitMemory(int64_t bytes, const std::string& source);
  // RESOURCE_EXHAUSTED if the process cannot get `bytes` more at this moment. The message begins
  // with `what`: "the weights take".
  absl::Status CheckAvailable(int64_t bytes, const std::string& what) const;
};

// Reads ROOT/proc, ROOT/sys/kernel and the cgroup folders that the former names, below ROOT as well
// (for tests). What cannot be read sets no limit.
Resources ReadResources(const std::string& root = "");

// A cgroup's limit, a reserve or a file size in a message: "512 MiB", rounded to the nearest.
std::string MiB(int64_t bytes);

}  // namespace packrat

#endif  // PACKRAT_KERNELS_RESOURCES_H_
