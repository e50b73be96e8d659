// Any bytes as a safetensors header: refused with a message, or tensors that tile the data exactly.
// The input is four bytes, little-endian, for the size of the data, then the header's JSON.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "kernels/check.h"
#include "models/files/checkpoint.h"

namespace packrat {
namespace {

constexpr size_t kMaxData = 1 << 24;

void CheckTensors(const SafetensorsHeader& parsed, size_t data_offset, size_t data_bytes) {
  std::vector<std::pair<size_t, size_t>> parts;
  for (const auto& [name, view] : parsed.tensors) {
    for (int64_t dim : view.shape) PACKRAT_CHECK(dim >= 0);
    PACKRAT_CHECK(TensorBytes(view.type, view.shape) == view.bytes);
    parts.emplace_back(view.offset, view.bytes);
  }
  std::sort(parts.begin(), parts.end());
  size_t end = data_offset;
  for (const auto& [begin, bytes] : parts) {
    // What lies between them belongs to the others.
    PACKRAT_CHECK(begin == end || (begin > end && !parsed.others.empty()));
    end = begin + bytes;
  }
  PACKRAT_CHECK(end == data_offset + data_bytes ||
                (end < data_offset + data_bytes && !parsed.others.empty()));
}

}  // namespace
}  // namespace packrat

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* input, size_t size) {
  if (size < 4) return 0;
  const size_t data_bytes = (input[0] | input[1] << 8 | input[2] << 16) % packrat::kMaxData;
  // Its own allocation, so that AddressSanitizer sees a read past the header.
  const std::vector<char> header(input + 4, input + size);
  const size_t data_offset = 8 + header.size();
  const auto tensors = packrat::ParseSafetensorsHeader(header.data(), header.size(), data_offset,
                                                       data_bytes, "input.safetensors");
  if (tensors.ok()) {
    packrat::CheckTensors(*tensors, data_offset, data_bytes);
  } else {
    PACKRAT_CHECK(tensors.status().message().size() < 4096);  // Not the input, repeated.
  }
  return 0;
}
