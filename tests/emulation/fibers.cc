// The threads of a block as fibers on one thread of the process.
#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "tests/emulation/emulation.h"
#include "tests/emulation/races.h"
#include "tests/emulation/runtime.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

// Saves the registers that a call keeps and the stack pointer to *from, and goes on at `to`.
extern "C" void packrat_switch(void** from, void* to);
asm(R"(
.text
.globl packrat_switch
.type packrat_switch, @function
packrat_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size packrat_switch, .-packrat_switch
)");

namespace emulation {

ThreadIndices current;
const Caller* Caller::innermost = nullptr;

void Fail(const char* format, ...) {
  std::fprintf(stderr, "emulated kernel, block (%u, %u, %u), thread %u: ", blockIdx.x, blockIdx.y,
               blockIdx.z, threadIdx.x);
  va_list arguments;
  va_start(arguments, format);
  std::vfprintf(stderr, format, arguments);
  va_end(arguments);
  std::fputc('\n', stderr);
  std::abort();
}

namespace {

constexpr size_t kStackBytes = 128 << 10;
constexpr size_t kSharedLimit = 227 << 10;  // Of a block on compute capability 9.0.
constexpr int kMaxThreads = 1024, kMaxWarps = kMaxThreads / 32;

enum class Wait { kNothing, kBlock, kWarp, kReturned };

// 16 bytes on their way to shared memory.
struct Copy {
  void* to;
  const void* from;
  unsigned group;
  OrderedBefore start;
  const void* place;
};

struct Fiber {
  std::unique_ptr<std::byte[]> stack;
  void* sp = nullptr;
  void* fake_stack = nullptr;
  uint3 index = {};
  Wait wait = Wait::kReturned;
  bool waited = false;             // For the kernel before.
  bool orders = false;             // The warp operation that it waits for orders memory.
  Place place = {};                // Where it waits,
  const Caller* caller = nullptr;  // and the calls under way, on its stack.
  unsigned exchanges = 0;          // Warp operations so far; two generations of slots are kept.
  std::vector<Copy> copies;
  unsigned copy_groups = 0;  // Ended.
};

struct Block {
  std::vector<Fiber> fibers{kMaxThreads};
  alignas(16) std::byte slots[kMaxWarps][2][32 * 16];
  std::unique_ptr<std::byte[]> shared_memory{new std::byte[kSharedLimit + 256]};
  std::byte* shared = nullptr;
  size_t shared_bytes = 0;
  bool overlaps = false;
  int threads = 0, running = 0;
  void* scheduler_sp = nullptr;
  void* scheduler_fake_stack = nullptr;
  const void* scheduler_stack = nullptr;
  size_t scheduler_stack_bytes = 0;
  const std::function<void()>* body = nullptr;
};
Block block;
uint64_t thread_order = 0;

// From the scheduler to a fiber, and back.
void Resume(int thread) {
  Fiber& fiber = block.fibers[thread];
  block.running = thread;
  current.thread = fiber.index;
  Caller::innermost = fiber.caller;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&block.scheduler_fake_stack, fiber.stack.get(), kStackBytes);
#endif
  RaceThreadRuns(thread, fiber.stack.get(), kStackBytes);
  RaceThreadWaited(fiber.waited);
  packrat_switch(&block.scheduler_sp, fiber.sp);
  RaceThreadRuns(-1);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(block.scheduler_fake_stack, nullptr, nullptr);
#endif
}
void Yield(Wait wait) {
  Fiber& fiber = block.fibers[block.running];
  fiber.wait = wait;
  fiber.caller = Caller::innermost;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(wait == Wait::kReturned ? nullptr : &fiber.fake_stack,
                                 block.scheduler_stack, block.scheduler_stack_bytes);
#endif
  packrat_switch(&fiber.sp, block.scheduler_sp);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fiber.fake_stack, nullptr, nullptr);
#endif
}

void FiberMain() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(block.fibers[block.running].fake_stack, &block.scheduler_stack,
                                  &block.scheduler_stack_bytes);
#endif
  (*block.body)();
  if (!block.fibers[block.running].waited) Fail("ends without a wait for the kernel before it");
  Yield(Wait::kReturned);
  std::abort();
}

