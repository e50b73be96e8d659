#include "models/text/jinja/native.h"

#include <algorithm>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "models/text/jinja/python_text.h"
#include "models/text/utf8.h"

namespace packrat::jinja {

Value Budget::Fail(absl::string_view why) {
  if (status_.ok()) status_ = absl::InvalidArgumentError(why);
  return Value();
}

void Budget::Raise(std::string message) {
  if (!ok()) return;
  constexpr size_t kLongest = 1000;
  if (message.size() > kLongest) {
    message.resize(kLongest);
    message.resize(FirstInvalidUtf8(message));
  }
  status_ = absl::InvalidArgumentError(message);
  raised_ = true;
}

bool Budget::Spend(size_t steps) {
  if (!ok()) return false;
  if (steps > work_) {
    Fail("it takes too many steps");
    return false;
  }
  work_ -= steps;
  return true;
}

Value Budget::Text(MarkedText text) {
  if (text.size() > max_bytes_) {
    return Fail(absl::StrCat("it makes a text of more than ", max_bytes_, " bytes"));
  }
  if (!Spend(1 + text.size() / 16)) return Value();
  return Value::String(std::move(text));
}

Value Budget::Items(List items, bool tuple) {
  if (!Spend(1 + items.size())) return Value();
  return Checked(Value::FromList(std::move(items), tuple));
}

Value Budget::Entries(Dict dict) {
  if (!Spend(1 + 4 * dict.entries.size())) return Value();
  return Checked(Value::FromDict(std::move(dict)));
}

Value Budget::Checked(Value made) {
  if (made.depth() > Value::kMaxDepth) {
    return Fail(absl::StrCat("its values are nested more than ", Value::kMaxDepth, " deep"));
  }
  if (made.weight() > kMaxWeight) return Fail("a list or dict is too large");
  return made;
}

Parameters::Parameters(const Arguments& arguments, std::initializer_list<const char*> names,
                       Budget* budget)
    : values_(names.size()), budget_(budget) {
  if (arguments.positional.size() > names.size()) {
    budget->Fail(absl::StrCat("takes at most ", names.size(), " arguments, and has ",
                              arguments.positional.size()));
    return;
  }
  std::copy(arguments.positional.begin(), arguments.positional.end(), values_.begin());
  for (const auto& [name, value] : arguments.named) {
    const auto* const found = std::find(names.begin(), names.end(), name);
    if (found == names.end()) {
      budget->Fail(absl::StrCat("takes no argument '", name, "'"));
      return;
    }
    values_[found - names.begin()] = value;
  }
}

const std::string& Parameters::TextAt(size_t i, const std::string& otherwise) const {
  if (!Has(i) || values_[i].IsNone()) return otherwise;
  if (values_[i].IsString()) return values_[i].text();
  budget_->Fail(absl::StrCat("an argument must be a string, not ", values_[i].Type()));
  return otherwise;
}

int64_t Parameters::IntAt(size_t i, int64_t otherwise) const {
  if (!Has(i) || values_[i].IsNone()) return otherwise;
  if (values_[i].IsInteger()) return values_[i].integer();
  budget_->Fail(absl::StrCat("an argument must be an integer, not ", values_[i].Type()));
  return otherwise;
}

bool Parameters::TruthAt(size_t i, bool otherwise) const {
  return Has(i) ? values_[i].Truth() : otherwise;
}

List ItemsOf(const Value& value, Budget* budget) {
  List items;
  if (value.IsList()) {
    if (budget->Spend(value.list().size())) items = value.list();
  } else if (value.IsDict()) {
    if (!budget->Spend(value.dict().entries.size())) return items;
    for (const auto& [key, ignored] : value.dict().entries) items.push_back(key);
  } else if (value.IsString()) {
    if (!budget->Spend(8 * value.string().size())) return items;
    const std::vector<size_t> starts = CharacterStarts(value.text());
    for (size_t i = 0; i + 1 < starts.size(); ++i) {
      items.push_back(Value::String(value.string().Part(starts[i], starts[i + 1] - starts[i])));
    }
  } else if (!value.IsUndefined()) {
    budget->Fail(absl::StrCat("'", value.Type(), "' object is not iterable"));
  }
  return items;
}

namespace {

Value NotThere(const Value& value, const MarkedText& name) {
  return Value::Undefined(
      absl::StrCat("'", value.Type(), " object' has no attribute '", name.text(), "'"));
}

Value LoopAttribute(const Loop& loop, absl::string_view name) {
  const auto at = static_cast<int64_t>(loop.at);
  const auto length = static_cast<int64_t>(loop.items->size());
  if (name == "index") return Value::Int(at + 1);
  if (name == "index0") return Value::Int(at);
  if (name == "revindex") return Value::Int(length - at);
  if (name == "revindex0") return Value::Int(length - at - 1);
  if (name == "first") return Value::Bool(at == 0);
  if (name == "last") return Value::Bool(at + 1 == length);
  if (name == "length") return Value::Int(length);
  // Only recursive loops, which are refused, are deeper.
  if (name == "depth") return Value::Int(1);
  if (name == "depth0") return Value::Int(0);
  if (name == "previtem") {
    return at > 0 ? (*loop.items)[at - 1] : Value::Undefined("there is no previous item");
  }
  if (name == "nextitem") {
    return at + 1 < length ? (*loop.items)[at + 1] : Value::Undefined("there is no next item");
  }
  return Value::Undefined(absl::StrCat("loop has no attribute '", name, "'"));
}

Value NamedValue(const Value& value, absl::string_view name) {
  const Value* found = nullptr;
  if (value.IsDict()) found = value.dict().Find(name);
  if (value.Is(Value::Kind::kNamespace)) {
    const auto place = value.names()->values.find(name);
    if (place != value.names()->values.end()) found = &place->second;
  }
  if (found != nullptr) return *found;
  return NotThere(value, {std::string(name), MarkedText::kOwn});
}

// The index that Python means by a possibly negative one; -1 if it is outside.
int64_t Place(int64_t index, size_t size) {
  const auto length = static_cast<int64_t>(size);
  if (index < 0) index += length;
  return index >= 0 && index < length ? index : -1;
}

}  // namespace

Value Attribute(const Value& value, absl::string_view name, Budget* budget) {
  if (value.IsUndefined()) return budget->Fail(value.undefined_what());
  if (value.Is(Value::Kind::kLoop) && name != "cycle") return LoopAttribute(value.loop(), name);
  if (const Native method = FindMethod(value, name)) {
    Function bound;
    bound.name = std::string(name);
    bound.native = method;
    bound.subject = value;
    return Value::FromFunction(std::move(bound));
  }
  return NamedValue(value, name);
}

Value Item(const Value& value, const Value& key, Budget* budget) {
  if (value.IsUndefined()) return budget->Fail(value.undefined_what());
  if (key.IsInteger() && value.IsList()) {
    const int64_t at = Place(key.integer(), value.list().size());
    if (at >= 0) return value.list()[at];
  } else if (key.IsInteger() && value.IsString()) {
    if (!budget->Spend(value.string().size() / 16)) return Value();
    const std::vector<size_t> starts = CharacterStarts(value.text());
    const int64_t at = Place(key.integer(), starts.size() - 1);
    if (at >= 0) return Value::String(value.string().Part(starts[at], starts[at + 1] - starts[at]));
  } else if (value.IsDict()) {
    const Value* found = value.dict().Find(key);
    if (found != nullptr) return *found;
  }
  if (key.IsString()) return Attribute(value, key.text(), budget);
  return NotThere(value, key.IsList() || key.IsDict() ? MarkedText() : Str(key));
}

Value AttributePath(const Value& value, const Value& path, Budget* budget) {
  if (path.IsInteger()) return Item(value, path, budget);
  if (!path.IsString()) return budget->Fail("an attribute must be a name or an index");
  Value found = value;
  for (absl::string_view name : absl::StrSplit(path.text(), '.')) {
    int64_t index = 0;
    found = absl::SimpleAtoi(name, &index) ? Item(found, Value::Int(index), budget)
                                           : Item(found, Value::Own(std::string(name)), budget);
  }
  return found;
}

bool Contains(const Value& container, const Value& item, Budget* budget) {
  if (container.IsString()) {
    if (!budget->Spend(container.string().size() / 16)) return false;
    if (item.IsString()) return container.text().find(item.text()) != std::string::npos;
    budget->Fail(absl::StrCat("'in <string>' requires a string, not ", item.Type()));
    return false;
  }
  if (container.IsDict()) return container.dict().Find(item) != nullptr;
  if (container.IsUndefined()) return false;
  if (!container.IsList()) {
    budget->Fail(absl::StrCat("argument of type '", container.Type(), "' is not iterable"));
    return false;
  }
  if (!budget->Spend(container.weight())) return false;
  return std::any_of(container.list().begin(), container.list().end(),
                     [&](const Value& each) { return Equal(each, item); });
}

}  // namespace packrat::jinja
