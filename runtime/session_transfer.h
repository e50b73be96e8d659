// Sessions as bytes, for a store, a file or another replica, and back: in pieces, so that nobody
// holds more than one of a state of any size.
//
// A session is its text first: where the state found no room or was not kept, the text goes alone,
// and the next turn computes it anew, with the same tokens.
#ifndef PACKRAT_RUNTIME_SESSION_TRANSFER_H_
#define PACKRAT_RUNTIME_SESSION_TRANSFER_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "runtime/engine.h"
#include "runtime/saved_state.h"
#include "runtime/session.h"
#include "runtime/state_stream.h"

namespace packrat {

// `header` and what `state` brings, one after the other, are the bytes.
struct PackedSession {
  SessionInfo info;
  std::string header;
  StateReader state;
  int64_t bytes() const { return static_cast<int64_t>(header.size() + state.seal().bytes); }
};

class SessionTransfer;

// The bytes of a saved session as they come: the text and a piece of the state are held, and what
// is before that is with the engine. Not thread-safe.
class SessionInput {
 public:
  explicit SessionInput(SessionTransfer* transfer);

  // The next bytes. Errors of DecodeSavedState(), as far as these show them.
  absl::Status Take(absl::string_view bytes);
  // A piece is there, and goes on by Place() before more is taken.
  bool full() const;
  // Waits. A step of the engine gets no more than a piece of it, however much came at once. Without
  // a place for its state the text comes alone.
  void Place();
  // Its text is there; what comes after it may be left.
  bool has_text() const { return header_.has_value(); }
  // What comes after it is of no use: of another numerics id or layout, or without a place here.
  bool state_is_lost() const;
  void DropState() { writer_.reset(); }  // Nor is it wanted.
  // Bytes that it holds now, and that it will hold at the most, as far as that is known.
  size_t held() const { return bytes_.size() + (has_text() ? header_->end : 0); }
  size_t wanted() const;

  // All has been taken. DATA_LOSS: it is cut, or not what was saved. Waits.
  absl::Status End();
  // Once its text is there, what it was; without its parts. `dropped`: why its state does not come.
  const SavedState& state() const { return header_->state; }
  // That requests of `space` with its solver options and dials go on from its state, if it has one
  // that can be used; for who stands at `end`: a session that has this text now, and may have gone
  // when the state is there. Once. Waits.
  absl::Status Keep(StateSpace space, SeenTextEnd end);

 private:
  SessionTransfer* const transfer_;
  std::string bytes_;  // The header, then a piece.
  SavedSize size_;
  std::optional<SavedHeader> header_;
  uint64_t parts_bytes_ = 0;  // That have been taken.
  BytesHash hash_;
  std::unique_ptr<StateWriter> writer_;  // Null: none comes.
};

// Thread-safe. What waits, waits for steps of the engine; never call it by the thread of Step().
class SessionTransfer {
 public:
  // All outlive it. `model`: that of the engine. `engine_timeout`: a text goes alone, or comes
  // alone, if a piece of its state takes longer.
  SessionTransfer(Sessions* sessions, Engine* engine, StateOwner model,
                  int64_t piece_bytes = kMostPieceBytes,
                  absl::Duration engine_timeout = absl::Seconds(5))
      : sessions_(sessions),
        model_(std::move(model)),
        link_{engine, absl::ToChronoNanoseconds(engine_timeout), piece_bytes} {
    // What only such sessions can use goes with the last of them.
    sessions_->WatchOrigins([engine](uint64_t origin) { engine->ForgetOrigin(origin); });
  }
  ~SessionTransfer() { sessions_->WatchOrigins(nullptr); }

  // A session as it is here, with what `space` keeps of its state; nullopt: its text alone. `gone`:
  // see StateReader::Open(). `with_turn`: see Sessions::GetWithTurn(). Waits.
  absl::StatusOr<PackedSession> Pack(const SessionOwner& owner, absl::string_view handle,
                                     const std::optional<StateSpace>& space, absl::Time now,
                                     const std::function<bool()>& gone = nullptr,
                                     bool with_turn = false);

  // Of what has come, but for the state.
  static SessionContent ContentOf(const SavedState& state);

  // What a client has brought becomes a session of its own, in whose states nobody else's text
  // begins; `origin`: a number that nobody can foretell. Waits.
  struct Loaded {
    SessionInfo info;
    SolverOptions solver;  // Of the state.
    int32_t state_tokens = 0;
    std::string state_dropped;  // Why its state is not here; empty: it is, or there was none.
  };
  // `ttl`: in the place of that which the bytes tell. Errors of SessionInput::End(),
  // Sessions::CheckTtl() and Sessions::Restore().
  absl::StatusOr<Loaded> Load(const SessionOwner& owner, SessionInput* input, std::string salt,
                              std::optional<absl::Duration> ttl, uint64_t origin, absl::Time now);

  const StateOwner& model() const { return model_; }
  const StateLink& link() const { return link_; }
  // Of what has come: came from another numerics id or layout, and lost its state.
  int64_t states_dropped() const { return states_dropped_.load(); }

 private:
  friend class SessionInput;
  Sessions* const sessions_;
  const StateOwner model_;
  const StateLink link_;
  std::atomic<int64_t> states_dropped_{0};
};

}  // namespace packrat

#endif  // PACKRAT_RUNTIME_SESSION_TRANSFER_H_
