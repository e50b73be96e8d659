// All state memory of an engine: one allocation of the model's device at start-up, cut into slots,
// tails and pages of each class (see models/state_layout.h), with free lists and reference counts.
// Nothing is allocated afterwards, and nothing of the memory is read or written here. Not
// thread-safe: it belongs to the engine's thread.
//
// Policy: slots and tails for every one of max_running sequences, pages for what they need at
// max_context, all of it if state_bytes allows. Otherwise slots and tails get at most half of the
// memory (but never fewer of them than as many whole sequences as fit), and pages share the rest in
// the proportion in which a sequence of max_context needs them.
#ifndef PACKRAT_RUNTIME_STATE_POOL_H_
#define PACKRAT_RUNTIME_STATE_POOL_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "models/batch.h"
#include "models/model.h"
#include "models/state_layout.h"

namespace packrat {

struct StatePoolOptions {
  int max_running = 1;        // Sequences at once.
  int max_context = 1;        // Tokens of the longest.
  int64_t state_bytes = 0;    // Limit on the whole.
  bool poison_freed = false;  // Fill what is free with 0xFF bytes: NaNs in every float format.
};

// Numbers of parts: what a sequence needs, or what a pool has.
struct PartCounts {
  int32_t slots = 0;
  int32_t tails = 0;
  std::vector<int32_t> pages;  // One per page class.
};

// What a sequence of `tokens` tokens may hold to its end.
PartCounts SequenceNeeds(const StateLayout& layout, int64_t tokens);

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

  // A sealed part (slot, page) comes with one reference and is free again when the last is dropped.
  // Tails are private. Taking what is not there is a broken invariant: ask free() first.
  int32_t TakeSlot() { return slots_.Take(); }
  void RefSlot(int32_t slot) { slots_.Ref(slot); }
  void UnrefSlot(int32_t slot) { Unref(&slots_, slot); }
  int32_t slot_refs(int32_t slot) const { return slots_.refs[slot]; }

  int32_t TakeTail() { return tails_.Take(); }
  void FreeTail(int32_t tail) { Unref(&tails_, tail); }
  int32_t tail_refs(int32_t tail) const { return tails_.refs[tail]; }

  int32_t TakePage(int page_class) { return pages_[page_class].Take(); }
  void RefPage(int page_class, int32_t page) { pages_[page_class].Ref(page); }
  void UnrefPage(int page_class, int32_t page) { Unref(&pages_[page_class], page); }
  int32_t page_refs(int page_class, int32_t page) const { return pages_[page_class].refs[page]; }

  // Writes the numbers of free parts; allocates only if `counts` has no room for the page classes.
  void CountFree(PartCounts* counts) const;
  const PartCounts& total() const { return total_; }
  const StateLayout& layout() const { return layout_; }
  const StateMemory& memory() const { return memory_; }
  size_t bytes() const { return buffer_->size(); }

  // INTERNAL naming the part whose books are wrong: a free part that is referenced or listed twice,
  // or a part that is neither free nor referenced.
  absl::Status CheckIntegrity() const;

 private:
  // Parts of one kind: `stride` bytes each from `base`.
  struct Parts {
    const char* kind = "";
    std::byte* base = nullptr;
    size_t stride = 0;
    std::vector<int32_t> refs;  // 0: free.
    std::vector<int32_t> free;  // A stack: what was used last is warm.
    void Init(const char* kind, std::byte* base, size_t stride, int32_t count);
    int32_t Take();
    void Ref(int32_t part);
    bool Drop(int32_t part);  // True if that was the last reference.
    absl::Status Check() const;
  };

  StatePool(const StateLayout& layout, PartCounts total, bool poison_freed);
  void Carve();
  void Unref(Parts* parts, int32_t part);

  const StateLayout layout_;
  const PartCounts total_;
  const bool poison_freed_;
  std::unique_ptr<StateBuffer> buffer_;
  Parts slots_, tails_;
  std::vector<Parts> pages_;
  std::vector<std::byte*> page_bases_;
  StateMemory memory_;
};

}  // namespace packrat

#endif  // PACKRAT_RUNTIME_STATE_POOL_H_
