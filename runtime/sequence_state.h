// The state of one sequence, apart from the request that it is for: the parts of the pool that it
// holds (models/state_layout.h says what is in them) and how far the text in them goes. It can be
// kept as a Snapshot at any position, and begin as a copy of one.
//
// What is shared and what is copied: finished pages never change, so snapshots and sequences refer
// to them together, to all of a class at once (page_runs.h). What goes on being written is its
// writer's own: the tail, the page of an unfinished block, and the pages of windows, which are
// written over. So a snapshot costs the same at any length of text; who begins with one besides
// lists its pages, for the kernels. The slot is written at the end of a block
// only, and not where it is read (`slot_in` and `slot_out`, models/batch.h): who was snapped goes
// on reading the slot that the snapshot has, and writes to a new one.
#ifndef PACKRAT_RUNTIME_SEQUENCE_STATE_H_
#define PACKRAT_RUNTIME_SEQUENCE_STATE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "models/batch.h"
#include "models/state_layout.h"
#include "runtime/state_pool.h"

namespace packrat {

// The shortest text that is worth a snapshot: before its end nothing is sealed.
inline constexpr int kMinSnapshotTokens = kBlockTokens;

// The state after a text of `position` tokens, held by the cache's references.
struct Snapshot {
  int position = 0;
  int dial = 0;                  // Span::dial.
  int32_t slot = -1, tail = -1;  // slot -1: the model has none.
  // Per class: a run for its finished pages, -1: none.
  std::vector<int32_t> runs;
  // Per class, those of PagesInUse that come after the run. Of a state that comes all, until it is
  // sealed; -1: not taken yet.
  std::vector<std::vector<int32_t>> pages;

  void Release(StatePool* pool);
  // Has all finished pages in runs from here on, so that it can be begun with. All of them have
  // been taken. Throws std::bad_alloc, then nothing is lost.
  void Seal(StatePool* pool);
  // Bytes of its parts, of the layout's dial, beyond those of a snapshot of the same text's first
  // `before` tokens.
  static int64_t Bytes(const StateLayout& layout, int position, int before);

  template <class F>  // visit(kind, part), of those that it refers to itself
  void ForEachPart(F visit) const {
    if (slot >= 0) visit(kSlotParts, slot);
    if (tail >= 0) visit(kTailParts, tail);
    for (size_t c = 0; c < pages.size(); ++c) {
      for (int32_t page : pages[c]) {
        if (page >= 0) visit(kPageParts + static_cast<int>(c), page);
      }
    }
  }
  template <class F>  // visit(kind, run)
  void ForEachRun(F visit) const {
    for (size_t c = 0; c < runs.size(); ++c) {
      if (runs[c] >= 0) visit(kPageParts + static_cast<int>(c), runs[c]);
    }
  }
};

class SequenceState {
 public:
  // Memory for what Take() takes of the pool, whose layout this is. Throws std::bad_alloc.
  void Prepare(const StateLayout& layout, const PartCounts& need, int dial = 0);

  // Begins as `from`, which is sealed and all of whose parts it shares until Take(); without it,
  // with an empty text.
  void Resume(const Snapshot& from, StatePool* pool);
  // Whether Take() will find what it takes without the cache giving up the snapshot that it begins
  // with. If not, the snapshot must be dropped first: its parts are then the sequence's alone.
  bool FitsBesideSnapshot(const StatePool& pool) const;
  // All that the sequence may need to its end: Prepare()'s `need`, at most. With `share_slot` it
  // goes on reading the slot of the snapshot that it begins with, which is held besides until the
  // end of the block; otherwise that is copied.
  void Take(StatePool* pool, bool share_slot = false);
  void Release(StatePool* pool);

  // Leaves the pool: what it holds is kept as bytes of the process until Unpark(), which takes all
  // of Take() again, allocates nothing, and goes on with the same bits. At least kMinSnapshotTokens
  // must have been computed, and nothing of it may be in flight. Throws std::bad_alloc, and has
  // then changed nothing; so has an error, which says that the device is lost.
  absl::Status Park(StatePool* pool);
  void Unpark(StatePool* pool);
  bool parked() const { return parked_ != nullptr; }
  // What it takes while it is parked, where it stands.
  int64_t ParkedBytes() const { return Snapshot::Bytes(*layout_, position_, 0); }
  // Goes on with a coarser dial, for which it may then need so many parts. It is parked then, and
  // otherwise as of Park(). `layout`: the pool's.
  absl::Status GoCoarser(const ModelConfig& config, const StateLayout& layout, int dial,
                         const PartCounts& need, StatePool* pool);
  // Whether Unpark() finds what it takes.
  bool FitsUnparked(const StatePool& pool) const;
  // The parts that Release() and Park() make available.
  void CountOwn(const StatePool& pool, PartCounts* counts) const;

