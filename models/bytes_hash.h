// A 64-bit hash of bytes that come in pieces. It is stable across builds and machines and fast
// enough for gigabytes. It tells data apart, but is no defence against forgery.
#ifndef PACKRAT_MODELS_BYTES_HASH_H_
#define PACKRAT_MODELS_BYTES_HASH_H_

#include <cstddef>
#include <cstdint>

namespace packrat {

class BytesHash {
 public:
  // Begins with another hash, or any number.
  explicit BytesHash(uint64_t hash = 0) : lanes_{hash, hash + 1, hash + 2, hash + 3} {}
  void Add(const void* data, size_t bytes);
  // Of all that was added, however it was cut.
  uint64_t Value() const;

 private:
  static constexpr size_t kBlockBytes = 32;
  void AddBlocks(const unsigned char* bytes, size_t blocks);

  uint64_t lanes_[4];
  unsigned char rest_[kBlockBytes] = {};  // What has not filled a block.
  size_t rest_bytes_ = 0;
  uint64_t bytes_ = 0;
};

}  // namespace packrat

#endif  // PACKRAT_MODELS_BYTES_HASH_H_
