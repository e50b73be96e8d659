#include "server/generation/session_calls.h"

#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include "models/bounds.h"
#include "models/state_layout.h"
#include "proto/packrat/v1/inference.pb.h"
#include "runtime/engine.h"
#include "runtime/saved_state.h"
#include "runtime/steady_clock.h"

namespace packrat {
namespace {

constexpr int kDefaultListed = 1000;
constexpr Bound kListed = {"limit", 1, 10000};

const ServedModel& ServedBy(const CallContext& call) { return *call.environment->served.load(); }

absl::Status Fill(const CallContext& call, const absl::StatusOr<SessionInfo>& info,
                  v1::Session* session) {
  if (info.ok()) FillSession(*info, ServedBy(call), session);
  return info.status();
}

// Before a session is used, and after it was changed, where there is a store. Texts go and come
// alone: the state of one may be that of a cache_salt, which these calls do not know.
absl::Status Fetch(const CallContext& call, const std::string& handle) {
  StoredSessions* const stored = call.environment->stored.load();
  if (stored == nullptr) return absl::OkStatus();
  return stored->Fetch(OwnerOf(call.tenant), handle, std::nullopt, call.gone);
}

// For those who only look at it.
absl::StatusOr<SessionInfo> Look(const CallContext& call, const std::string& handle,
                                 std::vector<int32_t>* text) {
  const SessionOwner owner = OwnerOf(call.tenant);
  StoredSessions* const stored = call.environment->stored.load();
  if (stored != nullptr) return stored->Look(owner, handle, text, call.gone);
  return call.environment->sessions->Get(owner, handle, SteadyNow(), text);
}

absl::Status Store(const CallContext& call, const absl::StatusOr<SessionInfo>& changed,
                   v1::Session* response) {
  StoredSessions* const stored = call.environment->stored.load();
  if (stored != nullptr && changed.ok()) {
    // It is changed here in any case, and /metrics counts what was not stored.
    const absl::Status status = stored->Put(OwnerOf(call.tenant), changed->handle, std::nullopt);
    if (absl::IsAborted(status)) {
      return absl::AbortedError("another replica changed or deleted the session at the same time");
    }
  }
  return Fill(call, changed, response);
}

Sessions& SessionsOf(const CallContext& call) { return *call.environment->sessions; }

}  // namespace

SessionOwner OwnerOf(const ApiTenant* tenant) {
  if (tenant == nullptr) return {};
  return {tenant->name(), tenant->limits().session_share};
}

void FillSession(const SessionInfo& info, const ServedModel& served, v1::Session* session) {
  const std::vector<std::string>& dials = served.rules.limits.dials;
  const StateLayout& layout = served.model->state_layout().ForDial(info.dials.last);
  session->set_session(info.handle);
  session->set_tokens(info.tokens);
  session->set_num_turns(info.num_turns);
  session->mutable_turn_ends()->Assign(info.turns.begin(), info.turns.end());
  session->set_busy(info.busy);
  session->set_age_seconds(absl::ToDoubleSeconds(info.age));
  session->set_idle_seconds(absl::ToDoubleSeconds(info.idle));
  session->set_ttl_seconds(absl::ToDoubleSeconds(info.ttl));
  if (served.engine->options().prefix_cache) {
    session->set_state_bytes(static_cast<int64_t>(SavedPartBytes(layout, info.tokens)));
  }
  if (info.tokens > 0) {
    session->mutable_solver()->set_cg_tolerance(info.solver.cg_tolerance);
    session->mutable_solver()->set_cg_max_steps(info.solver.cg_max_steps);
  }
  if (info.tokens > 0 && !dials.empty()) session->set_rat_plus_dial(dials[info.dials.last]);
}

absl::Duration TtlOf(double seconds) { return absl::Seconds(std::isnan(seconds) ? 0 : seconds); }

absl::Status CreateSession(const CallContext& call, const v1::CreateSessionRequest& request,
                           v1::Session* response) {
  std::optional<absl::Duration> ttl;
  if (request.has_ttl_seconds()) ttl = TtlOf(request.ttl_seconds());
  return Store(call, SessionsOf(call).Create(OwnerOf(call.tenant), ttl, SteadyNow()), response);
}

absl::Status ListSessions(const CallContext& call, const v1::ListSessionsRequest& request,
                          v1::ListSessionsResponse* response) {
  const int limit = request.has_limit() ? request.limit() : kDefaultListed;
  const absl::Status status = kListed.Check("limit", limit);
  if (!status.ok()) return status;
  int total = 0;
  for (const SessionInfo& info :
       SessionsOf(call).List(OwnerOf(call.tenant), limit, SteadyNow(), &total)) {
    FillSession(info, ServedBy(call), response->add_sessions());
  }
  response->set_total(total);
  return absl::OkStatus();
}

absl::Status GetSession(const CallContext& call, const v1::GetSessionRequest& request,
                        v1::Session* response) {
  std::vector<int32_t> text;
  const absl::Status status = Fill(
      call, Look(call, request.session(), request.include_token_ids() ? &text : nullptr), response);
  response->mutable_token_ids()->Assign(text.begin(), text.end());
  return status.ok() ? CheckAnswer(*response, "include_token_ids") : status;
}

absl::Status ForkSession(const CallContext& call, const v1::ForkSessionRequest& request,
                         v1::Session* response) {
  const absl::Status status = Fetch(call, request.session());
  if (!status.ok()) return status;
  return Store(call, SessionsOf(call).Fork(OwnerOf(call.tenant), request.session(), SteadyNow()),
               response);
}

absl::Status RewindSession(const CallContext& call, const v1::RewindSessionRequest& request,
                           v1::Session* response) {
  Sessions& sessions = SessionsOf(call);
  const SessionOwner owner = OwnerOf(call.tenant);
  const absl::Status status = Fetch(call, request.session());
  if (!status.ok()) return status;
  switch (request.to_case()) {
    case v1::RewindSessionRequest::kTurns:
      return Store(call,
                   sessions.RewindTurns(owner, request.session(), request.turns(), SteadyNow()),
                   response);
    case v1::RewindSessionRequest::kTokens:
      return Store(call, sessions.Rewind(owner, request.session(), request.tokens(), SteadyNow()),
                   response);
    case v1::RewindSessionRequest::TO_NOT_SET:
      break;
  }
  return absl::InvalidArgumentError("to is missing; set turns or tokens");
}

absl::Status DeleteSession(const CallContext& call, const v1::DeleteSessionRequest& request,
                           v1::DeleteSessionResponse*) {
  const SessionOwner owner = OwnerOf(call.tenant);
  StoredSessions* const stored = call.environment->stored.load();
  if (stored != nullptr) return stored->Delete(owner, request.session());
  return SessionsOf(call).Delete(owner, request.session(), SteadyNow());
}

}  // namespace packrat
