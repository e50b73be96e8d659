#include "models/text/jinja/value.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "models/text/jinja/native.h"
#include "models/text/jinja/python_text.h"

namespace packrat::jinja {

struct Value::SharedList {
  List items;
  int depth;
  size_t weight;
  bool tuple;
};
struct Value::SharedDict {
  Dict dict;
  int depth;
  size_t weight;
};

Value Value::Undefined(std::string what) {
  return Value(
      Variant(std::in_place_index<0>, std::make_shared<const std::string>(std::move(what))));
}

Value Value::String(MarkedText text) {
  return Value(
      Variant(std::in_place_index<5>, std::make_shared<const MarkedText>(std::move(text))));
}

Value Value::FromList(List items, bool tuple) {
  int depth = 1;
  size_t weight = 1;
  for (const Value& item : items) {
    depth = std::max(depth, item.depth() + 1);
    weight += item.weight();
  }
  return Value(Variant(std::in_place_index<6>, std::make_shared<const SharedList>(SharedList{
                                                   std::move(items), depth, weight, tuple})));
}

Value Value::FromDict(Dict dict) {
  int depth = 1;
  size_t weight = 1;
  for (const auto& [key, value] : dict.entries) {
    depth = std::max(depth, value.depth() + 1);
    weight += key.weight() + value.weight();
  }
  return Value(Variant(std::in_place_index<7>, std::make_shared<const SharedDict>(
                                                   SharedDict{std::move(dict), depth, weight})));
}

Value Value::FromNamespace(Namespace* names) {
  return Value(Variant(std::in_place_index<8>, names));
}

Value Value::FromLoop(std::shared_ptr<const Loop> loop) {
  return Value(Variant(std::in_place_index<9>, std::move(loop)));
}

Value Value::FromFunction(Function function) {
  return Value(
      Variant(std::in_place_index<10>, std::make_shared<const Function>(std::move(function))));
}

const std::string& Value::undefined_what() const {
  static const std::string nothing = "the value is undefined";
  const auto& what = std::get<0>(data_);
  return what == nullptr ? nothing : *what;
}

bool Value::tuple() const { return std::get<6>(data_)->tuple; }
const List& Value::list() const { return std::get<6>(data_)->items; }
const Dict& Value::dict() const { return std::get<7>(data_)->dict; }

int Value::depth() const {
  if (IsList()) return std::get<6>(data_)->depth;
  if (IsDict()) return std::get<7>(data_)->depth;
  if (Is(Kind::kFunction)) return function().subject.depth() + 1;
  if (Is(Kind::kLoop)) return loop().depth;
  return 0;
}

size_t Value::weight() const {
  if (IsString()) return 1 + string().size() / 16;
  if (IsList()) return std::get<6>(data_)->weight;
  if (IsDict()) return std::get<7>(data_)->weight;
  if (Is(Kind::kFunction)) return function().subject.weight() + 1;
  if (Is(Kind::kLoop)) return loop().weight;
  return 1;
}

bool Value::Truth() const {
  switch (kind()) {
    case Kind::kUndefined:
    case Kind::kNone:
      return false;
    case Kind::kBool:
    case Kind::kInt:
      return integer() != 0;
    case Kind::kFloat:
      return number() != 0;
    case Kind::kString:
      return !string().empty();
    case Kind::kList:
      return !list().empty();
    case Kind::kDict:
      return !dict().entries.empty();
    case Kind::kNamespace:
    case Kind::kLoop:
    case Kind::kFunction:
      break;
  }
  return true;
}

const char* Value::Type() const {
  constexpr const char* kNames[] = {"Undefined", "NoneType",    "bool",    "int",
                                    "float",     "str",         "list",    "dict",
                                    "Namespace", "LoopContext", "function"};
  return kNames[data_.index()];
}

namespace {

// Equal keys have equal texts, and others have not. Empty: not a key.
std::string KeyOf(const Value& key) {
  if (key.IsString()) return absl::StrCat("s", key.text());
  if (key.IsNone()) return "n";
  if (key.IsInteger()) return absl::StrCat("i", key.integer());
  if (!key.Is(Value::Kind::kFloat)) return "";
  const double number = key.number();
  const bool whole = number >= -9e15 && number <= 9e15 &&
                     number == static_cast<double>(static_cast<int64_t>(number));
  return whole ? absl::StrCat("i", static_cast<int64_t>(number)) : "f" + FloatText(number);
}

void AppendReprOfText(const MarkedText& text, MarkedText* out) {
  const std::string& bytes = text.text();
  const bool has_single = bytes.find('\'') != bytes.npos;
  const char quote = has_single && bytes.find('"') == bytes.npos ? '"' : '\'';
  out->Append(std::string(1, quote), MarkedText::kForeign);
  for (size_t at = 0; at < bytes.size();) {
    const size_t begin = at;
    const int32_t c = NextCharacter(bytes, &at);
    if (c == '\n' || c == '\r' || c == '\t') {
      out->AppendAs(c == '\n' ? "\\n" : c == '\r' ? "\\r" : "\\t", text, begin);
    } else if (c == '\\' || c == quote) {
      out->AppendAs(std::string{'\\', static_cast<char>(c)}, text, begin);
    } else if (IsPrintable(c)) {
      out->Append(text, begin, at - begin);
    } else {
      out->AppendAs(c < 0x100     ? absl::StrFormat("\\x%02x", c)
                    : c < 0x10000 ? absl::StrFormat("\\u%04x", c)
                                  : absl::StrFormat("\\U%08x", c),
                    text, begin);
    }
  }
  out->Append(std::string(1, quote), MarkedText::kForeign);
}

// What str() and repr() have in common.
std::string PlainText(const Value& value) {
  switch (value.kind()) {
    case Value::Kind::kNone:
      return "None";
    case Value::Kind::kBool:
      return value.boolean() ? "True" : "False";
    case Value::Kind::kInt:
      return absl::StrCat(value.integer());
    case Value::Kind::kFloat:
      return FloatText(value.number());
    case Value::Kind::kNamespace:
      return "<Namespace>";
    case Value::Kind::kLoop:
      return absl::StrCat("<LoopContext ", value.loop().at + 1, "/", value.loop().items->size(),
                          ">");
    case Value::Kind::kFunction:
      return absl::StrCat("<function ", value.function().name, ">");
    default:
      return "";
  }
}

}  // namespace

const Value* Dict::Find(absl::string_view name) const {
  const auto found = places.find(absl::StrCat("s", name));
  return found == places.end() ? nullptr : &entries[found->second].second;
}

const Value* Dict::Find(const Value& key) const {
  const auto found = places.find(KeyOf(key));
  return found == places.end() ? nullptr : &entries[found->second].second;
}

bool Dict::Set(const Value& key, Value value) {
  const std::string text = KeyOf(key);
  if (text.empty()) return false;
  const auto [place, added] = places.emplace(text, entries.size());
  if (added) {
    entries.emplace_back(key, std::move(value));
  } else {
    entries[place->second].second = std::move(value);
  }
  return true;
}

MarkedText Str(const Value& value) {
  if (value.IsString()) return value.string();
  if (value.IsList() || value.IsDict()) {
    MarkedText text;
    AppendRepr(value, &text);
    return text;
  }
  return {PlainText(value), MarkedText::kOwn};
}

void AppendRepr(const Value& value, MarkedText* out) {
  const auto plain = [out](absl::string_view text) { out->Append(text, MarkedText::kForeign); };
  const char* separator = "";
  if (value.IsString()) {
    AppendReprOfText(value.string(), out);
  } else if (value.IsList()) {
    plain(value.tuple() ? "(" : "[");
    for (const Value& item : value.list()) {
      plain(separator);
      AppendRepr(item, out);
      separator = ", ";
    }
    plain(!value.tuple() ? "]" : value.list().size() == 1 ? ",)" : ")");
  } else if (value.IsDict()) {
    plain("{");
    for (const auto& [key, item] : value.dict().entries) {
      plain(separator);
      AppendRepr(key, out);
      plain(": ");
      AppendRepr(item, out);
      separator = ", ";
    }
    plain("}");
  } else {
    plain(value.IsUndefined() ? "Undefined" : PlainText(value));
  }
}

bool Equal(const Value& a, const Value& b) {
  if (a.IsNumber() && b.IsNumber()) {
    if (a.IsInteger() && b.IsInteger()) return a.integer() == b.integer();
    return a.number() == b.number();
  }
  if (a.kind() != b.kind()) return false;
  switch (a.kind()) {
    case Value::Kind::kString:
      return a.text() == b.text();
    case Value::Kind::kList:
      if (a.tuple() != b.tuple()) return false;
      return std::equal(a.list().begin(), a.list().end(), b.list().begin(), b.list().end(), Equal);
    case Value::Kind::kDict: {
      if (a.dict().entries.size() != b.dict().entries.size()) return false;
      for (const auto& [key, value] : a.dict().entries) {
        const Value* other = b.dict().Find(key);
        if (other == nullptr || !Equal(value, *other)) return false;
      }
      return true;
    }
    case Value::Kind::kNamespace:
      return a.names() == b.names();
    case Value::Kind::kLoop:
      return &a.loop() == &b.loop();
    case Value::Kind::kFunction:
      return &a.function() == &b.function();
    default:  // Undefined or none.
      return true;
  }
}

bool Compare(const Value& a, const Value& b, int* order) {
  if (a.IsNumber() && b.IsNumber()) {
    if (a.IsInteger() && b.IsInteger()) {
      *order = a.integer() < b.integer() ? -1 : a.integer() > b.integer();
    } else {
      *order = a.number() < b.number() ? -1 : a.number() > b.number();
    }
    return true;
  }
  if (a.IsString() && b.IsString()) {
    const int compared = a.text().compare(b.text());  // In UTF-8 bytes sort as characters do.
    *order = compared < 0 ? -1 : compared > 0;
    return true;
  }
  if (!a.IsList() || !b.IsList()) return false;
  const size_t common = std::min(a.list().size(), b.list().size());
  for (size_t i = 0; i < common; ++i) {
    if (Equal(a.list()[i], b.list()[i])) continue;
    return Compare(a.list()[i], b.list()[i], order);
  }
  *order = a.list().size() < b.list().size() ? -1 : a.list().size() > b.list().size();
  return true;
}

}  // namespace packrat::jinja
