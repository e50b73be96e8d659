#include "runtime/retry_after.h"

#include <algorithm>
#include <cstdint>
#include <string>

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "kernels/check.h"

namespace packrat {
namespace {

constexpr char kPayload[] = "packrat/retry-after-ms";

}  // namespace

absl::Status WithRetryAfter(absl::Status status, absl::Duration after) {
  PACKRAT_CHECK(!status.ok());
  const absl::Duration told = std::clamp(after, kShortestRetryAfter, kLongestRetryAfter);
  status.SetPayload(kPayload, absl::Cord(absl::StrCat(absl::ToInt64Milliseconds(told))));
  return status;
}

absl::Duration RetryAfter(const absl::Status& status) {
  const auto payload = status.GetPayload(kPayload);
  int64_t ms = 0;
  if (!payload.has_value() || !absl::SimpleAtoi(std::string(*payload), &ms)) {
    return kDefaultRetryAfter;
  }
  return absl::Milliseconds(ms);
}

}  // namespace packrat
