// Sessions as bytes, for a store, a file or another replica, and back.
//
// A session is its text first: where the state is too large, found no room or was not kept, the
// text goes alone, and the next turn computes it anew, with the same tokens.
#ifndef PACKRAT_RUNTIME_SESSION_TRANSFER_H_
#define PACKRAT_RUNTIME_SESSION_TRANSFER_H_

#include <atomic>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "runtime/engine.h"
#include "runtime/saved_state.h"
#include "runtime/session.h"

namespace packrat {

// `header` and `parts`, one after the other, are the bytes.
struct PackedSession {
  SessionInfo info;
  std::string header, parts;
  int32_t state_tokens = 0;  // The state is that after so many; 0: it goes without.
};

// Thread-safe. What waits, waits for a step of the engine; never call it by the thread of Step().
class SessionTransfer {
 public:
  // All outlive it. `model`: that of the engine. `engine_timeout`: a text goes alone, or comes
  // alone, if its state takes longer.
  SessionTransfer(Sessions* sessions, Engine* engine, StateOwner model,
                  absl::Duration engine_timeout = absl::Seconds(5))
      : sessions_(sessions),
        engine_(engine),
        model_(std::move(model)),
        engine_timeout_(absl::ToChronoNanoseconds(engine_timeout)) {
    // What only such sessions can use goes with the last of them.
    sessions_->WatchOrigins([engine](uint64_t origin) { engine->ForgetOrigin(origin); });
  }
  ~SessionTransfer() { sessions_->WatchOrigins(nullptr); }

  // A session as it is here, with what `space` keeps of its state, if that has at most so many
  // bytes; nullopt: its text alone. Waits.
  absl::StatusOr<PackedSession> Pack(const SessionOwner& owner, absl::string_view handle,
                                     const std::optional<StateSpace>& space,
                                     int64_t max_state_bytes, absl::Time now);
  // Errors of DecodeSavedState().
  absl::StatusOr<SavedState> Unpack(std::string bytes);
  // That requests of `space` with the state's solver options go on from it. Waits.
  // RESOURCE_EXHAUSTED: there is no room; DEADLINE_EXCEEDED: it may come later.
  absl::Status Place(StateSpace space, SavedState state);

  // What bytes were unpacked to, but for the state.
  static SessionContent ContentOf(const SavedState& state);

  // A client's bytes become a session of its own, in whose states nobody else's text begins;
  // `origin`: a number that nobody can foretell. Waits.
  struct Loaded {
    SessionInfo info;
    SolverOptions solver;  // Of the state.
    int32_t state_tokens = 0;
    std::string state_dropped;  // Why the bytes' state is not here; empty: it is, or they had none.
  };
  // `ttl`: in the place of that which the bytes tell. Errors of DecodeSavedState(),
  // Sessions::CheckTtl() and Sessions::Restore().
  absl::StatusOr<Loaded> Load(const SessionOwner& owner, std::string bytes, std::string salt,
                              std::optional<absl::Duration> ttl, uint64_t origin, absl::Time now);

  const StateOwner& model() const { return model_; }
  // Of what was unpacked: came from another numerics id or layout, and lost its state.
  int64_t states_dropped() const { return states_dropped_.load(); }

 private:
  Sessions* const sessions_;
  Engine* const engine_;
  const StateOwner model_;
  const std::chrono::nanoseconds engine_timeout_;
  std::atomic<int64_t> states_dropped_{0};
};

}  // namespace packrat

#endif  // PACKRAT_RUNTIME_SESSION_TRANSFER_H_
