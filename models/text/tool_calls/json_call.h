// Reads a call that is a JSON object, byte by byte as it is written.
#ifndef PACKRAT_MODELS_TEXT_TOOL_CALLS_JSON_CALL_H_
#define PACKRAT_MODELS_TEXT_TOOL_CALLS_JSON_CALL_H_

#include <optional>
#include <string>

namespace packrat {

// {"name": "..", "arguments": ..}, or "parameters"; other members are passed over. What the
// arguments say is not checked: they are the model's.
class JsonCall {
 public:
  enum class Progress { kGoesOn, kEnds, kBroken };
  // The first byte is the opening brace. kEnds: it was the closing one.
  Progress Feed(char c);

  const std::optional<std::string>& name() const { return name_; }
  // As JSON, what has come since it was asked last.
  std::string TakeArguments();
  bool has_arguments() const { return has_arguments_; }
  bool in_value() const { return depth_ > 1 || in_string_; }

 private:
  enum class Value { kNone, kName, kArguments, kOther };
  Progress FeedString(char c);
  Progress EndString();
  void EndValue();

  int depth_ = 0;
  bool in_string_ = false, escaped_ = false;
  bool after_colon_ = false;
  std::string token_;  // A string or scalar of the object itself, while it is read.
  std::string key_;
  Value value_ = Value::kNone;
  std::optional<std::string> name_;
  std::string arguments_;
  bool has_arguments_ = false;
};

}  // namespace packrat

#endif  // PACKRAT_MODELS_TEXT_TOOL_CALLS_JSON_CALL_H_
