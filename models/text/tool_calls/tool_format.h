// How models write calls of tools into their answers.
#ifndef PACKRAT_MODELS_TEXT_TOOL_CALLS_TOOL_FORMAT_H_
#define PACKRAT_MODELS_TEXT_TOOL_CALLS_TOOL_FORMAT_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace packrat {

struct ToolFormat {
  // What a call is, beside JSON, {"name": .., "arguments" or "parameters": {..}}, which is read in
  // every format.
  enum class Call {
    kJson,    // Nothing else.
    kNamed,   // name{..}, name[ARGS]{..}, name[CALL_ID]id[ARGS]{..}: the braces hold the arguments.
    kPython,  // name(argument=value, ..)
    kMarked,  // <function=name> <parameter=argument> value </parameter> </function>
  };
  const char* name;
  const char*
      begin;        // Before a call, or several. Empty: an answer that begins with a brace is one.
  const char* end;  // Behind them. Empty: the answer's end.
  Call call;
  const char* forced_begin;  // What the prompt ends with where the answer must be a call.
  const char* arguments;     // Of kJson: the member that has them then; else null.
};

const std::vector<ToolFormat>& ToolFormats();
// Null if there is none of this name.
const ToolFormat* FindToolFormat(absl::string_view name);
// As the source of a chat template shows it; null if it shows none that is known.
const ToolFormat* ToolFormatOf(absl::string_view chat_template);

}  // namespace packrat

#endif  // PACKRAT_MODELS_TEXT_TOOL_CALLS_TOOL_FORMAT_H_
