// The values of a template: those of Python that chat templates use.
#ifndef PACKRAT_MODELS_TEXT_JINJA_VALUE_H_
#define PACKRAT_MODELS_TEXT_JINJA_VALUE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "models/text/marked_text.h"

namespace packrat::jinja {

class Value;
struct Dict;
struct Function;
struct Loop;
struct Namespace;
using List = std::vector<Value>;

// A value does not change, but for namespaces, which the interpreter owns. Copies share what they
// hold. A tuple is a list that is printed in another way.
class Value {
 public:
  enum class Kind {
    kUndefined,
    kNone,
    kBool,
    kInt,
    kFloat,
    kString,
    kList,
    kDict,
    kNamespace,
    kLoop,
    kFunction
  };
  // Nothing that is deeper is made: what walks through values needs little stack.
  static constexpr int kMaxDepth = 64;

  Value() = default;  // Undefined.
  // `what`: why, for messages: "'tools' is undefined".
  static Value Undefined(std::string what);
  static Value None() { return Value(Variant(std::in_place_index<1>)); }
  static Value Bool(bool value) { return Value(Variant(std::in_place_index<2>, value)); }
  static Value Int(int64_t value) { return Value(Variant(std::in_place_index<3>, value)); }
  static Value Float(double value) { return Value(Variant(std::in_place_index<4>, value)); }
  static Value String(MarkedText text);
  static Value String(std::string text, MarkedText::Origin origin) {
    return String(MarkedText(std::move(text), origin));
  }
  static Value Own(std::string text) { return String(std::move(text), MarkedText::kOwn); }
  static Value FromList(List items, bool tuple = false);
  static Value FromDict(Dict dict);
  static Value FromNamespace(Namespace* names);
  static Value FromLoop(std::shared_ptr<const Loop> loop);
  static Value FromFunction(Function function);

  Kind kind() const { return static_cast<Kind>(data_.index()); }
  bool Is(Kind kind) const { return this->kind() == kind; }
  bool IsUndefined() const { return Is(Kind::kUndefined); }
  bool IsNone() const { return Is(Kind::kNone); }
  bool IsString() const { return Is(Kind::kString); }
  bool IsList() const { return Is(Kind::kList); }
  bool IsDict() const { return Is(Kind::kDict); }
  // As Python's numbers, a boolean is one.
  bool IsNumber() const { return Is(Kind::kInt) || Is(Kind::kFloat) || Is(Kind::kBool); }
  bool IsInteger() const { return Is(Kind::kInt) || Is(Kind::kBool); }

  // Only for a value of the kind.
  const std::string& undefined_what() const;
  bool boolean() const { return std::get<2>(data_); }
  int64_t integer() const { return Is(Kind::kBool) ? boolean() : std::get<3>(data_); }
  double number() const {
    return Is(Kind::kFloat) ? std::get<4>(data_) : static_cast<double>(integer());
  }
  const MarkedText& string() const { return *std::get<5>(data_); }
  const std::string& text() const { return string().text(); }
  const List& list() const;
  bool tuple() const;
  const Dict& dict() const;
  Namespace* names() const { return std::get<8>(data_); }
  const Loop& loop() const { return *std::get<9>(data_); }
  const Function& function() const { return *std::get<10>(data_); }

  bool Truth() const;
  int depth() const;         // 0 for what holds no other values.
  size_t weight() const;     // What walking through all of it costs, in steps of a Budget.
  const char* Type() const;  // As Python names it.

 private:
  struct SharedList;
  struct SharedDict;
  using Variant =
      std::variant<std::shared_ptr<const std::string>, std::monostate, bool, int64_t, double,
                   std::shared_ptr<const MarkedText>, std::shared_ptr<const SharedList>,
                   std::shared_ptr<const SharedDict>, Namespace*, std::shared_ptr<const Loop>,
                   std::shared_ptr<const Function>>;
  explicit Value(Variant data) : data_(std::move(data)) {}
  Variant data_;
};

// In the order in which keys came. Keys are strings, numbers, booleans or none.
struct Dict {
  std::vector<std::pair<Value, Value>> entries;
  absl::flat_hash_map<std::string, size_t> places;  // By KeyOf().

  // Null if there is none.
  const Value* Find(absl::string_view name) const;
  const Value* Find(const Value& key) const;
  // Replaces the value that the key has. False if the value cannot be a key.
  bool Set(const Value& key, Value value);
};

struct Namespace {
  absl::flat_hash_map<std::string, Value> values;
};

// `loop` in the body of a for.
struct Loop {
  std::shared_ptr<const List> items;
  size_t at = 0;
  int depth = 1;      // Of the values, as Value::depth().
  size_t weight = 1;  // As Value::weight().
};

// --- What Python does with any value. ---

// str(value). Of numbers and the like it is the template's own text, and of lists and dicts the
// client's, but for strings in them.
MarkedText Str(const Value& value);
// repr(value), appended.
void AppendRepr(const Value& value, MarkedText* out);
bool Equal(const Value& a, const Value& b);
// -1, 0 or 1 in *order. False if they cannot be compared.
bool Compare(const Value& a, const Value& b, int* order);

}  // namespace packrat::jinja

#endif  // PACKRAT_MODELS_TEXT_JINJA_VALUE_H_
