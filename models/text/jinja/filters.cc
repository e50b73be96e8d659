// Filters of single values. Those of sequences are in sequence_filters.cc.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <limits>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "models/text/jinja/native.h"
#include "models/text/jinja/python_text.h"
#include "models/text/jinja/sequence_filters.h"

namespace packrat::jinja {
namespace {

const std::string& Nothing() {
  static const std::string nothing;
  return nothing;
}

Value Trim(const Value& subject, const Arguments& arguments, Budget* budget) {
  const Parameters p(arguments, {"chars"}, budget);
  const bool some = p.Has(0) && !p[0].IsNone();
  const std::string& characters = p.TextAt(0, Nothing());
  return budget->Text(Strip(Shown(subject, budget), some ? &characters : nullptr, true, true));
}

template <Case to>
Value InCase(const Value& subject, const Arguments& arguments, Budget* budget) {
  const Parameters none(arguments, {}, budget);
  return budget->Text(ChangeCase(Shown(subject, budget), to));
}

// Jinja's own title case: words begin behind white space, hyphens and opening brackets only.
Value Title(const Value& subject, const Arguments& arguments, Budget* budget) {
  const Parameters none(arguments, {}, budget);
  const MarkedText text = Shown(subject, budget);
  MarkedText out;
  for (size_t begin = 0; begin < text.size();) {
    size_t next = begin, end = begin;
    bool in_word = false;
    while (next < text.size()) {
      end = next;
      const int32_t c = NextCharacter(text.text(), &next);
      const bool breaks = IsSpace(c) || c == '-' || c == '(' || c == '{' || c == '[' || c == '<';
      if (breaks && in_word) break;
      in_word = in_word || !breaks;
      end = next;
      if (breaks) break;
    }
    size_t second = begin;
    NextCharacter(text.text(), &second);
    out.Append(ChangeCase(text.Part(begin, second - begin), Case::kUpper));
    out.Append(ChangeCase(text.Part(second, end - second), Case::kLower));
    begin = end;
  }
  return budget->Text(std::move(out));
}

Value ReplaceIn(const Value& subject, const Arguments& arguments, Budget* budget) {
  const Value text = budget->Text(Shown(subject, budget));
  if (!budget->ok()) return Value();
  const Parameters p(arguments, {"old", "new", "count"}, budget);
  Arguments texts{{budget->Text(Shown(p[0], budget)), budget->Text(Shown(p[1], budget))}, {}};
  if (p.Has(2)) texts.positional.push_back(p[2]);
  return budget->ok() ? FindMethod(text, "replace")(text, texts, budget) : Value();
}

Value Text(const Value& subject, const Arguments& arguments, Budget* budget) {
  const Parameters none(arguments, {}, budget);
  return subject.IsString() ? subject : budget->Text(Shown(subject, budget));
}

Value Default(const Value& subject, const Arguments& arguments, Budget* budget) {
  const Parameters p(arguments, {"default_value", "boolean"}, budget);
  const bool keep = p.TruthAt(1, false) ? subject.Truth() : !subject.IsUndefined();
  if (keep) return subject;
  return p.Has(0) ? p[0] : Value::Own("");
}

Value ToInt(const Value& subject, const Arguments& arguments, Budget* budget) {
  const Parameters p(arguments, {"default", "base"}, budget);
  if (subject.IsInteger()) return Value::Int(subject.integer());
  double number = std::nan("");
  if (subject.IsString()) {
    int64_t integer = 0;
    const int64_t base = p.Has(1) ? p.IntAt(1, 10) : 10;
    if (base == 16 && absl::SimpleHexAtoi(subject.text(), &integer)) return Value::Int(integer);
    if (base != 10 && base != 16) return budget->Fail("int's base must be 10 or 16");
    if (absl::SimpleAtoi(subject.text(), &integer)) return Value::Int(integer);
    if (!absl::SimpleAtod(subject.text(), &number)) number = std::nan("");
  } else if (subject.Is(Value::Kind::kFloat)) {
    number = subject.number();
  }
  if (std::abs(number) < 9.2e18) return Value::Int(static_cast<int64_t>(number));
  return p.Has(0) ? p[0] : Value::Int(0);
}

Value ToFloat(const Value& subject, const Arguments& arguments, Budget* budget) {
  const Parameters p(arguments, {"default"}, budget);
  if (subject.IsNumber()) return Value::Float(subject.number());
  double number = 0;
  if (subject.IsString() && absl::SimpleAtod(subject.text(), &number)) return Value::Float(number);
  return p.Has(0) ? p[0] : Value::Float(0);
}

Value Absolute(const Value& subject, const Arguments& arguments, Budget* budget) {
  const Parameters none(arguments, {}, budget);
  if (subject.Is(Value::Kind::kFloat)) return Value::Float(std::abs(subject.number()));
  if (!subject.IsInteger() || subject.integer() == std::numeric_limits<int64_t>::min()) {
    return budget->Fail(absl::StrCat("abs wants a number, not ", subject.Type()));
  }
  return Value::Int(std::abs(subject.integer()));
}

Value Round(const Value& subject, const Arguments& arguments, Budget* budget) {
  const Parameters p(arguments, {"precision", "method"}, budget);
  static const std::string common = "common";
  const std::string& method = p.TextAt(1, common);
  const int64_t precision = p.IntAt(0, 0);
  if (!subject.IsNumber()) {
    return budget->Fail(absl::StrCat("round wants a number, not ", subject.Type()));
  }
  if (precision < 0 || precision > 15) return budget->Fail("round wants a precision from 0 to 15");
  if (method == "common") {
    if (subject.IsInteger()) return Value::Int(subject.integer());
    char text[400];  // The largest double has 309 digits.
    std::snprintf(text, sizeof text, "%.*f", static_cast<int>(precision), subject.number());
    return Value::Float(std::strtod(text, nullptr));
  }
  const double scale = std::pow(10, precision);
  if (method == "ceil") return Value::Float(std::ceil(subject.number() * scale) / scale);
  if (method == "floor") return Value::Float(std::floor(subject.number() * scale) / scale);
  return budget->Fail("round's method must be common, ceil or floor");
}

Value ToJson(const Value& subject, const Arguments& arguments, Budget* budget) {
  const Parameters p(arguments, {"ensure_ascii", "indent", "separators", "sort_keys"}, budget);
  JsonStyle style;
  style.ensure_ascii = p.TruthAt(0, false);
  if (p.Has(1) && !p[1].IsNone()) {
    style.indent = static_cast<int>(std::clamp<int64_t>(p.IntAt(1, 0), 0, 16));
  }
  if (p.Has(2) && !p[2].IsNone()) {
    if (!p[2].IsList() || p[2].list().size() != 2 || !p[2].list()[0].IsString() ||
        !p[2].list()[1].IsString()) {
      return budget->Fail("tojson's separators must be two strings");
    }
    style.comma = p[2].list()[0].text();
    style.colon = p[2].list()[1].text();
  }
  style.sort_keys = p.TruthAt(3, false);
  MarkedText text;
  AppendJson(subject, style, &text, budget);
  return budget->Text(std::move(text));
}

Value Indent(const Value& subject, const Arguments& arguments, Budget* budget) {
  const Parameters p(arguments, {"width", "first", "blank"}, budget);
  std::string by;
  if (p[0].IsString()) {
    by = p[0].text();
  } else {
    by.assign(std::clamp<int64_t>(p.IntAt(0, 4), 0, 256), ' ');
  }
  MarkedText text = Shown(subject, budget);
  text.Append("\n", MarkedText::kOwn);  // As Jinja does, so that a last line break counts.
  const std::vector<MarkedText> lines = SplitLines(text, false);
  if (!budget->Spend(text.size() / 16 + lines.size() * (1 + by.size() / 16))) return Value();
  MarkedText out;
  for (size_t i = 0; i < lines.size(); ++i) {
    if (i > 0) out.Append("\n", MarkedText::kOwn);
    const bool indented = i == 0 ? p.TruthAt(1, false) : p.TruthAt(2, false) || !lines[i].empty();
    if (indented) out.Append(by, MarkedText::kOwn);
    out.Append(lines[i]);
  }
  return budget->Text(std::move(out));
}

Value WordCount(const Value& subject, const Arguments& arguments, Budget* budget) {
  const Parameters none(arguments, {}, budget);
  const std::string text = Shown(subject, budget).text();
  if (!budget->Spend(text.size())) return Value();
  int64_t words = 0;
  bool within = false;
  for (size_t at = 0; at < text.size();) {
    const int32_t c = NextCharacter(text, &at);
    const bool word = IsLetter(c) || (c >= '0' && c <= '9') || c == '_';
    words += word && !within;
    within = word;
  }
  return Value::Int(words);
}

Value NamedAttribute(const Value& subject, const Arguments& arguments, Budget* budget) {
  const Parameters p(arguments, {"name"}, budget);
  return Attribute(subject, p.TextAt(0, Nothing()), budget);
}

constexpr std::pair<absl::string_view, Native> kFilters[] = {
    {"abs", Absolute},
    {"attr", NamedAttribute},
    {"capitalize", InCase<Case::kCapitalize>},
    {"d", Default},
    {"default", Default},
    {"float", ToFloat},
    {"indent", Indent},
    {"int", ToInt},
    {"lower", InCase<Case::kLower>},
    {"replace", ReplaceIn},
    {"round", Round},
    {"safe", Text},
    {"string", Text},
    {"title", Title},
    {"tojson", ToJson},
    {"trim", Trim},
    {"upper", InCase<Case::kUpper>},
    {"wordcount", WordCount},
};

}  // namespace

Native FindFilter(absl::string_view name) {
  const auto* const found =
      std::find_if(std::begin(kFilters), std::end(kFilters),
                   [name](const auto& filter) { return filter.first == name; });
  return found == std::end(kFilters) ? FindSequenceFilter(name) : found->second;
}

}  // namespace packrat::jinja
