#include "server/client/commands.h"

#include <google/protobuf/util/json_util.h>
#include <unistd.h>

#include <cstdio>
#include <iostream>
#include <iterator>
#include <map>
#include <string>

#include "absl/flags/flag.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "nlohmann/json.hpp"
#include "server/client/request_flags.h"
#include "server/client/terminal_text.h"
#include "server/standard_output.h"

namespace packrat {
namespace {

// The arguments as one text; standard input if there are none, or "-".
absl::StatusOr<std::string> TextArgument(const std::vector<std::string>& arguments) {
  std::string text;
  if (arguments.empty() || (arguments.size() == 1 && arguments[0] == "-")) {
    text.assign(std::istreambuf_iterator<char>(std::cin), {});
    const absl::Status read = CheckStandardInput();
    if (!read.ok()) return read;
    // An editor or `echo` adds a line break at the end, which is not part of the text.
    if (!text.empty() && text.back() == '\n') text.pop_back();
  } else {
    text = absl::StrJoin(arguments, " ");
  }
  const absl::Status status = CheckUtf8("the text", text);
  if (!status.ok()) return status;
  return text;
}

bool EchoWanted(bool* wanted) {
  const std::string echo = absl::GetFlag(FLAGS_echo);
  *wanted = echo == "yes" || (echo == "auto" && isatty(STDOUT_FILENO));
  return echo == "yes" || echo == "no" || echo == "auto";
}

// Several continuations are written one after the other once all are complete.
int CompleteChoices(Connection* connection, const v1::GenerateRequest& request) {
  std::map<int32_t, v1::GenerateResponse> choices;
  const auto outcome = connection->Generate(request, [&](const v1::GenerateResponse& message) {
    Gather(message, &choices[message.choice()]);
  });
  if (!outcome.status.ok()) return Report(*connection, outcome);
  for (const auto& [index, choice] : choices) {
    if (absl::GetFlag(FLAGS_json)) {
      Print(ToJson(choice) + "\n");
      continue;
    }
    const std::string text = request.has_tokens() && choice.text().empty()
                                 ? absl::StrJoin(choice.token_ids(), " ")
                                 : choice.text();
    PrintText(absl::StrCat("[", index, "] ", text, "\n"));
    PrintStats(choice.finished());
  }
  return kExitOk;
}

}  // namespace

absl::Status CheckStandardInput() {
  if (std::ferror(stdin) == 0) return absl::OkStatus();
  return absl::InvalidArgumentError("standard input cannot be read");
}

void PrintStats(const v1::Finished& finished) {
  if (!absl::GetFlag(FLAGS_stats)) return;
  const v1::Usage& usage = finished.usage();
  const v1::Timings& timings = finished.timings();
  const double parked_ms = 1e3 * timings.parked_seconds();
  const std::string parked = parked_ms > 0 ? absl::StrFormat(" (parked %.1f ms)", parked_ms) : "";
  std::fprintf(stderr,
               "[%s; %d prompt tokens (%d cached), %d generated; first token after %.1f ms, "
               "all after %.1f ms%s; seed %llu; request %s]\n",
               v1::FinishReason_Name(finished.reason()).c_str(), usage.prompt_tokens(),
               usage.cached_tokens(), usage.completion_tokens(),
               1e3 * timings.time_to_first_token_seconds(), 1e3 * timings.total_seconds(),
               parked.c_str(), static_cast<unsigned long long>(finished.seed()),
               finished.request_id().c_str());
}

Connection::Outcome Stream(Connection* connection, const v1::GenerateRequest& request, bool print,
                           v1::GenerateResponse* all) {
  auto outcome = connection->Generate(request, [&](const v1::GenerateResponse& message) {
    if (print) {
      // A model without a tokenizer gives ids only.
      std::string text = message.text();
      if (request.has_tokens() && text.empty()) {
        for (int32_t id : message.token_ids()) absl::StrAppend(&text, id, " ");
      }
      PrintText(text);
    }
    Gather(message, all);
  });
  outcome.answered = outcome.answered || all->token_ids_size() > 0;
  return outcome;
}

void Gather(const v1::GenerateResponse& message, v1::GenerateResponse* all) {
  all->set_choice(message.choice());
  all->mutable_token_ids()->MergeFrom(message.token_ids());
  all->mutable_text()->append(message.text());
  all->mutable_logprobs()->MergeFrom(message.logprobs());
  all->mutable_scores()->MergeFrom(message.scores());
  if (message.has_finished()) *all->mutable_finished() = message.finished();
}

std::string ToJson(const google::protobuf::Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  options.always_print_primitive_fields = true;
  std::string json;
  const auto status = google::protobuf::util::MessageToJsonString(message, &json, options);
  return status.ok() ? json : absl::StrCat("{\"error\": \"", status.ToString(), "\"}");
}

namespace {

// `message`: gRPC's.
std::string WhyUnreached(const std::string& address, const std::string& message) {
  if (absl::StartsWith(message, "DNS resolution failed")) {
    // The resolver's message is at the end.
    return absl::StrCat("the host of ", address, " is not found (",
                        message.substr(message.rfind(": ") + 2), "); --address=HOST:PORT names it");
  }
  return absl::StrCat("no server answers at ", address, " (", message,
                      "); is it running? --address=HOST:PORT names another one");
}

}  // namespace

int UsageError(const std::string& message) {
  std::fprintf(stderr, "packrat: %s\nSee packrat help.\n", message.c_str());
  return kExitUsage;
}

int Report(const Connection& connection, const Connection::Outcome& outcome) {
  if (outcome.status.ok()) return kExitOk;
  const absl::StatusCode code = outcome.status.code();
  std::string message(outcome.status.message());
  int exit_code = kExitFailed;
  if (connection.cancelled()) {
    message = "interrupted";
    exit_code = kExitInterrupted;
  } else if (!outcome.answered) {
    message = WhyUnreached(connection.address(), message);
    exit_code = kExitNoServer;
  } else if (code == absl::StatusCode::kDeadlineExceeded) {
    exit_code = kExitDeadline;
  }
  if (absl::GetFlag(FLAGS_json)) {
    nlohmann::ordered_json error = {{"status", absl::StatusCodeToString(code)},
                                    {"message", message}};
    if (!outcome.request_id.empty()) error["request_id"] = outcome.request_id;
    if (outcome.retry_after > absl::ZeroDuration()) {
      error["retry_after_seconds"] = absl::ToDoubleSeconds(outcome.retry_after);
    }
    Print(nlohmann::ordered_json{{"error", error}}.dump() + "\n");
  } else {
    std::string more;
    if (outcome.retry_after > absl::ZeroDuration()) {
      more = absl::StrCat(" (try again in ", absl::FormatDuration(outcome.retry_after), ")");
    }
    std::fprintf(stderr, "packrat: %s: %s%s\n", absl::StatusCodeToString(code).c_str(),
                 message.c_str(), more.c_str());
  }
  return exit_code;
}

int CompleteCommand(Connection* connection, const std::vector<std::string>& arguments) {
  const auto ids = TokenIdsFromFlags();
  if (!ids.ok()) return UsageError(std::string(ids.status().message()));
  bool echo;
  if (!EchoWanted(&echo)) return UsageError("--echo is yes, no or auto");
  v1::GenerateRequest request = RequestFromFlags();
  auto chat = ChatFromFlags();
  if (!chat.ok()) return UsageError(std::string(chat.status().message()));
  if (chat->messages_size() > 0) {
    if (!arguments.empty() || !ids->empty()) {
      return UsageError("a prompt is text, --token_ids or --chat, and one of them alone");
    }
    *request.mutable_chat() = *std::move(chat);
  } else if (ids->empty()) {
    auto text = TextArgument(arguments);
    if (!text.ok()) return UsageError(std::string(text.status().message()));
    request.set_text(*std::move(text));
  } else if (arguments.empty()) {
    request.mutable_tokens()->mutable_ids()->Assign(ids->begin(), ids->end());
  } else {
    return UsageError("a prompt is text or --token_ids, not both");
  }
  if (request.num_choices() > 1 && request.has_session()) {
    return UsageError("--num_choices is for texts without a session; sessions fork makes others");
  }
  const Connection::Outcome session = MakeSessionIfNew(connection, &request);
  if (!session.status.ok()) return Report(*connection, session);
  if (request.has_num_choices()) return CompleteChoices(connection, request);
  const bool json = absl::GetFlag(FLAGS_json);
  if (echo && !json) PrintText(request.text());
  v1::GenerateResponse all;
  const Connection::Outcome outcome = Stream(connection, request, !json, &all);
  if (json && outcome.status.ok()) Print(ToJson(all));
  if (outcome.status.ok() || (!json && all.token_ids_size() > 0)) Print("\n");
  if (outcome.status.ok()) PrintStats(all.finished());
  return Report(*connection, outcome);
}

int TokenizeCommand(Connection* connection, const std::vector<std::string>& arguments) {
  v1::TokenizeRequest request;
  FillFromFlags(&request);
  auto chat = ChatFromFlags();
  if (!chat.ok()) return UsageError(std::string(chat.status().message()));
  if (chat->messages_size() > 0) {
    if (!arguments.empty()) return UsageError("tokenize takes a text or --chat, not both");
    *request.mutable_chat() = *std::move(chat);
  } else {
    auto text = TextArgument(arguments);
    if (!text.ok()) return UsageError(std::string(text.status().message()));
    request.set_text(*std::move(text));
  }
  v1::TokenizeResponse response;
  const Connection::Outcome outcome = connection->Tokenize(request, &response);
  if (!outcome.status.ok()) return Report(*connection, outcome);
  if (absl::GetFlag(FLAGS_json)) {
    Print(ToJson(response) + "\n");
    return kExitOk;
  }
  for (int i = 0; i < response.token_ids_size(); ++i) {
    Print(absl::StrFormat("%6d  %s\n", response.token_ids(i),
                          absl::Utf8SafeCEscape(response.pieces(i))));
  }
  return kExitOk;
}

int DetokenizeCommand(Connection* connection, const std::vector<std::string>& arguments) {
  const auto ids = TokenIdsFromFlags();
  if (!ids.ok()) return UsageError(std::string(ids.status().message()));
  if (!arguments.empty() || ids->empty()) return UsageError("detokenize takes --token_ids=1,2,3");
  v1::DetokenizeRequest request;
  FillFromFlags(&request);
  request.mutable_token_ids()->Assign(ids->begin(), ids->end());
  v1::DetokenizeResponse response;
  const Connection::Outcome outcome = connection->Detokenize(request, &response);
  if (!outcome.status.ok()) return Report(*connection, outcome);
  PrintText((absl::GetFlag(FLAGS_json) ? ToJson(response) : response.text()) + "\n");
  return kExitOk;
}

int HealthCommand(Connection* connection, const std::vector<std::string>& arguments) {
  using Health = grpc::health::v1::HealthCheckResponse;
  if (!arguments.empty()) return UsageError("health takes no arguments");
  Health health;
  const Connection::Outcome outcome =
      connection->CheckHealth(absl::GetFlag(FLAGS_live) ? "" : "packrat.v1.Inference", &health);
  if (!outcome.status.ok()) return Report(*connection, outcome);
  Print(absl::GetFlag(FLAGS_json) ? ToJson(health) + "\n"
                                  : Health::ServingStatus_Name(health.status()) + "\n");
  return health.status() == Health::SERVING ? kExitOk : kExitFailed;
}

int InfoCommand(Connection* connection, const std::vector<std::string>& arguments) {
  if (!arguments.empty()) return UsageError("info takes no arguments");
  v1::GetModelInfoResponse info;
  const Connection::Outcome outcome = connection->GetModelInfo(&info);
  if (!outcome.status.ok()) return Report(*connection, outcome);
  if (absl::GetFlag(FLAGS_json)) {
    Print(ToJson(info) + "\n");
    return kExitOk;
  }
  std::string layers;
  for (const v1::LayerInfo& layer : info.layers()) {
    absl::StrAppend(&layers, layers.empty() ? "" : " ", layer.type());
  }
  const v1::StateInfo& state = info.state();
  const v1::Limits& limits = info.limits();
  Print(absl::StrCat("model          ", info.name(), " (", info.family(), ", fingerprint ",
                     info.fingerprint(), ")\n"));
  Print(absl::StrCat("server         ", info.server_version(), ", ", info.device(), ", numerics ",
                     info.numerics_id(), "\n"));
  Print(absl::StrCat("layers         ", layers, "\n"));
  if (info.rat_plus_dials_size() > 0) {
    Print(absl::StrCat("dials          ", absl::StrJoin(info.rat_plus_dials(), " "), "\n"));
  }
  Print(absl::StrCat("sizes          vocabulary ", info.vocab_size(), ", width ",
                     info.hidden_size(), ", weights ", info.weight_bytes(), " bytes\n"));
  Print(absl::StrCat("tokenizer      ",
                     !info.has_tokenizer()                  ? "none: token ids only"
                     : info.tokenizer().has_chat_template() ? "yes, with a chat template"
                                                            : "yes",
                     "\n"));
  Print(absl::StrCat("state          ", state.fixed_bytes(), " bytes per sequence, ",
                     state.bytes_per_token(), " per token, windows up to ", state.window_bytes(),
                     "; ", state.bytes_at_max_context(), " for ", limits.max_context(),
                     " tokens; pool ", state.pool_bytes(), "\n"));
  const v1::SamplingParams& sampling = info.sampling_defaults();
  Print(absl::StrCat("sampling       temperature ", sampling.temperature(), ", top_k ",
                     sampling.top_k(), ", top_p ", sampling.top_p(),
                     " where a request leaves them unset\n"));
  Print(absl::StrCat("limits         context ", limits.max_context(), " tokens, running ",
                     limits.max_running(), ", queue ", limits.max_queue(), ", step ",
                     limits.max_batch_tokens(), " tokens, message ", limits.max_message_bytes(),
                     " bytes\n"));
  return kExitOk;
}

}  // namespace packrat
