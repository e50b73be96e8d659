#include "runtime/state_transfer.h"

#include <cstring>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"
#include "models/state_layout.h"

namespace packrat {
namespace {

constexpr unsigned char kBlank = 0xFF;  // NaNs: nobody reads it.

// Of a page in which the text ends: the rows behind its end.
void BlankRows(const StateLayout& layout, int page_class, int rows, char* page) {
  for (const MixerPart& part : layout.mixers) {
    if (part.page_class != page_class) continue;
    for (int half = 0; half < 2; ++half) {
      const size_t row = part.page_row_bytes[half], block = kBlockTokens * row;
      char* begin = page + part.page_offset + half * (part.page_bytes / 2);
      for (size_t at = 0; at < part.page_bytes / 2; at += block) {
        std::memset(begin + at + rows * row, kBlank, block - rows * row);
      }
    }
  }
}

}  // namespace

absl::Status ReadParts(const Snapshot& snapshot, StatePool* pool, std::string* bytes) {
  const StateLayout& layout = pool->layout().ForDial(snapshot.dial);
  bytes->resize(SavedPartBytes(layout, snapshot.position));
  std::vector<StateBuffer::Piece> pieces;
  size_t total = 0;
  snapshot.ForEachPart([&](int kind, int32_t part) {
    pieces.push_back(pool->PieceOf(kind, part, snapshot.dial));
    total += pieces.back().bytes;
  });
  PACKRAT_CHECK(total == bytes->size()) << total;
  const absl::Status status = pool->Read(pieces, reinterpret_cast<std::byte*>(bytes->data()));
  if (!status.ok()) return status;
  // The last page of a class, where its block is unfinished.
  char* end = bytes->data() + layout.slot_bytes + layout.tail_bytes;
  for (size_t c = 0; c < layout.page_classes.size(); ++c) {
    const PageClass& page_class = layout.page_classes[c];
    end += snapshot.pages[c].size() * page_class.page_bytes;
    const int rows = snapshot.position % page_class.tokens_per_page;
    if (page_class.kind == PageClass::Kind::kRat || rows == 0) continue;
    BlankRows(layout, static_cast<int>(c), rows, end - page_class.page_bytes);
  }
  return absl::OkStatus();
}

absl::StatusOr<Snapshot> WriteParts(const SavedState& state, StatePool* pool) {
  const StateLayout& layout = pool->layout().ForDial(state.dials.last);
  const int position = state.position;
  PACKRAT_CHECK(state.parts.size() == SavedPartBytes(layout, position)) << state.parts.size();
  Snapshot snapshot;
  snapshot.position = position;
  snapshot.dial = state.dials.last;
  snapshot.pages.resize(layout.page_classes.size());
  const auto fits = [&](int kind, int count) { return pool->available(kind) >= count; };
  bool room = fits(kTailParts, 1) && (layout.slot_bytes == 0 || fits(kSlotParts, 1));
  for (size_t c = 0; c < layout.page_classes.size(); ++c) {
    const PagesInUse use(layout.page_classes[c], position);
    room = room && fits(kPageParts + static_cast<int>(c), use.end - use.first);
    snapshot.pages[c].resize(use.end - use.first);
  }
  if (!room) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the state of ", position, " tokens finds no room beside what runs"));
  }
  const char* next = state.parts.data();
  const auto take = [&](int kind) {
    const int32_t part = pool->Take(kind);
    pool->Write(kind, part, state.dials.last, reinterpret_cast<const std::byte*>(next));
    pool->GiveToCache(kind, part);
    next += pool->part_bytes(kind, state.dials.last);
    return part;
  };
  // In the order of Snapshot::ForEachPart().
  if (layout.slot_bytes > 0) snapshot.slot = take(kSlotParts);
  snapshot.tail = take(kTailParts);
  for (size_t c = 0; c < snapshot.pages.size(); ++c) {
    for (int32_t& page : snapshot.pages[c]) page = take(kPageParts + static_cast<int>(c));
  }
  return snapshot;
}

}  // namespace packrat
