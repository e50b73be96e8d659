// The books of one call: who calls, what it has taken of what all calls share, and in the end its
// line in the log and its place in the metrics.
#ifndef PACKRAT_SERVER_GENERATION_CALL_ACCOUNT_H_
#define PACKRAT_SERVER_GENERATION_CALL_ACCOUNT_H_

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "server/api_tenant.h"
#include "server/generation/call_environment.h"
#include "server/generation/caller.h"
#include "server/log.h"

namespace packrat {

// Not thread-safe.
class CallAccount {
 public:
  // `call`: the method's name. An id or a name in `info` with characters that the contract does not
  // allow is replaced or dropped: it would end up in other people's log tools.
  CallAccount(const char* call, CallEnvironment* environment, const CallInfo& info);
  CallAccount(const CallAccount&) = delete;
  CallAccount& operator=(const CallAccount&) = delete;

  const CallLabels& labels() const { return labels_; }
  absl::Time started() const { return started_; }  // By SteadyNow().

  // UNAUTHENTICATED says what is wrong with the key; UNAVAILABLE: no calls are taken.
  absl::Status Enter();
  // The same, and counts the call among the open streams. RESOURCE_EXHAUSTED: there are too many,
  // which is not asked of a call that follows another.
  absl::Status EnterStream();

  // Null: the server has no keys, or Enter() has failed.
  const ApiTenant* tenant() const { return use_.has_value() ? use_->tenant() : nullptr; }
  // What the call takes of its tenant's limits. Null before Enter(), and if that has failed.
  TenantUse* use() { return use_.has_value() ? &*use_ : nullptr; }
  // What the log will show. The account fills in who called and how it ended, the call the rest.
  AccessRecord* record() { return &record_; }

  // The call is over, for the log and the metrics; what it has taken goes back. Once.
  void End(const absl::Status& status);

 private:
  absl::Status Authenticate();

  CallEnvironment* const environment_;
  const absl::Time started_;
  std::string authorization_;
  CallLabels labels_;
  AccessRecord record_;
  std::optional<TenantUse> use_;
  const bool follows_;    // See CallInfo.
  bool counted_ = false;  // Among environment_->streams.
};

}  // namespace packrat

#endif  // PACKRAT_SERVER_GENERATION_CALL_ACCOUNT_H_
