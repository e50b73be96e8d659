// The threads of StateTiers: they read, write and remove files, and never touch a budget.
#include <utility>

#include "absl/strings/str_cat.h"
#include "models/weights.h"
#include "runtime/no_memory.h"
#include "runtime/state_tiers.h"
#include "runtime/thread_name.h"

namespace packrat {

void StateTiers::Hand(Entry* entry) {
  {
    MutexLock lock(&mutex_);
    (entry->stage == Stage::kReading ? to_read_ : to_write_).Push(entry);
  }
  work_.notify_all();
}

void StateTiers::Work(bool reads) {
  SetThreadName(reads ? "packrat-read" : "packrat-write");
  for (;;) {
    Entry* entry = nullptr;
    {
      MutexLock lock(&mutex_);
      Queue& todo = reads ? to_read_ : to_write_;
      while (!stop_ && todo.first == nullptr) lock.Wait(&work_);
      if (stop_) return;
      entry = todo.Pop();
      ++busy_;
    }
    const absl::Status status = UnlessNoMemory([&] { return Do(entry); });
    entry->status = status;
    {
      MutexLock lock(&mutex_);
      if (!status.ok() && !entry->dropped) trouble_ = status;
      finished_.Push(entry);
      any_finished_ = true;
      --busy_;
    }
    done_.notify_all();
    wake_();
  }
}

absl::Status StateTiers::Do(Entry* entry) {
  if (entry->size > 0 && entry->stage != Stage::kRemoving) return DoPiece(entry);
  if (entry->stage == Stage::kWriting) {
    if (entry->dropped) return absl::CancelledError("nobody holds it");
    const absl::StatusOr<StateFolder::Seal> seal = folder_->Write(entry->id, *entry->state);
    if (seal.ok()) entry->seal = *seal;
    return seal.status();
  }
  if (entry->stage == Stage::kRemoving) {
    folder_->Remove(entry->id);
    return absl::OkStatus();
  }
  absl::StatusOr<SavedState> state = folder_->Read(
      entry->id, entry->seal, static_cast<size_t>(entry->bytes), [this] { ++answers_; });
  if (!state.ok()) return state.status();
  entry->state = std::make_shared<const SavedState>(*std::move(state));
  return absl::OkStatus();
}

absl::Status StateTiers::DoPiece(Entry* entry) const {
  if (entry->dropped) return absl::CancelledError("nobody holds it");
  uint64_t* const hash = entry->stage == Stage::kWriting ? &entry->written_hash : &entry->read_hash;
  if (entry->stage == Stage::kWriting) {
    const absl::Status status = folder_->WritePiece(entry->id, entry->at, entry->piece);
    if (!status.ok()) return status;
  } else {
    absl::StatusOr<std::string> piece =
        folder_->ReadPiece(entry->id, entry->at, static_cast<size_t>(entry->piece_bytes));
    if (!piece.ok()) return piece.status();
    entry->piece = *std::move(piece);
    if (entry->at == 0) *hash = 0;
  }
  *hash = HashBytes(*hash, entry->piece.data(), entry->piece.size());
  return absl::OkStatus();
}

void StateTiers::HasNotAnswered(absl::Duration time) {
  ++stats_.read_failures;
  MutexLock lock(&mutex_);
  trouble_ = absl::DeadlineExceededError(
      absl::StrCat("the disk has not answered for ", absl::FormatDuration(time)));
}

absl::Status StateTiers::TakeTrouble() {
  MutexLock lock(&mutex_);
  return std::exchange(trouble_, absl::OkStatus());
}

void StateTiers::WaitForThreads() {
  for (;;) {
    {
      MutexLock lock(&mutex_);
      while (busy_ > 0 || to_read_.first != nullptr || to_write_.first != nullptr) {
        lock.Wait(&done_);
      }
      if (finished_.first == nullptr) return;
    }
    Poll();
  }
}

}  // namespace packrat
