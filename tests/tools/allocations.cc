#include "tests/tools/allocations.h"

#include <atomic>
#include <cstdlib>
#include <new>

namespace {

std::atomic<int64_t> allocations{0}, allocated_bytes{0};

std::atomic<size_t> too_large{0};
thread_local int64_t until_failure = -1;

void* Allocate(size_t bytes) {
  const size_t limit = too_large.load(std::memory_order_relaxed);
  if (limit > 0 && bytes >= limit) throw std::bad_alloc();
  if (until_failure >= 0 && --until_failure < 0) throw std::bad_alloc();
  allocations.fetch_add(1, std::memory_order_relaxed);
  allocated_bytes.fetch_add(static_cast<int64_t>(bytes), std::memory_order_relaxed);
  void* memory = std::malloc(bytes > 0 ? bytes : 1);
  if (memory == nullptr) std::abort();
  return memory;
}

}  // namespace

void* operator new(size_t bytes) { return Allocate(bytes); }
void* operator new[](size_t bytes) { return Allocate(bytes); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, size_t) noexcept { std::free(memory); }

namespace packrat {

int64_t NumAllocations() { return allocations.load(); }
int64_t NumAllocatedBytes() { return allocated_bytes.load(); }

void FailAllocation(int64_t n) { until_failure = n; }
bool AllocationFailed() { return until_failure < 0; }
void FailAllocationsFrom(size_t bytes) { too_large.store(bytes); }

}  // namespace packrat
