// States of StateTiers that memory is too small for: they go to the disk and come back in pieces.
#include <algorithm>
#include <utility>

#include "kernels/check.h"
#include "runtime/state_tiers.h"

namespace packrat {

uint64_t StateTiers::AddInPieces(int position, int dial, int64_t size, double worth) {
  const int64_t bytes = BytesOf(position, dial);
  PACKRAT_CHECK(size > 0 && size <= bytes) << size;
  auto added = std::make_unique<Entry>();
  Entry* const entry = added.get();
  entry->id = last_id_ + 1;
  entry->bytes = bytes;
  entry->size = size;
  entry->worth = worth;
  entry->whole = false;
  entry->stage = Stage::kFilling;
  Order one;
  entry->node = one.extract(one.emplace(0, entry));
  entries_.emplace(entry->id, std::move(added));
  ++last_id_;
  if (!FitsInPieces(bytes) || !MakeRoomOnDisk(bytes)) {
    Erase(entry);
    return 0;
  }
  CountOnDisk(*entry, 1);
  return entry->id;
}

int64_t StateTiers::Wants(uint64_t id) const {
  const Entry* const entry = Find(id);
  if (entry == nullptr || entry->stage != Stage::kFilling) return 0;
  const int64_t bytes = std::min(piece_bytes_, entry->size - entry->at);
  return memory_.Has(bytes) ? bytes : 0;
}

void StateTiers::Append(uint64_t id, std::string piece) {
  Entry* const entry = Find(id);
  PACKRAT_CHECK(entry != nullptr && static_cast<int64_t>(piece.size()) <= Wants(id)) << id;
  entry->piece = std::move(piece);
  entry->piece_bytes = static_cast<int64_t>(entry->piece.size());
  CountInMemory(*entry, 1);
  entry->stage = Stage::kWriting;
  Hand(entry);
}

bool StateTiers::IsInPieces(uint64_t id) const {
  const Entry* const entry = Find(id);
  return entry != nullptr && entry->size > 0;
}

const std::string* StateTiers::Piece(uint64_t id) const {
  const Entry* const entry = Find(id);
  return entry != nullptr && entry->stage == Stage::kPiece ? &entry->piece : nullptr;
}

bool StateTiers::TakePiece(uint64_t id) {
  PACKRAT_CHECK(Piece(id) != nullptr) << id;
  Entry* const entry = Find(id);
  CountInMemory(*entry, -1);
  entry->piece = std::string();
  entry->at += entry->piece_bytes;
  const bool all = entry->at == entry->size, same = entry->read_hash == entry->written_hash;
  if (!all) {
    Want(entry);
  } else if (same) {
    ++stats_.read_from_disk;
    ++stats_.returned;
    entry->stage = Stage::kDisk;
    Rest(&disk_, entry, /*used_now=*/true);
  } else {
    ++stats_.read_failures;
    Remove(entry);
  }
  ReadWanted();
  return all && same;
}

void StateTiers::StopFetching(uint64_t id) {
  Entry* const entry = Find(id);
  if (entry == nullptr || entry->size == 0) return;
  if (entry->stage == Stage::kReading) {
    entry->unwanted = true;
    return;
  }
  if (entry->stage == Stage::kWanted) {
    wanted_.Remove(entry);
  } else if (entry->stage == Stage::kPiece) {
    CountInMemory(*entry, -1);
    entry->piece = std::string();
  } else {
    return;
  }
  entry->stage = Stage::kDisk;
  Rest(&disk_, entry, /*used_now=*/false);
  ReadWanted();
}

// A piece has been written or read, or could not be.
void StateTiers::FinishPiece(Entry* entry) {
  const bool failed = !entry->status.ok(), unwanted = std::exchange(entry->unwanted, false);
  const bool writing = entry->stage == Stage::kWriting;
  if (writing || failed || entry->dropped || unwanted) {
    CountInMemory(*entry, -1);
    entry->piece = std::string();
  }
  if (failed && !entry->dropped) ++(writing ? stats_.write_failures : stats_.read_failures);
  if (failed || entry->dropped) {
    Remove(entry);  // Pieces before this one are there.
  } else if (writing) {
    entry->at += entry->piece_bytes;
    entry->whole = entry->at == entry->size;
    entry->stage = entry->whole ? Stage::kDisk : Stage::kFilling;
    if (!entry->whole) return;
    ++stats_.moved_to_disk;
    Rest(&disk_, entry, /*used_now=*/false);
  } else if (unwanted) {
    entry->stage = Stage::kDisk;
    Rest(&disk_, entry, /*used_now=*/false);
  } else {
    entry->stage = Stage::kPiece;
  }
}

}  // namespace packrat
