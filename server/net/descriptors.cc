#include "server/net/descriptors.h"

#include <sys/resource.h>

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace packrat {
namespace {

// For the model's files, the log, gRPC and the engine, which use about 30.
constexpr int64_t kOwn = 128;
constexpr int64_t kLowest = 256;
constexpr int64_t kMostHttp = 4096;
constexpr int64_t kMostGrpc = 4096;
constexpr rlim_t kHighest = 1 << 20;

}  // namespace

int64_t RaiseDescriptorLimit() {
  rlimit limit = {};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return kLowest;
  const rlim_t before = limit.rlim_cur;
  limit.rlim_cur = std::max(before, std::min(limit.rlim_max, kHighest));
  if (setrlimit(RLIMIT_NOFILE, &limit) != 0) limit.rlim_cur = before;
  return static_cast<int64_t>(std::min(limit.rlim_cur, kHighest));
}

absl::StatusOr<DescriptorShares> ShareDescriptors(int64_t limit, int max_connections) {
  if (limit < kLowest) {
    return absl::ResourceExhaustedError(absl::StrCat("the limit of open files (ulimit -n) is ",
                                                     limit, "; at least ", kLowest, " are needed"));
  }
  DescriptorShares shares;
  shares.http = static_cast<int>(std::min(limit / 8, kMostHttp));
  const int64_t left = limit - kOwn - shares.http;
  if (max_connections > left) {
    return absl::ResourceExhaustedError(absl::StrCat("--max_connections is ", max_connections,
                                                     "; the limit of open files (ulimit -n) of ",
                                                     limit, " leaves room for ", left));
  }
  shares.grpc = max_connections > 0 ? max_connections : static_cast<int>(std::min(left, kMostGrpc));
  return shares;
}

}  // namespace packrat
