// Memory of a fixed size, aligned to a cache line. Every page is touched when it is allocated:
// otherwise the system may promise a page that it does not have, and kill the process when the page
// is first used.
#ifndef PACKRAT_KERNELS_ALIGNED_H_
#define PACKRAT_KERNELS_ALIGNED_H_

#include <cstddef>
#include <cstdint>
#include <utility>

namespace packrat {

class AlignedBytes {
 public:
  AlignedBytes() = default;
  explicit AlignedBytes(size_t bytes);  // Zeroed. Throws std::bad_alloc, as new does.
  ~AlignedBytes();
  AlignedBytes(AlignedBytes&& other) noexcept { *this = std::move(other); }
  AlignedBytes& operator=(AlignedBytes&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }

  std::byte* data() const { return data_; }
  size_t size() const { return bytes_; }

 private:
  std::byte* data_ = nullptr;
  size_t bytes_ = 0;
};

class AlignedFloats {
 public:
  AlignedFloats() = default;
  explicit AlignedFloats(size_t n) : bytes_(n * sizeof(float)) {}

  float* data() const { return reinterpret_cast<float*>(bytes_.data()); }
  size_t size() const { return bytes_.size() / sizeof(float); }

 private:
  AlignedBytes bytes_;
};

}  // namespace packrat

#endif  // PACKRAT_KERNELS_ALIGNED_H_
