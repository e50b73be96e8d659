#include "server/generation/call_account.h"

#include <cstring>
#include <limits>
#include <memory>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "runtime/steady_clock.h"
#include "server/generation/call_status.h"
#include "server/trace_context.h"

namespace packrat {
namespace {

// `text`, or nothing if it is too long or has other characters than letters, digits and `marks`.
std::string Clean(const std::string& text, size_t max_size, const char* marks) {
  if (text.size() > max_size) return "";
  for (unsigned char c : text) {
    if (!absl::ascii_isalnum(c) && (c == 0 || std::strchr(marks, c) == nullptr)) return "";
  }
  return text;
}

// The answer tells a caller with a trace which span this call has in the log. Returns what it says.
std::string JoinTrace(const std::string& traceparent, AccessRecord* record) {
  const auto trace = ParseTraceparent(traceparent);
  if (!trace.has_value()) return "";
  record->trace_id = trace->trace_id;
  record->span_id = absl::StrFormat("%016x", RandomNumber());
  record->parent_span_id = trace->parent_id;
  return absl::StrCat("00-", record->trace_id, "-", record->span_id, "-", trace->flags);
}

}  // namespace

CallAccount::CallAccount(const char* call, CallEnvironment* environment, const CallInfo& info)
    : environment_(environment),
      started_(SteadyNow()),
      authorization_(info.authorization),
      follows_(info.follows) {
  record_.start = absl::Now();
  record_.call = call;
  record_.peer = info.peer;
  record_.path = info.path;
  record_.caller = Clean(info.caller, 64, "._:-/@");
  record_.id = Clean(info.request_id, 128, "._:-");
  if (record_.id.empty()) record_.id = absl::StrFormat("%016x", RandomNumber());
  labels_.request_id = record_.id;
  labels_.traceresponse = JoinTrace(info.traceparent, &record_);
}

absl::Status CallAccount::Authenticate() {
  std::shared_ptr<ApiTenant> tenant;
  const std::string authorization = std::exchange(authorization_, "");
  if (environment_->keys != nullptr) {
    auto found = environment_->keys->Authenticate(authorization);
    // If a key says who a client is, the name that it gives itself is ignored.
    record_.caller = found.ok() ? (*found)->name() : "";
    if (!found.ok()) return found.status();
    tenant = *std::move(found);
  }
  use_.emplace(std::move(tenant));
  return absl::OkStatus();
}

absl::Status CallAccount::Enter() {
  const absl::Status status = Authenticate();
  return status.ok() ? environment_->TakesCalls() : status;
}

absl::Status CallAccount::EnterStream() {
  absl::Status status = Enter();
  if (!status.ok()) return status;
  if (follows_) {
    use_->FollowStream();
    counted_ = environment_->streams.Enter(std::numeric_limits<int>::max());
    return absl::OkStatus();
  }
  const int limit = environment_->options->max_streams;
  status = use_->EnterStream(limit);
  if (!status.ok()) return status;
  counted_ = environment_->streams.Enter(limit);
  if (counted_) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat("all ", limit, " streams are in use"));
}

void CallAccount::End(const absl::Status& status) {
  record_.status = StatusName(status);
  record_.message = std::string(status.message());
  record_.total = SteadyNow() - started_;
  environment_->metrics->OnCall(record_.call, record_.status, record_.caller);
  environment_->log->Access(record_);
  use_.reset();
  if (counted_) environment_->streams.Leave();
}

}  // namespace packrat
