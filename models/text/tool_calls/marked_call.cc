#include "absl/strings/match.h"
#include "absl/strings/strip.h"
#include "models/text/tool_calls/written_call.h"

namespace packrat {
namespace {

using OrderedJson = nlohmann::ordered_json;

// What stands before `mark`, which goes too. False if it does not come.
bool TakeTo(absl::string_view mark, absl::string_view* text, absl::string_view* before) {
  const size_t at = text->find(mark);
  if (at == absl::string_view::npos) return false;
  *before = text->substr(0, at);
  text->remove_prefix(at + mark.size());
  return true;
}

}  // namespace

std::optional<WrittenCall> ReadMarkedCall(absl::string_view text,
                                          const ToolCallReader::Tools& tools) {
  WrittenCall call;
  absl::string_view before, name, value;
  if (!absl::ConsumePrefix(&text, kMarkedBegin) || !TakeTo(">", &text, &name)) return std::nullopt;
  call.name = std::string(name);
  const auto tool = tools.find(call.name);
  if (tool == tools.end()) return std::nullopt;
  while (TakeTo("<parameter=", &text, &before)) {
    if (!TakeTo(">", &text, &name) || !TakeTo("</parameter>", &text, &value)) return std::nullopt;
    // A line of its own is how it is written, and not a part of it.
    absl::ConsumePrefix(&value, "\n");
    absl::ConsumeSuffix(&value, "\n");
    const std::string argument(name);
    OrderedJson json = OrderedJson::parse(value, nullptr, /*allow_exceptions=*/false);
    const auto known = tool->second.find(argument);
    const bool is_text =
        json.is_discarded() || (known != tool->second.end() && !(known->second && json.is_null()));
    call.arguments[argument] = is_text ? OrderedJson(std::string(value)) : std::move(json);
  }
  return call;
}

}  // namespace packrat
