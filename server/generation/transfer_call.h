// What SaveSession and LoadSession do, over any transport: who calls, what the call holds, a client
// that stands still, the log and the metrics.
#ifndef PACKRAT_SERVER_GENERATION_TRANSFER_CALL_H_
#define PACKRAT_SERVER_GENERATION_TRANSFER_CALL_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "proto/packrat/v1/inference.pb.h"
#include "runtime/mutex.h"
#include "runtime/request.h"
#include "runtime/session.h"
#include "runtime/session_transfer.h"
#include "server/generation/call_account.h"
#include "server/generation/call_environment.h"
#include "server/generation/store_wait.h"
#include "server/stream_writer.h"

namespace packrat {

// Thread-safe where caller and writer's thread meet; the rest is one thing after the other. The
// front keeps it from Enter() until End().
class TransferCall : public Stream {
 public:
  void Pump() override {}
  void CheckReader(absl::Time now) override;

 protected:
  TransferCall(const char* name, CallEnvironment* environment, const CallInfo& info);

  // Whether the client has gone.
  virtual bool cancelled() const = 0;
  // Ends the call of a client that stands still. Called with a lock that End() takes.
  virtual void Drop() = 0;

  const CallLabels& labels() const { return account_.labels(); }
  // Authenticates, and counts the call among the open streams, unless there are too many.
  absl::Status Enter();
  // By a thread that may wait for the engine and the store; status codes of UnlessNoMemory() too.
  absl::Status Submit(std::function<void()> work);
  // Memory, until End(). RESOURCE_EXHAUSTED: such calls hold too much already.
  absl::Status Hold(int64_t bytes);
  // Before its bytes come. INVALID_ARGUMENT names a field and its range.
  absl::Status CheckLoad(const std::string& cache_salt, std::optional<absl::Duration> ttl) const;

  // The client has gone: the call waits no longer for the session store.
  void Leave() { wait_->Leave(); }
  using Next = std::function<void(const absl::Status&)>;
  // Before Pack(): the session comes here from the session store, if there is one. `next` is called
  // once, from any thread, also inside of this. Errors also of StoreWait.
  void Fetch(const v1::SaveSessionRequest& request, Next next);

  // The work itself, for Submit(). What a client is told of the session before its bytes.
  absl::StatusOr<v1::SavedSession> Pack(const v1::SaveSessionRequest& request);
  // The next bytes of what was packed, for a message; empty: there are no more. Nullopt: Fill()
  // comes first, by a thread that may wait. Errors of StateReader::Next().
  std::optional<std::string> NextBytes();
  absl::Status Fill();
  // What has been taken becomes a session, and goes to the store. `next`: as Fetch() has it.
  void Load(const std::string& cache_salt, std::optional<absl::Duration> ttl,
            v1::LoadSessionResponse* response, const Next& next);
  // The next bytes of a session that is to be loaded, and memory for its text and a piece of its
  // state as soon as they tell how much that is. Errors of Hold(), and of what cannot be loaded:
  // the rest need not come.
  absl::Status TakeBytes(absl::string_view data);
  // Whether a piece is there, which Place() takes away before more comes, by a thread that may
  // wait.
  bool full() const { return input_.has_value() && input_->full(); }
  void Place() { input_->Place(); }

  // From here on the client has something to do, unless it has already; false: it has done it.
  void WaitForClient(bool waits);
  // What the client is told.
  void SetStatus(const absl::Status& status) { status_ = status; }
  // The last.
  void End();

  const ServedModel& served() const { return *environment_->served.load(); }

 private:
  absl::StatusOr<StateSpace> LoadHere(const std::string& cache_salt,
                                      std::optional<absl::Duration> ttl,
                                      v1::LoadSessionResponse* response);
  absl::Status MakeRoom(size_t bytes);
  SessionInput& input();

  CallEnvironment* const environment_;
  SessionOwner owner_;
  CallAccount account_;
  const std::shared_ptr<StoreWait> wait_;
  int64_t held_ = 0;
  // What is saved: its state, the bytes at hand, and how many of these and of all are still to go.
  StateReader reader_;
  std::string sending_;
  size_t sent_ = 0;
  int64_t left_ = 0;
  std::optional<SessionInput> input_;  // What is loaded.
  size_t room_ = 0;                    // For which memory is held.
  absl::Status status_;
  Mutex mutex_;
  absl::Time waits_since_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();
  bool stalled_ ABSL_GUARDED_BY(mutex_) = false;
  bool over_ ABSL_GUARDED_BY(mutex_) = false;
};

inline constexpr size_t kSavedMessageBytes = size_t{512} << 10;

}  // namespace packrat

#endif  // PACKRAT_SERVER_GENERATION_TRANSFER_CALL_H_
