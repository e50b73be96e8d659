// The methods with one answer, for all fronts.
#ifndef PACKRAT_SERVER_GENERATION_UNARY_METHODS_H_
#define PACKRAT_SERVER_GENERATION_UNARY_METHODS_H_

#include "absl/status/status.h"
#include "proto/packrat/v1/inference.pb.h"
#include "server/generation/session_calls.h"
#include "server/generation/unary_call.h"

namespace packrat {

absl::Status Tokenize(const CallContext& call, const v1::TokenizeRequest& request,
                      v1::TokenizeResponse* response);
absl::Status Detokenize(const CallContext& call, const v1::DetokenizeRequest& request,
                        v1::DetokenizeResponse* response);
absl::Status GetModelInfo(const CallContext& call, const v1::GetModelInfoRequest& request,
                          v1::GetModelInfoResponse* response);
absl::Status GetPlan(const CallContext& call, const v1::GetPlanRequest& request,
                     v1::GetPlanResponse* response);

// Calls `visit` with the UnaryMethod of each: what is not here, no front serves.
template <typename Visit>
void ForEachUnaryMethod(Visit&& visit) {
  visit(UnaryMethod<v1::TokenizeRequest, v1::TokenizeResponse>{"Tokenize", &Tokenize});
  visit(UnaryMethod<v1::DetokenizeRequest, v1::DetokenizeResponse>{"Detokenize", &Detokenize});
  visit(UnaryMethod<v1::GetModelInfoRequest, v1::GetModelInfoResponse>{"GetModelInfo",
                                                                       &GetModelInfo});
  visit(UnaryMethod<v1::GetPlanRequest, v1::GetPlanResponse>{"GetPlan", &GetPlan});
  visit(UnaryMethod<v1::ListSessionsRequest, v1::ListSessionsResponse>{"ListSessions",
                                                                       &ListSessions});
  visit(UnaryMethod<v1::CreateSessionRequest, v1::Session>{"CreateSession", &CreateSession,
                                                           /*may_ask_store=*/true});
  visit(UnaryMethod<v1::GetSessionRequest, v1::Session>{"GetSession", &GetSession,
                                                        /*may_ask_store=*/true});
  visit(UnaryMethod<v1::ForkSessionRequest, v1::Session>{"ForkSession", &ForkSession,
                                                         /*may_ask_store=*/true});
  visit(UnaryMethod<v1::RewindSessionRequest, v1::Session>{"RewindSession", &RewindSession,
                                                           /*may_ask_store=*/true});
  visit(UnaryMethod<v1::DeleteSessionRequest, v1::DeleteSessionResponse>{
      "DeleteSession", &DeleteSession, /*may_ask_store=*/true});
}

}  // namespace packrat

#endif  // PACKRAT_SERVER_GENERATION_UNARY_METHODS_H_
