// Filters, tests, methods and functions of templates: all of them have one form.
#ifndef PACKRAT_MODELS_TEXT_JINJA_NATIVE_H_
#define PACKRAT_MODELS_TEXT_JINJA_NATIVE_H_

#include <cstddef>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "models/text/jinja/value.h"

namespace packrat::jinja {

// What a rendering may still do, and its first error. After an error all results are undefined
// values without meaning.
class Budget {
 public:
  Budget(size_t work, size_t max_bytes, absl::Time now)
      : work_(work), max_bytes_(max_bytes), now_(now) {}

  bool ok() const { return status_.ok(); }
  const absl::Status& status() const { return status_; }
  absl::Time now() const { return now_; }
  // Keeps the first error. Returns an undefined value.
  Value Fail(absl::string_view why);
  // What the template itself says against its input.
  void Raise(std::string message);
  bool raised() const { return raised_; }
  // A step is about 50 ns or 16 bytes. False, and an error, if there are not so many left.
  bool Spend(size_t steps);

  // Values whose size depends on the input: each is paid for, and has a limit.
  Value Text(MarkedText text);
  static constexpr size_t kMaxWeight = 1 << 20;  // Of a list or dict: 16 MiB of text.
  Value Items(List items, bool tuple = false);
  Value Entries(Dict dict);

 private:
  Value Checked(Value made);

  size_t work_;
  const size_t max_bytes_;
  const absl::Time now_;
  absl::Status status_;
  bool raised_ = false;
};

// Str(value), paid for. Empty after an error.
inline MarkedText Shown(const Value& value, Budget* budget) {
  return budget->Spend(value.weight()) ? Str(value) : MarkedText();
}

struct Arguments {
  List positional;
  std::vector<std::pair<std::string, Value>> named;
};

// `subject`: what stands before the | of a filter, the `is` of a test, or the dot of a method.
using Native = Value (*)(const Value& subject, const Arguments& arguments, Budget* budget);

struct Macro;
struct Scope;

struct Function {
  std::string name;
  Native native = nullptr;  // Null: a macro.
  Value subject;
  const Macro* macro = nullptr;
  std::weak_ptr<Scope> scope;  // In which the macro was written.
};

// Null if there is none of that name.
Native FindFilter(absl::string_view name);
Native FindTest(absl::string_view name);
Native FindGlobal(absl::string_view name);
// A method of the value's kind.
Native FindMethod(const Value& value, absl::string_view name);

// Arguments by position or name.
class Parameters {
 public:
  // Fails if there are more than `names`, or others.
  Parameters(const Arguments& arguments, std::initializer_list<const char*> names, Budget* budget);
  bool Has(size_t i) const { return !values_[i].IsUndefined(); }
  const Value& operator[](size_t i) const { return values_[i]; }
  const std::string& TextAt(size_t i, const std::string& otherwise) const;
  int64_t IntAt(size_t i, int64_t otherwise) const;
  bool TruthAt(size_t i, bool otherwise) const;

 private:
  List values_;
  Budget* const budget_;
};

// All items of something that a `for` can walk through: a list, the characters of a string, the
// keys of a dict. Nothing for an undefined value. Fails for others.
List ItemsOf(const Value& value, Budget* budget);
// value.name and value[key]. Undefined if there is none; fails on an undefined value.
Value Attribute(const Value& value, absl::string_view name, Budget* budget);
Value Item(const Value& value, const Value& key, Budget* budget);
// An attribute's path as filters write it: "function.name".
Value AttributePath(const Value& value, const Value& path, Budget* budget);
bool Contains(const Value& container, const Value& item, Budget* budget);
// json.dumps(value, ensure_ascii=False, ...), appended. `indent` -1: on one line.
struct JsonStyle {
  int indent = -1;
  std::optional<std::string> comma;  // Unset: ", ", or "," where the line ends behind it.
  std::string colon = ": ";
  bool sort_keys = false, ensure_ascii = false;
};
void AppendJson(const Value& value, const JsonStyle& style, MarkedText* out, Budget* budget,
                int level = 0);

}  // namespace packrat::jinja

#endif  // PACKRAT_MODELS_TEXT_JINJA_NATIVE_H_
