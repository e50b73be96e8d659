// W3C Trace Context: the caller's trace that a call belongs to.
#ifndef PACKRAT_SERVER_TRACE_CONTEXT_H_
#define PACKRAT_SERVER_TRACE_CONTEXT_H_

#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace packrat {

struct TraceContext {
  std::string trace_id;   // 32 hexadecimal digits.
  std::string parent_id;  // 16: the caller's span.
  std::string flags;      // 2; the last bit says that the caller records the trace.
};

// Reads a value of `traceparent`. Nothing if it is malformed: it is then ignored as if absent.
std::optional<TraceContext> ParseTraceparent(absl::string_view value);

}  // namespace packrat

#endif  // PACKRAT_SERVER_TRACE_CONTEXT_H_
