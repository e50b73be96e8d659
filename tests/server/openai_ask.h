// Requests to OpenAI's endpoints as calls of ours in text, or as what the client reads of a
// refusal.
#ifndef PACKRAT_TESTS_SERVER_OPENAI_ASK_H_
#define PACKRAT_TESTS_SERVER_OPENAI_ASK_H_

#include <google/protobuf/text_format.h>

#include <string>
#include <variant>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "server/openai/openai.h"

namespace packrat::openai {

inline Context ContextOf() {
  Context context;
  context.model = "rat";
  return context;
}

inline absl::StatusOr<Ask> Parse(Endpoint endpoint, const std::string& body) {
  return ParseAsk(endpoint, body, ContextOf());
}
inline absl::StatusOr<Ask> Complete(const std::string& body) {
  return Parse(Endpoint::kCompletions, body);
}
inline absl::StatusOr<Ask> Chat(const std::string& body) { return Parse(Endpoint::kChat, body); }
inline absl::StatusOr<Ask> Respond(const std::string& body) {
  return Parse(Endpoint::kResponses, body);
}

// The calls, one after the other, as text.
inline std::string Calls(const absl::StatusOr<Ask>& ask) {
  if (!ask.ok()) return absl::StrCat("refused: ", ask.status().message());
  std::string text;
  google::protobuf::TextFormat::Printer printer;
  printer.SetSingleLineMode(true);
  for (const auto& call : ask->calls) {
    std::string one;
    std::visit([&](const auto& wire) { printer.PrintToString(wire, &one); }, call);
    text += std::holds_alternative<v1::ScoreRequest>(call) ? "score " + one : one;
  }
  while (!text.empty() && text.back() == ' ') text.pop_back();
  return text;
}

// "FIELD: MESSAGE" of the refusal that a client reads.
inline std::string Refusal(const absl::StatusOr<Ask>& ask) {
  if (ask.ok()) return "accepted: " + Calls(ask);
  const ErrorAnswer answer = MakeErrorAnswer(ask.status());
  const auto error = nlohmann::json::parse(answer.body).at("error");
  const auto& param = error.at("param");
  return absl::StrCat(answer.http_status, " ", param.is_null() ? "-" : param.get<std::string>(),
                      ": ", error.at("message").get<std::string>());
}

}  // namespace packrat::openai

#endif  // PACKRAT_TESTS_SERVER_OPENAI_ASK_H_
