#include "server/net/accept_health.h"

#include <algorithm>

namespace packrat {
namespace {

constexpr AcceptHealth::Duration kLongestWait{1000};
constexpr std::chrono::seconds kTellAgain{10};

}  // namespace

AcceptHealth::Answer AcceptHealth::OnFailure(Time now) {
  if (in_a_row_ == 0) since_ = now;
  ++in_a_row_;
  ++failures_;
  const bool tell = !ever_told_ || now - last_told_ >= kTellAgain;
  if (tell) {
    last_told_ = now;
    told_ = ever_told_ = true;
  }
  // 2^10 ms is more than the longest wait.
  return {std::min(Duration(1 << std::min(in_a_row_ - 1, 10)), kLongestWait), tell};
}

bool AcceptHealth::OnSuccess() {
  in_a_row_ = 0;
  const bool tell = told_;
  told_ = false;
  return tell;
}

}  // namespace packrat
