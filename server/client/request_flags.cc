#include "server/client/request_flags.h"

#include <google/protobuf/util/json_util.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <optional>
#include <string>

#include "absl/flags/flag.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/time.h"
#include "models/bounds.h"
#include "models/text/utf8.h"
#include "server/client/address.h"
#include "server/client/tls_flags.h"

// Flags that are not given are not sent, so the defaults of server and model apply.
ABSL_FLAG(std::string, address, "127.0.0.1:50051", "host:port of the server, or unix:PATH.");
ABSL_FLAG(absl::Duration, deadline, absl::InfiniteDuration(),
          "Time that a call may take, e.g. 30s; the server stops working on it then.");
ABSL_FLAG(std::string, caller, "",
          "Who calls, for the server's log: up to 64 of A-Z a-z 0-9 . _ : - / @.");
ABSL_FLAG(std::string, api_key_file, "",
          "File whose first line is the API key to send. Default: what the environment variable "
          "PACKRAT_API_KEY holds, if anything.");
ABSL_FLAG(std::string, request_id, "",
          "Id of the request, for the server's log: up to 128 of A-Z a-z 0-9 . _ : -.");
ABSL_FLAG(bool, json, false, "Print one JSON object instead of text.");
ABSL_FLAG(bool, stats, false, "complete, chat: tell tokens and times on standard error.");
ABSL_FLAG(std::string, echo, "auto",
          "complete: print the prompt before its continuation: yes, no, or auto (on a terminal).");
ABSL_FLAG(
    std::string, chat, "",
    "complete, score, tokenize: in the place of a text, the conversation in this file, for the "
    "model's chat template: a list of messages as JSON, [{\"role\": \"user\", \"content\": "
    "\"Hello\"}], or an object with messages, tools_json and the other fields of ChatMessages.");
ABSL_FLAG(std::string, token_ids, "",
          "complete, score, detokenize: ids separated by commas or spaces, in place of text.");
ABSL_FLAG(packrat::Given<bool>, add_bos, {}, "Put the BOS token before the text: true or false.");
ABSL_FLAG(bool, parse_special, false,
          "Control tokens written in the text, such as </s>, become their ids.");
ABSL_FLAG(packrat::Given<bool>, skip_special_tokens, {},
          "Control tokens give no text in the output: true or false.");
ABSL_FLAG(packrat::Given<int32_t>, max_tokens, {}, "Most tokens to generate.");
ABSL_FLAG(packrat::Given<int32_t>, min_tokens, {}, "No end before so many tokens.");
ABSL_FLAG(bool, ignore_eos, false, "The model's end tokens do not end the text.");
ABSL_FLAG(std::vector<std::string>, stop, {},
          "Strings that end the text, separated by commas; \\n and the like are understood.");
ABSL_FLAG(packrat::Given<double>, temperature, {},
          absl::StrCat("Range ", packrat::bounds::kTemperature.Range(),
                       "; 0 always takes the most likely token."));
ABSL_FLAG(packrat::Given<int32_t>, top_k, {}, "Draw from so many; 0: all.");
ABSL_FLAG(packrat::Given<double>, top_p, {},
          absl::StrCat("Range ", packrat::bounds::kTopP.Range(), "."));
ABSL_FLAG(packrat::Given<double>, min_p, {},
          absl::StrCat("Range ", packrat::bounds::kMinP.Range(), "."));
ABSL_FLAG(packrat::Given<double>, repetition_penalty, {},
          absl::StrCat("Range ", packrat::bounds::kRepetitionPenalty.Range(), "; 1: none."));
ABSL_FLAG(packrat::Given<double>, presence_penalty, {},
          absl::StrCat("Range ", packrat::bounds::kPresencePenalty.Range(), "."));
ABSL_FLAG(packrat::Given<double>, frequency_penalty, {},
          absl::StrCat("Range ", packrat::bounds::kFrequencyPenalty.Range(), "."));
ABSL_FLAG(packrat::Given<uint64_t>, seed, {},
          "The same seed gives the same text. bench: of the prompts too.");
