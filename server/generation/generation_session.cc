// The part of a call that goes on in a session: its turn, and the store that has it for others.
#include <string>
#include <utility>

#include "runtime/no_memory.h"
#include "runtime/steady_clock.h"
#include "server/generation/generation.h"
#include "server/generation/session_calls.h"

namespace packrat {

void Generation::FetchAndBegin(StoredSessions* stored) {
  const absl::Status status = UnlessNoMemory([&] {
    SessionOwner owner;
    StateSpace space;
    {
      MutexLock lock(&mutex_);
      if (cancelled_) return CancelledStatus();
      owner = OwnerOf(account_.tenant());
    }
    space.tenant = owner.tenant;
    space.salt = *ask_.cache_salt;
    return stored->Fetch(owner, *ask_.session, space);
  });
  if (status.ok()) {
    Begin();
  } else {
    Refuse(status);
  }
}

absl::Status Generation::ReadSession(SessionContent* content) {
  if (ask_.session == nullptr) return absl::OkStatus();
  MutexLock lock(&mutex_);
  Sessions* const sessions = environment_->sessions;
  const SessionOwner owner = OwnerOf(account_.tenant());
  if (!ask_.takes_turn) {
    const auto info = sessions->Get(owner, *ask_.session, SteadyNow(), &content->text);
    if (info.ok()) content->origin = info->origin;
    return info.status();
  }
  auto turn = sessions->Begin(owner, *ask_.session, SteadyNow());
  if (!turn.ok()) return turn.status();
  turn_.emplace(*std::move(turn));
  content->text = turn_->text();
  content->origin = turn_->origin();
  return absl::OkStatus();
}

bool Generation::EndTurn() {
  if (!turn_.has_value()) return false;
  Sessions::Turn& turn = *turn_;
  const FinishReason reason = choices_.front().builder.finish()->reason;
  const bool cut_short = reason == FinishReason::kCancelled || reason == FinishReason::kDeadline;
  bool kept = false;
  if (cut_short ? turn.generated() > 0 : reason != FinishReason::kError) {
    const absl::Status status = UnlessNoMemory([&turn] {
      turn.Keep(SteadyNow());
      return absl::OkStatus();
    });
    status_.Update(status);
    kept = status.ok();
  }
  // Until the store has it the session is busy.
  if (kept && environment_->stored.load() != nullptr) return true;
  turn_.reset();
  return false;
}

void Generation::StoreTurn(bool news) {
  StoredSessions* const stored = environment_->stored.load();
  const auto work = [call = shared_from_this(), stored, news] {
    SessionOwner owner;
    {
      MutexLock lock(&call->mutex_);
      owner = OwnerOf(call->account_.tenant());
    }
    const absl::Status status =
        UnlessNoMemory([&] { return stored->Put(owner, *call->ask_.session, call->turn_space_); });
    call->TurnIsStored(status, news);
  };
  const absl::Status status = stored->Submit(/*bytes=*/0, work);
  if (!status.ok()) TurnIsStored(status, news);
}

void Generation::TurnIsStored(const absl::Status& status, bool news) {
  Action action;
  {
    MutexLock lock(&mutex_);
    pending_since_ = SteadyNow();  // Nobody waited for the client meanwhile.
    if (!status.ok()) account_.record()->not_stored = std::string(status.message());
    if (absl::IsAborted(status)) {
      // What the other replica made of it stays: the next turn here begins with that, and none
      // begins before with what is dropped.
      turn_->Drop();
      status_.Update(absl::AbortedError(
          "another replica changed the session at the same time, and this turn is not in it"));
      message_.clear_finished();
    }
    turn_.reset();
    action = LastAction(news);
  }
  Do(action);
}

}  // namespace packrat
