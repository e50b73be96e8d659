// A call with one answer, over HTTP.
#ifndef PACKRAT_SERVER_HTTP_UNARY_ANSWER_H_
#define PACKRAT_SERVER_HTTP_UNARY_ANSWER_H_

#include <functional>
#include <memory>
#include <utility>

#include "server/generation/unary_call.h"
#include "server/http/api_door.h"
#include "server/http/call_headers.h"

namespace packrat {

// `write`: the answer of a call that went well.
template <typename Request, typename Response>
void AnswerUnary(const UnaryMethod<Request, Response>& method,
                 const std::shared_ptr<ApiRequest>& request, Request message,
                 std::function<HttpAnswer(const Response&)> write) {
  struct State {
    Request message;
    Response response;
    std::shared_ptr<UnaryCall> call;
  };
  auto state = std::make_shared<State>();
  state->message = std::move(message);
  const std::shared_ptr<UnaryCall> call = UnaryCall::Create(
      method, request->environment, request->info, &state->message, &state->response,
      [state, request, write = std::move(write)](const absl::Status& status) {
        HttpAnswer answer = status.ok() ? write(state->response) : request->refuse(status);
        // Kept until the client has its answer.
        std::shared_ptr<UnaryCall> call = std::move(state->call);
        AddLabels(call->labels(), &answer);
        request->reply->Send(std::move(answer), [call](bool) {});
      });
  state->call = call;
  request->reply->OnGone([weak = std::weak_ptr<UnaryCall>(call)] {
    if (const auto alive = weak.lock()) alive->Cancelled();
  });
  call->Start();
}

}  // namespace packrat

#endif  // PACKRAT_SERVER_HTTP_UNARY_ANSWER_H_