ABSL_FLAG(packrat::Given<int32_t>, logprobs, {},
          absl::StrCat("complete --json, score: log-probabilities of so many best tokens; range ",
                       packrat::bounds::kNumLogprobs.Range(), "."));
ABSL_FLAG(packrat::Given<int32_t>, priority, {},
          absl::StrCat("Range ", packrat::bounds::kPriority.Range(), "; higher is first."));
ABSL_FLAG(packrat::Given<int32_t>, num_choices, {},
          absl::StrCat("complete: so many continuations, shown when all are there; range ",
                       packrat::bounds::kNumChoices.Range(), "."));
ABSL_FLAG(packrat::Given<std::string>, grammar, {},
          "complete: the answer matches this grammar in GBNF; @FILE: what the file holds.");
ABSL_FLAG(packrat::Given<std::string>, regex, {},
          "complete: the answer matches this regular expression; @FILE: what the file holds.");
ABSL_FLAG(packrat::Given<std::string>, json_schema, {},
          "complete: the answer is JSON by this schema, e.g. '{\"type\": \"object\"}'; @FILE: what "
          "the file holds.");
ABSL_FLAG(std::string, candidates, "",
          "score: file with a candidate in each line; \\n and the like are understood.");
ABSL_FLAG(packrat::Given<bool>, use_cache, {},
          "Begin with the state of an earlier text that began alike; default: true.");
ABSL_FLAG(packrat::Given<std::string>, cache_salt, {},
          "Share states only with requests of the same salt.");
ABSL_FLAG(packrat::Given<std::string>, rat_plus_dial, {},
          "What layers of RAT+ see, as packrat info lists it; default: the first of these, or the "
          "session's.");
ABSL_FLAG(std::string, user_label, "",
          "chat: put before what you write, e.g. 'User: '. With one of these two turns are texts, "
          "also where the model has a chat template.");
ABSL_FLAG(std::string, reply_label, "", "chat: put before the answer, e.g. 'Assistant:'.");
ABSL_FLAG(std::string, system, "",
          "chat: what the system says first, for models with a chat template.");
ABSL_FLAG(std::string, history, "auto",
          "chat: file of the lines that were written at a terminal, for the next time. auto: "
          "packrat/history in $XDG_STATE_HOME or ~/.local/state; empty: none is kept.");
ABSL_FLAG(
    std::string, session, "",
    "complete, chat: handle of the session in which the text goes on, or new: one is made, and "
    "its handle told on standard error. score, save: of the session that is meant.");
ABSL_FLAG(std::string, output, "", "save: the file to write.");
ABSL_FLAG(std::string, input, "", "load: a file that save has written.");
ABSL_FLAG(std::string, affinity, "",
          "Sent as x-session, by which balancers keep calls on one replica: the same in all calls "
          "about a session, its creation included; up to 128 of A-Z a-z 0-9 . _ : -.");
ABSL_FLAG(packrat::Given<absl::Duration>, ttl, {},
          "sessions create, load: time after its last use at which it expires, e.g. 10m. Default: "
          "the server's; of load the saved session's.");
ABSL_FLAG(packrat::Given<int32_t>, keep_turns, {},
          "sessions rewind: keep so many of the first turns.");
ABSL_FLAG(packrat::Given<int32_t>, keep_tokens, {},
          "sessions rewind: keep so many of the first tokens.");
ABSL_FLAG(int32_t, limit, 0, "sessions list: most to list. Default: the server's, 1000.");
ABSL_FLAG(bool, live, false, "health: whether the server works at all, loading or draining too.");
ABSL_FLAG(int32_t, concurrency, 8, "bench: calls at the same time; range [1, 10000].");
ABSL_FLAG(int32_t, requests, 64, "bench: calls in all; range [1, 10000000].");
ABSL_FLAG(int32_t, prompt_tokens, 128, "bench: tokens of a prompt; range [1, 10000000].");
ABSL_FLAG(
    int32_t, max_prompt_tokens, 0,
    "bench: prompts have between --prompt_tokens and so many tokens, as many of 10 to 20 as of "
    "100 to 200; range [0, 10000000]. 0: all have --prompt_tokens.");
