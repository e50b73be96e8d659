#include "server/call_identity.h"

#include <grpcpp/server_context.h>

#include <cstring>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "server/call_environment.h"
#include "server/grpc_status.h"

namespace packrat {
namespace {

// The value of a metadata key, or nothing if it is absent, too long or has other characters.
std::string CleanMetadata(const grpc::ServerContextBase& context, const char* key, size_t max_size,
                          const char* marks) {
  const auto found = context.client_metadata().find(key);
  if (found == context.client_metadata().end()) return "";
  const std::string value(found->second.data(), found->second.size());
  if (value.size() > max_size) return "";
  for (unsigned char c : value) {
    if (!absl::ascii_isalnum(c) && (c == 0 || std::strchr(marks, c) == nullptr)) return "";
  }
  return value;
}

}  // namespace

void IdentifyCall(const char* call, grpc::ServerContextBase* context, AccessRecord* record) {
  record->call = call;
  record->peer = context->peer();
  record->caller = CleanMetadata(*context, "x-caller", 64, "._:-/@");
  record->id = CleanMetadata(*context, "x-request-id", 128, "._:-");
  if (record->id.empty()) record->id = absl::StrFormat("%016x", RandomNumber());
  context->AddTrailingMetadata("x-request-id", record->id);
}

void AddRetryTrailers(const absl::Status& status, grpc::ServerContextBase* context) {
  if (status.code() != absl::StatusCode::kResourceExhausted) return;
  context->AddTrailingMetadata("grpc-retry-pushback-ms",
                               absl::StrCat(absl::ToInt64Milliseconds(kRetryDelay)));
}

}  // namespace packrat
