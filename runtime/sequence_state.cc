#include "runtime/sequence_state.h"

#include <algorithm>
#include <utility>

#include "absl/types/span.h"
#include "kernels/check.h"
#include "models/coarsen.h"
#include "runtime/page_runs.h"

namespace packrat {

using Holder = StatePool::Holder;

namespace {

// Pages of a text that never change again: from its first one on, and none of a window's.
int32_t FinishedPages(const PageClass& page_class, int position) {
  const PagesInUse use(page_class, position);
  return use.unfinished - use.first;
}

}  // namespace

void Snapshot::Release(StatePool* pool) {
  ForEachPart([pool](int kind, int32_t part) { pool->Unref(kind, part, Holder::kCache); });
  ForEachRun([pool](int kind, int32_t run) { pool->UnrefRun(kind, run, Holder::kCache); });
  *this = Snapshot();
}

void Snapshot::Seal(StatePool* pool) {
  const StateLayout& layout = pool->layout().ForDial(dial);
  for (size_t c = 0; c < pages.size(); ++c) {
    const int kind = kPageParts + static_cast<int>(c);
    const int finished =
        FinishedPages(layout.page_classes[c], position) - pool->runs(kind).end(runs[c]);
    if (finished == 0) continue;
    std::vector<int32_t> rest(pages[c].begin() + finished, pages[c].end());
    runs[c] =
        pool->Seal(kind, runs[c], {pages[c].data(), static_cast<size_t>(finished)}, Holder::kCache);
    pages[c] = std::move(rest);
  }
}

int64_t Snapshot::Bytes(const StateLayout& layout, int position, int before) {
  auto bytes = static_cast<int64_t>(layout.slot_bytes + layout.tail_bytes);
  for (const PageClass& c : layout.page_classes) {
    const PagesInUse use(c, position);
    const int shared = std::clamp(PagesInUse(c, before).unfinished, use.first, use.unfinished);
    bytes += static_cast<int64_t>(use.end - shared) * static_cast<int64_t>(c.page_bytes);
  }
  return bytes;
}

void SequenceState::Prepare(const StateLayout& layout, const PartCounts& need, int dial) {
  PACKRAT_CHECK(!holds_parts());
  layout_ = &layout.ForDial(dial);
  dial_ = dial;
  has_slot_ = need.slots > 0;
  shared_.assign(need.pages.size(), Shared());  // First: there are no more pages than of these.
  pages_.resize(need.pages.size());
  tables_.resize(need.pages.size());
  for (size_t c = 0; c < pages_.size(); ++c) {
    pages_[c].assign(need.pages[c], -1);
    tables_[c] = {pages_[c].data(), need.pages[c]};
  }
}

void SequenceState::Resume(const Snapshot& from, StatePool* pool) {
  PACKRAT_CHECK(!holds_parts() && position_ == 0 && from.dial == dial_);
  from.ForEachPart([pool](int kind, int32_t part) { pool->Ref(kind, part, Holder::kSequence); });
  from.ForEachRun([pool](int kind, int32_t run) { pool->RefRun(kind, run, Holder::kSequence); });
  position_ = from.position;
  slot_ = from.slot;
  tail_ = from.tail;
  for (size_t c = 0; c < pages_.size(); ++c) {
    const PageRuns& runs = pool->runs(kPageParts + static_cast<int>(c));
    const PagesInUse use(layout_->page_classes[c], position_);
    PACKRAT_CHECK(static_cast<size_t>(use.end - use.first) <= pages_[c].size(),
                  "a snapshot is longer than the sequence that begins with it");
    shared_[c] = {from.runs[c], runs.end(from.runs[c])};
    PACKRAT_CHECK(shared_[c].pages == use.unfinished - use.first,
                  "a snapshot is begun with that is not sealed");
    for (int32_t run = from.runs[c]; run >= 0; run = runs.run(run).before) {
      const std::vector<int32_t>& pages = runs.run(run).pages;
      std::copy(pages.begin(), pages.end(), pages_[c].begin() + runs.run(run).begin());
    }
    for (int b = use.unfinished; b < use.end; ++b) {
      pages_[c][b % pages_[c].size()] = from.pages[c][b - use.unfinished];
    }
  }
}

bool SequenceState::FitsBesideSnapshot(const StatePool& pool) const {
  const auto takes = [&](int kind, int32_t part) {
    return part < 0 || pool.refs(kind, part) > 1 ? 1 : 0;
  };
  if (has_slot_ && takes(kSlotParts, slot_) > pool.available(kSlotParts)) return false;
  if (takes(kTailParts, tail_) > pool.available(kTailParts)) return false;
  for (size_t c = 0; c < pages_.size(); ++c) {
    const int kind = kPageParts + static_cast<int>(c);
    const auto own = pages_[c].begin() + shared_[c].pages;
    auto missing = static_cast<int32_t>(std::count(own, pages_[c].end(), -1));
    const PagesInUse use(layout_->page_classes[c], position_);
    for (int b = use.unfinished; b < use.end; ++b) {
      missing += takes(kind, pages_[c][b % pages_[c].size()]);
    }
    if (missing > pool.available(kind)) return false;
  }
  return true;
}

void SequenceState::LeaveSlot(StatePool* pool) {
  read_slot_ = slot_;
  sealed_ = false;
  slot_ = pool->Take(kSlotParts);
}

void SequenceState::Take(StatePool* pool, bool share_slot) {
  const auto own = [&](int kind, int32_t* part) {
    if (*part < 0) {
      *part = pool->Take(kind);
    } else if (pool->refs(kind, *part) > 1) {
      const int32_t copy = pool->Copy(kind, *part);
      pool->Unref(kind, *part, Holder::kSequence);
      *part = copy;
    }
  };
  if (has_slot_ && share_slot && slot_ >= 0 && pool->refs(kSlotParts, slot_) > 1) {
    LeaveSlot(pool);
  } else if (has_slot_) {
    own(kSlotParts, &slot_);
  }
  own(kTailParts, &tail_);
  for (size_t c = 0; c < pages_.size(); ++c) {
    const int kind = kPageParts + static_cast<int>(c);
    const PagesInUse use(layout_->page_classes[c], position_);
    for (int b = use.unfinished; b < use.end; ++b) own(kind, &pages_[c][b % pages_[c].size()]);
    for (size_t i = shared_[c].pages; i < pages_[c].size(); ++i) {
      if (pages_[c][i] < 0) pages_[c][i] = pool->Take(kind);
    }
  }
}

template <class F>
void SequenceState::ForEachUsedPart(F visit) const {
  if (has_slot_) visit(kSlotParts, read_slot_ >= 0 ? read_slot_ : slot_);
  visit(kTailParts, tail_);
  for (size_t c = 0; c < pages_.size(); ++c) {
    const PagesInUse use(layout_->page_classes[c], position_);
    for (int b = use.first; b < use.end; ++b) {
      visit(kPageParts + static_cast<int>(c), pages_[c][b % pages_[c].size()]);
    }
  }
}

absl::Status SequenceState::Park(StatePool* pool) {
  PACKRAT_CHECK(holds_parts() && position_ >= kMinSnapshotTokens) << position_;
  std::unique_ptr<std::byte[]> bytes(new std::byte[ParkedBytes()]);
  DropReadSlot(pool);
  std::vector<StateBuffer::Piece> pieces;
  int64_t total = 0;
  ForEachUsedPart([&](int kind, int32_t part) {
    pieces.push_back(pool->PieceOf(kind, part, dial_));
    total += static_cast<int64_t>(pieces.back().bytes);
  });
  PACKRAT_CHECK(total == ParkedBytes()) << total;
  const absl::Status status = pool->Read(pieces, bytes.get());
  if (!status.ok()) return status;
  Unref(pool);
  for (std::vector<int32_t>& pages : pages_) std::fill(pages.begin(), pages.end(), -1);
  parked_ = std::move(bytes);
  return absl::OkStatus();
}

void SequenceState::Unpark(StatePool* pool) {
  PACKRAT_CHECK(parked() && !holds_parts());
  Take(pool);
  const std::byte* next = parked_.get();
  ForEachUsedPart([&](int kind, int32_t part) {
    pool->Write(kind, part, dial_, next);
    next += pool->part_bytes(kind, dial_);
  });
  parked_.reset();
}

absl::Status SequenceState::GoCoarser(const ModelConfig& config, const StateLayout& layout,
                                      int dial, const PartCounts& need, StatePool* pool) {
  // All memory is taken before anything is changed.
  std::unique_ptr<std::byte[]> coarse(new std::byte[StateBytes(layout.ForDial(dial), position_)]);
  SequenceState prepared;
  prepared.Prepare(layout, need, dial);
  const absl::Status status = Park(pool);
  if (!status.ok()) return status;
  CoarsenState(config, layout, dial_, dial, position_, parked_.get(), coarse.get());
  parked_ = std::move(coarse);
  layout_ = prepared.layout_;
  dial_ = dial;
  pages_ = std::move(prepared.pages_);
  tables_ = std::move(prepared.tables_);
  shared_ = std::move(prepared.shared_);
  return absl::OkStatus();
}

bool SequenceState::FitsUnparked(const StatePool& pool) const {
  bool fits = pool.available(kTailParts) > 0 && (!has_slot_ || pool.available(kSlotParts) > 0);
  for (size_t c = 0; c < pages_.size(); ++c) {
    fits = fits && pool.available(kPageParts + static_cast<int>(c)) >=
                       static_cast<int32_t>(pages_[c].size());
  }
  return fits;
}

void SequenceState::CountOwn(const StatePool& pool, PartCounts* counts) const {
  counts->slots = counts->tails = 0;
  counts->pages.assign(pages_.size(), 0);
  ForEachPart([&](int kind, int32_t part) {
    if (pool.refs(kind, part) - pool.cache_refs(kind, part) > 1) return;  // Another sequence's too.
    ++(kind == kSlotParts   ? counts->slots
       : kind == kTailParts ? counts->tails
                            : counts->pages[kind - kPageParts]);
  });
  ForEachRun([&](int kind, int32_t run) {
    counts->pages[kind - kPageParts] += pool.runs(kind).HeldByOne(run, /*cache=*/false);
  });
}

void SequenceState::Unref(StatePool* pool) {
  ForEachPart([pool](int kind, int32_t part) {
    if (part >= 0) pool->Unref(kind, part, Holder::kSequence);
  });
  ForEachRun([pool](int kind, int32_t run) { pool->UnrefRun(kind, run, Holder::kSequence); });
  slot_ = read_slot_ = tail_ = -1;
  std::fill(shared_.begin(), shared_.end(), Shared());
}

void SequenceState::Release(StatePool* pool) {
  Unref(pool);
  pages_.clear();
  tables_.clear();
  shared_.clear();
  parked_.reset();
}

void SequenceState::DropReadSlot(StatePool* pool) {
  if (read_slot_ < 0 || !sealed_) return;
  pool->Unref(kSlotParts, read_slot_, Holder::kSequence);
  read_slot_ = -1;
}

void SequenceState::StartSpan(int num_tokens, StatePool* pool, Span* span) {
  // Only now: the span that sealed its own has been started, and what is freed is written to after.
  DropReadSlot(pool);
  span->num_tokens = num_tokens;
  span->position = position_;
  span->slot_in = read_slot_ >= 0 ? read_slot_ : slot_;
  span->slot_out = slot_;
  span->tail = tail_;
  span->dial = dial_;
  span->pages = tables_.data();
  sealed_ = sealed_ || (position_ + num_tokens) / kBlockTokens > position_ / kBlockTokens;
  position_ += num_tokens;
}

bool SequenceState::CanSnap(const StatePool& pool, bool free) const {
  const auto has = [&](int kind, int parts) {
    return (free ? pool.free(kind) : pool.available(kind)) >= parts;
  };
  if ((has_slot_ && !has(kSlotParts, 1)) || !has(kTailParts, 1)) return false;
  for (size_t c = 0; c < pages_.size(); ++c) {
    const PagesInUse use(layout_->page_classes[c], position_);
    if (!has(kPageParts + static_cast<int>(c), use.end - use.unfinished)) return false;
  }
  return true;
}

void SequenceState::SealPages(StatePool* pool) {
  for (size_t c = 0; c < pages_.size(); ++c) {
    Shared& shared = shared_[c];
    const int32_t finished = FinishedPages(layout_->page_classes[c], position_);
    if (finished == shared.pages) continue;
    const auto pages =
        absl::MakeConstSpan(pages_[c]).subspan(shared.pages, finished - shared.pages);
    shared.run = pool->Seal(kPageParts + static_cast<int>(c), shared.run, pages, Holder::kSequence);
    shared.pages = finished;
  }
}

Snapshot SequenceState::EmptySnapshot() const {
  Snapshot to;
  to.position = position_;
  to.dial = dial_;
  to.runs.resize(pages_.size(), -1);
  to.pages.resize(pages_.size());
  for (size_t c = 0; c < pages_.size(); ++c) {
    const PagesInUse use(layout_->page_classes[c], position_);
    to.pages[c].reserve(use.end - use.unfinished);
  }
  return to;
}

Snapshot SequenceState::Snap(bool share_slot, StatePool* pool) {
  PACKRAT_CHECK(position_ >= kMinSnapshotTokens) << position_;
  SealPages(pool);
  Snapshot to = EmptySnapshot();
  const auto copy = [pool](int kind, int32_t part) {
    const int32_t copied = pool->Copy(kind, part);
    pool->GiveToCache(kind, copied);
    return copied;
  };
  DropReadSlot(pool);
  if (has_slot_ && (share_slot || read_slot_ >= 0)) {
    if (read_slot_ < 0) LeaveSlot(pool);
    pool->Ref(kSlotParts, read_slot_, Holder::kCache);
    to.slot = read_slot_;
  } else if (has_slot_) {
    to.slot = copy(kSlotParts, slot_);
  }
  to.tail = copy(kTailParts, tail_);
  for (size_t c = 0; c < pages_.size(); ++c) {
    const int kind = kPageParts + static_cast<int>(c);
    to.runs[c] = shared_[c].run;
    if (to.runs[c] >= 0) pool->RefRun(kind, to.runs[c], Holder::kCache);
    const PagesInUse use(layout_->page_classes[c], position_);
    for (int b = use.unfinished; b < use.end; ++b) {
      to.pages[c].push_back(copy(kind, pages_[c][b % pages_[c].size()]));
    }
  }
  return to;
}

Snapshot SequenceState::HandOver(StatePool* pool) {
  PACKRAT_CHECK(position_ >= kMinSnapshotTokens) << position_;
  SealPages(pool);
  Snapshot to = EmptySnapshot();
  const auto give = [pool](int kind, int32_t* part) {
    pool->GiveToCache(kind, *part);
    return std::exchange(*part, -1);
  };
  DropReadSlot(pool);
  if (has_slot_) to.slot = give(kSlotParts, read_slot_ >= 0 ? &read_slot_ : &slot_);
  to.tail = give(kTailParts, &tail_);
  for (size_t c = 0; c < pages_.size(); ++c) {
    const int kind = kPageParts + static_cast<int>(c);
    to.runs[c] = std::exchange(shared_[c].run, -1);
    if (to.runs[c] >= 0) pool->GiveRunToCache(kind, to.runs[c]);
    const PagesInUse use(layout_->page_classes[c], position_);
    for (int b = use.unfinished; b < use.end; ++b) {
      to.pages[c].push_back(give(kind, &pages_[c][b % pages_[c].size()]));
    }
  }
  Release(pool);
  return to;
}

}  // namespace packrat
