// The owner of keys, and how much it may use.
#ifndef PACKRAT_SERVER_API_TENANT_H_
#define PACKRAT_SERVER_API_TENANT_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "runtime/mutex.h"

namespace packrat {

struct TenantLimits {
  // Its share of what all tenants may use together, so that one flood leaves room for the others.
  double queue_share = 0.5;       // Of --max_queue. Range (0, 1].
  int streams = 0;                // Open Generate calls; 0: half of --max_streams.
  int64_t tokens_per_minute = 0;  // Prompt and output, of a session what is new; 0: no limit.
  double session_share = 0.5;     // Of --max_sessions and --max_session_tokens. Range (0, 1].
  double weight = 1;  // Share of the turns, relative to other tenants. Range [0.01, 100].
  // Priorities that a request may have, within bounds::kPriority.
  int min_priority = -100, max_priority = 100;

  bool operator==(const TenantLimits& o) const {
    return queue_share == o.queue_share && streams == o.streams &&
           tokens_per_minute == o.tokens_per_minute && session_share == o.session_share &&
           weight == o.weight && min_priority == o.min_priority && max_priority == o.max_priority;
  }
};

// Thread-safe. The caller passes the time, which never goes back.
class ApiTenant {
 public:
  ApiTenant(std::string name, const TenantLimits& limits);

  const std::string& name() const { return name_; }
  TenantLimits limits() const;
  // What is in use stays in use, even if it is more than the new limits.
  void SetLimits(const TenantLimits& limits);

  // RESOURCE_EXHAUSTED, with the time to wait, if a limit is reached; then nothing is taken.
  absl::Status EnterStream(int max_streams);
  // Takes `tokens` of the minute's and so many places in the queue. If nothing else of the tenant
  // waits, a call gets its places, however many. Tokens come back at an even rate. A tenant with a
  // whole minute's tokens left may take more at once, and then owes the rest. Returns how many were
  // taken: none if they are not limited.
  absl::StatusOr<int64_t> EnterQueue(int places, int64_t tokens, int max_queue, absl::Time now);
  // For calls that come together: asked once for all of their places, before they take theirs with
  // Follow...(), which refuse nothing. Of tokens some must be left; what the calls take beyond them
  // is owed.
  absl::Status MayEnterQueue(int places, int max_queue, absl::Time now);
  void FollowStream();
  int64_t FollowInQueue(int places, int64_t tokens, absl::Time now);
  void LeaveQueue(int places);
  void ReturnTokens(int64_t tokens);  // Of those that were taken; below 0: further ones are owed.
  void LeaveStream();

 private:
  void Refill(absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status CheckPlaces(int places, int max_queue) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Of so many that a call may take; a whole minute's do for any.
  absl::Status CheckTokens(int64_t tokens) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::string name_;
  mutable Mutex mutex_;
  TenantLimits limits_ ABSL_GUARDED_BY(mutex_);
  int streams_ ABSL_GUARDED_BY(mutex_) = 0;
  int waiting_ ABSL_GUARDED_BY(mutex_) = 0;
  double tokens_ ABSL_GUARDED_BY(mutex_) = 0;  // Left; below 0: owed.
  absl::Time filled_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
};

// What one call has taken from its tenant's limits. Gives it back when it is destroyed. Not
// thread-safe. Without a tenant nothing is limited here.
class TenantUse {
 public:
  TenantUse() = default;
  explicit TenantUse(std::shared_ptr<ApiTenant> tenant) : tenant_(std::move(tenant)) {}
  ~TenantUse();
  TenantUse(const TenantUse&) = delete;
  TenantUse& operator=(const TenantUse&) = delete;

  // As above. Call each at most once, in this order, or what follows in its place.
  absl::Status EnterStream(int max_streams);
  absl::Status EnterQueue(int places, int64_t tokens, int max_queue, absl::Time now);
  absl::Status MayEnterQueue(int places, int max_queue, absl::Time now);
  void FollowStream();
  void FollowInQueue(int places, int64_t tokens, absl::Time now);
  void LeaveQueue();  // Later calls do nothing.
  // Says how many tokens were used. The others are given back, or the rest is owed.
  void UsedTokens(int64_t tokens) { used_ = tokens; }

  const ApiTenant* tenant() const { return tenant_.get(); }
  // For what goes on when the call is over.
  const std::shared_ptr<ApiTenant>& shared_tenant() const { return tenant_; }

 private:
  const std::shared_ptr<ApiTenant> tenant_;
  bool stream_ = false;
  int places_ = 0;
  int64_t taken_ = 0, used_ = 0;
};

}  // namespace packrat

#endif  // PACKRAT_SERVER_API_TENANT_H_
