// Reads JSON from files that are not trusted: without exceptions, duplicate keys or unbounded
// depth.
#ifndef PACKRAT_MODELS_FILES_JSON_H_
#define PACKRAT_MODELS_FILES_JSON_H_

#include <cstddef>
#include <string>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace packrat {

using Json = nlohmann::json;

inline constexpr int kMaxJsonDepth = 32;  // Of files.
// Of what clients send: a schema takes three levels for each list of objects.
inline constexpr int kMaxRequestJsonDepth = 128;

// Parses `text` strictly: no comments, nothing after the value, no NUL. The message of
// INVALID_ARGUMENT begins with `where` and gives the position of a syntax error, the name of a
// duplicate key, or the limit of kMaxJsonDepth levels. Infinity, -Infinity and NaN (which Python
// writes) and numbers too large for a double become strings, so a field that must be a number
// refuses them.
absl::StatusOr<Json> ParseJson(const char* text, size_t bytes, const std::string& where);

// INVALID_ARGUMENT, beginning with `where`, if `text` has a NUL, which the library takes for the
// end. `text` may be null if `bytes` is 0.
absl::Status CheckNoNul(const char* text, size_t bytes, const std::string& where);

// Checks a text while the library scans it, so that nothing is built from a bad text. Also the base
// of handlers that build no value (see safetensors.cc); these call the base's functions first.
class StrictJsonSax : public nlohmann::json_sax<Json> {
 public:
  explicit StrictJsonSax(int max_depth = kMaxJsonDepth) : max_depth_(max_depth) {}

  const std::string& error() const { return error_; }  // Why the scan stopped.
  const std::string& field() const {
    return field_;
  }  // Of the outermost object, the latest; empty behind it.

  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool start_object(size_t) override;
  bool key(string_t& name) override;
  bool end_object() override;
  bool start_array(size_t) override;
  bool end_array() override;
  bool parse_error(size_t position, const std::string& token,
                   const nlohmann::detail::exception& e) override;

 protected:
  bool Fail(const std::string& why);
  int depth() const { return depth_; }  // Open objects and arrays.

 private:
  bool Enter();

  // Of the open objects. Nobody can choose keys whose hashes are alike: they differ by process.
  std::vector<absl::flat_hash_set<std::string>> keys_;
  const int max_depth_;
  int depth_ = 0;
  std::string error_;
  std::string field_;
};

// `name` in double quotes, with control characters escaped and long names cut: for messages that
// show what a hostile file contains.
std::string Quoted(const std::string& name);

}  // namespace packrat

#endif  // PACKRAT_MODELS_FILES_JSON_H_
