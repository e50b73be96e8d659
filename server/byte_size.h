// Values of flags. In bytes: "536870912", "512MiB" or, as Kubernetes writes it, "512Mi".
#ifndef PACKRAT_SERVER_BYTE_SIZE_H_
#define PACKRAT_SERVER_BYTE_SIZE_H_

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace packrat {

struct ByteSize {
  int64_t bytes = 0;
};

// Or "auto", where the server finds it out.
struct AutoByteSize {
  int64_t bytes = -1;  // -1: auto.
};

// A number of things, or "auto".
struct AutoCount {
  int count = -1;  // -1: auto.
};

// For Abseil's flags.
bool AbslParseFlag(absl::string_view text, ByteSize* size, std::string* error);
std::string AbslUnparseFlag(ByteSize size);
bool AbslParseFlag(absl::string_view text, AutoByteSize* size, std::string* error);
std::string AbslUnparseFlag(AutoByteSize size);
bool AbslParseFlag(absl::string_view text, AutoCount* value, std::string* error);
std::string AbslUnparseFlag(AutoCount value);

}  // namespace packrat

#endif  // PACKRAT_SERVER_BYTE_SIZE_H_
