// Finds the calls of tools in an answer while it is written.
#ifndef PACKRAT_MODELS_TEXT_TOOL_CALLS_TOOL_CALL_READER_H_
#define PACKRAT_MODELS_TEXT_TOOL_CALLS_TOOL_CALL_READER_H_

#include <cstddef>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "models/text/tool_calls/tool_format.h"

namespace packrat {

class JsonCall;
class PythonCallEnd;

class ToolCallReader {
 public:
  // By name, and of each the arguments that are texts, with whether they may be null: some formats
  // do not tell 7 from "7".
  using Tools = std::map<std::string, std::map<std::string, bool>>;

  struct Piece {
    int call = -1;     // Whose arguments go on with `text`; -1: the text of the answer does.
    std::string name;  // In the first piece of a call.
    std::string text;
  };

  // `format` outlives it. What looks like a call and is none of `tools` is text, as it is.
  // `begun`: the prompt ended with format.forced_begin, and with this of the call.
  ToolCallReader(const ToolFormat& format, Tools tools, const std::optional<std::string>& begun);
  ~ToolCallReader();
  ToolCallReader(ToolCallReader&&) noexcept;

  // What is certain now. Spaces around calls are dropped, and those at the end behind calls. The
  // arguments of a call are JSON if the model wrote JSON, and end where they are cut.
  std::vector<Piece> Push(absl::string_view text);
  std::vector<Piece> Finish();

 private:
  enum class State { kText, kBetween, kName, kJson, kPython, kMarked };

  void Run(bool last);
  // Each does what it can with rest(). False: it waits for more.
  bool Step(bool last);
  bool ReadText(bool last);
  bool ReadBegin(bool last);  // Of an answer, where no mark shows calls.
  bool ReadBetween(bool last);
  bool ReadName();
  bool ReadJson();
  bool ReadWritten();
  // No more calls are here: raw_ is text, unless it only closes those that came.
  void EndCalls();
  // What has been taken for a call is none.
  void GiveUp();

  absl::string_view rest() const { return absl::string_view(held_).substr(at_); }
  std::string Take(size_t bytes);
  // Whether rest() begins with `mark`; *maybe if it may once there is more.
  bool At(absl::string_view mark, bool* maybe) const;
  void AddText(absl::string_view text);
  void BeginCall(const std::string& name);
  void AddArguments(absl::string_view text);

  const ToolFormat* format_;
  Tools tools_;
  State state_ = State::kText;
  bool at_start_ = true;  // Of the answer.
  std::string held_;      // Not read yet, from at_ on.
  size_t at_ = 0;
  std::string raw_;  // Read, and text if no call comes of it.
  std::unique_ptr<JsonCall> json_;
  bool bare_ = false;  // json_ has the arguments alone from the text.
  std::unique_ptr<PythonCallEnd> python_;
  size_t searched_ = 0;     // Of rest(), for kMarkedEnd.
  bool open_ = false;       // The call of json_ has been told.
  bool arguments_ = false;  // And some of its arguments.
  int calls_ = 0;
  int calls_before_ = 0;  // Those between the marks before.
  std::vector<Piece> pieces_;
};

}  // namespace packrat

#endif  // PACKRAT_MODELS_TEXT_TOOL_CALLS_TOOL_CALL_READER_H_
