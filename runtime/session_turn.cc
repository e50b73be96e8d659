// A turn that is being generated in a session.
#include <memory>
#include <utility>

#include "kernels/check.h"
#include "runtime/no_memory.h"
#include "runtime/session.h"

namespace packrat {

Sessions::Turn::Turn(Sessions* sessions, Session* session, double share, std::vector<int32_t> text)
    : sessions_(sessions), session_(session), share_(share), text_(std::move(text)) {}

Sessions::Turn::Turn(Turn&& other) noexcept
    : sessions_(other.sessions_),
      session_(std::exchange(other.session_, nullptr)),
      share_(other.share_),
      text_(std::move(other.text_)),
      added_(std::move(other.added_)),
      dials_(std::move(other.dials_)),
      solver_(other.solver_),
      end_(std::move(other.end_)),
      promised_(other.promised_),
      generated_(other.generated_) {}

Sessions::Turn::~Turn() {
  if (session_ == nullptr) return;
  MutexLock lock(&sessions_->mutex_);
  session_->renew = session_->kept == nullptr;
  if (!session_->renew) promised_ -= static_cast<int64_t>(session_->kept->added.size());
  sessions_->Count(session_->tenant, 0, -promised_);
  if (!session_->renew) sessions_->JoinKept(session_);
  sessions_->SetBusy(session_, false);
}

// Allocates nothing.
void Sessions::JoinKept(Session* session) {
  const std::unique_ptr<Kept> kept = std::move(session->kept);
  if (!kept->added.empty()) {
    session->text.insert(session->text.end(), kept->added.begin(), kept->added.end());
    session->turns.push_back(static_cast<int32_t>(session->text.size()));
    session->dials = std::move(kept->dials);
    session->solver = kept->solver;
  }
  session->past = std::move(kept->past);
  if (kept->end != nullptr) session->end = std::move(kept->end);
}

absl::StatusOr<SessionInfo> Sessions::GetWithTurn(const SessionOwner& owner,
                                                  absl::string_view handle, absl::Time now,
                                                  std::vector<int32_t>* text) {
  MutexLock lock(&mutex_);
  const auto at = Find(owner, handle, now);
  if (!at.ok()) return at.status();
  const Session& session = (*at)->second;
  if (text != nullptr) *text = session.text;
  SessionInfo info = Describe(**at, now);
  if (session.kept == nullptr) return info;
  const Kept& kept = *session.kept;
  info.past = kept.past;
  if (kept.added.empty()) return info;
  if (text != nullptr) text->insert(text->end(), kept.added.begin(), kept.added.end());
  info.tokens += static_cast<int32_t>(kept.added.size());
  ++info.num_turns;
  info.turns.push_back(info.tokens);
  info.dials = kept.dials;
  info.solver = kept.solver;
  return info;
}

void Sessions::Turn::Drop() {
  MutexLock lock(&sessions_->mutex_);
  Session* const session = std::exchange(session_, nullptr);
  session->kept.reset();
  sessions_->Count(session->tenant, 0, -promised_);
  sessions_->SetBusy(session, false);
  sessions_->Remove(sessions_->sessions_.find(session->expiry->second));
}

void Sessions::Turn::Replace(const SessionVersion& version, SessionContent content,
                             absl::Time now) {
  const absl::Status status = UnlessNoMemory([&] {
    MutexLock lock(&sessions_->mutex_);
    Session there = sessions_->Fresh(std::move(content));
    there.past = SessionPast(version);
    sessions_->Count(session_->tenant, 0, -std::exchange(promised_, 0));
    const absl::Status room =
        sessions_->Become({session_->tenant, share_}, session_, std::move(there), now);
    if (!room.ok()) return room;
    session_->kept.reset();
    sessions_->SetBusy(std::exchange(session_, nullptr), false);
    return room;
  });
  if (!status.ok()) Drop();
}

absl::Status Sessions::Turn::Promise(std::vector<int32_t> prompt, int max_tokens, TextDials dials,
                                     const SolverOptions& solver) {
  const auto tokens = static_cast<int64_t>(prompt.size()) + max_tokens;
  HeldTextEnd end = std::make_shared<const TextEnd>();
  MutexLock lock(&sessions_->mutex_);
  const absl::Status room = sessions_->CheckRoom({session_->tenant, share_}, 0, tokens);
  if (!room.ok()) return room;
  sessions_->Count(session_->tenant, 0, tokens);
  promised_ = tokens;
  added_ = std::move(prompt);
  dials_ = std::move(dials);
  solver_ = solver;
  end_ = std::move(end);
  return absl::OkStatus();
}

void Sessions::Turn::Append(absl::Span<const int32_t> tokens) {
  added_.insert(added_.end(), tokens.begin(), tokens.end());
  generated_ += static_cast<int>(tokens.size());
  PACKRAT_CHECK(static_cast<int64_t>(added_.size()) <= promised_) << "more tokens than promised";
}

void Sessions::Turn::Keep(absl::Time now) {
  MutexLock lock(&sessions_->mutex_);
  std::vector<int32_t>& text = session_->text;
  std::vector<int32_t>& turns = session_->turns;
  auto kept = std::make_unique<Kept>();
  kept->past = session_->past;
  if (!added_.empty()) {
    kept->past.Change(sessions_->random_());
    // No more memory than it takes: that of all texts is bounded.
    turns.reserve(turns.size() + 1);
    text.reserve(text.size() + added_.size());
  }
  kept->added = std::move(added_);
  kept->dials = std::move(dials_);
  kept->solver = solver_;
  kept->end = std::move(end_);
  session_->kept = std::move(kept);
  sessions_->Use(session_, now);
}

}  // namespace packrat
