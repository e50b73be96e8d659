// Calls that are not JSON, each read once it is complete.
#ifndef PACKRAT_MODELS_TEXT_TOOL_CALLS_WRITTEN_CALL_H_
#define PACKRAT_MODELS_TEXT_TOOL_CALLS_WRITTEN_CALL_H_

#include <optional>
#include <string>

#include "absl/strings/string_view.h"
#include "models/text/tool_calls/tool_call_reader.h"
#include "nlohmann/json.hpp"

namespace packrat {

struct WrittenCall {
  std::string name;
  nlohmann::ordered_json arguments = nlohmann::ordered_json::object();
};

// name(argument=value, ..), whose values are literals of Python or of JSON. Nothing if it is none.
std::optional<WrittenCall> ReadPythonCall(absl::string_view text);

// Finds where such a call ends.
class PythonCallEnd {
 public:
  bool Feed(char c);  // True: with this byte.

 private:
  int depth_ = 0;
  char quote_ = '\0';
  bool escaped_ = false;
};

inline constexpr char kMarkedBegin[] = "<function=";
inline constexpr char kMarkedEnd[] = "</function>";
// From kMarkedBegin to kMarkedEnd. A value is text where `tools` says so, else JSON if it is that.
std::optional<WrittenCall> ReadMarkedCall(absl::string_view text,
                                          const ToolCallReader::Tools& tools);

}  // namespace packrat

#endif  // PACKRAT_MODELS_TEXT_TOOL_CALLS_WRITTEN_CALL_H_
