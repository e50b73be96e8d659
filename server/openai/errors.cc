// What OpenAI's clients are told of a status.
#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/cord.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "runtime/retry_after.h"
#include "server/openai/json.h"
#include "server/openai/openai.h"

namespace packrat::openai {
namespace {

struct ErrorKind {
  int http_status;
  const char* type;
  const char* code;  // Null: none.
};

// Clients of OpenAI try again after 408, 409, 429 and 500 and above: not where it would be in vain.
ErrorKind KindOf(absl::StatusCode code) {
  constexpr const char* kRequest = "invalid_request_error";
  constexpr const char* kServer = "server_error";
  switch (code) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kOutOfRange:
    case absl::StatusCode::kUnimplemented:
    case absl::StatusCode::kDataLoss:
      return {400, kRequest, nullptr};
    case absl::StatusCode::kUnauthenticated:
      return {401, kRequest, "invalid_api_key"};
    case absl::StatusCode::kPermissionDenied:
      return {403, kRequest, nullptr};
    case absl::StatusCode::kNotFound:
      return {404, kRequest, nullptr};
    case absl::StatusCode::kAborted:
    case absl::StatusCode::kAlreadyExists:
      return {409, kRequest, "conflict"};
    case absl::StatusCode::kResourceExhausted:
      return {429, "rate_limit_error", "rate_limit_exceeded"};
    case absl::StatusCode::kCancelled:
      return {499, kServer, "cancelled"};  // Nobody reads it.
    case absl::StatusCode::kUnavailable:
      return {503, kServer, "unavailable"};
    case absl::StatusCode::kDeadlineExceeded:
      return {504, kServer, "deadline_exceeded"};
    default:
      return {500, kServer, nullptr};
  }
}

bool InName(char c) {
  return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '.';
}

const std::string* NameFor(absl::string_view ours, const NameList& names) {
  const auto found = std::find_if(names.begin(), names.end(),
                                  [ours](const auto& pair) { return pair.first == ours; });
  return found == names.end() ? nullptr : &found->second;
}

// The message with the client's names, and the field of which it speaks: its first word, if that is
// one. Further on only names with a dot are ours: "text" may be a word.
std::pair<std::string, std::optional<std::string>> Renamed(absl::string_view message,
                                                           const NameList& names) {
  std::string text;
  std::optional<std::string> field;
  size_t at = std::min(message.find_first_of(" :"), message.size());
  // With its index, where that has a name of its own.
  if (const std::string* name = NameFor(message.substr(0, at), names); name != nullptr) {
    text = *name;
    field = *name;
  } else {
    at = 0;
  }
  while (at < message.size()) {
    const size_t begin = at;
    while (at < message.size() && InName(message[at])) ++at;
    const absl::string_view word = message.substr(begin, at - begin);
    const bool ours = begin == 0 || word.find('.') != word.npos;
    const std::string* name = ours && !word.empty() ? NameFor(word, names) : nullptr;
    absl::StrAppend(&text, name != nullptr ? *name : word);
    if (begin == 0 && name != nullptr) {
      const size_t end = std::min(message.find_first_of(" :", at), message.size());
      field = absl::StrCat(*name, message.substr(at, end - at));
    }
    if (at < message.size()) text += message[at++];
  }
  return {text, field};
}

// Clients know this one, and shorten their prompt: which one of no token, or of one that has
// nothing to score, cannot be.
bool IsTooLong(const absl::Status& status) {
  return absl::IsInvalidArgument(status) && absl::StrContains(status.message(), "(max_context ") &&
         !absl::StrContains(status.message(), " has 0 tokens") &&
         !absl::StrContains(status.message(), " has 1 tokens");
}

}  // namespace

absl::Status InNames(const NameList& names, const absl::Status& status) {
  if (status.ok() || names.empty() || ParamOf(status).has_value()) return status;
  const auto [message, param] = Renamed(status.message(), names);
  absl::Status named(status.code(), message);
  status.ForEachPayload(
      [&named](absl::string_view type, const absl::Cord& value) { named.SetPayload(type, value); });
  return param.has_value() ? WithParam(std::move(named), *param) : named;
}

ErrorAnswer MakeErrorAnswer(const absl::Status& status) {
  const ErrorKind kind = KindOf(status.code());
  const std::optional<std::string> param = ParamOf(status);
  const char* code = kind.code;
  if (IsTooLong(status)) code = "context_length_exceeded";
  if (absl::IsNotFound(status) && param == "model") code = "model_not_found";
  const OrderedJson error = {{"message", std::string(status.message())},
                             {"type", kind.type},
                             {"param", param.has_value() ? OrderedJson(*param) : OrderedJson()},
                             {"code", code != nullptr ? OrderedJson(code) : OrderedJson()}};
  ErrorAnswer answer;
  answer.http_status = kind.http_status;
  answer.body = Dump({{"error", error}});
  if (kind.http_status == 429 || kind.http_status == 503) answer.retry_after = RetryAfter(status);
  return answer;
}

}  // namespace packrat::openai
