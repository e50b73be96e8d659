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
    kNamed,   // name{..}, or name[ARGS]{..}: the braces hold the arguments.
    kPython,  // name(argument=value, ..)
    kMarked,  // <function=name> <parameter=argument> value </parameter> </function>
  };
  const char* name;
  const char*
      begin;        // Before a call, or several. Empty: an answer that begins with a brace is one.
  const char* end;  // Behind them. Empty: the answer's end.
  Call call;
  // A forced call: what the prompt ends with then, and the member of the JSON object, with which
  // the answer begins, that has the arguments. Null: calls cannot be forced.
  const char* forced_begin;
  const char* arguments;
};

const std::vector<ToolFormat>& ToolFormats();
// Null if there is none of this name.
const ToolFormat* FindToolFormat(absl::string_view name);
// As the source of a chat template shows it; null if it shows none that is known.
const ToolFormat* ToolFormatOf(absl::string_view chat_template);

}  // namespace packrat

#endif  // PACKRAT_MODELS_TEXT_TOOL_CALLS_TOOL_FORMAT_H_
