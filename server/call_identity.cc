#include "server/call_identity.h"

#include <grpcpp/server_context.h>

#include <cstring>
#include <iterator>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "runtime/retry_after.h"
#include "server/call_environment.h"
#include "server/trace_context.h"

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

// The answer tells a caller with a trace which span this call has in the log.
void JoinTrace(grpc::ServerContextBase* context, AccessRecord* record) {
  const auto [begin, end] = context->client_metadata().equal_range("traceparent");
  if (begin == end || std::next(begin) != end) return;  // If there are two, neither counts.
  const auto trace = ParseTraceparent({begin->second.data(), begin->second.size()});
  if (!trace.has_value()) return;
  record->trace_id = trace->trace_id;
  record->span_id = absl::StrFormat("%016x", RandomNumber());
  record->parent_span_id = trace->parent_id;
  context->AddTrailingMetadata("traceresponse", absl::StrCat("00-", record->trace_id, "-",
                                                             record->span_id, "-", trace->flags));
}

}  // namespace

void IdentifyCall(const char* call, grpc::ServerContextBase* context, AccessRecord* record) {
  record->start = absl::Now();
  record->call = call;
  record->peer = context->peer();
  record->caller = CleanMetadata(*context, "x-caller", 64, "._:-/@");
  record->id = CleanMetadata(*context, "x-request-id", 128, "._:-");
  if (record->id.empty()) record->id = absl::StrFormat("%016x", RandomNumber());
  context->AddTrailingMetadata("x-request-id", record->id);
  JoinTrace(context, record);
}

absl::StatusOr<std::shared_ptr<ApiTenant>> AuthenticateCall(const ApiKeys* keys,
                                                            const grpc::ServerContextBase& context,
                                                            AccessRecord* record) {
  if (keys == nullptr) return nullptr;
  const auto found = context.client_metadata().find("authorization");
  const bool given = found != context.client_metadata().end();
  auto tenant = keys->Authenticate(
      given ? absl::string_view(found->second.data(), found->second.size()) : "");
  // If a key says who a client is, the name that it gives itself is ignored.
  record->caller = tenant.ok() ? (*tenant)->name() : "";
  return tenant;
}

void AddRetryTrailers(const absl::Status& status, grpc::ServerContextBase* context) {
  if (status.code() != absl::StatusCode::kResourceExhausted) return;
  context->AddTrailingMetadata("grpc-retry-pushback-ms",
                               absl::StrCat(absl::ToInt64Milliseconds(RetryAfter(status))));
}

}  // namespace packrat
