#include "kernels/aligned.h"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <new>

namespace packrat {
namespace {

// From this size on, memory is mapped by itself and asks for huge pages: a decode step reads
// gigabytes in order, and with pages of 4 KiB a tenth of its time goes to TLB misses.
constexpr size_t kMapFrom = size_t{4} << 20;

// Makes the system provide every page; only then does it count against the cgroup's limit.
void Touch(void* memory, size_t bytes) {
  constexpr size_t kPage = 4096;  // The smallest. A larger page is touched more than once.
  auto* first = static_cast<volatile char*>(memory);
  for (size_t i = 0; i < bytes; i += kPage) first[i] = 0;
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
