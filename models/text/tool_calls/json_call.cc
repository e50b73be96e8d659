#include "models/text/tool_calls/json_call.h"

#include <utility>

#include "absl/strings/ascii.h"
#include "nlohmann/json.hpp"

namespace packrat {

JsonCall::Progress JsonCall::Feed(char c) {
  if (in_string_) return FeedString(c);
  if (depth_ == 0) {
    if (c != '{') return Progress::kBroken;
    depth_ = 1;
    return Progress::kGoesOn;
  }
  const bool opens = c == '{' || c == '[';
  const bool closes = c == '}' || c == ']';
  if (depth_ > 1) {  // Inside of a member's value.
    if (value_ == Value::kArguments) arguments_ += c;
    if (c == '"') in_string_ = true;
    depth_ += opens ? 1 : closes ? -1 : 0;
    return Progress::kGoesOn;
  }
  if (absl::ascii_isspace(static_cast<unsigned char>(c))) return Progress::kGoesOn;
  if (c == '"') {
    in_string_ = true;
    token_ = c;
    return Progress::kGoesOn;
  }
  if (c == ':') {
    if (after_colon_ || key_.empty()) return Progress::kBroken;
    after_colon_ = true;
    value_ = Value::kOther;
    if (key_ == "name" && !name_.has_value()) value_ = Value::kName;
    if ((key_ == "arguments" || key_ == "parameters") && !has_arguments_) {
      value_ = Value::kArguments;
    }
    return Progress::kGoesOn;
  }
  if (c == ',' || c == '}') {
    EndValue();
    return c == '}' ? Progress::kEnds : Progress::kGoesOn;
  }
  if (!after_colon_ || closes) return Progress::kBroken;
  if (opens) {
    if (value_ == Value::kArguments) {
      arguments_ += c;
      has_arguments_ = true;
    }
    depth_ = 2;
  } else {
    token_ += c;
  }
  return Progress::kGoesOn;
}

JsonCall::Progress JsonCall::FeedString(char c) {
  if (depth_ == 1) {
    token_ += c;
  } else if (value_ == Value::kArguments) {
    arguments_ += c;
  }
  if (escaped_) {
    escaped_ = false;
  } else if (c == '\\') {
    escaped_ = true;
  } else if (c == '"') {
    in_string_ = false;
    if (depth_ == 1) return EndString();
  }
  return Progress::kGoesOn;
}

JsonCall::Progress JsonCall::EndString() {
  const auto json = nlohmann::json::parse(std::exchange(token_, ""), nullptr, false);
  if (!json.is_string()) return Progress::kBroken;
  if (!after_colon_) {
    key_ = json.get<std::string>();
  } else if (value_ == Value::kName) {
    name_ = json.get<std::string>();
  } else if (value_ == Value::kArguments) {
    arguments_ = json.get<std::string>();
    has_arguments_ = true;
  }
  return Progress::kGoesOn;
}

void JsonCall::EndValue() {
  const std::string scalar = std::exchange(token_, "");
  if (value_ == Value::kArguments && !has_arguments_ && scalar != "null") {
    arguments_ = scalar;
    has_arguments_ = true;
  }
  value_ = Value::kNone;
  after_colon_ = false;
  key_.clear();
}

std::string JsonCall::TakeArguments() { return std::exchange(arguments_, ""); }

}  // namespace packrat
