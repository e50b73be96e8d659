// Any bytes as a GGUF file: refused with a message, or tensors that lie in the file, none over
// another. The input is one byte, of which 1 says that the file goes on for a megabyte after the
// rest, then the file.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "kernels/check.h"
#include "models/files/gguf.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* input, size_t size) {
  if (size < 1) return 0;
  // Its own allocation, so that AddressSanitizer sees a read past the end.
  const std::vector<uint8_t> data(input + 1, input + size);
  const uint64_t file_bytes = data.size() + (input[0] == 1 ? 1 << 20 : 0);
  const auto header = packrat::ParseGgufHeader(data.data(), data.size(), file_bytes, "input.gguf");
  if (!header.ok()) {
    PACKRAT_CHECK(header.status().message().size() < 4096);  // Not the input, repeated.
    PACKRAT_CHECK(header.status().code() != absl::StatusCode::kOutOfRange || input[0] == 1);
    return 0;
  }
  std::vector<std::pair<uint64_t, uint64_t>> parts;
  for (const auto& [name, tensor] : header->tensors) {
    uint64_t elements = 1;
    for (const int64_t dim : tensor.shape) elements *= static_cast<uint64_t>(dim);
    const uint64_t block = packrat::GgufBlock(tensor.type);
    PACKRAT_CHECK(elements % block == 0);
    PACKRAT_CHECK(elements / block * packrat::GgufBlockBytes(tensor.type) == tensor.bytes);
    parts.emplace_back(tensor.offset, tensor.bytes);
  }
  std::sort(parts.begin(), parts.end());
  uint64_t end = 0;
  for (const auto& [begin, bytes] : parts) {
    PACKRAT_CHECK(begin >= end && bytes <= file_bytes - begin);
    end = begin + bytes;
  }
  return 0;
}
