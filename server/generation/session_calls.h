// The calls about sessions, between the wire and Sessions.
#ifndef PACKRAT_SERVER_GENERATION_SESSION_CALLS_H_
#define PACKRAT_SERVER_GENERATION_SESSION_CALLS_H_

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "runtime/session.h"
#include "server/generation/unary_call.h"

namespace packrat {

namespace v1 {
class CreateSessionRequest;
class DeleteSessionRequest;
class DeleteSessionResponse;
class ForkSessionRequest;
class GetSessionRequest;
class ListSessionsRequest;
class ListSessionsResponse;
class RewindSessionRequest;
class Session;
}  // namespace v1

// Null: all clients are one.
SessionOwner OwnerOf(const ApiTenant* tenant);
void FillSession(const SessionInfo& info, const ServedModel& served, v1::Session* session);
// What is no number has no length.
absl::Duration TtlOf(double seconds);

absl::Status CreateSession(const CallContext& call, const v1::CreateSessionRequest& request,
                           v1::Session* response);
absl::Status ListSessions(const CallContext& call, const v1::ListSessionsRequest& request,
                          v1::ListSessionsResponse* response);
absl::Status GetSession(const CallContext& call, const v1::GetSessionRequest& request,
                        v1::Session* response);
absl::Status ForkSession(const CallContext& call, const v1::ForkSessionRequest& request,
                         v1::Session* response);
absl::Status RewindSession(const CallContext& call, const v1::RewindSessionRequest& request,
                           v1::Session* response);
absl::Status DeleteSession(const CallContext& call, const v1::DeleteSessionRequest& request,
                           v1::DeleteSessionResponse* response);

}  // namespace packrat

#endif  // PACKRAT_SERVER_GENERATION_SESSION_CALLS_H_
