// States that go to the disk and come back in pieces, since memory is too small for them: they are
// written ahead while they are in the pool, and come back into parts of it, one state at a time.
#include <algorithm>
#include <utility>

#include "kernels/check.h"
#include "runtime/prefix_cache.h"
#include "runtime/prefix_cache_node.h"
#include "runtime/saved_state.h"
#include "runtime/state_transfer.h"

namespace packrat {
namespace {

// States in a step, for one to write ahead: short ones may be many.
constexpr int kMostLookedAt = 256;

}  // namespace

uint64_t PrefixCache::Fetch(Node* node, int tenant, double weight) {
  const uint64_t state = node->moved;
  if (!tiers_->IsInPieces(state)) {
    tiers_->Fetch(state, tenant, weight);
  } else if (!IsFetching(state)) {
    wanted_.push_back({node, tenant, weight});
    StartArrival();
  }
  return state;
}

bool PrefixCache::IsFetching(uint64_t state) const {
  if (tiers_->IsFetching(state)) return true;
  for (const Wanted& wanted : wanted_) {
    if (wanted.node->moved == state) return true;
  }
  return false;
}

absl::StatusOr<bool> PrefixCache::MovePieces(const PartCounts* longest) {
  if (tiers_ == nullptr) return false;
  absl::StatusOr<bool> any = TakeArrived();
  if (!any.ok() || longest == nullptr) return any;
  const absl::Status status = WriteAhead(*longest);
  if (!status.ok()) return status;
  return any;
}

int64_t PrefixCache::PartBytes(int position, int dial) const {
  return static_cast<int64_t>(SavedPartBytes(pool_->layout().ForDial(dial), position));
}

// Where there is room for the first that is wanted. Where there is none its text is computed.
void PrefixCache::StartArrival() {
  while (arrival_.node == nullptr && !wanted_.empty()) {
    const Wanted next = wanted_.front();
    wanted_.erase(wanted_.begin());
    if (next.node->has_snapshot()) continue;  // Somebody has computed it.
    absl::StatusOr<Snapshot> snapshot = TakeParts(next.node->depth, next.node->moved_dial, pool_);
    // Taking them may have made room where this one was.
    if (!snapshot.ok()) continue;
    arrival_ = {next.node, *std::move(snapshot), 0};
    tiers_->Fetch(next.node->moved, next.tenant, next.weight);
    if (!tiers_->IsFetching(next.node->moved)) EndArrival();
  }
}

// All of it is there, nobody waits for it, or its parts are needed.
void PrefixCache::EndArrival() {
  Node* const node = std::exchange(arrival_.node, nullptr);
  tiers_->StopFetching(node->moved);
  if (arrival_.snapshot.position > 0) arrival_.snapshot.Release(pool_);
}

absl::StatusOr<bool> PrefixCache::TakeArrived() {
  Node* const node = arrival_.node;
  if (node == nullptr) {
    StartArrival();
    return false;
  }
  const std::string* const piece = tiers_->Piece(node->moved);
  if (piece == nullptr) {
    if (tiers_->IsFetching(node->moved)) return false;
    ForgetMoved(node);  // It could not be read.
    return true;
  }
  if (node->has_snapshot()) {  // Somebody has computed it meanwhile.
    EndArrival();
    return true;
  }
  WriteParts(arrival_.snapshot, pool_, static_cast<size_t>(arrival_.at), *piece);
  arrival_.at += static_cast<int64_t>(piece->size());
  const bool last = arrival_.at == PartBytes(node->depth, node->moved_dial);
  const bool good = tiers_->TakePiece(node->moved);
  if (!last) return true;
  if (good) {
    Keep(node, &arrival_.snapshot);
    Renew(node);
    EndArrival();
  } else {
    ForgetMoved(node);
  }
  return true;  // Who waits for it begins in the next step, before the next one comes.
}

absl::Status PrefixCache::WriteAhead(const PartCounts& longest) {
  if (written_ahead_ == nullptr) {
    Node* const node = ToWriteAhead(longest);
    if (node == nullptr) return absl::OkStatus();
    if (moved_.size() == moved_.capacity()) moved_.reserve(2 * moved_.size() + 16);
    const int dial = node->snapshot.dial;
    const uint64_t id =
        tiers_->AddInPieces(node->depth, dial, PartBytes(node->depth, dial), WorthOf(node));
    if (id == 0) return absl::OkStatus();
    node->moved = id;
    node->moved_dial = dial;
    List(node, &moved_);
    written_ahead_ = node;
    written_bytes_ = 0;
  }
  Node* const node = written_ahead_;
  if (tiers_->PlaceOf(node->moved) != StateTiers::Place::kNowhere) {
    written_ahead_ = nullptr;
    return absl::OkStatus();
  }
  if (!tiers_->IsInPieces(node->moved)) {
    written_ahead_ = nullptr;  // It could not be written; nor is that tried again.
    return absl::OkStatus();
  }
  if (!IsWorthMoving(node)) {
    ForgetMoved(node);  // Its text has gone on.
    return absl::OkStatus();
  }
  const int64_t size = tiers_->Wants(node->moved);
  if (size == 0) return absl::OkStatus();
  std::string piece;
  const absl::Status status = ReadParts(node->snapshot, pool_, static_cast<size_t>(written_bytes_),
                                        static_cast<size_t>(size), &piece);
  if (!status.ok()) return status;
  tiers_->Append(node->moved, std::move(piece));
  written_bytes_ += size;
  return absl::OkStatus();
}

// Of states on the disk that have had to give way there none is written again: where there is no
// room for two they would take turns for ever.
PrefixCache::Node* PrefixCache::ToWriteAhead(const PartCounts& longest) {
  missing_.resize(pool_->kinds());
  for (int kind = 0; kind < pool_->kinds(); ++kind) {
    // A state that comes back, and who begins with it; which may read one slot and write another.
    const int32_t needs = 2 * longest[kind] + (kind == kSlotParts ? longest.slots : 0);
    missing_[kind] = needs - pool_->free(kind);
  }
  int left = kMostLookedAt;
  for (Node* node : kept_) {
    const bool enough = std::all_of(missing_.begin(), missing_.end(), [](int n) { return n <= 0; });
    if (enough || left-- == 0) break;
    const bool waits = node->moved == 0 && IsWorthMoving(node);
    if (waits && tiers_->FitsInPieces(tiers_->BytesOf(node->depth, node->snapshot.dial)))
      return node;
    node->snapshot.ForEachPart([&](int kind, int32_t part) {
      if (pool_->refs(kind, part) == 1) --missing_[kind];
    });
    node->snapshot.ForEachRun([&](int kind, int32_t run) {
      missing_[kind] -= pool_->runs(kind).HeldByOne(run, /*cache=*/true);
    });
  }
  return nullptr;
}

}  // namespace packrat
