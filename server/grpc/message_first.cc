#include "server/grpc/message_first.h"

#include <grpc/byte_buffer.h>
#include <grpcpp/impl/call.h>

#include <chrono>
#include <cstring>
#include <string>
#include <utility>

#include "kernels/check.h"

namespace packrat {
namespace {

using Handler = grpc::internal::MethodHandler;

// Deletes itself when the message has arrived or will not come.
class Reading final : public grpc_completion_queue_functor {
 public:
  Reading(Handler* handler, UnreadCalls* calls, const Handler::HandlerParameter& call)
      : grpc_completion_queue_functor{}, handler_(handler), calls_(calls), call_(call) {
    functor_run = [](grpc_completion_queue_functor* self, int ok) {
      static_cast<Reading*>(self)->Done(ok != 0);
    };
  }

  void Start() {
    grpc_call* const call = call_.call->call();
    id_ = calls_->Enter(std::chrono::steady_clock::now(), EndOf(call));
    grpc_op read = {};
    read.op = GRPC_OP_RECV_MESSAGE;
    read.data.recv_message.recv_message = &message_;
    // This object may be gone from here on.
    PACKRAT_CHECK(grpc_call_start_batch(call, &read, 1, this, nullptr) == GRPC_CALL_OK);
  }

 private:
  void Done(bool ok) {
    calls_->Leave(id_);
    grpc::Status status;
    if (!ok || message_ == nullptr) {
      // The handlers need a message, even for a call that they only end.
      if (message_ != nullptr) grpc_byte_buffer_destroy(message_);
      message_ = grpc_raw_byte_buffer_create(nullptr, 0);
      status = grpc::Status(grpc::StatusCode::CANCELLED, "there is no message");
    }
    grpc::Status parsed;
    void* data = nullptr;
    void* const request = handler_->Deserialize(call_.call->call(), message_, &parsed, &data);
    if (status.ok()) status = parsed;
    handler_->RunHandler(
        {call_.call, call_.server_context, request, status, data, call_.call_requester});
    delete this;
  }

  Handler* const handler_;
  UnreadCalls* const calls_;
  const Handler::HandlerParameter call_;
  uint64_t id_ = 0;
  grpc_byte_buffer* message_ = nullptr;
};

class MessageFirstHandler final : public Handler {
 public:
  MessageFirstHandler(std::unique_ptr<Handler> handler, UnreadCalls* calls)
      : handler_(std::move(handler)), calls_(calls) {}
  void RunHandler(const HandlerParameter& call) override {
    (new Reading(handler_.get(), calls_, call))->Start();
  }

 private:
  const std::unique_ptr<Handler> handler_;
  UnreadCalls* const calls_;
};

}  // namespace

UnreadCalls::End EndOf(grpc_call* call) {
  grpc_call_ref(call);
  return [kept = std::shared_ptr<grpc_call>(call, grpc_call_unref)](const absl::Status& status) {
    grpc_call_cancel_with_status(kept.get(), static_cast<grpc_status_code>(status.code()),
                                 std::string(status.message()).c_str(), nullptr);
  };
}

std::unique_ptr<Handler> MessageFirst(std::unique_ptr<Handler> handler, UnreadCalls* calls) {
  return std::make_unique<MessageFirstHandler>(std::move(handler), calls);
}

}  // namespace packrat
