// One Generate or Score call: hands its requests to the engine, one for each choice, and what comes
// of them to the network. generate_call.cc has its way, generate_call_messages.cc what it says,
// generate_call_session.cc its part in a session.
#ifndef PACKRAT_SERVER_GENERATE_CALL_H_
#define PACKRAT_SERVER_GENERATE_CALL_H_

#include <grpcpp/support/server_callback.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "proto/packrat/v1/inference.pb.h"
#include "runtime/mutex.h"
#include "runtime/outbox.h"
#include "runtime/request.h"
#include "runtime/session.h"
#include "server/call_environment.h"
#include "server/response_builder.h"

namespace grpc {
class CallbackServerContext;
}

namespace packrat {

// Owned by itself until gRPC is done with it (OnDone). That is after Finish(), which is called only
// when the engine is done with the requests: so the engine never holds one without a call, and a
// call that ends has freed its sequences. Where a request fails the others are cancelled, and the
// call ends with its status.
class GenerateCall final : public grpc::ServerWriteReactor<v1::GenerateResponse>, public Stream {
 public:
  // What a call asks for. The requests lack id, deadline and outbox.
  struct Ask {
    const char* call;  // "Generate"
    size_t bytes;      // Of its message.
    bool has_priority;
    const std::string* session;     // A handle. Null: none.
    bool takes_turn;                // In the session: the call is of one request, which joins it.
    const std::string* cache_salt;  // Beside a session.
    // `history`: what the session holds.
    std::function<absl::StatusOr<std::vector<Request>>(const RequestRules&, uint64_t seed,
                                                       std::vector<int32_t> history)>
        make;
  };
  // Never fails: a refused call is one that finishes at once.
  static GenerateCall* Start(CallEnvironment* environment, grpc::CallbackServerContext* context,
                             Ask ask);

  void OnSendInitialMetadataDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

  void Pump() override;
  void CheckReader(absl::Time now) override;

 private:
  // What to ask of gRPC next; at most one operation is under way.
  enum class Action {
    kNothing,
    kSendHeaders,
    kWrite,
    kStore,          // The turn of a session; then what is left to do.
    kStoreAndWrite,  // The same, and there is a message.
    kWriteAndFinish,
    kFinish
  };

  // A request, and what has come of it.
  struct Choice {
    uint64_t id;  // The engine's.
    uint64_t seed;
    std::shared_ptr<Outbox> outbox;
    ResponseBuilder builder;
    bool admitted = false;
    bool done = false;  // All that will ever be said of it is in a message.
  };

  GenerateCall(CallEnvironment* environment, grpc::CallbackServerContext* context, Ask ask);
  // Who calls; and counts the call among the open streams, unless there are too many.
  absl::Status Enter();
  // Tokens that the caller's key is charged with, at first.
  int64_t Chargeable(const Request& request) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // What the caller's key allows of these requests, and what it makes of them.
  absl::Status ApplyTenant(std::vector<Request>* requests) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Takes the requests on, or refuses them; on the thread that may work on their texts.
  void Begin();
  absl::Status Submit();
  // Begin() once the session is here. By a thread that may wait.
  void FetchAndBegin(StoredSessions* stored);
  // What the session holds, which is busy from here on if the call takes a turn; nothing without.
  absl::Status ReadSession(SessionContent* content);
  // Now if the engine has the requests, else as soon as it has.
  void CancelRequests();
  void CancelChoices() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void TakeNews() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Puts what is new of one choice into message_. Null: there is nothing new.
  Choice* NextMessage() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void CountInterval() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Keeps the turn of a session, if there is one and it ended so that it is kept, and lets others
  // use the session: before the client hears of the end. True: it has to be stored first.
  bool EndTurn() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // What EndTurn() has kept, as an operation that is under way; by another thread. `news`: message_
  // is to be sent then.
  void StoreTurn(bool news);
  void TurnIsStored(const absl::Status& status, bool news);
  Action NextAction() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // That of the call's end.
  Action LastAction(bool news) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Do(Action action);
  void OperationDone(bool ok);
  void Refuse(const absl::Status& status);
  absl::Status CancelledStatus() const;
  absl::Status FinalStatus(const packrat::Finish& finish) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void FillFinished(const Choice& choice, v1::Finished* finished) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Into record_, metrics and the key's account.
  void Account() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  CallEnvironment* const environment_;
  grpc::CallbackServerContext* const context_;
  const absl::Time started_;
  const absl::Time deadline_;
  const Ask ask_;
  Engine* engine_ = nullptr;
  std::shared_ptr<GenerateCall> self_;

  Mutex mutex_;
  std::vector<Choice> choices_ ABSL_GUARDED_BY(mutex_);
  size_t next_choice_ ABSL_GUARDED_BY(mutex_) = 0;  // Whose turn it is to be written first.
  AccessRecord record_ ABSL_GUARDED_BY(mutex_);
  bool admitted_ ABSL_GUARDED_BY(mutex_) = false;
  bool headers_sent_ ABSL_GUARDED_BY(mutex_) = false;
  bool pending_ ABSL_GUARDED_BY(mutex_) = false;  // An operation of gRPC is under way.
  absl::Time pending_since_ ABSL_GUARDED_BY(mutex_);
  SteadyTime last_message_ ABSL_GUARDED_BY(mutex_);  // The epoch: there was none.
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;    // Finish() has been asked for.
  bool broken_ ABSL_GUARDED_BY(mutex_) = false;      // A write failed: the client has gone.
  bool stalled_ ABSL_GUARDED_BY(mutex_) = false;     // Ended by the idle timeout.
  bool counted_ ABSL_GUARDED_BY(mutex_) = false;     // Among environment_->streams.
  bool submitted_ ABSL_GUARDED_BY(mutex_) = false;   // The engine has had the requests.
  std::optional<TenantUse> use_ ABSL_GUARDED_BY(mutex_);
  int from_session_ ABSL_GUARDED_BY(mutex_) = 0;  // Tokens that each prompt begins with.
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  std::optional<Sessions::Turn> turn_ ABSL_GUARDED_BY(mutex_);
  StateSpace turn_space_;  // Of its state; as Submit() leaves it.
  // Belong to the operation that is under way, and to whoever holds mutex_ where there is none.
  v1::GenerateResponse message_;
  absl::Status status_;  // Of the first choice that failed.
};

}  // namespace packrat

#endif  // PACKRAT_SERVER_GENERATE_CALL_H_
