#include "kernels/aligned.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

namespace packrat {
namespace {

// A decode step reads all weights in order, and with pages of 4 KiB up to a third of its time goes
// to TLB misses. So memory asks for huge pages, which begin at multiples of their size. What is
// large is mapped by itself. What is smaller, as most matrices of a small model are, shares
// mappings: no huge page lies within it alone.
constexpr size_t kPage = 4096;  // The smallest.
constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kMapFrom = size_t{4} << 20;
constexpr size_t kShareFrom = size_t{32} << 10;
constexpr size_t kSharedBytes = size_t{16} << 20;  // Of addresses; memory is taken as it is used.
#if defined(__SANITIZE_ADDRESS__)
constexpr bool kShares = false;  // It looks after what new and malloc give.
#else
constexpr bool kShares = true;
#endif

constexpr size_t RoundUp(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

// Addresses without memory, at a multiple of `alignment`. Null where there are none.
std::byte* Reserve(size_t bytes, size_t alignment) {
  bytes = RoundUp(bytes, kPage);
  void* const all = mmap(nullptr, bytes + alignment, PROT_NONE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (all == MAP_FAILED) return nullptr;
  auto* const begin = static_cast<std::byte*>(all);
  const size_t before = -reinterpret_cast<uintptr_t>(begin) % alignment;
  if (before > 0) munmap(begin, before);
  munmap(begin + before + bytes, alignment - before);
  return begin + before;
}

// Lets reserved addresses be used, from a multiple of kHugePage on.
bool Provide(std::byte* first, size_t bytes) {
  if (mprotect(first, bytes, PROT_READ | PROT_WRITE) != 0) return false;
  madvise(first, bytes, MADV_HUGEPAGE);  // A hint: may fail.
  return true;
}

// At the beginning of a shared mapping, which is at a multiple of its size.
struct Shared {
  int owners;       // Pieces in use, and one while it is the last one.
  size_t used;      // Of its bytes.
  size_t provided;  // kHugePage by kHugePage.
};
std::mutex shared_mutex;
Shared* last_shared = nullptr;  // Of which pieces are taken.

void Drop(Shared* shared) {
  if (--shared->owners == 0) munmap(shared, kSharedBytes);
}

// A piece of a shared mapping, zeroed; null where there is no memory.
std::byte* TakeShared(size_t bytes) {
  bytes = RoundUp(bytes, 64);
  std::lock_guard<std::mutex> lock(shared_mutex);
  if (last_shared == nullptr || last_shared->used + bytes > kSharedBytes) {
    std::byte* const first = Reserve(kSharedBytes, kSharedBytes);
    if (first == nullptr) return nullptr;
    if (!Provide(first, kHugePage)) {
      munmap(first, kSharedBytes);
      return nullptr;
    }
    if (last_shared != nullptr) Drop(last_shared);
    last_shared = new (first) Shared{1, RoundUp(sizeof(Shared), 64), kHugePage};
  }
  Shared* const shared = last_shared;
  std::byte* const all = reinterpret_cast<std::byte*>(shared);
  const size_t wanted = RoundUp(shared->used + bytes, kHugePage);
  if (wanted > shared->provided) {
    if (!Provide(all + shared->provided, wanted - shared->provided)) return nullptr;
    shared->provided = wanted;
  }
  ++shared->owners;
  shared->used += bytes;
  return all + shared->used - bytes;
}

void ReturnShared(std::byte* piece) {
  const size_t at = reinterpret_cast<uintptr_t>(piece) % kSharedBytes;
  auto* const shared = reinterpret_cast<Shared*>(piece - at);
  std::lock_guard<std::mutex> lock(shared_mutex);
  Drop(shared);
  if (last_shared == shared && shared->owners == 1) {  // Nobody uses it.
    last_shared = nullptr;
    Drop(shared);
  }
}

// What one thread touches; a system clears some 10 GB/s with each.
constexpr size_t kTouchBytes = size_t{64} << 20;
constexpr unsigned kMostThreads = 16;

// A larger page is touched more than once; the last one is not met by steps from within a page.
void TouchPart(volatile char* first, size_t bytes) {
  for (size_t i = 0; i < bytes; i += kPage) first[i] = 0;
  first[bytes - 1] = 0;
}

// Makes the system provide every page; only then does it count against the cgroup's limit. With
// several threads, since a server takes most of a machine's memory before it is ready.
void Touch(void* memory, size_t bytes) {
  auto* const first = static_cast<volatile char*>(memory);
  std::atomic<size_t> next{0};
  const auto touch = [&] {
    for (size_t begin; (begin = next.fetch_add(kTouchBytes)) < bytes;) {
      TouchPart(first + begin, std::min(kTouchBytes, bytes - begin));
    }
  };
  const size_t most = std::min(std::thread::hardware_concurrency(), kMostThreads);
  std::vector<std::thread> threads;
  try {
    const size_t helpers = std::min((bytes - 1) / kTouchBytes, most > 0 ? most - 1 : 0);
    threads.reserve(helpers);
    while (threads.size() < helpers) threads.emplace_back(touch);
  } catch (const std::exception&) {  // Of memory or threads there are no more: it takes longer.
  }
  touch();
  for (std::thread& thread : threads) thread.join();
}

}  // namespace

AlignedBytes::AlignedBytes(size_t bytes) : bytes_(bytes) {
  if (bytes == 0) return;
  if (bytes >= kMapFrom) {
    data_ = Reserve(bytes, kHugePage);
    if (data_ != nullptr && !Provide(data_, bytes)) {
      munmap(data_, bytes);
      data_ = nullptr;
    }
  } else if (kShares && bytes >= kShareFrom) {
    data_ = TakeShared(bytes);
  } else {
    data_ = static_cast<std::byte*>(std::aligned_alloc(64, RoundUp(bytes, 64)));
  }
  if (data_ == nullptr) throw std::bad_alloc();
  if (bytes >= (kShares ? kShareFrom : kMapFrom)) {
    Touch(data_, bytes);
  } else {
    std::memset(data_, 0, bytes);
  }
}

AlignedBytes::~AlignedBytes() {
  if (data_ == nullptr) return;
  if (bytes_ >= kMapFrom) {
    munmap(data_, bytes_);
  } else if (kShares && bytes_ >= kShareFrom) {
    ReturnShared(data_);
  } else {
    std::free(data_);
  }
}

}  // namespace packrat
