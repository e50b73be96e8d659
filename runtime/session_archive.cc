#include "runtime/session_archive.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "runtime/steady_clock.h"

namespace packrat {
namespace {

// To read an entry that others change.
constexpr int kMostTries = 3;

StoreKey KeyOf(const SessionOwner& owner, absl::string_view handle) {
  return {owner.tenant, std::string(handle)};
}

}  // namespace

absl::StatusOr<bool> SessionArchive::IsNewerThere(const StoreKey& key,
                                                  const absl::StatusOr<SessionInfo>& here) {
  if (!Sessions::IsHandle(key.handle)) return here.status();
  // While a call generates in it, others see it as it was before; who would change it is refused.
  if (here.ok() && here->busy) return false;
  const absl::StatusOr<int64_t> version = store_->Version(key);
  if (here.ok()) return version.ok() && *version > here->revision;
  // Nobody's, in the words for it, or that the store does not answer.
  if (absl::IsNotFound(version.status())) return here.status();
  if (!version.ok()) return version.status();
  return true;
}

absl::Status SessionArchive::Fetch(const SessionOwner& owner, absl::string_view handle,
                                   const std::optional<StateSpace>& space, absl::Time now) {
  const auto here = sessions_->Get(owner, handle, now);
  const absl::StatusOr<bool> newer = IsNewerThere(KeyOf(owner, handle), here);
  if (!newer.ok()) return newer.status();
  if (!*newer) return absl::OkStatus();
  std::optional<SessionInput> input;
  const auto stored = Get(KeyOf(owner, handle), /*with_state=*/space.has_value(), &input);
  if (!stored.ok()) return absl::IsNotFound(stored.status()) ? here.status() : stored.status();
  const auto adopted =
      sessions_->Adopt(owner, handle, *stored, SessionTransfer::ContentOf(input->state()), now);
  if (absl::IsAborted(adopted.status())) return absl::OkStatus();  // One has begun meanwhile.
  if (absl::IsResourceExhausted(adopted.status())) {
    return absl::ResourceExhaustedError(
        absl::StrCat("this replica has no room for the session, which the session store has: ",
                     adopted.status().message()));
  }
  if (!adopted.ok()) return adopted.status();
  if (!space.has_value()) return absl::OkStatus();
  StateSpace from = *space;
  from.origin = adopted->origin;
  // Whether it finds room or not, the text is here.
  input->Keep(std::move(from), adopted->end).IgnoreError();
  return absl::OkStatus();
}

absl::StatusOr<SessionInfo> SessionArchive::Look(const SessionOwner& owner,
                                                 absl::string_view handle, absl::Time now,
                                                 std::vector<int32_t>* text) {
  const StoreKey key = KeyOf(owner, handle);
  auto here = sessions_->Get(owner, handle, now, text);
  const absl::StatusOr<bool> newer = IsNewerThere(key, here);
  if (!newer.ok()) return newer.status();
  if (!*newer) return here;
  absl::StatusOr<StoredText> stored = TextOf(key);
  if (absl::IsNotFound(stored.status())) return here;
  if (!stored.ok()) return stored.status();
  if (text != nullptr) *text = stored->content.text;
  return sessions_->Preview(handle, stored->revision, std::move(stored->content));
}

absl::StatusOr<int64_t> SessionArchive::Get(const StoreKey& key, bool with_state,
                                            std::optional<SessionInput>* input) {
  const absl::Time end = SteadyNow() + state_timeout_;
  absl::StatusOr<int64_t> version;
  for (int tries = 0; tries < kMostTries; ++tries) {
    SessionInput& bytes = input->emplace(transfer_);
    const auto enough = [&] { return bytes.has_text() && (!with_state || bytes.state_is_lost()); };
    version = store_->Get(key, [&](absl::string_view piece) -> absl::StatusOr<bool> {
      const absl::Status taken = bytes.Take(piece);
      if (!taken.ok()) return taken;
      if (bytes.has_text() && SteadyNow() >= end) bytes.DropState();
      if (enough()) return false;
      if (bytes.full()) bytes.Place();
      return !enough();
    });
    if (!absl::IsAborted(version.status())) break;
  }
  // Changed all the time, by others that have it.
  if (absl::IsAborted(version.status())) return absl::UnavailableError(version.status().message());
  if (!version.ok()) return version;
  const SessionInput& taken = **input;
  if (taken.has_text() && (!with_state || taken.state_is_lost())) return version;
  const absl::Status whole = (*input)->End();
  if (!whole.ok()) return whole;
  return version;
}

absl::Status SessionArchive::Put(const SessionOwner& owner, absl::string_view handle,
                                 const std::optional<StateSpace>& space, absl::Time now,
                                 std::optional<StoredText>* newer) {
  bool text_alone = false;
  const absl::Status status = PutOnce(owner, handle, space, now, newer, &text_alone);
  if (!text_alone) return status;
  return PutOnce(owner, handle, std::nullopt, now, newer, &text_alone);
}

absl::Status SessionArchive::PutOnce(const SessionOwner& owner, absl::string_view handle,
                                     const std::optional<StateSpace>& space, absl::Time now,
                                     std::optional<StoredText>* newer, bool* text_alone) {
  auto packed = transfer_->Pack(owner, handle, space, now);
  if (!packed.ok()) return packed.status();
  const StoreKey key = KeyOf(owner, handle);
  bool cut = false;  // The state has had to give way on its way out, or takes too long.
  const absl::Status status = Send(key, &*packed, &cut);
  const bool has_state = packed->state.position() > 0;
  *text_alone = has_state && (cut || absl::IsResourceExhausted(status));
  if (cut || !absl::IsAborted(status)) return status;
  absl::StatusOr<StoredText> stored = TextOf(key);
  // By another call about it here, or nothing was changed.
  if (stored.ok() && IsHere(*stored, owner, handle, now)) return absl::OkStatus();
  // The next turn here begins with the stored one. Who looks for the session meanwhile finds it.
  const absl::Status replaced =
      stored.ok()
          ? sessions_->Replace(owner, handle, stored->revision, stored->content, now).status()
          : stored.status();
  if (!replaced.ok()) sessions_->Delete(owner, handle, now).IgnoreError();
  if (newer != nullptr && stored.ok()) *newer = *std::move(stored);
  return status;
}

absl::Status SessionArchive::Send(const StoreKey& key, PackedSession* packed, bool* cut) {
  // A store compares versions once it has everything: what it would refuse is not sent.
  if (packed->bytes() > transfer_->link().piece_bytes) {
    const absl::StatusOr<int64_t> there = store_->Version(key);
    if (there.ok() && *there >= packed->info.revision) {
      return absl::AbortedError(absl::StrCat("the store has version ", *there,
                                             " of the session; this is ", packed->info.revision));
    }
  }
  const absl::Time end = SteadyNow() + state_timeout_;
  const auto next = [&]() -> absl::StatusOr<std::string> {
    if (!packed->header.empty()) return std::exchange(packed->header, std::string());
    absl::StatusOr<std::string> piece = packed->state.Next();
    if (piece.ok() && !piece->empty() && SteadyNow() >= end) {
      piece = absl::DeadlineExceededError("the session store is too slow for the state");
    }
    if (piece.ok()) return piece;
    *cut = true;
    return absl::CancelledError(piece.status().message());
  };
  return store_->Put(key, packed->info.revision, next, packed->info.ttl);
}

absl::StatusOr<StoredText> SessionArchive::TextOf(const StoreKey& key) {
  std::optional<SessionInput> input;
  const absl::StatusOr<int64_t> version = Get(key, /*with_state=*/false, &input);
  if (!version.ok()) return version.status();
  return StoredText{*version, SessionTransfer::ContentOf(input->state())};
}

bool SessionArchive::IsHere(const StoredText& text, const SessionOwner& owner,
                            absl::string_view handle, absl::Time now) {
  std::vector<int32_t> tokens;
  const auto here = sessions_->Get(owner, handle, now, &tokens);
  return here.ok() && text.revision == here->revision && text.content.text == tokens &&
         text.content.turns == here->turns && text.content.dials == here->dials;
}

absl::Status SessionArchive::Delete(const SessionOwner& owner, absl::string_view handle,
                                    absl::Time now) {
  const absl::Status here = sessions_->Delete(owner, handle, now);
  if (absl::IsAborted(here) || !Sessions::IsHandle(handle)) return here;
  const StoreKey key = KeyOf(owner, handle);
  if (!here.ok()) {
    const absl::Status there = store_->Version(key).status();
    if (absl::IsNotFound(there)) return here;
    // What is damaged is there.
    if (!there.ok() && !absl::IsDataLoss(there)) return there;
  }
  return store_->Delete(key);
}

}  // namespace packrat
