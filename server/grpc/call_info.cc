#include "server/grpc/call_info.h"

#include <grpcpp/server_context.h>

#include <iterator>
#include <string>

namespace packrat {
namespace {

// The first value of a metadata key; empty if there is none.
std::string Metadata(const grpc::ServerContextBase& context, const char* key) {
  const auto found = context.client_metadata().find(key);
  if (found == context.client_metadata().end()) return "";
  return std::string(found->second.data(), found->second.size());
}

}  // namespace

CallInfo CallInfoOf(const grpc::ServerContextBase& context) {
  CallInfo info;
  info.peer = context.peer();
  info.authorization = Metadata(context, "authorization");
  info.request_id = Metadata(context, "x-request-id");
  info.caller = Metadata(context, "x-caller");
  // If there are two, neither counts.
  if (context.client_metadata().count("traceparent") == 1) {
    info.traceparent = Metadata(context, "traceparent");
  }
  info.deadline = SteadyDeadline(context.raw_deadline());
  return info;
}

absl::Time SteadyDeadline(gpr_timespec deadline) {
  // gRPC's monotonic clock is the one of std::chrono::steady_clock.
  const gpr_timespec steady = gpr_convert_clock_type(deadline, GPR_CLOCK_MONOTONIC);
  if (gpr_time_cmp(steady, gpr_inf_future(GPR_CLOCK_MONOTONIC)) == 0) return absl::InfiniteFuture();
  return absl::UnixEpoch() + absl::Seconds(steady.tv_sec) + absl::Nanoseconds(steady.tv_nsec);
}

void AddLabels(const CallLabels& labels, grpc::ServerContextBase* context) {
  context->AddTrailingMetadata("x-request-id", labels.request_id);
  if (!labels.traceresponse.empty()) {
    context->AddTrailingMetadata("traceresponse", labels.traceresponse);
  }
}

}  // namespace packrat
