// json.dumps() of Python.
#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "models/text/jinja/native.h"
#include "models/text/jinja/python_text.h"

namespace packrat::jinja {
namespace {

void AppendString(const MarkedText& text, bool ensure_ascii, MarkedText* out) {
  out->Append("\"", MarkedText::kForeign);
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    const int32_t c = NextCharacter(text.text(), &at);
    std::string escaped;
    switch (c) {
      case '"':
        escaped = "\\\"";
        break;
      case '\\':
        escaped = "\\\\";
        break;
      case '\n':
        escaped = "\\n";
        break;
      case '\r':
        escaped = "\\r";
        break;
      case '\t':
        escaped = "\\t";
        break;
      case '\b':
        escaped = "\\b";
        break;
      case '\f':
        escaped = "\\f";
        break;
      default:
        if (c < 0x20 || (ensure_ascii && c >= 0x7f && c < 0x10000)) {
          escaped = absl::StrFormat("\\u%04x", c);
        } else if (ensure_ascii && c >= 0x10000) {  // As UTF-16.
          escaped = absl::StrFormat("\\u%04x\\u%04x", 0xd800 + ((c - 0x10000) >> 10),
                                    0xdc00 + (c & 0x3ff));
        }
    }
    if (escaped.empty()) {
      out->Append(text, begin, at - begin);
    } else {
      out->AppendAs(escaped, text, begin);
    }
  }
  out->Append("\"", MarkedText::kForeign);
}

std::string NumberText(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "Infinity" : "-Infinity";
  return FloatText(value);
}

// Of what may be a key.
std::string ScalarText(const Value& value) {
  switch (value.kind()) {
    case Value::Kind::kNone:
      return "null";
    case Value::Kind::kBool:
      return value.boolean() ? "true" : "false";
    case Value::Kind::kInt:
      return absl::StrCat(value.integer());
    default:
      return NumberText(value.number());
  }
}

void AppendBreak(const JsonStyle& style, int level, MarkedText* out) {
  if (style.indent < 0) return;
  out->Append("\n" + std::string(static_cast<size_t>(style.indent) * level, ' '),
              MarkedText::kForeign);
}

}  // namespace

void AppendJson(const Value& value, const JsonStyle& style, MarkedText* out, Budget* budget,
                int level) {
  const auto plain = [out](absl::string_view text) { out->Append(text, MarkedText::kForeign); };
  const std::string comma = style.comma.value_or(style.indent >= 0 ? "," : ", ");
  bool first = true;
  const auto begin_item = [&] {
    if (!first) plain(comma);
    first = false;
    AppendBreak(style, level + 1, out);
    return budget->Spend(1 + out->size() / (1 << 16));
  };
  if (value.IsString()) {
    if (budget->Spend(value.string().size() / 16)) {
      AppendString(value.string(), style.ensure_ascii, out);
    }
  } else if (value.IsList()) {
    plain("[");
    for (const Value& item : value.list()) {
      if (!begin_item()) return;
      AppendJson(item, style, out, budget, level + 1);
    }
    if (!first) AppendBreak(style, level, out);
    plain("]");
  } else if (value.IsDict()) {
    std::vector<std::pair<Value, Value>> entries = value.dict().entries;
    if (style.sort_keys) {
      std::stable_sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) {
        return Str(a.first).text() < Str(b.first).text();
      });
    }
    plain("{");
    for (const auto& [key, item] : entries) {
      if (!begin_item()) return;
      AppendString(
          key.IsString() ? key.string() : MarkedText(ScalarText(key), MarkedText::kForeign),
          style.ensure_ascii, out);
      plain(style.colon);
      AppendJson(item, style, out, budget, level + 1);
    }
    if (!first) AppendBreak(style, level, out);
    plain("}");
  } else if (value.IsNone() || value.IsNumber()) {
    plain(ScalarText(value));
  } else {
    budget->Fail(absl::StrCat("Object of type ", value.Type(), " is not JSON serializable"));
  }
}

}  // namespace packrat::jinja
