// States that leave the cache's process and come to it, in pieces.
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "kernels/check.h"
#include "runtime/prefix_cache.h"
#include "runtime/prefix_cache_node.h"
#include "runtime/state_transfer.h"

namespace packrat {

uint64_t PrefixCache::StateOf(const Node* node) { return node->state; }

absl::StatusOr<SavedState> PrefixCache::Read(const Node* node) const {
  if (!node->has_snapshot()) return *tiers_->Get(node->moved);
  SavedState state;
  state.tokens = TextOf(node);
  state.position = node->snapshot.position;
  state.dials.last = node->snapshot.dial;
  const absl::Status status = ReadParts(node->snapshot, pool_, &state.parts);
  if (!status.ok()) return status;
  return state;
}

absl::Status PrefixCache::Read(const Node* node, size_t at, size_t size, std::string* bytes) const {
  if (node->has_snapshot()) return ReadParts(node->snapshot, pool_, at, size, bytes);
  *bytes = tiers_->Get(node->moved)->parts.substr(at, size);
  return absl::OkStatus();
}

PrefixCache::Incoming PrefixCache::TakeIncoming(uint64_t number) {
  for (Incoming& incoming : incoming_) {
    if (incoming.number != number) continue;
    std::swap(incoming, incoming_.back());
    Incoming taken = std::move(incoming_.back());
    incoming_.pop_back();
    return taken;
  }
  return {};
}

absl::Status PrefixCache::Write(uint64_t number, int position, int dial, size_t at,
                                absl::string_view bytes) {
  Incoming incoming = TakeIncoming(number);
  // While it takes parts it is not in the list, so that it does not give way for itself.
  absl::Cleanup release = [&] { incoming.snapshot.Release(pool_); };
  if (at == 0) {
    incoming.snapshot.Release(pool_);
    incoming = {number, SnapshotToCome(position, dial, *pool_)};
    const size_t all = SavedPartBytes(pool_->layout().ForDial(dial), position);
    const absl::Status room = FindRoomTo(all, incoming.snapshot, *pool_);
    if (!room.ok()) return room;
  } else if (incoming.snapshot.position == 0) {
    return absl::AbortedError("the state that was coming has had to give way");
  }
  incoming_.reserve(incoming_.size() + 1);
  PACKRAT_CHECK(incoming.at == at && incoming.snapshot.position == position) << at;
  const absl::Status taken = TakePartsTo(at + bytes.size(), &incoming.snapshot, pool_);
  if (!taken.ok()) return taken;
  WriteParts(incoming.snapshot, pool_, at, bytes);
  incoming.at += bytes.size();
  incoming.priority = clock_ + WorthOf(position, /*before=*/0, dial, /*important=*/true);
  incoming.last_use = ++uses_;
  std::move(release).Cancel();
  incoming_.push_back(std::move(incoming));
  return absl::OkStatus();
}

absl::Status PrefixCache::PutIncoming(uint64_t number, const std::string& space,
                                      absl::Span<const int32_t> text, const SeenTextEnd& end) {
  Incoming incoming = TakeIncoming(number);
  // Where it was not kept, for want of memory or because it is here already.
  const absl::Cleanup release = [&] { incoming.snapshot.Release(pool_); };
  if (incoming.snapshot.position == 0) {
    return absl::AbortedError("the state that was coming has had to give way");
  }
  // What nobody goes on from would only be in the way, and of an origin that was forgotten already
  // it would be until it has aged.
  if (IsLeft(end)) return absl::AbortedError("the session whose state was coming has gone");
  const Snapshot& snapshot = incoming.snapshot;
  PACKRAT_CHECK(static_cast<int64_t>(incoming.at) == PartBytes(snapshot.position, snapshot.dial))
      << incoming.at;
  Node* const node = Remember(space, text.subspan(0, snapshot.position));
  if (node == nullptr) return absl::OkStatus();
  const TurnEnds ends = {{}, end};
  if (node->has_snapshot()) {
    Join(node, /*writer=*/0, /*importance=*/1, ends);
  } else {
    Put(node, &incoming.snapshot, /*writer=*/0, /*importance=*/1, /*unread=*/false, ends);
  }
  return absl::OkStatus();
}

void PrefixCache::DropIncoming(uint64_t number) { TakeIncoming(number).snapshot.Release(pool_); }

}  // namespace packrat
