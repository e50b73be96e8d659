#include "runtime/state_pool.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"

namespace packrat {
namespace {

// Kernels read state with aligned vector loads.
constexpr size_t kAlignment = 64;
constexpr unsigned char kPoisonByte = 0xFF;

}  // namespace

size_t PoolBytes(const StateLayout& layout, const PartCounts& counts) {
  size_t bytes = counts.slots * layout.slot_bytes + counts.tails * layout.tail_stride;
  for (size_t c = 0; c < counts.pages.size(); ++c) {
    bytes += counts.pages[c] * layout.page_classes[c].page_bytes;
  }
  return bytes;
}

PartCounts SequenceNeeds(const StateLayout& layout, int64_t tokens) {
  PartCounts need;
  need.slots = layout.slot_bytes > 0 ? 1 : 0;
  need.tails = 1;  // Also where a tail has no bytes: as many sequences can run as there are tails.
  for (const PageClass& c : layout.page_classes) need.pages.push_back(c.PagesFor(tokens));
  return need;
}

PartCounts NeedsOfAny(const StateLayout& layout, int64_t tokens) {
  PartCounts need = SequenceNeeds(layout, tokens);
  for (size_t c = 0; c < need.pages.size(); ++c) need.pages[c] = layout.MostPages(c, tokens);
  return need;
}

namespace {

// Of pages, what each class gets beside the `one` of each that a longest sequence of any dial needs
// where those take all of `page_bytes`: for each dial the same bytes.
std::vector<double> SharesOf(const StateLayout& layout, int max_context, int64_t page_bytes) {
  std::vector<double> shares(layout.page_classes.size(), 0.0);
  int dials = 0;
  for (int d = 0; d < layout.num_dials(); ++d) {
    const PartCounts need = SequenceNeeds(layout.ForDial(d), max_context);
    int64_t bytes = 0;
    for (size_t c = 0; c < shares.size(); ++c) {
      bytes += need.pages[c] * static_cast<int64_t>(layout.page_classes[c].page_bytes);
    }
    if (bytes == 0) continue;
    ++dials;
    const double sequences = static_cast<double>(page_bytes) / static_cast<double>(bytes);
    for (size_t c = 0; c < shares.size(); ++c) shares[c] += need.pages[c] * sequences;
  }
  for (double& share : shares) share /= std::max(dials, 1);
  return shares;
}

}  // namespace

absl::StatusOr<PartCounts> PlanParts(const StateLayout& layout, const StatePoolOptions& options) {
  const PartCounts one = NeedsOfAny(layout, options.max_context);
  const int64_t fixed_bytes = layout.slot_bytes + layout.tail_stride;
  const int64_t page_bytes = PoolBytes(layout, one) - fixed_bytes;
  const int64_t budget = options.state_bytes;
  if (budget < fixed_bytes + page_bytes) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "state_bytes (", budget, ") must hold at least one sequence of max_context (",
        options.max_context, ") tokens, which takes ", fixed_bytes + page_bytes, " bytes: ",
        layout.slot_bytes, " slot, ", layout.tail_stride, " tail, ", page_bytes, " pages"));
  }
  int64_t sequences = int64_t{options.max_running} + options.cache_sequences;
  if (fixed_bytes > 0) {
    const int64_t whole = budget / (fixed_bytes + page_bytes);
    sequences = std::min(sequences, std::max(whole, budget / 2 / fixed_bytes));
    // The pages of one longest sequence come first.
    sequences = std::min(sequences, (budget - page_bytes) / fixed_bytes);
  }
  PartCounts total;
  total.slots = static_cast<int32_t>(one.slots * sequences);
  total.tails = static_cast<int32_t>(sequences);  // More below, where they are free.
  const int64_t rest = budget - sequences * fixed_bytes;
  const std::vector<double> more = SharesOf(layout, options.max_context, rest - page_bytes);
  for (size_t c = 0; c < one.pages.size(); ++c) {
    const int32_t need = one.pages[c];
    const int64_t wanted = int64_t{need} * sequences;
    const auto given = static_cast<int64_t>(need + more[c]);
    total.pages.push_back(static_cast<int32_t>(std::min<int64_t>({wanted, given, INT32_MAX})));
    // A kept state has a tail and a page at least.
    if (fixed_bytes == 0) total.tails = std::max(total.tails, total.pages.back());
  }
  return total;
}

absl::StatusOr<std::unique_ptr<StatePool>> StatePool::Create(const StateLayout& layout,
                                                             const StatePoolOptions& options,
                                                             const StateAllocator& allocate) {
  absl::StatusOr<PartCounts> total = PlanParts(layout, options);
  if (!total.ok()) return total.status();
  auto buffer = allocate(std::max(PoolBytes(layout, *total), kAlignment));
  if (!buffer.ok()) return buffer.status();
  std::unique_ptr<StatePool> pool(new StatePool(layout, *std::move(total), options.poison_freed));
  pool->buffer_ = *std::move(buffer);
  pool->Carve();
  return pool;
}

