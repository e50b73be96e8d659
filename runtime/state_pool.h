// All state memory of an engine: one allocation of the model's device at start-up, cut into slots,
// tails and pages of each class (see models/state_layout.h), with free lists and reference counts.
// Nothing is allocated afterwards. Not thread-safe: it belongs to the engine's thread.
//
// A part is referred to by sequences and by the prefix cache, and is free again when the last
// reference is dropped. What the cache alone refers to can be reclaimed: it counts as available,
// and Take() has the cache drop states until a part is free. Pages that are finished are referred
// to in runs (page_runs.h), so that to share them costs the same at any length of text.
//
// Policy: slots and tails for every one of max_running sequences and of cache_sequences more (tails
// without bytes, and no slots: as many as pages, so that short texts may all be kept), pages
// for what they need at max_context, all of it if state_bytes allows. Otherwise slots and tails get
// at most half of the memory (but never fewer of them than as many whole sequences as fit), and
// pages share the rest in the proportion in which a sequence of max_context needs them. Where there
// are several dials, one of max_context fits of each, and what is more is split evenly between
// those that have pages.
#ifndef PACKRAT_RUNTIME_STATE_POOL_H_
#define PACKRAT_RUNTIME_STATE_POOL_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "models/batch.h"
#include "models/model.h"
#include "models/state_layout.h"
#include "runtime/page_runs.h"

namespace packrat {

struct StatePoolOptions {
  int max_running = 1;        // Sequences at once.
  int max_context = 1;        // Tokens of the longest.
  int64_t state_bytes = 0;    // Limit on the whole.
  bool poison_freed = false;  // Fill what is free with 0xFF bytes: NaNs in every float format.
  int cache_sequences = 0;    // Parts of so many more, which the cache has also at full load.
};

// Kinds of parts by number: slots, tails, then the pages of each class.
inline constexpr int kSlotParts = 0, kTailParts = 1, kPageParts = 2;
// StatePool::refs() of a page in a run.
inline constexpr int32_t kInRun = -1;

// Numbers of parts: what a sequence needs, or what a pool has.
struct PartCounts {
  int32_t slots = 0;
  int32_t tails = 0;
  std::vector<int32_t> pages;  // One per page class.
  int kinds() const { return kPageParts + static_cast<int>(pages.size()); }
  int32_t operator[](int kind) const {
    return kind == kSlotParts ? slots : kind == kTailParts ? tails : pages[kind - kPageParts];
  }
};

// What a sequence of `tokens` tokens may hold to its end, with the layout's dial, and with any.
PartCounts SequenceNeeds(const StateLayout& layout, int64_t tokens);
PartCounts NeedsOfAny(const StateLayout& layout, int64_t tokens);

// The parts that the policy gives. RESOURCE_EXHAUSTED, with the numbers, if not even one sequence
// of max_context tokens fits.
absl::StatusOr<PartCounts> PlanParts(const StateLayout& layout, const StatePoolOptions& options);

// Bytes of so many parts.
size_t PoolBytes(const StateLayout& layout, const PartCounts& counts);

// Usually LanguageModel::AllocateState().
using StateAllocator = std::function<absl::StatusOr<std::unique_ptr<StateBuffer>>(size_t bytes)>;

class StatePool {
 public:
  // `layout` is copied. Errors of PlanParts() and of `allocate`, which is called once.
  static absl::StatusOr<std::unique_ptr<StatePool>> Create(const StateLayout& layout,
                                                           const StatePoolOptions& options,
                                                           const StateAllocator& allocate);
  StatePool(const StatePool&) = delete;
  StatePool& operator=(const StatePool&) = delete;

  enum class Holder { kSequence, kCache };

  // Called where nothing of a kind is free: drops one of the cache's states; false: it has none.
  void SetReclaim(std::function<bool()> reclaim) { reclaim_ = std::move(reclaim); }

