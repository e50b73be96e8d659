// Methods of strings, lists, dicts and `loop`, and the functions that every template has.
#include <algorithm>
#include <ctime>
#include <iterator>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "models/text/jinja/native.h"
#include "models/text/jinja/python_text.h"

namespace packrat::jinja {
namespace {

using Method = std::pair<absl::string_view, Native>;

const std::string& Nothing() {
  static const std::string nothing;
  return nothing;
}

Value Strings(std::vector<MarkedText> parts, Budget* budget) {
  List list;
  size_t bytes = 0;
  for (MarkedText& part : parts) {
    bytes += part.size();
    list.push_back(Value::String(std::move(part)));
  }
  if (!budget->Spend(bytes / 16 + 2 * list.size())) return Value();
  return budget->Items(std::move(list));
}

// --- Strings. ---

template <bool left, bool right>
Value StripText(const Value& self, const Arguments& arguments, Budget* budget) {
  const Parameters p(arguments, {"chars"}, budget);
  const bool some = p.Has(0) && !p[0].IsNone();
  const std::string& characters = p.TextAt(0, Nothing());
  return budget->Text(Strip(self.string(), some ? &characters : nullptr, left, right));
}

template <bool from_right>
Value SplitText(const Value& self, const Arguments& arguments, Budget* budget) {
  const Parameters p(arguments, {"sep", "maxsplit"}, budget);
  const std::string& separator = p.TextAt(0, Nothing());
  const int64_t most = p.IntAt(1, -1);
  const bool by_space = !p.Has(0) || p[0].IsNone();
  if (!by_space && separator.empty()) return budget->Fail("empty separator");
  // A part is an object of some size.
  if (!budget->Spend(self.string().size())) return Value();
  if (from_right && !by_space) {
    return Strings(SplitFromRight(self.string(), separator, most), budget);
  }
  if (from_right && most >= 0) return budget->Fail("rsplit() needs a separator here");
  return Strings(Split(self.string(), by_space ? nullptr : &separator, most), budget);
}

Value SplitTextLines(const Value& self, const Arguments& arguments, Budget* budget) {
  const Parameters p(arguments, {"keepends"}, budget);
  if (!budget->Spend(self.string().size())) return Value();
  return Strings(SplitLines(self.string(), p.TruthAt(0, false)), budget);
}

// Whether the string has one of the affixes that the argument is or lists.
template <bool (*Has)(absl::string_view, absl::string_view) noexcept>
Value HasAffix(const Value& self, const Arguments& arguments, Budget* budget) {
  const Parameters p(arguments, {"prefix"}, budget);
  const List affixes = p[0].IsList() ? p[0].list() : List{p[0]};
  bool found = false;
  for (const Value& affix : affixes) {
    if (!affix.IsString()) return budget->Fail("an affix must be a string");
    found = found || Has(self.text(), affix.text());
  }
  return Value::Bool(found);
}

template <bool at_start>
Value RemoveAffix(const Value& self, const Arguments& arguments, Budget* budget) {
  const Parameters p(arguments, {"affix"}, budget);
  const std::string& affix = p.TextAt(0, Nothing());
  const MarkedText& text = self.string();
  if (at_start && absl::StartsWith(text.text(), affix)) {
    return budget->Text(text.Part(affix.size(), text.size() - affix.size()));
  }
  if (!at_start && absl::EndsWith(text.text(), affix)) {
    return budget->Text(text.Part(0, text.size() - affix.size()));
  }
  return self;
}

Value ReplaceText(const Value& self, const Arguments& arguments, Budget* budget) {
  const Parameters p(arguments, {"old", "new", "count"}, budget);
  if (!p[0].IsString() || !p[1].IsString()) return budget->Fail("replace() wants two strings");
  const MarkedText& to = p[1].string();
  const std::string& from = p[0].text();
  // What it can grow to at most is paid before it is made.
  const size_t most = self.string().size() / std::max<size_t>(1, from.size()) + 1;
  if (to.size() > from.size() && !budget->Spend(most * (to.size() / 16))) return Value();
  return budget->Text(Replace(self.string(), from, to, p.IntAt(2, -1)));
}

template <Case to>
Value ChangeTextCase(const Value& self, const Arguments& arguments, Budget* budget) {
  const Parameters none(arguments, {}, budget);
  return budget->Text(ChangeCase(self.string(), to));
}

// `way`: 0 find, 1 rfind, 2 index.
template <int way>
Value FindText(const Value& self, const Arguments& arguments, Budget* budget) {
  const Parameters p(arguments, {"sub", "start"}, budget);
  const std::string& part = p.TextAt(0, Nothing());
  const std::vector<size_t> starts = CharacterStarts(self.text());
  if (!budget->Spend(self.string().size() / 4)) return Value();
  const auto characters = static_cast<int64_t>(starts.size()) - 1;
  int64_t from = p.IntAt(1, 0);
  if (from < 0) from = std::max<int64_t>(0, from + characters);
  size_t at = std::string::npos;
  if (from <= characters) {
    at = way == 1 ? self.text().rfind(part) : self.text().find(part, starts[from]);
    if (way == 1 && at != std::string::npos && at < starts[from]) at = std::string::npos;
  }
  if (at == std::string::npos) {
    return way == 2 ? budget->Fail("substring not found") : Value::Int(-1);
  }
  return Value::Int(std::lower_bound(starts.begin(), starts.end(), at) - starts.begin());
}

Value CountInText(const Value& self, const Arguments& arguments, Budget* budget) {
  const Parameters p(arguments, {"sub"}, budget);
  const std::string& part = p.TextAt(0, Nothing());
  if (!budget->Spend(self.string().size() / 4)) return Value();
  if (part.empty()) return Value::Int(static_cast<int64_t>(CountCharacters(self.text())) + 1);
  int64_t count = 0;
  for (size_t at = 0; (at = self.text().find(part, at)) != std::string::npos; at += part.size()) {
    ++count;
  }
  return Value::Int(count);
}

Value JoinTexts(const Value& self, const Arguments& arguments, Budget* budget) {
  const Parameters p(arguments, {"iterable"}, budget);
  MarkedText joined;
  bool first = true;
  for (const Value& item : ItemsOf(p[0], budget)) {
    if (!item.IsString()) return budget->Fail("join() wants strings");
    if (!budget->Spend(1 + (self.string().size() + item.string().size()) / 16)) return Value();
    if (!first) joined.Append(self.string());
    joined.Append(item.string());
    first = false;
  }
  return budget->Text(std::move(joined));
}

template <bool (*Holds)(int32_t)>
Value AllCharacters(const Value& self, const Arguments&, Budget*) {
  for (size_t at = 0; at < self.text().size();) {
    if (!Holds(NextCharacter(self.text(), &at))) return Value::Bool(false);
  }
  return Value::Bool(!self.text().empty());
}

bool IsDigit(int32_t c) { return c >= '0' && c <= '9'; }
bool IsLetterOrDigit(int32_t c) { return IsLetter(c) || IsDigit(c); }

// {} and {0} and {name}, without conversions and formats.
Value FormatText(const Value& self, const Arguments& arguments, Budget* budget) {
  const std::string& form = self.text();
  MarkedText out;
  size_t next = 0;
  for (size_t at = 0; at < form.size();) {
    if (!budget->Spend(1)) return Value();
    if (form[at] != '{' && form[at] != '}') {
      const size_t end = std::min(form.find_first_of("{}", at), form.size());
      out.Append(self.string(), at, end - at);
      at = end;
      continue;
    }
    if (at + 1 < form.size() && form[at + 1] == form[at]) {
      out.Append(self.string(), at, 1);
      at += 2;
      continue;
    }
    const size_t end = form.find('}', at);
    if (form[at] == '}' || end == form.npos) return budget->Fail("format() wants pairs of { and }");
    const std::string field = form.substr(at + 1, end - at - 1);
    const Value* value = nullptr;
    size_t index = field.empty() ? next++ : 0;
    if ((field.empty() || absl::SimpleAtoi(field, &index)) && index < arguments.positional.size()) {
      value = &arguments.positional[index];
    }
    for (const auto& [name, named] : arguments.named) {
      if (name == field) value = &named;
    }
    if (value == nullptr) return budget->Fail(absl::StrCat("format() has no '", field, "'"));
    const MarkedText shown = Shown(*value, budget);
    if (!budget->Spend(shown.size() / 16)) return Value();
    out.Append(shown);
    at = end + 1;
  }
  return budget->Text(std::move(out));
}

constexpr Method kOfStrings[] = {
    {"capitalize", ChangeTextCase<Case::kCapitalize>},
    {"count", CountInText},
    {"endswith", HasAffix<absl::EndsWith>},
    {"find", FindText<0>},
    {"format", FormatText},
    {"index", FindText<2>},
    {"isalnum", AllCharacters<IsLetterOrDigit>},
    {"isalpha", AllCharacters<IsLetter>},
    {"isdigit", AllCharacters<IsDigit>},
    {"isspace", AllCharacters<IsSpace>},
    {"join", JoinTexts},
    {"lower", ChangeTextCase<Case::kLower>},
    {"lstrip", StripText<true, false>},
    {"removeprefix", RemoveAffix<true>},
    {"removesuffix", RemoveAffix<false>},
    {"replace", ReplaceText},
    {"rfind", FindText<1>},
    {"rsplit", SplitText<true>},
    {"rstrip", StripText<false, true>},
    {"split", SplitText<false>},
    {"splitlines", SplitTextLines},
    {"startswith", HasAffix<absl::StartsWith>},
    {"strip", StripText<true, true>},
    {"title", ChangeTextCase<Case::kTitle>},
    {"upper", ChangeTextCase<Case::kUpper>},
};

// --- Lists. ---

Value IndexInList(const Value& self, const Arguments& arguments, Budget* budget) {
  const Parameters p(arguments, {"value"}, budget);
  if (!budget->Spend(self.weight())) return Value();
  const auto found = std::find_if(self.list().begin(), self.list().end(),
                                  [&](const Value& item) { return Equal(item, p[0]); });
  if (found == self.list().end()) return budget->Fail("the value is not in the list");
  return Value::Int(found - self.list().begin());
}

Value CountInList(const Value& self, const Arguments& arguments, Budget* budget) {
  const Parameters p(arguments, {"value"}, budget);
  if (!budget->Spend(self.weight())) return Value();
  return Value::Int(std::count_if(self.list().begin(), self.list().end(),
                                  [&](const Value& item) { return Equal(item, p[0]); }));
}

Value Itself(const Value& self, const Arguments& arguments, Budget* budget) {
  const Parameters none(arguments, {}, budget);
  return self;
}

// As in the sandbox of transformers: values do not change.
Value Refuse(const Value& self, const Arguments&, Budget* budget) {
  return budget->Fail(absl::StrCat("a ", self.Type(), " cannot be changed"));
}

constexpr Method kOfLists[] = {
    {"append", Refuse}, {"clear", Refuse},      {"copy", Itself},   {"count", CountInList},
    {"extend", Refuse}, {"index", IndexInList}, {"insert", Refuse}, {"pop", Refuse},
    {"remove", Refuse}, {"reverse", Refuse},    {"sort", Refuse},
};

// --- Dicts. ---

// `what`: 0 keys, 1 values, 2 pairs.
template <int what>
Value PartsOfDict(const Value& self, const Arguments& arguments, Budget* budget) {
  const Parameters none(arguments, {}, budget);
  List parts;
  if (!budget->Spend(4 * self.dict().entries.size())) return Value();
  for (const auto& [key, value] : self.dict().entries) {
    parts.push_back(what == 0   ? key
                    : what == 1 ? value
                                : Value::FromList({key, value}, /*tuple=*/true));
  }
  return budget->Items(std::move(parts));
}

Value GetFromDict(const Value& self, const Arguments& arguments, Budget* budget) {
  const Parameters p(arguments, {"key", "default"}, budget);
  const Value* found = self.dict().Find(p[0]);
  if (found != nullptr) return *found;
  return p.Has(1) ? p[1] : Value::None();
}

constexpr Method kOfDicts[] = {
    {"clear", Refuse},          {"copy", Itself},         {"get", GetFromDict},
    {"items", PartsOfDict<2>},  {"keys", PartsOfDict<0>}, {"pop", Refuse},
    {"popitem", Refuse},        {"setdefault", Refuse},   {"update", Refuse},
    {"values", PartsOfDict<1>},
};

Value CycleInLoop(const Value& self, const Arguments& arguments, Budget* budget) {
  if (arguments.positional.empty()) return budget->Fail("cycle() wants values");
  return arguments.positional[self.loop().at % arguments.positional.size()];
}

constexpr Method kOfLoops[] = {{"cycle", CycleInLoop}};

// --- Functions. ---

// As in the sandbox of Jinja.
constexpr int64_t kMaxRange = 100000;

Value Range(const Value&, const Arguments& arguments, Budget* budget) {
  const Parameters p(arguments, {"start", "stop", "step"}, budget);
  int64_t begin = p.IntAt(0, 0), end = p.IntAt(1, 0);
  const int64_t step = p.IntAt(2, 1);
  if (!p.Has(0) || step == 0) return budget->Fail("range() wants an end, and no step of 0");
  if (!p.Has(1)) {
    end = begin;
    begin = 0;
  }
  List numbers;
  // Differences of such numbers do not overflow.
  constexpr int64_t kLargest = int64_t{1} << 60;
  if (std::max({std::abs(begin / 2), std::abs(end / 2), std::abs(step / 2)}) > kLargest / 2) {
    return budget->Fail("a number in range() is too large");
  }
  for (int64_t at = begin; step > 0 ? at < end : at > end; at += step) {
    if (numbers.size() == kMaxRange) {
      return budget->Fail(absl::StrCat("range() has more than ", kMaxRange, " numbers"));
    }
    numbers.push_back(Value::Int(at));
  }
  return budget->Items(std::move(numbers));
}

Value MakeDict(const Value&, const Arguments& arguments, Budget* budget) {
  Dict dict;
  if (!arguments.positional.empty()) {
    if (arguments.positional.size() > 1 || !arguments.positional[0].IsDict()) {
      return budget->Fail("dict() takes one dict, and names");
    }
    dict = arguments.positional[0].dict();
  }
  for (const auto& [name, value] : arguments.named) dict.Set(Value::Own(name), value);
  return budget->Entries(std::move(dict));
}

Value RaiseException(const Value&, const Arguments& arguments, Budget* budget) {
  const Parameters p(arguments, {"message"}, budget);
  budget->Raise(Shown(p[0], budget).text());
  return Value();
}

Value FormatNow(const Value&, const Arguments& arguments, Budget* budget) {
  const Parameters p(arguments, {"format"}, budget);
  const std::string& format = p.TextAt(0, Nothing());
  const std::time_t seconds = absl::ToTimeT(budget->now());
  std::tm local = {};
  localtime_r(&seconds, &local);
  char text[512] = "";
  const size_t size = std::strftime(text, sizeof text, format.c_str(), &local);
  if (size == 0 && !format.empty()) return budget->Fail("strftime_now() makes too long a text");
  return Value::Own(std::string(text, size));
}

constexpr Method kGlobals[] = {
    {"dict", MakeDict},
    {"raise_exception", RaiseException},
    {"range", Range},
    {"strftime_now", FormatNow},
};

template <size_t size>
Native Find(const Method (&methods)[size], absl::string_view name) {
  const auto* const found =
      std::find_if(std::begin(methods), std::end(methods),
                   [name](const Method& method) { return method.first == name; });
  return found == std::end(methods) ? nullptr : found->second;
}

}  // namespace

Native FindMethod(const Value& value, absl::string_view name) {
  if (value.IsString()) return Find(kOfStrings, name);
  if (value.IsList()) return Find(kOfLists, name);
  if (value.IsDict()) return Find(kOfDicts, name);
  return value.Is(Value::Kind::kLoop) ? Find(kOfLoops, name) : nullptr;
}

Native FindGlobal(absl::string_view name) { return Find(kGlobals, name); }

}  // namespace packrat::jinja
