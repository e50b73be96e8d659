// Reads JSON whose members keep their order, in time and memory in proportion to the text. The
// library's own parser of this type looks for each key among all before it, which takes hours for a
// million keys.
#ifndef PACKRAT_MODELS_FILES_ORDERED_JSON_H_
#define PACKRAT_MODELS_FILES_ORDERED_JSON_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "models/files/json.h"
#include "nlohmann/json.hpp"

namespace packrat {

using OrderedJson = nlohmann::ordered_json;

// Builds the value while it checks: the base class has found that a key is new.
class OrderedJsonBuilder : public StrictJsonSax {
 public:
  using StrictJsonSax::StrictJsonSax;

  bool null() override { return Put(nullptr); }
  bool boolean(bool value) override { return Put(value); }
  bool number_integer(number_integer_t value) override { return Put(value); }
  bool number_unsigned(number_unsigned_t value) override { return Put(value); }
  bool number_float(number_float_t value, const string_t&) override { return Put(value); }
  bool string(string_t& value) override { return Put(std::move(value)); }
  bool start_object(size_t size) override;
  bool key(string_t& name) override;
  bool end_object() override;
  bool start_array(size_t size) override;
  bool end_array() override;

  OrderedJson& value() { return value_; }

 private:
  bool Put(OrderedJson value);
  bool Open(OrderedJson value);
  OrderedJson* Place(OrderedJson value);

  OrderedJson value_;
  // Only the last of them grows, so the others stay where they are.
  std::vector<OrderedJson*> open_;
  std::string key_;
};

// As strict as ParseJson(), and refuses numbers that a double cannot hold.
absl::StatusOr<OrderedJson> ParseOrderedJson(absl::string_view text, const std::string& where,
                                             int max_depth = kMaxJsonDepth);

// For a message: "true", "\"abc\"", "a list".
std::string Shown(const OrderedJson& value);

}  // namespace packrat

#endif  // PACKRAT_MODELS_FILES_ORDERED_JSON_H_