  // Fills in the state of a span of the next `num_tokens` tokens. From here on the text counts as
  // being where the span brings it.
  void StartSpan(int num_tokens, StatePool* pool, Span* span);

  // A snapshot of where it stands, at least kMinSnapshotTokens. With `share_slot` the sequence
  // leaves its slot to it, takes a new one, and holds both until the end of the block; otherwise
  // the slot is copied, and the cache can give back all that was taken.
  // CanSnap() says whether the parts are there; with `free`, without the cache giving up any. Takes
  // nothing if it throws std::bad_alloc.
  bool CanSnap(const StatePool& pool, bool free) const;
  // What a snapshot copies where it stands.
  int64_t SnapshotBytes(bool share_slot) const {
    return Snapshot::Bytes(*layout_, position_, position_) -
           (share_slot ? static_cast<int64_t>(layout_->slot_bytes) : 0);
  }
  Snapshot Snap(bool share_slot, StatePool* pool);
  // A snapshot at the end: it takes over the parts, and what it has no use for is given back. Takes
  // nothing if it throws std::bad_alloc.
  Snapshot HandOver(StatePool* pool);

  int position() const {
    return position_;
  }  // Tokens that the state holds once all is done that
     // was started.
  bool holds_parts() const { return tail_ >= 0; }

  template <class F>  // visit(kind, part), of those that it refers to itself
  void ForEachPart(F visit) const {
    if (slot_ >= 0) visit(kSlotParts, slot_);
    if (read_slot_ >= 0) visit(kSlotParts, read_slot_);
    if (tail_ >= 0) visit(kTailParts, tail_);
    for (size_t c = 0; c < pages_.size(); ++c) {
      for (size_t i = shared_[c].pages; i < pages_[c].size(); ++i) {
        visit(kPageParts + static_cast<int>(c), pages_[c][i]);
      }
    }
  }
  template <class F>  // visit(kind, run)
  void ForEachRun(F visit) const {
    for (size_t c = 0; c < shared_.size(); ++c) {
      if (shared_[c].run >= 0) visit(kPageParts + static_cast<int>(c), shared_[c].run);
    }
  }

 private:
  // The parts that will be read again, in the order of their bytes where it is parked: visit(kind,
  // part).
  template <class F>
  void ForEachUsedPart(F visit) const;
  void Unref(StatePool* pool);
  // The slot is read from here on, and a new one written to.
  void LeaveSlot(StatePool* pool);
  // Drops what was shared for reading once the sequence has written its own.
  void DropReadSlot(StatePool* pool);
  // Its finished pages become runs, which others may share. Throws std::bad_alloc, then some have.
  void SealPages(StatePool* pool);
  // With the memory for all that it will list. Throws std::bad_alloc.
  Snapshot EmptySnapshot() const;
  const StateLayout* layout_ = nullptr;  // Of its dial.
  int dial_ = 0;
  bool has_slot_ = false;
  int position_ = 0;
  int32_t slot_ = -1;       // Written at the ends of blocks.
  int32_t read_slot_ = -1;  // A snapshot's, read until then. -1: slot_ is read.
  bool sealed_ = false;     // A block has ended since.
  int32_t tail_ = -1;
  std::vector<std::vector<int32_t>> pages_;  // Per class; -1: not taken yet.
  std::vector<PageTable> tables_;            // Views of pages_.
  struct Shared {
    int32_t run = -1;  // Of the first `pages` of pages_; -1: none.
    int32_t pages = 0;
  };
  std::vector<Shared> shared_;  // Per class.
  std::unique_ptr<std::byte[]> parked_;
};

}  // namespace packrat

#endif  // PACKRAT_RUNTIME_SEQUENCE_STATE_H_
