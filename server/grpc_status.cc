#include "server/grpc_status.h"

#include <grpcpp/support/status.h>

#include <string>

#include "proto/google/rpc/error_details.pb.h"
#include "proto/google/rpc/status.pb.h"
#include "runtime/retry_after.h"

namespace packrat {
namespace {

absl::StatusCode WireCode(const absl::Status& status) {
  return status.code() == absl::StatusCode::kUnknown ? absl::StatusCode::kInternal : status.code();
}

}  // namespace

grpc::Status ToGrpcStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  const auto code = static_cast<grpc::StatusCode>(WireCode(status));
  const std::string message(status.message());
  if (status.code() != absl::StatusCode::kResourceExhausted) return grpc::Status(code, message);

  google::rpc::RetryInfo retry;
  const timespec after = absl::ToTimespec(RetryAfter(status));
  retry.mutable_retry_delay()->set_seconds(after.tv_sec);
  retry.mutable_retry_delay()->set_nanos(static_cast<int32_t>(after.tv_nsec));
  google::rpc::Status details;
  details.set_code(code);
  details.set_message(message);
  details.add_details()->PackFrom(retry);
  return grpc::Status(code, message, details.SerializeAsString());
}

std::string StatusName(const absl::Status& status) {
  return absl::StatusCodeToString(WireCode(status));
}

}  // namespace packrat
