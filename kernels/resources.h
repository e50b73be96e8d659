// How much memory and CPU this process may use: the least of what the machine has and what control
// groups (cgroup v1 and v2), resource limits and the affinity leave of it.
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
  // Whether it was set for this process or its group; else all that runs on the machine shares it.
  bool memory_limit_is_own = false;
  // Bytes that the process can hold at this moment: what it holds and what is free, or page cache,
  // under the tightest of the limits; at most memory_limit.
  int64_t memory_available = 0;
  std::string memory_available_source;
  int64_t memory_held = 0;  // By this process: memory of its own, without the pages of files.

  double cpus = 1;  // Time per time: 0.5 is half of one CPU. Above 0.
  std::string cpus_source;

  // Threads that compute: cpus to the nearest whole number, since a thread more than that waits for
  // the quota's next period in the middle of a step; at least 1.
  int DefaultThreads() const;
  // As if a group set another limit.
  void LimitMemory(int64_t bytes, const std::string& source);
  // RESOURCE_EXHAUSTED if `bytes` more cannot be had at this moment. `what` begins the message:
  // "the weights take".
  absl::Status CheckAvailable(int64_t bytes, const std::string& what) const;
};

// Reads ROOT/proc and the cgroup folders that it names, below ROOT as well (for tests). What cannot
// be read sets no limit.
Resources ReadResources(const std::string& root = "");

// A cgroup's limit, a reserve or a file size in a message: "512 MiB", rounded to the nearest.
std::string MiB(int64_t bytes);

}  // namespace packrat

#endif  // PACKRAT_KERNELS_RESOURCES_H_
