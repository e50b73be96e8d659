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

absl::StatusOr<bool> SessionArchive::IsOtherThere(const SessionOwner& owner,
                                                  absl::string_view handle,
                                                  const absl::StatusOr<SessionInfo>& here,
                                                  bool looks, absl::Time now) {
  if (!Sessions::IsHandle(handle)) return here.status();
  // While a call generates in it, others see it as it was before; who would change it is refused.
  if (here.ok() && here->busy) return false;
  const absl::StatusOr<SessionVersion> there = store_->Version(KeyOf(owner, handle));
  if (there.ok() && *there == kDeletedSession) {
    // Of a turn that has begun meanwhile the end tells.
    if (absl::IsAborted(sessions_->Delete(owner, handle, now))) return false;
    return Sessions::Unknown();
  }
  if (here.ok()) {
    // Where this replica has gone on since, it is the one that did.
    const bool old = here->in_store && !here->past.unstored();
    if (absl::IsNotFound(there.status()) && old && !looks) {
      sessions_->LostByStore(owner, handle, now);
      return absl::AbortedError(
          "the session store has lost the session: if another replica has gone on with it since, "
          "what it said is missing here; the session is as this replica has it");
    }
    if (!there.ok()) return false;
    if (!here->past.Has(*there)) return true;
    if (here->past.unstored()) sessions_->Stored(owner, handle, *there, absl::InfinitePast(), now);
    return false;
  }
  // Nobody's, in the words for it, or that the store does not answer.
  if (absl::IsNotFound(there.status())) return here.status();
  if (!there.ok()) return there.status();
  return true;
}

absl::Status SessionArchive::Fetch(const SessionOwner& owner, absl::string_view handle,
                                   const std::optional<StateSpace>& space, absl::Time now) {
  const auto here = sessions_->Get(owner, handle, now);
  const absl::StatusOr<bool> other = IsOtherThere(owner, handle, here, /*looks=*/false, now);
  if (!other.ok()) return other.status();
  if (!*other) return absl::OkStatus();
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
  if (space.has_value()) {
    StateSpace from = *space;
    from.origin = adopted->origin;
    // Whether it finds room or not, the text is here.
    input->Keep(std::move(from), adopted->end).IgnoreError();
  }
  if (!here.ok() || !here->past.unstored()) return absl::OkStatus();
  return absl::AbortedError(
      "another replica has gone on with the session, from what the session store had: what this "
      "one could not store is lost, and the session is as the store has it");
}

absl::StatusOr<SessionInfo> SessionArchive::Look(const SessionOwner& owner,
                                                 absl::string_view handle, absl::Time now,
                                                 std::vector<int32_t>* text) {
  const StoreKey key = KeyOf(owner, handle);
  auto here = sessions_->Get(owner, handle, now, text);
  const absl::StatusOr<bool> other = IsOtherThere(owner, handle, here, /*looks=*/true, now);
  if (!other.ok()) return other.status();
  if (!*other) return here;
  absl::StatusOr<StoredText> stored = TextOf(key);
  if (absl::IsNotFound(stored.status())) return here;
  if (!stored.ok()) return stored.status();
  if (text != nullptr) *text = stored->content.text;
  return sessions_->Preview(handle, stored->version, std::move(stored->content));
}

absl::StatusOr<SessionVersion> SessionArchive::Get(const StoreKey& key, bool with_state,
                                                   std::optional<SessionInput>* input) {
  const absl::Time end = SteadyNow() + state_timeout_;
  absl::StatusOr<SessionVersion> version;
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
  auto packed = transfer_->Pack(owner, handle, space, now, nullptr, /*with_turn=*/true);
  if (!packed.ok()) return packed.status();
  const StoreKey key = KeyOf(owner, handle);
  bool cut = false;  // The state has had to give way on its way out, or takes too long.
  const absl::Status status = Send(key, &*packed, &cut);
  const bool has_state = packed->state.position() > 0;
  *text_alone = has_state && (cut || absl::IsResourceExhausted(status));
  if (status.ok()) {
    // A little less than its time there, which begins when all of it is: clocks differ.
    const absl::Time until = now + packed->info.ttl - packed->info.ttl / 64;
    sessions_->Stored(owner, handle, packed->info.past.now(), until, now);
  }
  if (cut || !absl::IsAborted(status)) return status;
  absl::StatusOr<StoredText> stored = TextOf(key);
  // By another call about it here.
  if (stored.ok() && IsHere(stored->version, owner, handle, now)) return absl::OkStatus();
  // The next turn here begins with the stored one. Who looks for the session meanwhile finds it.
  const absl::Status replaced =
      stored.ok()
          ? sessions_->Replace(owner, handle, stored->version, stored->content, now).status()
          : stored.status();
  if (!replaced.ok()) sessions_->Delete(owner, handle, now).IgnoreError();
  if (newer != nullptr && stored.ok()) *newer = *std::move(stored);
  return status;
}

absl::Status SessionArchive::Send(const StoreKey& key, PackedSession* packed, bool* cut) {
  // A store compares versions once it has everything: what it would refuse is not sent.
  const SessionPast& past = packed->info.past;
  if (packed->bytes() > transfer_->link().piece_bytes) {
    const absl::StatusOr<SessionVersion> there = store_->Version(key);
    if (there.ok() && *there == past.now()) return absl::OkStatus();
    const absl::Status place = there.ok() ? CheckComesFrom(*there, past) : absl::OkStatus();
    if (!place.ok()) return place;
  }
  const absl::Time end = SteadyNow() + state_timeout_;
  bool took_text = false;
  const auto next = [&]() -> absl::StatusOr<std::string> {
    if (!packed->header.empty()) return std::exchange(packed->header, std::string());
    took_text = true;
    absl::StatusOr<std::string> piece = packed->state.Next();
    if (piece.ok() && !piece->empty() && SteadyNow() >= end) {
      piece = absl::DeadlineExceededError("the session store is too slow for the state");
    }
    if (piece.ok()) return piece;
    *cut = true;
    return absl::CancelledError(piece.status().message());
  };
  const absl::Status put = store_->Put(key, past, next, packed->info.ttl);
  *cut = *cut || (took_text && absl::IsUnavailable(put));
  return put;
}

absl::StatusOr<StoredText> SessionArchive::TextOf(const StoreKey& key) {
  std::optional<SessionInput> input;
  const absl::StatusOr<SessionVersion> version = Get(key, /*with_state=*/false, &input);
  if (!version.ok()) return version.status();
  return StoredText{*version, SessionTransfer::ContentOf(input->state())};
}

bool SessionArchive::IsHere(const SessionVersion& version, const SessionOwner& owner,
                            absl::string_view handle, absl::Time now) {
  const auto here = sessions_->GetWithTurn(owner, handle, now);
  return here.ok() && here->past.Has(version);
}

absl::Status SessionArchive::Delete(const SessionOwner& owner, absl::string_view handle,
                                    absl::Time now) {
  const absl::Status here = sessions_->Delete(owner, handle, now);
  if (absl::IsAborted(here) || !Sessions::IsHandle(handle)) return here;
  const StoreKey key = KeyOf(owner, handle);
  if (!here.ok()) {
    const absl::StatusOr<SessionVersion> there = store_->Version(key);
    const absl::Status& status = there.status();
    if (absl::IsNotFound(status) || (status.ok() && *there == kDeletedSession)) return here;
    // What cannot be read is there.
    if (absl::IsUnavailable(status)) return status;
  }
  return store_->Delete(key, sessions_->ttl());
}

}  // namespace packrat
