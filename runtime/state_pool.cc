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
  size_t bytes = counts.slots * layout.slot_bytes + counts.tails * layout.tail_bytes;
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

absl::StatusOr<PartCounts> PlanParts(const StateLayout& layout, const StatePoolOptions& options) {
  const PartCounts one = SequenceNeeds(layout, options.max_context);
  const int64_t fixed_bytes = layout.slot_bytes + layout.tail_bytes;
  const int64_t page_bytes = PoolBytes(layout, one) - fixed_bytes;
  const int64_t budget = options.state_bytes;
  if (budget < fixed_bytes + page_bytes) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "state_bytes (", budget, ") must hold at least one sequence of max_context (",
        options.max_context, ") tokens, which takes ", fixed_bytes + page_bytes, " bytes: ",
        layout.slot_bytes, " slot, ", layout.tail_bytes, " tail, ", page_bytes, " pages"));
  }
  int64_t sequences = options.max_running;
  if (fixed_bytes > 0) {
    const int64_t whole = budget / (fixed_bytes + page_bytes);
    sequences = std::min(sequences, std::max(whole, budget / 2 / fixed_bytes));
    // The pages of one longest sequence come first.
    sequences = std::min(sequences, (budget - page_bytes) / fixed_bytes);
  }
  PartCounts total;
  total.slots = static_cast<int32_t>(one.slots * sequences);
  total.tails = static_cast<int32_t>(sequences);
  const int64_t rest = budget - sequences * fixed_bytes;
  const double share = page_bytes > 0 ? static_cast<double>(rest) / page_bytes : 0.0;
  for (int32_t need : one.pages) {
    const int64_t wanted = int64_t{need} * sequences;
    const int64_t given = std::max<int64_t>(need, static_cast<int64_t>(need * share));
    total.pages.push_back(static_cast<int32_t>(std::min<int64_t>({wanted, given, INT32_MAX})));
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
  const auto carve = [&](Parts* parts, const char* kind, size_t stride, int32_t count) {
    PACKRAT_CHECK(stride % kAlignment == 0, "the state layout breaks the alignment");
    parts->Init(kind, next, stride, count);
    next += stride * count;
  };
  carve(&slots_, "slot", layout_.slot_bytes, total_.slots);
  carve(&tails_, "tail", layout_.tail_bytes, total_.tails);
  pages_.resize(total_.pages.size());
  for (size_t c = 0; c < pages_.size(); ++c) {
    carve(&pages_[c], "page", layout_.page_classes[c].page_bytes, total_.pages[c]);
    page_bases_.push_back(pages_[c].base);
  }
  memory_ = {slots_.base, tails_.base, page_bases_.data()};
  if (poison_freed_) buffer_->Fill(0, bytes(), kPoisonByte);
}

void StatePool::Unref(Parts* parts, int32_t part) {
  if (parts->Drop(part) && poison_freed_) {
    buffer_->Fill(parts->base + part * parts->stride - buffer_->data(), parts->stride, kPoisonByte);
  }
}

void StatePool::CountFree(PartCounts* counts) const {
  counts->slots = static_cast<int32_t>(slots_.free.size());
  counts->tails = static_cast<int32_t>(tails_.free.size());
  counts->pages.resize(pages_.size());
  for (size_t c = 0; c < pages_.size(); ++c) {
    counts->pages[c] = static_cast<int32_t>(pages_[c].free.size());
  }
}

absl::Status StatePool::CheckIntegrity() const {
  absl::Status status = slots_.Check();
  if (status.ok()) status = tails_.Check();
  for (size_t c = 0; c < pages_.size() && status.ok(); ++c) status = pages_[c].Check();
  return status;
}

void StatePool::Parts::Init(const char* kind_name, std::byte* memory, size_t bytes_each,
                            int32_t count) {
  kind = kind_name;
  base = memory;
  stride = bytes_each;
  refs.assign(count, 0);
  free.resize(count);
  for (int32_t i = 0; i < count; ++i) free[i] = count - 1 - i;  // The first is taken first.
}

int32_t StatePool::Parts::Take() {
  PACKRAT_CHECK(!free.empty(), "a sequence was admitted without its parts") << kind;
  const int32_t part = free.back();
  free.pop_back();
  PACKRAT_CHECK(refs[part] == 0, "a free part is in use") << kind << " " << part;
  refs[part] = 1;
  return part;
}

void StatePool::Parts::Ref(int32_t part) {
  PACKRAT_CHECK(refs[part] > 0, "a free part gets no references") << kind << " " << part;
  ++refs[part];
}

bool StatePool::Parts::Drop(int32_t part) {
  PACKRAT_CHECK(part >= 0 && part < static_cast<int32_t>(refs.size())) << kind << " " << part;
  PACKRAT_CHECK(refs[part] > 0, "freed twice") << kind << " " << part;
  if (--refs[part] > 0) return false;
  free.push_back(part);  // Within the capacity of Init().
  return true;
}

absl::Status StatePool::Parts::Check() const {
  std::vector<bool> listed(refs.size(), false);
  for (int32_t part : free) {
    if (part < 0 || part >= static_cast<int32_t>(refs.size()) || listed[part]) {
      return absl::InternalError(absl::StrCat(kind, " ", part, " is free twice or does not exist"));
    }
    listed[part] = true;
  }
  for (size_t part = 0; part < refs.size(); ++part) {
    if (refs[part] < 0 || listed[part] != (refs[part] == 0)) {
      return absl::InternalError(absl::StrCat(kind, " ", part, " has ", refs[part],
                                              " references and is ", listed[part] ? "" : "not ",
                                              "on the free list"));
    }
  }
  return absl::OkStatus();
}

}  // namespace packrat
