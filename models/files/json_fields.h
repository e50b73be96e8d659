// Reads the fields of a JSON object with their ranges, for configuration files.
#ifndef PACKRAT_MODELS_FILES_JSON_FIELDS_H_
#define PACKRAT_MODELS_FILES_JSON_FIELDS_H_

#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <optional>
#include <string>
#include <unordered_set>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "models/files/json.h"

namespace packrat {

// Reads fields of one JSON object and keeps the first error. So a parser is a list of fields, and
// asks for the status once, at its end. A null counts as absent. After an error the values returned
// are within their ranges, but have no meaning. So of the errors that may follow from another one
// only the first is kept, and beside it every field that is refused for itself.
class JsonFields {
 public:
  // `object` outlives it.
  JsonFields(const Json& object, const std::string& prefix) : object_(object), prefix_(prefix) {
    if (!object.is_object()) Fail("", "must be an object");
  }

  const absl::Status& status() const { return status_; }
  // All errors, as far as they are sure; status() is the first of them.
  const std::vector<std::string>& problems() const { return problems_; }
  void Fail(const std::string& name, const std::string& why) {
    const std::string field = name.empty() ? prefix_ : Name(name);
    Check(absl::InvalidArgumentError(absl::StrCat(field.empty() ? "the file" : field, ": ", why)));
  }
  // Takes over the error of a part of the object.
  void Check(const absl::Status& part) {
    if (part.ok() || failed_) return;
    failed_ = true;
    Keep(part);
  }
  // The same of all its errors.
  void Check(const JsonFields& part) {
    for (const std::string& problem : part.problems_) Keep(absl::InvalidArgumentError(problem));
    failed_ |= part.failed_;
  }
  // After such an error a reader may stop before it has come to all fields.
  bool failed() const { return failed_; }
  std::string Name(const std::string& name) const {
    return prefix_.empty() ? name : absl::StrCat(prefix_, ".", name);
  }

  const Json* Get(const std::string& name) {
    const Json* value = Find(name);
    return value == nullptr || value->is_null() ? nullptr : value;
  }
  // The same, but a null counts as present.
  const Json* Find(const std::string& name) {
    known_.insert(name);
    if (!object_.is_object()) return nullptr;
    const auto found = object_.find(name);
    return found == object_.end() ? nullptr : &*found;
  }

  int Int(const std::string& name, int min, int max, std::optional<int> fallback = {}) {
    const Json* value = Get(name);
    if (value == nullptr) {
      if (!fallback) Fail(name, absl::StrCat("missing; ", Range(min, max)));
      return fallback.value_or(min);
    }
    int result;
    if (ToInt(*value, min, max, &result)) return result;
    Fail(name, absl::StrCat("is ", Shown(*value), "; ", Range(min, max)));
    return min;
  }

  double Number(const std::string& name, double min, double max, double fallback) {
    const Json* value = Get(name);
    if (value == nullptr) return fallback;
    const double number = value->is_number() ? value->get<double>() : std::nan("");
    if (number >= min && number <= max) return number;  // False for a NaN.
    Fail(name, absl::StrCat("is ", Shown(*value), "; must be a number from ", min, " to ", max));
    return fallback;
  }

  bool Bool(const std::string& name, bool fallback) {
    const Json* value = Get(name);
    if (value == nullptr) return fallback;
    if (value->is_boolean()) return value->get<bool>();
    Fail(name, absl::StrCat("is ", Shown(*value), "; must be true or false"));
    return fallback;
  }

  // Of a configuration that Python reads: true where it is not there, and null is false.
  bool TrueUnlessNull(const std::string& name) { return Bool(name, Find(name) == nullptr); }

  std::string String(const std::string& name, const std::string& fallback) {
    const Json* value = Get(name);
    if (value == nullptr) return fallback;
    if (value->is_string()) return value->get<std::string>();
    Fail(name, absl::StrCat("is ", Shown(*value), "; must be a string"));
    return fallback;
  }

  // A field of which only one value is supported. If the field is absent, it has this value.
  void Only(const std::string& name, const Json& value) {
    const Json* given = Get(name);
    if (given == nullptr || *given == value) return;
    Refuse(name, absl::StrCat("is ", Shown(*given), "; only ", Shown(value), " is served"));
  }

  // Fields that do not matter. They may hold anything.
  template <class Names>
  void Ignore(const Names& names) {
    for (const auto& name : names) known_.insert(name);
  }
  void Ignore(std::initializer_list<const char*> names) {
    for (const char* name : names) known_.insert(name);
  }

  // Whether a field was read or ignored.
  bool Knows(const std::string& name) const { return known_.count(name) > 0; }

  // Refuses fields that were neither read nor ignored. Such a field is misspelt, or changes what
  // the model computes in a way that is not supported.
  void RefuseOthers() {
    if (!object_.is_object() || failed_) return;  // A reader that failed may not have come to all.
    for (const auto& [name, value] : object_.items()) {
      if (value.is_null() || known_.count(name) > 0) continue;
      Refuse(Shortened(name),
             "is unknown here; remove it if the model computes the same without it");
    }
  }

  static bool ToInt(const Json& value, int min, int max, int* result) {
    double number = std::nan("");
    if (value.is_number_unsigned()) {
      const uint64_t n = value.get<uint64_t>();
      if (n <= static_cast<uint64_t>(std::numeric_limits<int>::max())) number = n;
    } else if (value.is_number()) {
      number = value.get<double>();  // "2048.0" is fine, 2048.5 is not.
    }
    if (!(number >= min && number <= max) || number != std::floor(number)) return false;
    *result = static_cast<int>(number);
    return true;
  }

  static std::string Range(int min, int max) {
    return absl::StrCat("must be an integer from ", min, " to ", max);
  }
  static std::string Shown(const Json& value) {
    if (value.is_object()) return value.empty() ? "an empty object" : "an object";
    if (value.is_array()) return value.empty() ? "an empty list" : "a list";
    if (value.is_string()) return Quoted(value.get<std::string>());
    return value.dump();
  }

 private:
  void Refuse(const std::string& name, const std::string& why) {
    Keep(absl::InvalidArgumentError(absl::StrCat(Name(name), ": ", why)));
  }
  void Keep(const absl::Status& problem) {
    if (status_.ok()) status_ = problem;
    if (problems_.size() < kMaxProblems) problems_.emplace_back(problem.message());
  }
  // A plain name as it is; anything else in quotes.
  static std::string Shortened(const std::string& name) {
    const std::string quoted = Quoted(name);
    return quoted.size() == name.size() + 2 ? name : quoted;
  }

  const Json& object_;
  std::string prefix_;
  std::unordered_set<std::string> known_;  // Read or ignored.
  static constexpr size_t kMaxProblems = 64;
  absl::Status status_;
  std::vector<std::string> problems_;
  bool failed_ = false;  // An error from which others may follow.
};

}  // namespace packrat

#endif  // PACKRAT_MODELS_FILES_JSON_FIELDS_H_
