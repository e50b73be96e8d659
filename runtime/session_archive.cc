#include "runtime/session_archive.h"

#include <chrono>
#include <future>
#include <memory>

namespace packrat {
namespace {

StoreKey KeyOf(const SessionOwner& owner, absl::string_view handle) {
  return {owner.tenant, std::string(handle)};
}

}  // namespace

absl::Status SessionArchive::Fetch(const SessionOwner& owner, absl::string_view handle,
                                   const std::optional<StateSpace>& space, absl::Time now) {
  if (!Sessions::IsHandle(handle)) return sessions_->Get(owner, handle, now).status();
  const auto here = sessions_->Get(owner, handle, now);
  const absl::StatusOr<int64_t> version = store_->Version(KeyOf(owner, handle));
  if (here.ok() && (!version.ok() || *version <= here->revision)) return absl::OkStatus();
  // Nobody's, in the words for it, or that the store does not answer.
  if (absl::IsNotFound(version.status())) return here.status();
  if (!version.ok()) return version.status();

  absl::StatusOr<StoredSession> stored = store_->Get(KeyOf(owner, handle));
  if (!stored.ok()) return absl::IsNotFound(stored.status()) ? here.status() : stored.status();
  absl::StatusOr<SavedState> state = DecodeSavedState(std::move(stored->bytes), model_);
  if (!state.ok()) return state.status();
  const auto adopted =
      sessions_->Adopt(owner, handle, stored->version, state->tokens, std::move(state->turns), now);
  if (!adopted.ok()) return adopted.status();
  if (!space.has_value()) return absl::OkStatus();
  StateSpace from = *space;
  from.solver = state->solver;  // With which it came to be.
  // Whether it finds room or not, the text is here.
  auto done = std::make_shared<std::promise<void>>();
  std::future<void> loaded = done->get_future();
  engine_->LoadState(std::move(from), *std::move(state),
                     [done](const absl::Status&) { done->set_value(); });
  loaded.wait_for(absl::ToChronoNanoseconds(options_.engine_timeout));
  return absl::OkStatus();
}

SavedState SessionArchive::WithState(const std::optional<StateSpace>& space,
                                     std::vector<int32_t> text) {
  SavedState alone;
  alone.tokens = text;
  if (!space.has_value()) return alone;
  alone.solver = space->solver;
  auto done = std::make_shared<std::promise<absl::StatusOr<SavedState>>>();
  auto saved = done->get_future();
  engine_->SaveState(
      *space, std::move(text), options_.max_state_bytes,
      [done](absl::StatusOr<SavedState> state) { done->set_value(std::move(state)); });
  const auto timeout = absl::ToChronoNanoseconds(options_.engine_timeout);
  if (saved.wait_for(timeout) != std::future_status::ready) return alone;
  absl::StatusOr<SavedState> state = saved.get();
  return state.ok() ? *std::move(state) : alone;
}

absl::Status SessionArchive::Put(const SessionOwner& owner, absl::string_view handle,
                                 const std::optional<StateSpace>& space, absl::Time now) {
  std::vector<int32_t> text;
  const auto info = sessions_->Get(owner, handle, now, &text);
  if (!info.ok()) return info.status();
  SavedState state = WithState(space, std::move(text));
  state.turns = info->turns;
  const std::string header = EncodeHeader(state, model_);
  const absl::Status status =
      store_->Put(KeyOf(owner, handle), info->revision, {header, state.parts}, options_.ttl);
  if (!absl::IsAborted(status)) return status;
  // By another call about it here, or nothing was changed.
  if (IsStored(owner, handle, now)) return absl::OkStatus();
  // Their revisions may be one number and two texts: the next turn here begins with the stored one.
  sessions_->Delete(owner, handle, now).IgnoreError();
  return status;
}

bool SessionArchive::IsStored(const SessionOwner& owner, absl::string_view handle, absl::Time now) {
  std::vector<int32_t> text;
  const auto here = sessions_->Get(owner, handle, now, &text);
  absl::StatusOr<StoredSession> stored = store_->Get(KeyOf(owner, handle));
  if (!here.ok() || !stored.ok() || stored->version != here->revision) return false;
  const auto state = DecodeSavedState(std::move(stored->bytes), model_);
  return state.ok() && state->tokens == text && state->turns == here->turns;
}

absl::Status SessionArchive::Delete(const SessionOwner& owner, absl::string_view handle) {
  if (!Sessions::IsHandle(handle)) return absl::OkStatus();
  return store_->Delete(KeyOf(owner, handle));
}

}  // namespace packrat
