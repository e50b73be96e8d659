// packrat score: asks how likely given texts are.
#include <algorithm>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "server/client/commands.h"
#include "server/client/request_flags.h"
#include "server/standard_output.h"

namespace packrat {
namespace {

// The arguments after the first, and the lines of --candidates.
absl::StatusOr<std::vector<std::string>> Candidates(const std::vector<std::string>& arguments,
                                                    size_t first) {
  std::vector<std::string> candidates;
  for (size_t i = first; i < arguments.size(); ++i) candidates.push_back(arguments[i]);
  const std::string path = absl::GetFlag(FLAGS_candidates);
  if (!path.empty()) {
    std::ifstream file(path);
    for (std::string line; std::getline(file, line);) {
      std::string plain;
      candidates.push_back(absl::CUnescape(line, &plain) ? plain : line);
    }
    if (!file.eof() || candidates.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("--candidates: ", path, " cannot be read, or is empty"));
    }
  }
  for (const std::string& text : candidates) {
    absl::Status status = CheckUtf8("a candidate", text);
    if (!status.ok()) return status;
  }
  return candidates;
}

// A token as a table shows it: its text if there is a tokenizer, else its id.
std::string Shown(const std::string& piece, int32_t id) {
  return piece.empty() ? absl::StrCat(id) : absl::Utf8SafeCEscape(piece);
}

void PrintTokens(const v1::GenerateResponse& choice) {
  Print("   logprob  entropy   margin  token\n");
  for (const v1::TokenScore& score : choice.scores()) {
    std::string line = absl::StrFormat("%10.4f %8.4f %8.4f  %s", score.logprob(), score.entropy(),
                                       score.margin(), Shown(score.piece(), score.token_id()));
    for (const v1::TopLogprob& top : score.top()) {
      absl::StrAppend(
          &line, absl::StrFormat("  | %.4f %s", top.logprob(), Shown(top.piece(), top.token_id())));
    }
    Print(line + "\n");
  }
}

}  // namespace

int ScoreCommand(Connection* connection, const std::vector<std::string>& arguments) {
  const auto ids = TokenIdsFromFlags();
  if (!ids.ok()) return UsageError(std::string(ids.status().message()));
  v1::ScoreRequest request = ScoreFromFlags();
  auto chat = ChatFromFlags();
  if (!chat.ok()) return UsageError(std::string(chat.status().message()));
  const bool has_chat = chat->messages_size() > 0;
  if (has_chat && !ids->empty()) return UsageError("score takes --token_ids or --chat, not both");
  // The text that candidates follow is the session's, if there is one, the ids' or the chat's.
  const bool takes_text = ids->empty() && !has_chat && !request.has_session();
  if (has_chat) {
    *request.mutable_chat() = *std::move(chat);
  } else if (!ids->empty()) {
    request.mutable_tokens()->mutable_ids()->Assign(ids->begin(), ids->end());
  } else if (takes_text) {
    if (arguments.empty()) return UsageError("score takes a text, and what may follow it");
    const absl::Status status = CheckUtf8("the text", arguments[0]);
    if (!status.ok()) return UsageError(std::string(status.message()));
    request.set_text(arguments[0]);
  }
  const auto candidates = Candidates(arguments, takes_text ? 1 : 0);
  if (!candidates.ok()) return UsageError(std::string(candidates.status().message()));
  for (const std::string& text : *candidates) request.add_candidates()->set_text(text);

  std::vector<v1::GenerateResponse> choices(std::max<size_t>(1, candidates->size()));
  const auto outcome = connection->Score(request, [&](const v1::GenerateResponse& message) {
    Gather(message, &choices.at(message.choice()));
  });
  if (!outcome.status.ok()) return Report(*connection, outcome);
  if (absl::GetFlag(FLAGS_json)) {
    for (const v1::GenerateResponse& choice : choices) Print(ToJson(choice) + "\n");
    return kExitOk;
  }
  if (candidates->empty() || request.has_num_logprobs()) {
    for (const v1::GenerateResponse& choice : choices) PrintTokens(choice);
  }
  Print("   logprob  tokens  perplexity  greedy  text\n");
  for (size_t i = 0; i < choices.size(); ++i) {
    const v1::ScoreSum& sum = choices[i].finished().score();
    Print(absl::StrFormat(
        "%10.4f %7d %11.4f  %-6s  %s\n", sum.logprob(), sum.tokens(), sum.perplexity(),
        sum.greedy() ? "yes" : "no",
        absl::Utf8SafeCEscape(candidates->empty() ? request.text() : (*candidates)[i])));
  }
  return kExitOk;
}

}  // namespace packrat
