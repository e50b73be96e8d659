#include "models/files/ordered_json.h"

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace packrat {

bool OrderedJsonBuilder::start_object(size_t size) {
  return StrictJsonSax::start_object(size) && Open(OrderedJson::object());
}

bool OrderedJsonBuilder::start_array(size_t size) {
  return StrictJsonSax::start_array(size) && Open(OrderedJson::array());
}

bool OrderedJsonBuilder::key(string_t& name) {
  if (!StrictJsonSax::key(name)) return false;
  key_ = name;
  return true;
}

bool OrderedJsonBuilder::end_object() {
  open_.pop_back();
  return StrictJsonSax::end_object();
}

bool OrderedJsonBuilder::end_array() {
  open_.pop_back();
  return StrictJsonSax::end_array();
}

bool OrderedJsonBuilder::Put(OrderedJson value) {
  Place(std::move(value));
  return true;
}

bool OrderedJsonBuilder::Open(OrderedJson value) {
  open_.push_back(Place(std::move(value)));
  return true;
}

OrderedJson* OrderedJsonBuilder::Place(OrderedJson value) {
  if (open_.empty()) {
    value_ = std::move(value);
    return &value_;
  }
  if (open_.back()->is_array()) {
    auto& items = open_.back()->get_ref<OrderedJson::array_t&>();
    items.push_back(std::move(value));
    return &items.back();
  }
  auto& members = open_.back()->get_ref<OrderedJson::object_t&>();
  members.emplace_back(std::move(key_), std::move(value));
  return &members.back().second;
}

absl::StatusOr<OrderedJson> ParseOrderedJson(absl::string_view text, const std::string& where,
                                             int max_depth) {
  const absl::Status no_nul = CheckNoNul(text.data(), text.size(), where);
  if (!no_nul.ok()) return no_nul;
  OrderedJsonBuilder builder(max_depth);
  if (Json::sax_parse(text.begin(), text.end(), &builder)) return std::move(builder.value());
  return absl::InvalidArgumentError(absl::StrCat(where, ": ", builder.error()));
}

std::string Shown(const OrderedJson& value) {
  if (value.is_object()) return "an object";
  if (value.is_array()) return value.empty() ? "an empty list" : "a list";
  if (value.is_string()) return Quoted(value.get<std::string>());
  return value.dump();
}

}  // namespace packrat
