#include "runtime/state_transfer.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"
#include "models/state_layout.h"

namespace packrat {
namespace {

constexpr unsigned char kBlank = 0xFF;  // NaNs: nobody reads it.

// The ranges of a page, in which the text ends after `rows` rows, that are behind its end:
// visit(begin, end).
template <class F>
void ForEachBlank(const StateLayout& layout, int page_class, int rows, F visit) {
  for (const MixerPart& part : layout.mixers) {
    if (part.page_class != page_class) continue;
    for (int half = 0; half < 2; ++half) {
      const size_t row = part.page_row_bytes[half], block = kBlockTokens * row;
      const size_t begin = part.page_offset + half * (part.page_bytes / 2);
      for (size_t at = 0; at < part.page_bytes / 2; at += block) {
        visit(begin + at + rows * row, begin + at + block);
      }
    }
  }
}

// Where the bytes [at, at + size) of a snapshot's parts are in the pool: visit(piece).
template <class F>
void ForEachPiece(const Snapshot& snapshot, const StatePool& pool, size_t at, size_t size,
                  F visit) {
  size_t begin = 0;  // Of the part.
  const auto next = [&](int kind, int32_t part) {
    const StateBuffer::Piece whole = pool.PieceOf(kind, part, snapshot.dial);
    const size_t from = std::max(begin, at), to = std::min(begin + whole.bytes, at + size);
    if (from < to) visit(StateBuffer::Piece{whole.from + (from - begin), to - from});
    begin += whole.bytes;
  };
  if (snapshot.slot >= 0) next(kSlotParts, snapshot.slot);
  if (snapshot.tail >= 0) next(kTailParts, snapshot.tail);
  for (size_t c = 0; c < snapshot.pages.size(); ++c) {
    const int kind = kPageParts + static_cast<int>(c);
    for (const int32_t page : pool.runs(kind).PagesTo(snapshot.runs[c])) next(kind, page);
    for (const int32_t page : snapshot.pages[c]) {
      if (page >= 0) next(kind, page);
    }
  }
}

// The parts of one that is not sealed in the order of their bytes, those to come included:
// visit(kind, begin, part).
template <class Snapshot, class F>
void ForEachPlace(Snapshot& snapshot, const StatePool& pool, F visit) {
  size_t begin = 0;
  const auto next = [&](int kind, auto& part) {
    visit(kind, begin, part);
    begin += pool.part_bytes(kind, snapshot.dial);
  };
  if (pool.layout().ForDial(snapshot.dial).slot_bytes > 0) next(kSlotParts, snapshot.slot);
  next(kTailParts, snapshot.tail);
  for (size_t c = 0; c < snapshot.pages.size(); ++c) {
    for (auto& page : snapshot.pages[c]) next(kPageParts + static_cast<int>(c), page);
  }
}

}  // namespace

absl::Status ReadParts(const Snapshot& snapshot, StatePool* pool, std::string* bytes) {
  return ReadParts(snapshot, pool, 0,
                   SavedPartBytes(pool->layout().ForDial(snapshot.dial), snapshot.position), bytes);
}

absl::Status ReadParts(const Snapshot& snapshot, StatePool* pool, size_t at, size_t size,
                       std::string* bytes) {
  const StateLayout& layout = pool->layout().ForDial(snapshot.dial);
  PACKRAT_CHECK(at + size <= SavedPartBytes(layout, snapshot.position)) << at << " " << size;
  bytes->resize(size);
  std::vector<StateBuffer::Piece> pieces;
  ForEachPiece(snapshot, *pool, at, size, [&](const auto& piece) { pieces.push_back(piece); });
  const absl::Status status = pool->Read(pieces, reinterpret_cast<std::byte*>(bytes->data()));
  if (!status.ok()) return status;
  // The last page of a class, where its block is unfinished.
  size_t end = layout.slot_bytes + layout.tail_bytes;
  for (size_t c = 0; c < layout.page_classes.size(); ++c) {
    const PageClass& page_class = layout.page_classes[c];
    const PagesInUse use(page_class, snapshot.position);
    end += (use.end - use.first) * page_class.page_bytes;
    const int rows = snapshot.position % page_class.tokens_per_page;
    if (page_class.kind == PageClass::Kind::kRat || rows == 0) continue;
    const size_t page = end - page_class.page_bytes;
    ForEachBlank(layout, static_cast<int>(c), rows, [&](size_t from, size_t to) {
      from = std::max(page + from, at);
      to = std::min(page + to, at + size);
      if (from < to) std::memset(bytes->data() + (from - at), kBlank, to - from);
    });
  }
  return absl::OkStatus();
}

absl::StatusOr<Snapshot> WriteParts(const SavedState& state, StatePool* pool) {
  const size_t size = SavedPartBytes(pool->layout().ForDial(state.dials.last), state.position);
  PACKRAT_CHECK(state.parts.size() == size) << state.parts.size();
  absl::StatusOr<Snapshot> snapshot = TakeParts(state.position, state.dials.last, pool);
  if (snapshot.ok()) WriteParts(*snapshot, pool, 0, state.parts);
  return snapshot;
}

absl::StatusOr<Snapshot> TakeParts(int position, int dial, StatePool* pool) {
  Snapshot snapshot = SnapshotToCome(position, dial, *pool);
  const size_t all = SavedPartBytes(pool->layout().ForDial(dial), position);
  const absl::Status taken = TakePartsTo(all, &snapshot, pool);
  if (!taken.ok()) return taken;
  return snapshot;
}

Snapshot SnapshotToCome(int position, int dial, const StatePool& pool) {
  const StateLayout& layout = pool.layout().ForDial(dial);
  Snapshot snapshot;
  snapshot.position = position;
  snapshot.dial = dial;
  snapshot.runs.resize(layout.page_classes.size(), -1);
  for (const PageClass& page_class : layout.page_classes) {
    const PagesInUse use(page_class, position);
    snapshot.pages.emplace_back(use.end - use.first, -1);
  }
  return snapshot;
}

absl::Status FindRoomTo(size_t end, const Snapshot& snapshot, const StatePool& pool) {
  // What it has already is available as well, like all that only the cache has.
  std::vector<int32_t> parts(pool.kinds());
  ForEachPlace(snapshot, pool, [&](int kind, size_t begin, int32_t part) {
    parts[kind] += part >= 0 || begin <= end ? 1 : 0;
  });
  for (int kind = 0; kind < pool.kinds(); ++kind) {
    if (parts[kind] <= pool.available(kind)) continue;
    return absl::ResourceExhaustedError(
        absl::StrCat("the state of ", snapshot.position, " tokens finds no room beside what runs"));
  }
  return absl::OkStatus();
}

absl::Status TakePartsTo(size_t end, Snapshot* snapshot, StatePool* pool) {
  const absl::Status room = FindRoomTo(end, *snapshot, *pool);
  if (!room.ok()) return room;
  ForEachPlace(*snapshot, *pool, [&](int kind, size_t begin, int32_t& part) {
    if (part >= 0 || begin > end) return;
    part = pool->Take(kind);
    pool->GiveToCache(kind, part);
  });
  return absl::OkStatus();
}

void WriteParts(const Snapshot& snapshot, StatePool* pool, size_t at, absl::string_view bytes) {
  const char* next = bytes.data();
  ForEachPiece(snapshot, *pool, at, bytes.size(), [&](const StateBuffer::Piece& piece) {
    pool->Write(piece, reinterpret_cast<const std::byte*>(next));
    next += piece.bytes;
  });
}

}  // namespace packrat
