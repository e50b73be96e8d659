// A flag's value in bytes: "536870912", "512MiB" or, as Kubernetes writes it, "512Mi".
#ifndef PACKRAT_SERVER_BYTE_SIZE_H_
#define PACKRAT_SERVER_BYTE_SIZE_H_

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace packrat {

struct ByteSize {
  int64_t bytes = 0;
};

// For Abseil's flags.
bool AbslParseFlag(absl::string_view text, ByteSize* size, std::string* error);
std::string AbslUnparseFlag(ByteSize size);

}  // namespace packrat

#endif  // PACKRAT_SERVER_BYTE_SIZE_H_