void StartFiber(Fiber* fiber) {
  if (fiber->stack == nullptr) fiber->stack.reset(new std::byte[kStackBytes]);
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(fiber->stack.get(), kStackBytes);
#endif
  auto top = reinterpret_cast<uintptr_t>(fiber->stack.get() + kStackBytes) / 16 * 16;
  auto* frame = reinterpret_cast<void**>(top) - 8;  // Six registers, the return address, padding.
  for (int i = 0; i < 8; ++i) frame[i] = nullptr;
  frame[6] = reinterpret_cast<void*>(&FiberMain);
  fiber->sp = frame;
  fiber->fake_stack = nullptr;  // The last block's was given up when its thread returned.
  fiber->wait = Wait::kNothing;
  fiber->caller = nullptr;
  fiber->waited = !block.overlaps;
  fiber->exchanges = 0;
  fiber->copies.clear();
  fiber->copy_groups = 0;
}

bool Same(const Place& a, const Place& b) {
  return a.line == b.line && (a.file == b.file || std::strcmp(a.file, b.file) == 0);
}

// Whether they have come to the same place by the same calls.
bool SameWay(const Fiber& a, const Fiber& b) {
  if (!Same(a.place, b.place)) return false;
  const Caller *x = a.caller, *y = b.caller;
  while (x != nullptr && y != nullptr && Same(x->place(), y->place())) {
    x = x->outer(), y = y->outer();
  }
  return x == nullptr && y == nullptr;
}

std::string Describe(const Fiber& fiber) {
  const auto text = [](const Place& p) { return p.file + (":" + std::to_string(p.line)); };
  std::string way = text(fiber.place);
  for (const Caller* c = fiber.caller; c != nullptr; c = c->outer())
    way += " from " + text(c->place());
  return way;
}

// Threads that wait for each other must wait at the same place: where a device lets others meet, it
// is by accident. No lane may miss a warp operation.
void CheckMeeting(int begin, int end, Wait wait) {
  const Fiber* first = nullptr;
  for (int t = begin; t < end; ++t) {
    const Fiber& fiber = block.fibers[t];
    if (t >= block.threads || fiber.wait != wait) {
      if (wait == Wait::kWarp) Fail("a warp operation without lane %d, which has returned", t % 32);
      continue;
    }
    if (first == nullptr) first = &fiber;
    if (!SameWay(fiber, *first)) {
      Fail("waits at %s, others at %s", Describe(fiber).c_str(), Describe(*first).c_str());
    }
  }
}

// Lets all of [begin, end) go on that wait for `wait`, if nobody there is still on the way.
bool Release(int begin, int end, Wait wait) {
  bool any = false;
  for (int t = begin; t < std::min(end, block.threads); ++t) {
    if (block.fibers[t].wait == Wait::kReturned) continue;
    if (block.fibers[t].wait != wait) return false;
    any = true;
  }
  if (!any) return false;
  CheckMeeting(begin, end, wait);
  for (int t = begin; t < std::min(end, block.threads); ++t) {
    if (block.fibers[t].wait == wait) block.fibers[t].wait = Wait::kNothing;
  }
  if (wait == Wait::kBlock) RaceBlockMeets();
  if (wait == Wait::kWarp && block.fibers[begin].orders) RaceWarpMeets(begin / 32);
  return true;
}

void RunBlock(const std::vector<int>& order) {
  RaceBlockBegins(block.shared, block.shared_bytes);
  for (int t = 0; t < block.threads; ++t) StartFiber(&block.fibers[t]);
  for (;;) {
    bool ran = false;
    for (int t : order) {
      if (block.fibers[t].wait != Wait::kNothing) continue;
      Resume(t);
      ran = true;
    }
    bool released = false;
    for (int warp = 0; warp * 32 < block.threads; ++warp) {
      released |= Release(warp * 32, warp * 32 + 32, Wait::kWarp);
    }
    if (!released) released = Release(0, block.threads, Wait::kBlock);
    if (released || ran) continue;
    for (int t = 0; t < block.threads; ++t) {
      if (block.fibers[t].wait == Wait::kReturned) continue;
      current.thread = block.fibers[t].index;
      Fail("waits at %s, which others do not reach", Describe(block.fibers[t]).c_str());
    }
    return;
  }
}

}  // namespace

void SetThreadOrder(uint64_t order) { thread_order = order; }

std::byte* SharedMemory() { return block.shared; }
void SyncBlock(Place place) {
  block.fibers[block.running].place = place;
  Yield(Wait::kBlock);
}