  // A part with one reference, a sequence's. Taking what is not there is a broken invariant: ask
  // available() first.
  int32_t Take(int kind);
  void Ref(int kind, int32_t part, Holder holder);  // Somebody refers to it already.
  void Unref(int kind, int32_t part, Holder holder);
  // A sequence's reference becomes the cache's.
  void GiveToCache(int kind, int32_t part);
  // A new part, as Take() gives it, with the bytes of this one: in the order of steps.
  int32_t Copy(int kind, int32_t part);

  // Finished pages, each with one reference, of this holder, become a run (PageRuns::Append()),
  // which has his reference instead: to it and, by it, to those before. Throws std::bad_alloc, then
  // nothing has changed.
  int32_t Seal(int kind, int32_t before, absl::Span<const int32_t> pages, Holder holder);
  void RefRun(int kind, int32_t run, Holder holder);
  void UnrefRun(int kind, int32_t run, Holder holder);
  void GiveRunToCache(int kind, int32_t run);
  const PageRuns& runs(int kind) const { return parts_[kind].runs; }

  // The bytes of a part that sequences of a dial use, between the steps before and after; see
  // StateBuffer.
  size_t part_bytes(int kind, int dial) const {
    return kind == kTailParts ? layout_.ForDial(dial).tail_bytes : parts_[kind].stride;
  }
  StateBuffer::Piece PieceOf(int kind, int32_t part, int dial) const;
  absl::Status Read(absl::Span<const StateBuffer::Piece> pieces, std::byte* to);
  void Write(int kind, int32_t part, int dial, const std::byte* from);
  void Write(const StateBuffer::Piece& to, const std::byte* from);

  // kInRun: those of its run.
  int32_t refs(int kind, int32_t part) const { return parts_[kind].refs[part].all; }
  int32_t cache_refs(int kind, int32_t part) const { return parts_[kind].refs[part].cache; }
  int32_t free(int kind) const { return static_cast<int32_t>(parts_[kind].free.size()); }
  // Parts that Take() can give: free ones, and those that only the cache refers to.
  int32_t available(int kind) const { return free(kind) + reclaimable(kind); }
  // Parts that only the cache refers to.
  int32_t reclaimable(int kind) const { return parts_[kind].reclaimable; }
  // Writes available() of all kinds; allocates only if `counts` has no room for the page classes.
  void CountAvailable(PartCounts* counts) const;

  int kinds() const { return static_cast<int>(parts_.size()); }
  const PartCounts& total() const { return total_; }
  const StateLayout& layout() const { return layout_; }
  const StateMemory& memory() const { return memory_; }
  size_t bytes() const { return buffer_->size(); }

  // INTERNAL naming the part whose books are wrong: a free part that is referenced or listed twice,
  // a part that is neither free nor referenced, one that is in a run by one side only, or a wrong
  // number of those to reclaim.
  absl::Status CheckIntegrity() const;

 private:
  // Parts of one kind: `stride` bytes each from `base`.
  struct Parts {
    const char* kind = "";
    std::byte* base = nullptr;
    size_t stride = 0;
    std::vector<PartRefs> refs;
    std::vector<int32_t> free;  // A stack: what was used last is warm.
    PageRuns runs;              // Of pages alone.
    int32_t reclaimable = 0;
    void Init(const char* kind, std::byte* base, size_t stride, int32_t count);
    // Adds to the references of a part.
    void Change(int32_t part, int all, int cache);
    absl::Status Check() const;
  };

  StatePool(const StateLayout& layout, PartCounts total, bool poison_freed);
  void Carve();
  void Free(int kind, int32_t part);
  size_t OffsetOf(int kind, int32_t part) const;

  const StateLayout layout_;
  const PartCounts total_;
  const bool poison_freed_;
  std::unique_ptr<StateBuffer> buffer_;
  std::vector<Parts> parts_;  // By kind.
  std::function<bool()> reclaim_;
  std::vector<PageMemory> pages_;
  StateMemory memory_;
};

}  // namespace packrat

#endif  // PACKRAT_RUNTIME_STATE_POOL_H_
