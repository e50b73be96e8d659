// A turn that is being generated in a session.
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
      generated_(other.generated_),
      kept_(other.kept_) {}

Sessions::Turn::~Turn() {
  if (session_ == nullptr) return;
  MutexLock lock(&sessions_->mutex_);
  sessions_->Count(session_->tenant, 0, -promised_);
  session_->renew = !kept_;
  sessions_->SetBusy(session_, false);
}

void Sessions::Turn::Drop() {
  MutexLock lock(&sessions_->mutex_);
  Session* const session = std::exchange(session_, nullptr);
  sessions_->Count(session->tenant, 0, -promised_);
  sessions_->SetBusy(session, false);
  sessions_->Remove(sessions_->sessions_.find(session->expiry->second));
}

void Sessions::Turn::Replace(int64_t revision, SessionContent content, absl::Time now) {
  const absl::Status status = UnlessNoMemory([&] {
    MutexLock lock(&sessions_->mutex_);
    Session there = sessions_->Fresh(std::move(content));
    there.revision = revision;
    sessions_->Count(session_->tenant, 0, -std::exchange(promised_, 0));
    const absl::Status room =
        sessions_->Become({session_->tenant, share_}, session_, std::move(there), now);
    if (room.ok()) sessions_->SetBusy(std::exchange(session_, nullptr), false);
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
  if (!added_.empty()) {
    // No more memory than it takes: that of all texts is bounded.
    turns.reserve(turns.size() + 1);
    text.reserve(text.size() + added_.size());
    text.insert(text.end(), added_.begin(), added_.end());
    turns.push_back(static_cast<int32_t>(text.size()));
    session_->dials = std::move(dials_);
    session_->solver = solver_;
    ++session_->revision;
  }
  if (end_ != nullptr) session_->end = std::move(end_);
  promised_ -= static_cast<int64_t>(added_.size());
  sessions_->Use(session_, now);
  kept_ = true;
}

}  // namespace packrat
