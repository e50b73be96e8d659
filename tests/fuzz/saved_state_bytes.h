// What the fuzzers of saved states make of their input: bytes with the hashes that belong there, so
// that the search gets beyond them.
//
//   input    bytes of the header before what it says of the parts (2), and of the dials that it
//            ends with (2); both of these, then the parts
#ifndef PACKRAT_TESTS_FUZZ_SAVED_STATE_BYTES_H_
#define PACKRAT_TESTS_FUZZ_SAVED_STATE_BYTES_H_

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>

#include "models/weights.h"

namespace packrat {

template <class T>
std::string Raw(T value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof value);
}

// Of an input of 4 bytes at least.
inline std::string WithHashes(const std::string& input) {
  uint16_t header_bytes, dial_bytes;
  std::memcpy(&header_bytes, input.data(), 2);
  std::memcpy(&dial_bytes, input.data() + 2, 2);
  std::string header = input.substr(4, header_bytes);
  const size_t at = 4 + header.size();
  const std::string dials = input.substr(at, dial_bytes), parts = input.substr(at + dials.size());
  header += Raw(static_cast<uint64_t>(parts.size())) +
            Raw(HashBytes(0, parts.data(), parts.size())) + dials;
  const uint32_t version = dials.empty() ? 2 : 3;
  return "PACKRAT\x1a" + Raw(version) + Raw(static_cast<uint32_t>(header.size())) +
         Raw(HashBytes(version, header.data(), header.size())) + header + parts;
}

}  // namespace packrat

#endif  // PACKRAT_TESTS_FUZZ_SAVED_STATE_BYTES_H_
