// JSON as this project reads it from files that it does not trust: no exceptions, no duplicate
// keys, bounded depth.
#ifndef PACKRAT_MODELS_JSON_H_
#define PACKRAT_MODELS_JSON_H_

#include <cstddef>
#include <string>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace packrat {

using Json = nlohmann::json;

inline constexpr int kMaxJsonDepth = 32;

// Parses `text` strictly (no comments, no NaN, nothing after the value). INVALID_ARGUMENT begins
// with `where` and says what is wrong: the position of a syntax error, the name of a duplicate key,
// a number too large for a double, more than kMaxJsonDepth levels.
absl::StatusOr<Json> ParseJson(const char* text, size_t bytes, const std::string& where);

// Reads a whole file of at most `max_bytes`. NOT_FOUND if it does not exist, INVALID_ARGUMENT if it
// is larger or not a regular file.
absl::StatusOr<std::string> ReadSmallFile(const std::string& path, size_t max_bytes);

// `name` in double quotes, control characters escaped and long names cut: for messages about what
// a hostile file says.
std::string Quoted(const std::string& name);

}  // namespace packrat

#endif  // PACKRAT_MODELS_JSON_H_
