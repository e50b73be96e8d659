#include "server/api_tenant.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/retry_after.h"

namespace packrat {

ApiTenant::ApiTenant(std::string name, const TenantLimits& limits)
    : name_(std::move(name)),
      limits_(limits),
      tokens_(static_cast<double>(limits.tokens_per_minute)) {}

TenantLimits ApiTenant::limits() const {
  MutexLock lock(&mutex_);
  return limits_;
}

void ApiTenant::SetLimits(const TenantLimits& limits) {
  MutexLock lock(&mutex_);
  // Tokens that were used in this minute stay used.
  tokens_ += static_cast<double>(limits.tokens_per_minute - limits_.tokens_per_minute);
  limits_ = limits;
}

absl::Status ApiTenant::EnterStream(int max_streams) {
  MutexLock lock(&mutex_);
  const int limit = limits_.streams > 0 ? limits_.streams : std::max(1, max_streams / 2);
  if (streams_ >= limit) {
    return absl::ResourceExhaustedError(
        absl::StrCat("all ", limit, " streams of ", name_, " are in use"));
  }
  ++streams_;
  return absl::OkStatus();
}

void ApiTenant::LeaveStream() {
  MutexLock lock(&mutex_);
  --streams_;
}

void ApiTenant::Refill(absl::Time now) {
  const auto limit = static_cast<double>(limits_.tokens_per_minute);
  if (filled_ != absl::InfinitePast() && now > filled_) {
    tokens_ =
        std::min(limit, tokens_ + limit * absl::FDivDuration(now - filled_, absl::Minutes(1)));
  }
  filled_ = std::max(filled_, now);
}

absl::Status ApiTenant::CheckPlaces(int places, int max_queue) const {
  const int share = static_cast<int>(limits_.queue_share * max_queue);
  if (waiting_ == 0 || waiting_ + places <= share) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat(
      waiting_, " requests of ", name_, " wait, which is all of its share of the queue"));
}

absl::Status ApiTenant::CheckTokens(int64_t tokens) const {
  const auto limit = static_cast<double>(limits_.tokens_per_minute);
  const double lacking = std::min(static_cast<double>(tokens), limit) - tokens_;
  if (lacking <= 0) return absl::OkStatus();
  return WithRetryAfter(
      absl::ResourceExhaustedError(
          absl::StrCat(name_, " may use ", limits_.tokens_per_minute, " tokens a minute and has ",
                       static_cast<int64_t>(std::max(0.0, tokens_)),
                       " left; this request may take ", tokens, " (its prompt and max_tokens)")),
      absl::Minutes(lacking / limit));
}

absl::StatusOr<int64_t> ApiTenant::EnterQueue(int places, int64_t tokens, int max_queue,
                                              absl::Time now) {
  MutexLock lock(&mutex_);
  absl::Status status = CheckPlaces(places, max_queue);
  if (!status.ok()) return status;
  int64_t taken = 0;
  if (limits_.tokens_per_minute > 0) {
    Refill(now);
    status = CheckTokens(tokens);
    if (!status.ok()) return status;
    taken = tokens;
    tokens_ -= static_cast<double>(taken);
  }
  waiting_ += places;
  return taken;
}

absl::Status ApiTenant::MayEnterQueue(int places, int max_queue, absl::Time now) {
  MutexLock lock(&mutex_);
  const absl::Status status = CheckPlaces(places, max_queue);
  if (!status.ok() || limits_.tokens_per_minute == 0) return status;
  Refill(now);
  return CheckTokens(1);
}

void ApiTenant::FollowStream() {
  MutexLock lock(&mutex_);
  ++streams_;
}

int64_t ApiTenant::FollowInQueue(int places, int64_t tokens, absl::Time now) {
  MutexLock lock(&mutex_);
  waiting_ += places;
  if (limits_.tokens_per_minute == 0) return 0;
  Refill(now);
  tokens_ -= static_cast<double>(tokens);
  return tokens;
}

void ApiTenant::LeaveQueue(int places) {
  MutexLock lock(&mutex_);
  waiting_ -= places;
}

void ApiTenant::ReturnTokens(int64_t tokens) {
  MutexLock lock(&mutex_);
  tokens_ = std::min(static_cast<double>(limits_.tokens_per_minute),
                     tokens_ + static_cast<double>(tokens));
}

TenantUse::~TenantUse() {
  LeaveQueue();
  if (taken_ > 0) tenant_->ReturnTokens(taken_ - used_);
  if (stream_) tenant_->LeaveStream();
}

absl::Status TenantUse::EnterStream(int max_streams) {
  if (tenant_ == nullptr) return absl::OkStatus();
  absl::Status status = tenant_->EnterStream(max_streams);
  stream_ = status.ok();
  return status;
}

absl::Status TenantUse::EnterQueue(int places, int64_t tokens, int max_queue, absl::Time now) {
  if (tenant_ == nullptr) return absl::OkStatus();
  const absl::StatusOr<int64_t> taken = tenant_->EnterQueue(places, tokens, max_queue, now);
  if (!taken.ok()) return taken.status();
  places_ = places;
  taken_ = *taken;
  return absl::OkStatus();
}

absl::Status TenantUse::MayEnterQueue(int places, int max_queue, absl::Time now) {
  return tenant_ == nullptr ? absl::OkStatus() : tenant_->MayEnterQueue(places, max_queue, now);
}

void TenantUse::FollowStream() {
  if (tenant_ == nullptr) return;
  tenant_->FollowStream();
  stream_ = true;
}

void TenantUse::FollowInQueue(int places, int64_t tokens, absl::Time now) {
  if (tenant_ == nullptr) return;
  taken_ = tenant_->FollowInQueue(places, tokens, now);
  places_ = places;
}

void TenantUse::LeaveQueue() {
  if (const int places = std::exchange(places_, 0); places > 0) tenant_->LeaveQueue(places);
}

}  // namespace packrat
