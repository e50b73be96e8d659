// A call with one message and one answer, knowing no transport: identity, readiness, the place
// where the work is done, log and metrics.
#ifndef PACKRAT_SERVER_GENERATION_UNARY_CALL_H_
#define PACKRAT_SERVER_GENERATION_UNARY_CALL_H_

#include <cstddef>
#include <functional>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "server/generation/call_account.h"
#include "server/generation/call_environment.h"
#include "server/generation/caller.h"
#include "server/generation/store_wait.h"

namespace google::protobuf {
class Message;
}

namespace packrat {

// What a call's work may use.
struct CallContext {
  CallEnvironment* environment;
  const ServedModel& served;
  const ApiTenant* tenant;     // Null: the server has no keys.
  std::function<bool()> gone;  // Whether the client has.
};

// INVALID_ARGUMENT if the answer is larger than the 4 MiB that gRPC's clients accept by default.
// `field`: the field of the request that made it so large.
absl::Status CheckAnswer(const google::protobuf::Message& answer, const char* field);

// A method of the service with one answer; unary_methods.h has them all.
template <typename Request, typename Response>
struct UnaryMethod {
  const char* name;  // "Tokenize"
  absl::Status (*work)(const CallContext&, const Request&, Response*);
  // It may ask the session store, if there is one, and is done by a thread that may wait. Others
  // are done at once if the request is short, else in the pool for texts.
  bool may_ask_store = false;
};

// The front keeps it until the client has its answer: the end of the server waits for that.
class UnaryCall final : public std::enable_shared_from_this<UnaryCall> {
 public:
  // Called exactly once, from any thread, also inside of Start(), and even if the client has gone.
  // It may not block. Not OK: the response says nothing. RetryDelay() (call_status.h) says which
  // refusals are worth another try.
  using Answer = std::function<void(const absl::Status&)>;

  // `request` and `response` live until `answer` is called, `environment` as long as the call.
  template <typename Request, typename Response>
  static std::shared_ptr<UnaryCall> Create(const UnaryMethod<Request, Response>& method,
                                           CallEnvironment* environment, const CallInfo& info,
                                           const Request* request, Response* response,
                                           Answer answer) {
    Work work = [work = method.work, request, response](const CallContext& call) {
      return work(call, *request, response);
    };
    if (!method.may_ask_store) {
      return std::shared_ptr<UnaryCall>(new UnaryCall(method.name, environment, info,
                                                      request->ByteSizeLong(), std::move(work),
                                                      nullptr, std::move(answer)));
    }
    // Its own, since it may go on when the client has its answer.
    auto own = std::make_shared<std::pair<Request, Response>>(*request, Response());
    work = [work = method.work, own](const CallContext& call) {
      return work(call, own->first, &own->second);
    };
    auto take = [own, response] { *response = std::move(own->second); };
    return std::shared_ptr<UnaryCall>(new UnaryCall(method.name, environment, info,
                                                    request->ByteSizeLong(), std::move(work),
                                                    std::move(take), std::move(answer)));
  }
  ~UnaryCall();

  const CallLabels& labels() const { return account_.labels(); }
  void Start();
  // The client has gone. Work that has not begun is left out; the answer comes all the same, and at
  // once where the session store is waited for.
  void Cancelled() { wait_->Leave(); }

 private:
  using Work = std::function<absl::Status(const CallContext&)>;

  // `take`: the work may ask the store, and go on when this is over; if all is well, this makes the
  // answer of what it leaves. Null: it does not.
  UnaryCall(const char* name, CallEnvironment* environment, const CallInfo& info,
            size_t request_bytes, Work work, std::function<void()> take, Answer answer);
  void WaitForStore();
  absl::Status DoWork();
  void Finish(const absl::Status& status);

  CallEnvironment* const environment_;
  const size_t request_bytes_;
  const Work work_;
  const std::function<void()> take_;
  Answer answer_;
  CallAccount account_;
  const std::shared_ptr<StoreWait> wait_;
};

}  // namespace packrat

#endif  // PACKRAT_SERVER_GENERATION_UNARY_CALL_H_
