#include "runtime/session_archive.h"

#include <string>
#include <utility>
#include <vector>

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
  absl::StatusOr<SavedState> state = transfer_->Unpack(std::move(stored->bytes));
  if (!state.ok()) return state.status();
  const auto adopted =
      sessions_->Adopt(owner, handle, stored->version, SessionTransfer::ContentOf(*state), now);
  if (!adopted.ok()) return adopted.status();
  if (!space.has_value()) return absl::OkStatus();
  StateSpace from = *space;
  from.origin = adopted->origin;
  // Whether it finds room or not, the text is here.
  transfer_->Place(std::move(from), *std::move(state)).IgnoreError();
  return absl::OkStatus();
}

absl::Status SessionArchive::Put(const SessionOwner& owner, absl::string_view handle,
                                 const std::optional<StateSpace>& space, absl::Time now) {
  const auto packed = transfer_->Pack(owner, handle, space, max_state_bytes_, now);
  if (!packed.ok()) return packed.status();
  const SessionInfo& info = packed->info;
  const absl::Status status =
      store_->Put(KeyOf(owner, handle), info.revision, {packed->header, packed->parts}, info.ttl);
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
  const auto state = transfer_->Unpack(std::move(stored->bytes));
  return state.ok() && state->tokens == text && state->turns == here->turns &&
         state->dials == here->dials;
}

absl::Status SessionArchive::Delete(const SessionOwner& owner, absl::string_view handle) {
  if (!Sessions::IsHandle(handle)) return absl::OkStatus();
  return store_->Delete(KeyOf(owner, handle));
}

}  // namespace packrat
