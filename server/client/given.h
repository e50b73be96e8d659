// Flags that are given or not. Abseil's optional ones take an empty value for none.
#ifndef PACKRAT_SERVER_CLIENT_GIVEN_H_
#define PACKRAT_SERVER_CLIENT_GIVEN_H_

#include <optional>
#include <string>
#include <utility>

#include "absl/flags/marshalling.h"
#include "absl/strings/string_view.h"

namespace packrat {

template <class T>
struct Given {
  std::optional<T> value;
};

template <class T>
bool AbslParseFlag(absl::string_view text, Given<T>* given, std::string* error) {
  T value;
  if (!absl::ParseFlag(text, &value, error)) return false;
  given->value = std::move(value);
  return true;
}

template <class T>
std::string AbslUnparseFlag(const Given<T>& given) {
  return given.value.has_value() ? absl::UnparseFlag<T>(*given.value) : "";
}

}  // namespace packrat

#endif  // PACKRAT_SERVER_CLIENT_GIVEN_H_