ABSL_FLAG(
    double, rate, 0,
    "bench: calls begin at random, so many a second in the mean, and wait where --concurrency "
    "are open, which counts as their time; range [0, 100000]. 0: as soon as one has ended.");

namespace packrat {

namespace {

// As the API requires. The server ignores other values, and gRPC aborts on some of them. `marks`:
// allowed beside letters and digits, with spaces between.
absl::Status CheckMetadata(const char* name, const std::string& value, size_t max_size,
                           absl::string_view marks) {
  const auto allowed = [marks](char c) {
    return absl::ascii_isalnum(c) || (c != ' ' && absl::StrContains(marks, c));
  };
  if (value.size() <= max_size && std::all_of(value.begin(), value.end(), allowed)) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("--", name, ": at most ", max_size, " of A-Z a-z 0-9 ", marks));
}

absl::StatusOr<std::string> ApiKeyFromFlags() {
  const std::string path = absl::GetFlag(FLAGS_api_key_file);
  const char* variable = std::getenv("PACKRAT_API_KEY");
  std::string key = variable == nullptr ? "" : variable;
  std::string name = "PACKRAT_API_KEY";
  if (!path.empty()) {
    name = absl::StrCat("--api_key_file: ", path);
    std::ifstream file(path);
    if (!std::getline(file, key)) {
      return absl::InvalidArgumentError(absl::StrCat(name, " cannot be read, or is empty"));
    }
  }
  absl::StripAsciiWhitespace(&key);
  const bool good = std::all_of(key.begin(), key.end(), absl::ascii_isgraph);
  if (good && key.size() <= 1024 && (path.empty() || !key.empty())) return key;
  return absl::InvalidArgumentError(
      absl::StrCat(name, " holds no key: at most 1024 printable characters without spaces"));
}

std::string Unescaped(const std::string& text) {
  std::string plain;
  return absl::CUnescape(text, &plain) ? plain : text;
}

// The value of a flag, or of the file that it names behind an @.
absl::StatusOr<std::string> TextOrFile(absl::string_view flag, const std::string& value) {
  std::string text = value;
  if (absl::StartsWith(value, "@")) {
    std::ifstream file(value.substr(1));
    if (!file) {
      return absl::InvalidArgumentError(
          absl::StrCat("--", flag, ": ", value.substr(1), " cannot be read"));
    }
    text.assign(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  const absl::Status status = CheckUtf8(absl::StrCat("--", flag), text);
  if (!status.ok()) return status;
  return text;
}

}  // namespace

absl::Status CheckFlags() {
  absl::Status status = CheckMetadata("caller", absl::GetFlag(FLAGS_caller), 64, ". _ : - / @");
  if (status.ok()) {
    status = CheckMetadata("request_id", absl::GetFlag(FLAGS_request_id), 128, ". _ : -");
  }
  if (status.ok()) {
    status = CheckMetadata("affinity", absl::GetFlag(FLAGS_affinity), 128, ". _ : -");
  }
  if (status.ok()) status = CheckUtf8("--session", absl::GetFlag(FLAGS_session));
  if (status.ok()) status = CheckUtf8("--system", absl::GetFlag(FLAGS_system));
  for (const auto* flag : {&FLAGS_grammar, &FLAGS_regex, &FLAGS_json_schema}) {
    if (!status.ok()) break;
    status = TextOrFile(flag->Name(), absl::GetFlag(*flag).value.value_or("")).status();
  }
  if (status.ok()) status = ChannelTarget(absl::GetFlag(FLAGS_address)).status();
  if (status.ok()) status = ApiKeyFromFlags().status();
  Connection::Options ignored;
  if (status.ok()) status = FillTlsFromFlags(&ignored);
  const absl::Duration deadline = absl::GetFlag(FLAGS_deadline);
  if (status.ok() && deadline <= absl::ZeroDuration()) {
    status = absl::InvalidArgumentError(
        absl::StrCat("--deadline is ", absl::FormatDuration(deadline),
                     "; it must be above 0 (without the flag there is none)"));
  }
  for (const std::string& text : absl::GetFlag(FLAGS_stop)) {
    if (status.ok()) status = CheckUtf8("--stop", Unescaped(text));
  }
  return status;
}

absl::Status CheckUtf8(const std::string& what, const std::string& text) {
  const size_t at = FirstInvalidUtf8(text);
  if (at == text.size()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(what, " is not UTF-8 at byte ", at));
}

Connection::Options ConnectionFromFlags() {
  Connection::Options options;
  options.address = *ChannelTarget(absl::GetFlag(FLAGS_address));
  options.deadline = absl::GetFlag(FLAGS_deadline);
  options.api_key = *ApiKeyFromFlags();
  options.caller = absl::GetFlag(FLAGS_caller);
  options.request_id = absl::GetFlag(FLAGS_request_id);
  options.affinity = absl::GetFlag(FLAGS_affinity);
  FillTlsFromFlags(&options).IgnoreError();  // CheckFlags() has reported errors.
  return options;
}

namespace {

template <typename T, typename Setter>
void IfGiven(const absl::Flag<Given<T>>& flag, const Setter& set) {
  const std::optional<T> value = absl::GetFlag(flag).value;
  if (value.has_value()) set(*value);
}

}  // namespace

v1::GenerateRequest RequestFromFlags() {
  v1::GenerateRequest request;
  IfGiven(FLAGS_add_bos, [&](bool x) { request.set_add_bos(x); });
  if (absl::GetFlag(FLAGS_parse_special)) request.set_parse_special(true);
  IfGiven(FLAGS_skip_special_tokens, [&](bool x) { request.set_skip_special_tokens(x); });
  IfGiven(FLAGS_priority, [&](int32_t x) { request.set_priority(x); });
  IfGiven(FLAGS_use_cache, [&](bool x) { request.set_use_cache(x); });
  IfGiven(FLAGS_cache_salt, [&](const std::string& x) { request.set_cache_salt(x); });
  IfGiven(FLAGS_rat_plus_dial, [&](const std::string& x) { request.set_rat_plus_dial(x); });

  const std::string session = absl::GetFlag(FLAGS_session);
  if (!session.empty()) request.set_session(session);
  // CheckFlags() has reported errors.
  const auto text = [](const std::string& x) { return TextOrFile("", x).value_or(""); };
  IfGiven(FLAGS_grammar, [&](const std::string& x) { request.set_grammar(text(x)); });
  IfGiven(FLAGS_regex, [&](const std::string& x) { request.set_regex(text(x)); });
  IfGiven(FLAGS_json_schema, [&](const std::string& x) { request.set_json_schema(text(x)); });

  v1::StopParams* stop = request.mutable_stop();
  IfGiven(FLAGS_max_tokens, [&](int32_t x) { stop->set_max_tokens(x); });
  IfGiven(FLAGS_min_tokens, [&](int32_t x) { stop->set_min_tokens(x); });
  if (absl::GetFlag(FLAGS_ignore_eos)) stop->set_ignore_eos(true);
  for (const std::string& text : absl::GetFlag(FLAGS_stop)) {
    stop->add_strings(Unescaped(text));
  }

  v1::SamplingParams* sampling = request.mutable_sampling();
  IfGiven(FLAGS_temperature, [&](double x) { sampling->set_temperature(x); });
  IfGiven(FLAGS_top_k, [&](int32_t x) { sampling->set_top_k(x); });
  IfGiven(FLAGS_top_p, [&](double x) { sampling->set_top_p(x); });
  IfGiven(FLAGS_min_p, [&](double x) { sampling->set_min_p(x); });
  IfGiven(FLAGS_repetition_penalty, [&](double x) { sampling->set_repetition_penalty(x); });
  IfGiven(FLAGS_presence_penalty, [&](double x) { sampling->set_presence_penalty(x); });
  IfGiven(FLAGS_frequency_penalty, [&](double x) { sampling->set_frequency_penalty(x); });
  IfGiven(FLAGS_seed, [&](uint64_t x) { sampling->set_seed(x); });
  IfGiven(FLAGS_logprobs, [&](int32_t x) { sampling->set_num_logprobs(x); });
  IfGiven(FLAGS_num_choices, [&](int32_t x) { request.set_num_choices(x); });
  return request;
}

v1::ScoreRequest ScoreFromFlags() {
  v1::ScoreRequest request;
  IfGiven(FLAGS_add_bos, [&](bool x) { request.set_add_bos(x); });
  if (absl::GetFlag(FLAGS_parse_special)) request.set_parse_special(true);
  IfGiven(FLAGS_priority, [&](int32_t x) { request.set_priority(x); });
  IfGiven(FLAGS_logprobs, [&](int32_t x) { request.set_num_logprobs(x); });
  IfGiven(FLAGS_use_cache, [&](bool x) { request.set_use_cache(x); });
  IfGiven(FLAGS_cache_salt, [&](const std::string& x) { request.set_cache_salt(x); });
  IfGiven(FLAGS_rat_plus_dial, [&](const std::string& x) { request.set_rat_plus_dial(x); });
  const std::string session = absl::GetFlag(FLAGS_session);
  if (!session.empty()) request.set_session(session);
  return request;
}

v1::SaveSessionRequest SaveFromFlags() {
  v1::SaveSessionRequest request;
  request.set_session(absl::GetFlag(FLAGS_session));
  IfGiven(FLAGS_cache_salt, [&](const std::string& x) { request.set_cache_salt(x); });
  return request;
}

v1::LoadSessionRequest LoadFromFlags() {
  v1::LoadSessionRequest request;
  IfGiven(FLAGS_cache_salt, [&](const std::string& x) { request.set_cache_salt(x); });
  IfGiven(FLAGS_ttl, [&](absl::Duration x) { request.set_ttl_seconds(absl::ToDoubleSeconds(x)); });
  return request;
}

absl::StatusOr<v1::ChatMessages> ChatFromFlags() {
  v1::ChatMessages chat;
  const std::string path = absl::GetFlag(FLAGS_chat);
  if (path.empty()) return chat;
  std::ifstream file(path);
  std::string json(std::istreambuf_iterator<char>(file), {});
  if (!file) return absl::InvalidArgumentError(absl::StrCat("--chat: cannot read ", path));
  if (absl::StartsWith(absl::StripLeadingAsciiWhitespace(json), "[")) {
    json = absl::StrCat("{\"messages\":", json, "}");
  }
  const auto status = google::protobuf::util::JsonStringToMessage(json, &chat);
  if (!status.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--chat: ", path, ": ", std::string(status.message())));
  }
  if (chat.messages_size() > 0) return chat;
  return absl::InvalidArgumentError(absl::StrCat("--chat: ", path, " has no messages"));
}

absl::StatusOr<std::vector<int32_t>> TokenIdsFromFlags() {
  std::vector<int32_t> ids;
  const std::string list = absl::GetFlag(FLAGS_token_ids);
  for (absl::string_view word : absl::StrSplit(list, absl::ByAnyChar(", "), absl::SkipEmpty())) {
    int32_t id;
    if (!absl::SimpleAtoi(word, &id)) {
      return absl::InvalidArgumentError(
          absl::StrCat("--token_ids: \"", word, "\" is not a number"));
    }
    ids.push_back(id);
  }
  return ids;
}

void FillFromFlags(v1::TokenizeRequest* request) {
  IfGiven(FLAGS_add_bos, [&](bool x) { request->set_add_bos(x); });
  if (absl::GetFlag(FLAGS_parse_special)) request->set_parse_special(true);
}

void FillFromFlags(v1::DetokenizeRequest* request) {
  IfGiven(FLAGS_skip_special_tokens, [&](bool x) { request->set_skip_special_tokens(x); });
}

}  // namespace packrat
