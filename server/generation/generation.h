// One Generate or Score call: hands its requests to the engine, one for each choice, and what comes
// of them to its Caller. It knows no transport. generation.cc has its way, generation_messages.cc
// what it says, generation_session.cc its part in a session.
#ifndef PACKRAT_SERVER_GENERATION_GENERATION_H_
#define PACKRAT_SERVER_GENERATION_GENERATION_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "proto/packrat/v1/inference.pb.h"
#include "runtime/mutex.h"
#include "runtime/outbox.h"
#include "runtime/request.h"
#include "runtime/session.h"
#include "server/generation/call_account.h"
#include "server/generation/call_environment.h"
#include "server/generation/caller.h"
#include "server/generation/response_builder.h"
#include "server/generation/store_wait.h"
#include "server/stream_writer.h"

namespace packrat {

// Thread-safe; caller.h says who calls what when. The last operation comes only when the engine is
// done with the requests: so the engine never holds one without a call, and a call that ends has
// freed its sequences. Where a request fails the others are cancelled, and the call ends with its
// status.
class Generation final : public Stream, public std::enable_shared_from_this<Generation> {
 public:
  // `environment`, `request` and `caller` live until Done() has returned, and so does the call: its
  // front keeps it.
  static std::shared_ptr<Generation> Generate(CallEnvironment* environment,
                                              const v1::GenerateRequest* request,
                                              const CallInfo& info, Caller* caller);
  static std::shared_ptr<Generation> Score(CallEnvironment* environment,
                                           const v1::ScoreRequest* request, const CallInfo& info,
                                           Caller* caller);

  // Known at once, and the same until the end.
  const CallLabels& labels() const { return labels_; }

  // The front's side. Start() never fails: a refused call is one that finishes at once.
  void Start();
  // The operation that was under way is over. False: it has not reached the client, and none will.
  void WriteDone(bool ok);
  void Cancelled();
  // `gone`: the client left, or was dropped, before it had everything.
  void Done(bool gone);

  // Stream, for the writer's thread.
  void Pump() override;
  void CheckReader(absl::Time now) override;

 private:
  // What a call asks for. The requests lack id, deadline and outbox.
  struct Ask {
    const char* call;  // "Generate"
    size_t bytes;      // Of its message.
    bool has_priority;
    const std::string* session;     // A handle. Null: none.
    bool takes_turn;                // In the session: the call is of one request, which joins it.
    const std::string* cache_salt;  // Beside a session.
    bool names_dial;
    const v1::SolverParams* solver;  // What it says of them.
    // `history`: what the session holds.
    std::function<absl::StatusOr<std::vector<Request>>(const RequestRules&, uint64_t seed,
                                                       std::vector<int32_t> history)>
        make;
  };

  // What to ask of the Caller next; at most one operation is under way.
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

  Generation(CallEnvironment* environment, Ask ask, const CallInfo& info, Caller* caller);
  // Who calls; and counts the call among the open streams, unless there are too many, or no room
  // for what comes together with it.
  absl::Status Enter();
  // Tokens that the caller's key is charged with, at first.
  int64_t Chargeable(const Request& request) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // What the caller's key allows of these requests, and what it makes of them.
  absl::Status ApplyTenant(std::vector<Request>* requests) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Takes the requests on, or refuses them; on the thread that may work on their texts.
  void Begin();
  absl::Status Submit();
  // Begin() once the session is here.
  void FetchAndBegin();
  // What the session holds, which is busy from here on if the call takes a turn; nothing without.
  absl::Status ReadSession(SessionContent* content);
  // The requests go on from the `tokens` tokens of the session, which has some, with the solver
  // options of its last turn where the call says nothing else, and with the dials that the tokens
  // have, or from there on with a coarser one.
  absl::Status GoOnLike(const SessionContent& content, int32_t tokens, const ModelConfig& config,
                        std::vector<Request>* requests) const;
  void CancelChoices() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void TakeNews() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Puts what is new of one choice into message_. Null: there is nothing new.
  Choice* NextMessage() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void CountInterval() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void CountDelivery() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Settle() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);  // All outboxes.
  // Keeps the turn of a session, if there is one and it ended so that it is kept, and lets others
  // use the session: before the client hears of the end. True: it has to be stored first.
  bool EndTurn() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // What EndTurn() has kept, as an operation that is under way; by another thread. `news`: message_
  // is to be sent then.
  void StoreTurn(bool news);
  // `newer`: what another replica has made of the session; nullopt: it is not known.
  void TurnIsStored(const absl::Status& status, std::optional<StoredText> newer, bool news);
  Action NextAction() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // That of the call's end.
  Action LastAction(bool news) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Do(Action action);
  void Refuse(const absl::Status& status);
  absl::Status CancelledStatus() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status FinalStatus(const packrat::Finish& finish) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void FillFinished(const Choice& choice, v1::Finished* finished) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Into the log's record, metrics and the key's account.
  void CountUse() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  CallEnvironment* const environment_;
  Caller* const caller_;
  const absl::Time deadline_;
  const bool whole_;  // See CallInfo, and the next two.
  const int together_;
  const bool follows_;
  const Ask ask_;
  Engine* engine_ = nullptr;

  Mutex mutex_;
  CallAccount account_ ABSL_GUARDED_BY(mutex_);
  const CallLabels labels_;
  const std::shared_ptr<StoreWait> wait_;  // For the session, to be here.
  std::vector<Choice> choices_ ABSL_GUARDED_BY(mutex_);
  size_t next_choice_ ABSL_GUARDED_BY(mutex_) = 0;  // Whose turn it is to be written first.
  bool admitted_ ABSL_GUARDED_BY(mutex_) = false;
  bool headers_sent_ ABSL_GUARDED_BY(mutex_) = false;
  bool pending_ ABSL_GUARDED_BY(mutex_) = false;      // An operation is under way.
  absl::Time pending_since_ ABSL_GUARDED_BY(mutex_);  // Never: it is not the client's.
  // When the oldest token came that is in no message yet, and in the one under way; or never.
  absl::Time waits_since_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();
  absl::Time goes_since_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();
  SteadyTime last_message_ ABSL_GUARDED_BY(mutex_);  // The epoch: there was none.
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;    // The last operation has been asked for.
  bool broken_ ABSL_GUARDED_BY(mutex_) = false;      // A write failed: the client has gone.
  bool stalled_ ABSL_GUARDED_BY(mutex_) = false;     // Ended by the idle timeout.
  bool submitted_ ABSL_GUARDED_BY(mutex_) = false;   // The engine has had the requests.
  int from_session_ ABSL_GUARDED_BY(mutex_) = 0;     // Tokens that each prompt begins with.
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  std::optional<Sessions::Turn> turn_ ABSL_GUARDED_BY(mutex_);
  StateSpace turn_space_;  // Of its state; as Submit() leaves it.
  // Belong to the operation that is under way, and to whoever holds mutex_ where there is none.
  v1::GenerateResponse message_;
  absl::Status status_;  // Of the first choice that failed.
};

}  // namespace packrat

#endif  // PACKRAT_SERVER_GENERATION_GENERATION_H_
