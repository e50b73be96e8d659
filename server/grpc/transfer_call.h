// What SaveSession and LoadSession have in common: who calls, what the call holds, a client that
// stands still, the log and the metrics.
#ifndef PACKRAT_SERVER_GRPC_TRANSFER_CALL_H_
#define PACKRAT_SERVER_GRPC_TRANSFER_CALL_H_

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "runtime/mutex.h"
#include "runtime/request.h"
#include "runtime/session.h"
#include "server/generation/call_account.h"
#include "server/generation/call_environment.h"
#include "server/stream_writer.h"

namespace grpc {
class CallbackServerContext;
class Status;
}  // namespace grpc

namespace packrat {

class TransferCall : public Stream {
 public:
  void Pump() override {}
  void CheckReader(absl::Time now) override;

 protected:
  TransferCall(const char* name, CallEnvironment* environment,
               grpc::CallbackServerContext* context);

  // Authenticates, and counts the call among the open streams, unless there are too many.
  absl::Status Enter();
  // By a thread that may wait for the engine and the store.
  absl::Status Submit(std::function<void()> work);
  // Memory, until End(). RESOURCE_EXHAUSTED: such calls hold too much already.
  absl::Status Hold(int64_t bytes);
  // From here on the client has something to do; false: it has done it.
  void WaitForClient(bool waits);
  // The status to finish with.
  grpc::Status Result(const absl::Status& status);
  // The last, in OnDone().
  void End();

  CallEnvironment* environment() const { return environment_; }
  const ServedModel& served() const { return *environment_->served.load(); }
  SessionOwner owner() const { return owner_; }
  bool cancelled() const;

 private:
  CallEnvironment* const environment_;
  grpc::CallbackServerContext* const context_;
  SessionOwner owner_;
  CallAccount account_;
  int64_t held_ = 0;
  absl::Status status_;
  Mutex mutex_;
  absl::Time waits_since_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();
  bool stalled_ ABSL_GUARDED_BY(mutex_) = false;
  bool over_ ABSL_GUARDED_BY(mutex_) = false;
};

// INVALID_ARGUMENT names a field and its range.
absl::StatusOr<StateSpace> SpaceOf(const SessionOwner& owner, const std::string& cache_salt,
                                   const SolverOptions& solver);

}  // namespace packrat

#endif  // PACKRAT_SERVER_GRPC_TRANSFER_CALL_H_