StatePool::StatePool(const StateLayout& layout, PartCounts total, bool poison_freed)
    : layout_(layout), total_(std::move(total)), poison_freed_(poison_freed) {}

void StatePool::Carve() {
  std::byte* next = buffer_->data();
  parts_.resize(total_.kinds());
  for (int kind = 0; kind < kinds(); ++kind) {
    const size_t stride = kind == kSlotParts   ? layout_.slot_bytes
                          : kind == kTailParts ? layout_.tail_stride
                                               : layout_.page_classes[kind - kPageParts].page_bytes;
    PACKRAT_CHECK(stride % kAlignment == 0, "the state layout breaks the alignment");
    const char* name = kind == kSlotParts ? "slot" : kind == kTailParts ? "tail" : "page";
    parts_[kind].Init(name, next, stride, total_[kind]);
    next += stride * total_[kind];
    if (kind < kPageParts) continue;
    const size_t part_bytes = layout_.page_classes[kind - kPageParts].part_bytes;
    pages_.push_back(buffer_->PlacePages(OffsetOf(kind, 0), stride, part_bytes, total_[kind]));
  }
  memory_ = {parts_[kSlotParts].base, parts_[kTailParts].base, pages_.data()};
  for (int kind = 0; kind < kinds(); ++kind) {
    const Parts& parts = parts_[kind];
    if (!parts.refs.empty() && parts.stride > 0 && (poison_freed_ || kind == kTailParts)) {
      buffer_->Fill(OffsetOf(kind, 0), parts.stride * parts.refs.size(), kPoisonByte);
    }
  }
}

size_t StatePool::OffsetOf(int kind, int32_t part) const {
  return parts_[kind].base + part * parts_[kind].stride - buffer_->data();
}

int32_t StatePool::Take(int kind) {
  Parts& parts = parts_[kind];
  while (parts.free.empty()) {
    const bool reclaimed = reclaim_ && reclaim_();
    PACKRAT_CHECK(reclaimed, "a sequence was admitted without its parts") << parts.kind;
  }
  const int32_t part = parts.free.back();
  parts.free.pop_back();
  PACKRAT_CHECK(parts.refs[part].all == 0, "a free part is in use") << parts.kind << " " << part;
  parts.refs[part].all = 1;
  return part;
}

void StatePool::Ref(int kind, int32_t part, Holder holder) {
  PACKRAT_CHECK(refs(kind, part) > 0, "a free part gets no references")
      << parts_[kind].kind << " " << part;
  parts_[kind].Change(part, 1, holder == Holder::kCache ? 1 : 0);
}

void StatePool::Unref(int kind, int32_t part, Holder holder) {
  Parts& parts = parts_[kind];
  PACKRAT_CHECK(part >= 0 && part < static_cast<int32_t>(parts.refs.size()))
      << parts.kind << " " << part;
  PACKRAT_CHECK(parts.refs[part].all > 0, "freed twice") << parts.kind << " " << part;
  parts.Change(part, -1, holder == Holder::kCache ? -1 : 0);
  if (parts.refs[part].all == 0) Free(kind, part);
}

void StatePool::Free(int kind, int32_t part) {
  Parts& parts = parts_[kind];
  parts.refs[part] = PartRefs();
  parts.free.push_back(part);  // Within the capacity of Init().
  // A tail goes out whole where a state is saved, rows that were never written included: what the
  // last text left there is nobody else's.
  if (poison_freed_ || kind == kTailParts) {
    buffer_->Fill(OffsetOf(kind, part), parts.stride, kPoisonByte);
  }
}

void StatePool::GiveToCache(int kind, int32_t part) { parts_[kind].Change(part, 0, 1); }

int32_t StatePool::Copy(int kind, int32_t part) {
  const int32_t copy = Take(kind);
  buffer_->Copy(OffsetOf(kind, part), OffsetOf(kind, copy), parts_[kind].stride);
  return copy;
}

int32_t StatePool::Seal(int kind, int32_t before, absl::Span<const int32_t> pages, Holder holder) {
  Parts& parts = parts_[kind];
  const PartRefs one = {1, holder == Holder::kCache ? 1 : 0};
  for (const int32_t page : pages) {
    PACKRAT_CHECK(page >= 0 && parts.refs[page] == one,
                  "a page becomes part of a run that others refer to")
        << page;
  }
  const int32_t run = parts.runs.Append(before, pages, one);
  for (const int32_t page : pages) parts.refs[page] = {kInRun, 0};
  return run;
}

