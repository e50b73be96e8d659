#include "server/grpc/grpc_status.h"

#include <grpcpp/server_context.h>
#include <grpcpp/support/status.h>

#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "proto/google/rpc/error_details.pb.h"
#include "proto/google/rpc/status.pb.h"
#include "server/generation/call_status.h"

namespace packrat {

grpc::Status ToGrpcStatus(const absl::Status& status, grpc::ServerContextBase* context) {
  if (status.ok()) return grpc::Status::OK;
  const auto code = static_cast<grpc::StatusCode>(WireCode(status));
  const std::string message(status.message());
  const std::optional<absl::Duration> delay = RetryDelay(status);
  if (!delay.has_value()) return grpc::Status(code, message);

  context->AddTrailingMetadata("grpc-retry-pushback-ms",
                               absl::StrCat(absl::ToInt64Milliseconds(*delay)));
  google::rpc::RetryInfo retry;
  const timespec after = absl::ToTimespec(*delay);
  retry.mutable_retry_delay()->set_seconds(after.tv_sec);
  retry.mutable_retry_delay()->set_nanos(static_cast<int32_t>(after.tv_nsec));
  google::rpc::Status details;
  details.set_code(code);
  details.set_message(message);
  details.add_details()->PackFrom(retry);
  return grpc::Status(code, message, details.SerializeAsString());
}

}  // namespace packrat
