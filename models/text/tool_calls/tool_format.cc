#include "models/text/tool_calls/tool_format.h"

#include "absl/strings/match.h"

namespace packrat {

const std::vector<ToolFormat>& ToolFormats() {
  using Call = ToolFormat::Call;
  static const std::vector<ToolFormat>& formats = *new std::vector<ToolFormat>{
      {"hermes", "<tool_call>", "</tool_call>", Call::kJson, "<tool_call>\n", "arguments"},
      {"qwen_xml", "<tool_call>", "</tool_call>", Call::kMarked, "<tool_call>\n", nullptr},
      {"llama", "", "", Call::kJson, "", "parameters"},
      {"mistral", "[TOOL_CALLS]", "", Call::kJson, "[TOOL_CALLS][", "arguments"},
      {"mistral_args", "[TOOL_CALLS]", "", Call::kNamed, "[TOOL_CALLS]", nullptr},
      {"granite", "<|tool_call|>", "", Call::kJson, "<|tool_call|>[", "arguments"},
      {"nemotron", "<TOOLCALL>", "</TOOLCALL>", Call::kJson, "<TOOLCALL>[", "arguments"},
      {"lfm2", "<|tool_call_start|>", "<|tool_call_end|>", Call::kPython, "<|tool_call_start|>[",
       nullptr},
      {"olmo", "<function_calls>", "</function_calls>", Call::kPython, "<function_calls>", nullptr},
  };
  return formats;
}

const ToolFormat* FindToolFormat(absl::string_view name) {
  for (const ToolFormat& format : ToolFormats()) {
    if (name == format.name) return &format;
  }
  return nullptr;
}

const ToolFormat* ToolFormatOf(absl::string_view chat_template) {
  // The first line all of whose texts are in the template. A template that lets the model write its
  // calls itself shows them nowhere, and is known by how it shows tools.
  static constexpr struct {
    const char* format;
    const char* texts[2];
  } kSigns[] = {
      {"lfm2", {"<|tool_call_start|>", ""}},
      {"lfm2", {"<|tool_list_start|>", ""}},
      {"lfm2", {"List of tools: [", "<|im_start|>"}},
      {"mistral_args", {"[TOOL_CALLS]", "[ARGS]"}},
      {"mistral", {"[TOOL_CALLS]", ""}},
      {"granite", {"<|tool_call|>", ""}},
      {"nemotron", {"<TOOLCALL>", ""}},
      {"olmo", {"<function_calls>", ""}},
      {"qwen_xml", {"<tool_call>", "<function="}},
      {"hermes", {"<tool_call>", ""}},
      {"llama", {"{\"name\": function name, \"parameters\": ", ""}},
  };
  for (const auto& [format, texts] : kSigns) {
    if (absl::StrContains(chat_template, texts[0]) && absl::StrContains(chat_template, texts[1])) {
      return FindToolFormat(format);
    }
  }
  return nullptr;
}

}  // namespace packrat
