// The part of a call that goes on in a session: its turn, and the store that has it for others.
#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/no_memory.h"
#include "runtime/steady_clock.h"
#include "server/generation/generation.h"
#include "server/generation/session_calls.h"

namespace packrat {

void Generation::FetchAndBegin() {
  SessionOwner owner;
  {
    MutexLock lock(&mutex_);
    owner = OwnerOf(account_.tenant());
  }
  // Copies: the request may go before the store answers.
  auto work = [stored = environment_->stored.load(), wait = wait_.get(), owner,
               session = *ask_.session, space = StateSpace{owner.tenant, *ask_.cache_salt, {}}] {
    return stored->Fetch(owner, session, space, [wait] { return wait->gone(); });
  };
  wait_->Start(ask_.bytes, std::move(work),
               [call = shared_from_this()](const absl::Status& status) {
                 if (status.ok()) {
                   call->Begin();
                 } else {
                   call->Refuse(status);
                 }
               });
}

absl::Status Generation::ReadSession(SessionContent* content) {
  if (ask_.session == nullptr) return absl::OkStatus();
  MutexLock lock(&mutex_);
  Sessions* const sessions = environment_->sessions;
  const SessionOwner owner = OwnerOf(account_.tenant());
  if (!ask_.takes_turn) {
    const auto info = sessions->Get(owner, *ask_.session, SteadyNow(), &content->text);
    if (!info.ok()) return info.status();
    content->origin = info->origin;
    content->dials = info->dials;
    content->solver = info->solver;
    return absl::OkStatus();
  }
  auto turn = sessions->Begin(owner, *ask_.session, SteadyNow());
  if (!turn.ok()) return turn.status();
  turn_.emplace(*std::move(turn));
  content->text = turn_->text();
  content->origin = turn_->origin();
  content->dials = turn_->dials();
  content->solver = turn_->solver();
  return absl::OkStatus();
}

absl::Status Generation::GoOnLike(const SessionContent& content, int32_t tokens,
                                  const ModelConfig& config, std::vector<Request>* requests) const {
  for (Request& request : *requests) {
    request.solver = MakeSolver(*ask_.solver, content.solver);
    const int32_t named = request.dials.last, before = content.dials.last;
    const auto computed =
        static_cast<int32_t>(request.prompt.size()) - (request.stop.max_tokens == 0);
    request.dials = content.dials;
    if (ask_.names_dial && named != before) {
      const absl::Status coarser = CheckCoarser(config, before, named);
      if (!coarser.ok()) {
        return absl::Status(coarser.code(), absl::StrCat("rat_plus_dial ", coarser.message()));
      }
      request.dials.last = named;
      // The last token that is computed has it in any case. What is shorter is computed anew.
      const int32_t end = std::min(tokens, computed - 1);
      std::vector<TextDials::Part>& finer = request.dials.finer;
      if (end >= kMinSnapshotTokens && (finer.empty() || finer.back().end < end)) {
        finer.push_back({end, before});
      }
    }
    request.dials.Cut(computed);
  }
  return absl::OkStatus();
}

bool Generation::EndTurn() {
  if (!turn_.has_value()) return false;
  Sessions::Turn& turn = *turn_;
  const FinishReason reason = choices_.front().builder.finish()->reason;
  // The engine may be done before it hears that the client has gone.
  const bool cut_short = broken_ || (whole_ && cancelled_) || reason == FinishReason::kCancelled ||
                         reason == FinishReason::kDeadline;
  bool kept = false;
  if (cut_short ? turn.generated() > 0 && !whole_ : reason != FinishReason::kError) {
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
    std::optional<StoredText> newer;
    const absl::Status status = UnlessNoMemory(
        [&] { return stored->Put(owner, *call->ask_.session, call->turn_space_, &newer); });
    call->TurnIsStored(status, std::move(newer), news);
  };
  const absl::Status status = stored->Submit(/*bytes=*/0, work);
  if (status.ok()) return;
  stored->CountNotStored();
  TurnIsStored(status, std::nullopt, news);
}

void Generation::TurnIsStored(const absl::Status& status, std::optional<StoredText> newer,
                              bool news) {
  Action action;
  {
    MutexLock lock(&mutex_);
    pending_since_ = SteadyNow();  // Nobody waited for the client meanwhile.
    if (!status.ok()) account_.record()->not_stored = std::string(status.message());
    if (absl::IsAborted(status)) {
      // What the other replica made of it stays: the next turn here begins with that, and none
      // begins before with what is dropped, or finds no session.
      if (newer.has_value()) {
        turn_->Replace(newer->version, std::move(newer->content), SteadyNow());
      } else {
        turn_->Drop();
      }
      status_.Update(
          absl::AbortedError("another replica changed or deleted the session at the same time, and "
                             "this turn is not in "
                             "it"));
      message_.clear_finished();
    }
    turn_.reset();
    action = LastAction(news);
  }
  Do(action);
}

}  // namespace packrat
