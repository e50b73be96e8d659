// One Generate call: hands its request to the engine and its tokens to the network.
#ifndef PACKRAT_SERVER_GENERATE_CALL_H_
#define PACKRAT_SERVER_GENERATE_CALL_H_

#include <grpcpp/support/server_callback.h>

#include <cstdint>
#include <memory>
#include <optional>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "proto/packrat/v1/inference.pb.h"
#include "runtime/mutex.h"
#include "runtime/outbox.h"
#include "runtime/request.h"
#include "server/call_environment.h"
#include "server/response_builder.h"

namespace grpc {
class CallbackServerContext;
}

namespace packrat {

// Owned by itself until gRPC is done with it (OnDone). That is after Finish(), which is called only
// when the engine is done with the request: so the engine never holds a request without a call, and
// a call that ends has freed its sequence.
class GenerateCall final : public grpc::ServerWriteReactor<v1::GenerateResponse>, public Stream {
 public:
  // Never fails: a refused call is one that finishes at once.
  static GenerateCall* Start(CallEnvironment* environment, grpc::CallbackServerContext* context,
                             const v1::GenerateRequest& request);

  void OnSendInitialMetadataDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

  void Pump() override;
  void CheckReader(absl::Time now) override;

 private:
  // What to ask of gRPC next; at most one operation is under way.
  enum class Action { kNothing, kSendHeaders, kWrite, kWriteAndFinish, kFinish };

  GenerateCall(CallEnvironment* environment, grpc::CallbackServerContext* context);
  // Who calls; and counts the call among the open streams, unless there are too many.
  absl::Status Enter();
  // What the caller's key allows of this request, and what it makes of it.
  absl::Status ApplyTenant(const v1::GenerateRequest& wire, Request* request)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Takes the request on, or refuses it; on the thread that may work on its text.
  void Begin(const v1::GenerateRequest& request);
  absl::Status Submit(const v1::GenerateRequest& request);
  // Now if the engine has the request, else as soon as it has.
  void CancelRequest();
  void CountInterval() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Action NextAction() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void OperationDone(bool ok);
  void Refuse(const absl::Status& status);
  absl::Status CancelledStatus() const;
  absl::Status FinalStatus(const packrat::Finish& finish) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void FillFinished(const packrat::Finish& finish, v1::Finished* finished) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  CallEnvironment* const environment_;
  grpc::CallbackServerContext* const context_;
  const absl::Time started_;
  const absl::Time deadline_;
  const uint64_t engine_id_;
  Engine* engine_ = nullptr;
  uint64_t seed_ = 0;
  std::shared_ptr<Outbox> outbox_;
  std::shared_ptr<GenerateCall> self_;

  Mutex mutex_;
  std::optional<ResponseBuilder> builder_ ABSL_GUARDED_BY(mutex_);
  AccessRecord record_ ABSL_GUARDED_BY(mutex_);
  bool admitted_ ABSL_GUARDED_BY(mutex_) = false;
  bool headers_sent_ ABSL_GUARDED_BY(mutex_) = false;
  bool pending_ ABSL_GUARDED_BY(mutex_) = false;  // An operation of gRPC is under way.
  absl::Time pending_since_ ABSL_GUARDED_BY(mutex_);
  SteadyTime last_message_ ABSL_GUARDED_BY(mutex_);  // The epoch: there was none.
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;    // Finish() has been asked for.
  bool broken_ ABSL_GUARDED_BY(mutex_) = false;      // A write failed: nobody listens.
  bool stalled_ ABSL_GUARDED_BY(mutex_) = false;     // Ended by the idle timeout.
  bool counted_ ABSL_GUARDED_BY(mutex_) = false;     // Among environment_->streams.
  bool submitted_ ABSL_GUARDED_BY(mutex_) = false;   // The engine has had the request.
  std::optional<TenantUse> use_ ABSL_GUARDED_BY(mutex_);
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  // Belong to the operation that is under way, and to whoever holds mutex_ where there is none.
  v1::GenerateResponse message_;
  absl::Status status_;
};

}  // namespace packrat

#endif  // PACKRAT_SERVER_GENERATE_CALL_H_
