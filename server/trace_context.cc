#include "server/trace_context.h"

#include <algorithm>

namespace packrat {
namespace {

// Upper case digits are not allowed.
bool IsHex(absl::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

bool IsZero(absl::string_view text) {
  return text.find_first_not_of('0') == absl::string_view::npos;
}

}  // namespace

std::optional<TraceContext> ParseTraceparent(absl::string_view value) {
  // 00-<trace>-<span>-<flags>; later versions may go on after another dash.
  constexpr size_t kSize = 2 + 1 + 32 + 1 + 16 + 1 + 2;
  if (value.size() < kSize) return std::nullopt;
  const absl::string_view version = value.substr(0, 2), trace = value.substr(3, 32),
                          parent = value.substr(36, 16), flags = value.substr(53, 2);
  const bool dashes = value[2] == '-' && value[35] == '-' && value[52] == '-';
  const bool ends = value.size() == kSize || (version != "00" && value[kSize] == '-');
  if (!dashes || !ends || !IsHex(version) || version == "ff") return std::nullopt;
  if (!IsHex(trace) || IsZero(trace) || !IsHex(parent) || IsZero(parent) || !IsHex(flags)) {
    return std::nullopt;
  }
  return TraceContext{std::string(trace), std::string(parent), std::string(flags)};
}

}  // namespace packrat