void StatePool::RefRun(int kind, int32_t run, Holder holder) {
  Parts& parts = parts_[kind];
  parts.reclaimable += parts.runs.Change(run, 1, holder == Holder::kCache ? 1 : 0);
}

void StatePool::UnrefRun(int kind, int32_t run, Holder holder) {
  Parts& parts = parts_[kind];
  parts.reclaimable +=
      parts.runs.Drop(run, holder == Holder::kCache, [&](int32_t page) { Free(kind, page); });
}

void StatePool::GiveRunToCache(int kind, int32_t run) {
  Parts& parts = parts_[kind];
  parts.reclaimable += parts.runs.Change(run, 0, 1);
}

StateBuffer::Piece StatePool::PieceOf(int kind, int32_t part, int dial) const {
  return {OffsetOf(kind, part), part_bytes(kind, dial)};
}

absl::Status StatePool::Read(absl::Span<const StateBuffer::Piece> pieces, std::byte* to) {
  return buffer_->Read(pieces, to);
}

void StatePool::Write(int kind, int32_t part, int dial, const std::byte* from) {
  buffer_->Write(OffsetOf(kind, part), from, part_bytes(kind, dial));
}

void StatePool::Write(const StateBuffer::Piece& to, const std::byte* from) {
  buffer_->Write(to.from, from, to.bytes);
}

void StatePool::CountAvailable(PartCounts* counts) const {
  counts->slots = available(kSlotParts);
  counts->tails = available(kTailParts);
  counts->pages.resize(kinds() - kPageParts);
  for (int kind = kPageParts; kind < kinds(); ++kind) {
    counts->pages[kind - kPageParts] = available(kind);
  }
}

absl::Status StatePool::CheckIntegrity() const {
  for (const Parts& parts : parts_) {
    if (absl::Status status = parts.Check(); !status.ok()) return status;
  }
  return absl::OkStatus();
}

void StatePool::Parts::Init(const char* kind_name, std::byte* memory, size_t bytes_each,
                            int32_t count) {
  kind = kind_name;
  base = memory;
  stride = bytes_each;
  refs.assign(count, PartRefs());
  free.resize(count);
  for (int32_t i = 0; i < count; ++i) free[i] = count - 1 - i;  // The first is taken first.
}

void StatePool::Parts::Change(int32_t part, int all, int cache) {
  PartRefs& of = refs[part];
  reclaimable -= of.reclaimable() ? 1 : 0;
  of.all += all;
  of.cache += cache;
  PACKRAT_CHECK(of.cache >= 0 && of.cache <= of.all, "a reference of another holder")
      << kind << " " << part;
  reclaimable += of.reclaimable() ? 1 : 0;
}

absl::Status StatePool::Parts::Check() const {
  std::vector<bool> listed(refs.size(), false);
  for (int32_t part : free) {
    if (part < 0 || part >= static_cast<int32_t>(refs.size()) || listed[part]) {
      return absl::InternalError(absl::StrCat(kind, " ", part, " is free twice or does not exist"));
    }
    listed[part] = true;
  }
  std::vector<bool> in_run(refs.size(), false);
  int32_t count = 0;
  for (int32_t i = 0; i < runs.size(); ++i) {
    const PageRuns::Run& run = runs.run(i);
    const int32_t before = run.before;
    const bool ends_right = run.refs.all == 0 || run.begin() == runs.end(before);
    if (!ends_right || (before >= 0 && runs.run(before).refs.all == 0)) {
      return absl::InternalError(
          absl::StrCat("run ", i, " of ", kind, "s does not go on from that before it, ", before));
    }
    if (run.refs.reclaimable()) count += static_cast<int32_t>(run.pages.size());
    for (const int32_t page : run.pages) {
      if (in_run[page])
        return absl::InternalError(absl::StrCat(kind, " ", page, " is in two runs"));
      in_run[page] = true;
    }
  }
  for (size_t part = 0; part < refs.size(); ++part) {
    const PartRefs& of = refs[part];
    count += of.reclaimable() ? 1 : 0;
    const bool right = in_run[part]
                           ? of == PartRefs{kInRun, 0} && !listed[part]
                           : of.cache >= 0 && of.all >= of.cache && listed[part] == (of.all == 0);
    if (!right) {
      return absl::InternalError(absl::StrCat(kind, " ", part, " has ", of.all, " references, ",
                                              of.cache, " of the cache, and is ",
                                              in_run[part] ? "" : "not ", "in a run and ",
                                              listed[part] ? "" : "not ", "on the free list"));
    }
  }
  if (count == reclaimable) return absl::OkStatus();
  return absl::InternalError(
      absl::StrCat(count, " of kind ", kind, " are the cache's, ", reclaimable, " are counted"));
}

}  // namespace packrat
