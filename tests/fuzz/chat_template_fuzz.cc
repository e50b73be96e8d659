// Any bytes as a chat template, and behind a line "---" as a value: refused with a message, or
// rendered within bounds, and what came from the value is never taken for the template's own.
#include <cstddef>
#include <cstdint>
#include <string>

#include "kernels/check.h"
#include "models/files/json.h"
#include "models/text/jinja/native.h"
#include "models/text/jinja/template.h"
#include "models/text/utf8.h"

namespace packrat {
namespace {

using jinja::Dict;
using jinja::List;
using jinja::Value;

// A character that no template makes by itself, unless it writes an escape.
constexpr char kForeign[] = "\xee\x80\x80";  // U+E000

Value FromJson(const Json& json) {
  if (json.is_boolean()) return Value::Bool(json.get<bool>());
  if (json.is_number_integer()) return Value::Int(json.get<int64_t>());
  if (json.is_number()) return Value::Float(json.get<double>());
  if (json.is_string()) return Value::String(json.get<std::string>(), MarkedText::kForeign);
  if (json.is_array()) {
    List list;
    for (const Json& item : json) list.push_back(FromJson(item));
    return Value::FromList(list);
  }
  if (!json.is_object()) return Value::None();
  Dict dict;
  for (const auto& [name, item] : json.items()) {
    dict.Set(Value::String(name, MarkedText::kForeign), FromJson(item));
  }
  return Value::FromDict(dict);
}

Value Messages() {
  List messages;
  for (const char* role : {"system", "user", "assistant"}) {
    Dict message;
    message.Set(Value::Own("role"), Value::Own(role));
    message.Set(Value::Own("content"),
                Value::String(std::string(" ") + kForeign + "a\n", MarkedText::kForeign));
    messages.push_back(Value::FromDict(message));
  }
  return Value::FromList(messages);
}

void Check(const std::string& source, const std::string& json) {
  const auto parsed = jinja::Template::Parse(source);
  if (!parsed.ok()) {
    PACKRAT_CHECK(!parsed.status().message().empty() && parsed.status().message().size() < 512);
    return;
  }
  const auto value = ParseJson(json.data(), json.size(), "value");
  jinja::Template::Limits limits;
  limits.max_bytes = 1 << 16;
  limits.work = 1 << 18;
  const auto text = parsed->Render({{"messages", Messages()},
                                    {"value", value.ok() ? FromJson(*value) : Value()},
                                    {"bos_token", Value::Own("<s>")},
                                    {"add_generation_prompt", Value::Bool(true)}},
                                   limits);
  if (!text.ok()) {
    PACKRAT_CHECK(text.status().message().size() < (1 << 17));
    return;
  }
  PACKRAT_CHECK(text->marks().size() == text->size());
  PACKRAT_CHECK(text->size() <= limits.max_bytes);
  PACKRAT_CHECK(FirstInvalidUtf8(text->text()) == text->size());
  if (source.find(kForeign) != source.npos || source.find('\\') != source.npos) return;
  for (size_t at = 0; (at = text->text().find(kForeign, at)) != std::string::npos; ++at) {
    PACKRAT_CHECK(text->marks()[at] == MarkedText::kForeign);
  }
}

}  // namespace
}  // namespace packrat

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string input(reinterpret_cast<const char*>(data), size);
  const size_t cut = input.find("\n---\n");
  const std::string json = cut == input.npos ? "" : input.substr(cut + 5);
  packrat::Check(input.substr(0, cut), json);
  return 0;
}
