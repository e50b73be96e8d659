#include "models/bytes_hash.h"

#include <algorithm>
#include <cstring>

namespace packrat {
namespace {

uint64_t Mix(uint64_t hash, uint64_t word) {
  hash = (hash ^ word) * 0x9e3779b97f4a7c15u;
  return hash ^ (hash >> 29);
}

}  // namespace

// Four chains, since one would wait for its own multiplications.
void BytesHash::AddBlocks(const unsigned char* bytes, size_t blocks) {
  uint64_t lanes[4];
  std::memcpy(lanes, lanes_, sizeof lanes);
  for (; blocks > 0; --blocks, bytes += kBlockBytes) {
    uint64_t words[4];
    std::memcpy(words, bytes, kBlockBytes);
    for (int lane = 0; lane < 4; ++lane) lanes[lane] = Mix(lanes[lane], words[lane]);
  }
  std::memcpy(lanes_, lanes, sizeof lanes);
}

void BytesHash::Add(const void* data, size_t bytes) {
  const auto* p = static_cast<const unsigned char*>(data);
  bytes_ += bytes;
  if (rest_bytes_ > 0) {
    const size_t more = std::min(bytes, kBlockBytes - rest_bytes_);
    std::memcpy(rest_ + rest_bytes_, p, more);
    rest_bytes_ += more;
    p += more;
    bytes -= more;
    if (rest_bytes_ < kBlockBytes) return;
    AddBlocks(rest_, 1);
  }
  AddBlocks(p, bytes / kBlockBytes);
  rest_bytes_ = bytes % kBlockBytes;
  if (rest_bytes_ > 0) std::memcpy(rest_, p + (bytes - rest_bytes_), rest_bytes_);
}

uint64_t BytesHash::Value() const {
  uint64_t hash = Mix(Mix(Mix(lanes_[0], lanes_[1]), lanes_[2]), lanes_[3]);
  for (size_t i = 0; i < rest_bytes_; ++i) hash = Mix(hash, rest_[i]);
  return Mix(hash, bytes_);
}

}  // namespace packrat
