// A call with one message and one answer, knowing no transport: identity, readiness, the place
// where the work is done, log and metrics.
#ifndef PACKRAT_SERVER_GENERATION_UNARY_CALL_H_
#define PACKRAT_SERVER_GENERATION_UNARY_CALL_H_

#include <atomic>
#include <cstddef>
#include <functional>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "server/generation/call_account.h"
#include "server/generation/call_environment.h"
#include "server/generation/caller.h"

namespace google::protobuf {
class Message;
}

namespace packrat {

// What a call's work may use.
struct CallContext {
  CallEnvironment* environment;
  const ServedModel& served;
  const ApiTenant* tenant;  // Null: the server has no keys.
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
    return std::shared_ptr<UnaryCall>(new UnaryCall(
        method.name, environment, info, request->ByteSizeLong(), method.may_ask_store,
        [work = method.work, request, response](const CallContext& call) {
          return work(call, *request, response);
        },
        std::move(answer)));
  }
  ~UnaryCall();

  const CallLabels& labels() const { return account_.labels(); }
  void Start();
  // The client has gone. Work that has not begun is left out; the answer comes all the same.
  void Cancelled() { cancelled_.store(true); }

 private:
  using Work = std::function<absl::Status(const CallContext&)>;

  UnaryCall(const char* name, CallEnvironment* environment, const CallInfo& info,
            size_t request_bytes, bool may_ask_store, Work work, Answer answer);
  absl::Status DoWork();
  void Finish(const absl::Status& status);

  CallEnvironment* const environment_;
  const size_t request_bytes_;
  const bool may_ask_store_;
  const Work work_;
  Answer answer_;
  CallAccount account_;
  std::atomic<bool> cancelled_{false};
};

}  // namespace packrat

#endif  // PACKRAT_SERVER_GENERATION_UNARY_CALL_H_
