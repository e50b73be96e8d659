// Flags that are given or not. Abseil's optional ones take an empty value for none.
#ifndef PACKRAT_SERVER_CLIENT_GIVEN_H_
#define PACKRAT_SERVER_CLIENT_GIVEN_H_

#include <optional>
#include <string>
#include <utility>

#include "absl/flags/marshalling.h"
#include "absl/strings/string_view.h"

namespace packrat {

// What a flag that is not given holds, as text: Abseil reads its own defaults.
inline constexpr absl::string_view kNotGiven = "(not given)";

template <class T>
struct Given {
  std::optional<T> value;
};

template <class T>
bool AbslParseFlag(absl::string_view text, Given<T>* given, std::string* error) {
  if (text == kNotGiven) {
    given->value.reset();
    return true;
  }
  T value;
  if (!absl::ParseFlag(text, &value, error)) return false;
  given->value = std::move(value);
  return true;
}

template <class T>
std::string AbslUnparseFlag(const Given<T>& given) {
  return given.value.has_value() ? absl::UnparseFlag<T>(*given.value) : std::string(kNotGiven);
}

}  // namespace packrat

#endif  // PACKRAT_SERVER_CLIENT_GIVEN_H_
