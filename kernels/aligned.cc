#include "kernels/aligned.h"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>

#include "kernels/check.h"

namespace packrat {
namespace {

// From here on, own pages with the wish for huge ones: a decode step reads gigabytes in order, and
// with 4 KiB pages the TLB takes a tenth of it.
constexpr size_t kMapFrom = size_t{4} << 20;

}  // namespace

AlignedBytes::AlignedBytes(size_t bytes) : bytes_(bytes) {
  if (bytes == 0) return;
  void* memory = nullptr;
  if (bytes >= kMapFrom) {
    memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    PACKRAT_CHECK(memory != MAP_FAILED) << "out of memory: " << bytes << " bytes";
    madvise(memory, bytes, MADV_HUGEPAGE);
  } else {
    memory = std::aligned_alloc(64, (bytes + 63) / 64 * 64);
    PACKRAT_CHECK(memory != nullptr) << "out of memory: " << bytes << " bytes";
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
