#include "kernels/aligned.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <new>
#include <thread>
#include <vector>

namespace packrat {
namespace {

// From this size on, memory is mapped by itself and asks for huge pages: a decode step reads
// gigabytes in order, and with pages of 4 KiB a tenth of its time goes to TLB misses.
constexpr size_t kMapFrom = size_t{4} << 20;

// What one thread touches; a system clears some 10 GB/s with each.
constexpr size_t kTouchBytes = size_t{64} << 20;
constexpr unsigned kMostThreads = 16;

void TouchPart(volatile char* first, size_t bytes) {
  constexpr size_t kPage = 4096;  // The smallest. A larger page is touched more than once.
  for (size_t i = 0; i < bytes; i += kPage) first[i] = 0;
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
  void* memory = nullptr;
  if (bytes >= kMapFrom) {
    memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    madvise(memory, bytes, MADV_HUGEPAGE);  // A hint: may fail.
    Touch(memory, bytes);
  } else {
    memory = std::aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (memory == nullptr) throw std::bad_alloc();
    std::memset(memory, 0, bytes);
  }
  data_ = static_cast<std::byte*>(memory);
}

AlignedBytes::~AlignedBytes() {
  if (bytes_ >= kMapFrom) {
    munmap(data_, bytes_);
  } else {
    std::free(data_);
  }
}

}  // namespace packrat
