// A call with one message and one answer. It handles identity, readiness, log and metrics.
#ifndef PACKRAT_SERVER_UNARY_CALL_H_
#define PACKRAT_SERVER_UNARY_CALL_H_

#include <grpcpp/support/server_callback.h>

#include <atomic>
#include <cstddef>
#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "runtime/steady_clock.h"
#include "server/call_environment.h"

namespace google::protobuf {
class Message;
}
namespace grpc {
class CallbackServerContext;
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

// Owned by itself until gRPC is done with it.
class UnaryCall final : public grpc::ServerUnaryReactor {
 public:
  using Work = std::function<absl::Status(const CallContext&)>;

  // Where the work is done.
  enum class Place {
    kByLength,    // At once if the request is short, else in the pool for texts.
    kMayAskStore  // If there is a session store, by a thread that may wait.
  };
  // `name`: the method's.
  static UnaryCall* Start(const char* name, CallEnvironment* environment,
                          grpc::CallbackServerContext* context, size_t request_bytes, Place place,
                          Work work);

  void OnCancel() override { cancelled_.store(true); }
  void OnDone() override;

 private:
  UnaryCall(const char* name, CallEnvironment* environment, grpc::CallbackServerContext* context,
            Work work);
  // The call may be over, and this object gone, when it returns.
  void Begin(size_t request_bytes, Place place);
  absl::Status DoWork(const ServedModel& served);
  void Answer(const absl::Status& status);

  CallEnvironment* const environment_;
  grpc::CallbackServerContext* const context_;
  const Work work_;
  const absl::Time started_ = SteadyNow();
  std::shared_ptr<ApiTenant> tenant_;
  AccessRecord record_;
  std::atomic<bool> cancelled_{false};
};

}  // namespace packrat

#endif  // PACKRAT_SERVER_UNARY_CALL_H_