const std::byte* SyncWarp(Place place, const void* value, size_t bytes) {
  Fiber& fiber = block.fibers[block.running];
  fiber.place = place;
  fiber.orders = bytes == 0;
  std::byte* slots = block.slots[block.running / 32][fiber.exchanges++ % 2];
  if (bytes > 0) std::memcpy(slots + block.running % 32 * 16, value, bytes);
  Yield(Wait::kWarp);
  return slots;
}

void CheckAligned(const void* p, size_t bytes) {
  if (reinterpret_cast<uintptr_t>(p) % bytes != 0) Fail("%p is not aligned to %zu bytes", p, bytes);
}

void AwaitPrevious() {
  block.fibers[block.running].waited = true;
  RaceThreadWaited(true);
}
void BeginNext() {
  if (!block.fibers[block.running].waited) {
    Fail("lets the next kernel begin before it has waited for the one before it");
  }
}

void CopyAsync16(void* shared, const void* global) {
  CheckAligned(shared, 16);
  CheckAligned(global, 16);
  const auto* to = static_cast<const std::byte*>(shared);
  if (to < block.shared || to + 16 > block.shared + block.shared_bytes) {
    Fail("an asynchronous copy to %p, which is not in the block's shared memory", shared);
  }
  Fiber& fiber = block.fibers[block.running];
  if (!fiber.waited) RaceAccess(global, 16, false, __builtin_return_address(0));
  fiber.copies.push_back(
      {shared, global, fiber.copy_groups, RaceCopyStarts(), __builtin_return_address(0)});
}
void CopyAsyncCommit() { ++block.fibers[block.running].copy_groups; }
void CopyAsyncWait(unsigned pending) {
  Fiber& fiber = block.fibers[block.running];
  size_t done = 0;
  while (done < fiber.copies.size() && fiber.copies[done].group + pending < fiber.copy_groups) {
    const Copy& copy = fiber.copies[done++];
    RaceCopyEnds(copy.to, copy.from, 16, copy.start, copy.place);
    std::memcpy(copy.to, copy.from, 16);
  }
  fiber.copies.erase(fiber.copies.begin(), fiber.copies.begin() + static_cast<ptrdiff_t>(done));
}

void RunGrid(dim3 grid, dim3 block_dim, size_t shared_bytes, bool overlaps,
             const std::function<void()>& body) {
  current.block_dim = block_dim;
  current.grid_dim = grid;
  block.threads = static_cast<int>(block_dim.x * block_dim.y * block_dim.z);
  if (block.threads < 1 || block.threads > kMaxThreads)
    Fail("%d threads in a block", block.threads);
  if (shared_bytes > kSharedLimit) Fail("%zu bytes of shared memory in a block", shared_bytes);
  block.shared_bytes = shared_bytes;
  block.overlaps = overlaps;
  block.body = &body;
  const auto base = reinterpret_cast<uintptr_t>(block.shared_memory.get());
  block.shared = block.shared_memory.get() + (128 - base % 128) % 128;
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(block.shared_memory.get(), kSharedLimit + 256);
  __asan_poison_memory_region(block.shared + shared_bytes, kSharedLimit - shared_bytes);
#endif
  std::vector<int> order(block.threads);
  for (int t = 0; t < block.threads; ++t) {
    order[t] = thread_order == 1 ? block.threads - 1 - t : t;
    const auto x = static_cast<unsigned>(t);
    block.fibers[t].index = {x % block_dim.x, x / block_dim.x % block_dim.y,
                             x / block_dim.x / block_dim.y};
  }
  RaceLaunchBegins();
  std::mt19937_64 random(thread_order);
  // Blocks come in any order too.
  std::vector<unsigned> blocks(size_t{grid.x} * grid.y * grid.z);
  std::iota(blocks.begin(), blocks.end(), 0u);
  if (thread_order == 1) std::reverse(blocks.begin(), blocks.end());
  if (thread_order > 1) std::shuffle(blocks.begin(), blocks.end(), random);
  for (const unsigned b : blocks) {
    current.block = {b % grid.x, b / grid.x % grid.y, b / grid.x / grid.y};
    if (thread_order > 1) std::shuffle(order.begin(), order.end(), random);
    std::memset(block.shared, 0xFF, shared_bytes);
    RunBlock(order);
  }
  RaceLaunchEnds();
}

}  // namespace emulation
