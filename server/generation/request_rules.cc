#include "server/generation/request_rules.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "models/bounds.h"
#include "models/config.h"
#include "proto/packrat/v1/inference.pb.h"
#include "server/generation/chat_prompt.h"

namespace packrat {
namespace {

absl::Status NoTokenizer(const char* what) {
  return absl::FailedPreconditionError(
      absl::StrCat(what, " needs a tokenizer, and this model has none; send token ids"));
}

// Fields that have another name on the wire than in Request.
std::string NameOnWire(absl::string_view field) {
  constexpr std::pair<absl::string_view, const char*> kNames[] = {
      {bounds::kAllowedIds.field, "sampling.allowed_token_ids"},
      {bounds::kBannedIds.field, "sampling.banned_token_ids"},
      {bounds::kStopIds.field, "stop.token_ids"},
      {bounds::kStopStrings.field, "stop.strings"},
      {bounds::kCacheSalt.field, "cache_salt"},
  };
  for (const auto& [ours, wire] : kNames) {
    if (field == ours) return wire;
  }
  return std::string(field);
}

std::string NameInScore(absl::string_view field) {
  return field == bounds::kNumLogprobs.field ? "num_logprobs" : NameOnWire(field);
}

// Fields that the API never used: who sets one is told so by name, instead of being ignored.
absl::Status CheckUnused(const v1::GenerateRequest& wire) {
  const struct {
    const char *field, *call;
    bool set;
  } unused[] = {
      {"fork_from", "ForkSession", wire.has_fork_from()},
      {"snapshot", "LoadSession", wire.has_snapshot()},
  };
  for (const auto& [field, call, set] : unused) {
    if (!set) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        field, " is not supported; leave it unset, and name a session of ", call, " in session"));
  }
  return absl::OkStatus();
}

// The grammar of the output; null where none is asked for.
absl::StatusOr<std::shared_ptr<TokenGrammar>> MakeGrammar(const v1::GenerateRequest& wire,
                                                          const RequestRules& rules) {
  struct Field {
    const char* name;
    bool set;
    GrammarNotation notation;
    const std::string* text;
  };
  const Field fields[] = {
      {"grammar", wire.has_grammar(), GrammarNotation::kGbnf, &wire.grammar()},
      {"regex", wire.has_regex(), GrammarNotation::kRegex, &wire.regex()},
      {"json_schema", wire.has_json_schema(), GrammarNotation::kJsonSchema, &wire.json_schema()},
  };
  const Field* chosen = nullptr;
  for (const Field& field : fields) {
    if (!field.set) continue;
    if (chosen != nullptr) {
      return absl::InvalidArgumentError(
          absl::StrCat(chosen->name, " and ", field.name, " are both set; one of them at most"));
    }
    chosen = &field;
  }
  if (chosen == nullptr) return nullptr;
  if (rules.grammars == nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat(chosen->name, " needs a tokenizer, and this model has none"));
  }
  auto grammar = rules.grammars->Get(chosen->notation, *chosen->text);
  if (grammar.ok()) return grammar;
  return absl::Status(grammar.status().code(),
                      absl::StrCat(chosen->name, ": ", grammar.status().message()));
}

SamplingParams MakeSampling(const v1::SamplingParams& wire, const SamplingDefaults& defaults,
                            uint64_t seed) {
  SamplingParams out;
  out.temperature = wire.has_temperature() ? wire.temperature() : defaults.temperature;
  out.top_k = wire.has_top_k() ? wire.top_k() : defaults.top_k;
  out.top_p = wire.has_top_p() ? wire.top_p() : defaults.top_p;
  out.min_p = wire.has_min_p() ? wire.min_p() : defaults.min_p;
  out.repetition_penalty =
      wire.has_repetition_penalty() ? wire.repetition_penalty() : defaults.repetition_penalty;
  if (wire.has_presence_penalty()) out.presence_penalty = wire.presence_penalty();
  if (wire.has_frequency_penalty()) out.frequency_penalty = wire.frequency_penalty();
  out.seed = wire.has_seed() ? wire.seed() : seed;
  if (wire.has_num_logprobs()) out.num_logprobs = wire.num_logprobs();
  for (const v1::LogitBias& entry : wire.logit_bias()) {
    out.logit_bias.emplace_back(entry.token_id(), entry.bias());
  }
  out.allowed_ids.assign(wire.allowed_token_ids().begin(), wire.allowed_token_ids().end());
  out.banned_ids = defaults.banned_ids;
  if (wire.banned_token_ids_size() > 0) {
    out.banned_ids.assign(wire.banned_token_ids().begin(), wire.banned_token_ids().end());
  }
  return out;
}

TextParams MakeText(const v1::GenerateRequest& wire, const RequestRules& rules, bool continues) {
  TextParams out;
  // Without a tokenizer the defaults have no meaning.
  if (rules.tokenizer != nullptr) out.stop_strings = rules.stop.strings;
  if (wire.stop().strings_size() > 0) {
    out.stop_strings.assign(wire.stop().strings().begin(), wire.stop().strings().end());
  }
  out.skip_special_tokens = !wire.has_skip_special_tokens() || wire.skip_special_tokens();
  // An empty prompt is not continued, so the first word needs no space before it.
  // What a grammar describes is the text of the tokens as it is.
  const bool constrained = wire.has_grammar() || wire.has_regex() || wire.has_json_schema();
  out.continues_text = continues || constrained || !(wire.has_text() && wire.text().empty());
  return out;
}

// `room`: tokens left behind the prompt. Defaults are cut to it. If there is none, the prompt is
// too long.
StopParams MakeStop(const v1::GenerateRequest& request, const StopDefaults& defaults, int room) {
  const v1::StopParams& wire = request.stop();
  StopParams out;
  out.ids.assign(wire.token_ids().begin(), wire.token_ids().end());
  const int usual = request.has_chat() ? kDefaultChatTokens : kDefaultMaxTokens;
  const int most = defaults.max_tokens > 0 ? defaults.max_tokens : usual;
  out.max_tokens = wire.has_max_tokens() ? wire.max_tokens() : std::clamp(room, 1, most);
  out.min_tokens =
      wire.has_min_tokens() ? wire.min_tokens() : std::min(defaults.min_tokens, out.max_tokens);
  out.ignore_eos = wire.ignore_eos();
  return out;
}

// Tokenizing takes some hundred bytes of memory and a microsecond per byte of text.
absl::Status CheckTextBytes(const char* field, size_t size, const RequestRules& rules) {
  if (size <= rules.max_text_bytes) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(field, " has ", size, " bytes; at most ", rules.max_text_bytes, " (max_context ",
                   rules.limits.max_context, " tokens of the longest piece)"));
}

absl::StatusOr<std::vector<int32_t>> MakeChat(const v1::ChatMessages& chat,
                                              const RequestRules& rules,
                                              const std::vector<int32_t>& history) {
  if (rules.tokenizer == nullptr) return NoTokenizer("chat");
  if (!history.empty()) {
    return ContinueChat(chat, *rules.tokenizer, rules.max_text_bytes, absl::Now(), history);
  }
  return EncodeChat(chat, *rules.tokenizer, rules.max_text_bytes, absl::Now());
}

// Refuses what belongs to a text, in a request that brings none.
template <class Wire>
absl::Status CheckNoTextOptions(const Wire& wire) {
  if (!wire.has_add_bos() && !wire.has_parse_special()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      wire.has_add_bos() ? "add_bos" : "parse_special",
      " can be used with text only; token ids are taken as they are, and a chat as the model's "
      "template writes it"));
}

// What a GenerateRequest or ScoreRequest, which name these fields alike, adds to `history`, the
// text of its session; all of the prompt if that is empty.
template <class Wire>
absl::StatusOr<std::vector<int32_t>> MakePrompt(const Wire& wire, const RequestRules& rules,
                                                const std::vector<int32_t>& history) {
  const bool continues = !history.empty();
  if (wire.prompt_case() == Wire::PROMPT_NOT_SET) {
    if (continues) return std::vector<int32_t>();
    return absl::InvalidArgumentError("prompt is missing; set text, tokens or chat");
  }
  if (!wire.has_text()) {
    const absl::Status status = CheckNoTextOptions(wire);
    if (!status.ok()) return status;
  }
  if (wire.has_chat()) return MakeChat(wire.chat(), rules, history);
  if (wire.has_tokens()) {
    std::vector<int32_t> ids(wire.tokens().ids().begin(), wire.tokens().ids().end());
    const absl::Status status = ValidateIds(ids, "tokens.ids", rules.limits.vocab_size);
    if (!status.ok()) return status;
    return ids;
  }
  if (rules.tokenizer == nullptr) return NoTokenizer("text");
  const absl::Status size = CheckTextBytes("text", wire.text().size(), rules);
  if (!size.ok()) return size;
  Tokenizer::EncodeOptions options;
  options.add_bos =
      wire.has_add_bos() ? wire.add_bos() : !continues && rules.tokenizer->default_add_bos();
  options.parse_special = wire.parse_special();
  options.continues_text = continues;
  return rules.tokenizer->Encode(wire.text(), options);
}

// Where texts with the same prompt start from the state of the first: at the end of a block, before
// the last token, which each of them computes for its logits.
int LastBlockEnd(size_t prompt_tokens) {
  return static_cast<int>((prompt_tokens - 1) / kBlockTokens * kBlockTokens);
}

template <class Wire>
CacheParams MakeCache(const Wire& wire) {
  CacheParams cache;
  cache.use = !wire.has_use_cache() || wire.use_cache();
  cache.salt = wire.cache_salt();
  return cache;
}

template <class Wire>
absl::Status ReadDial(const Wire& wire, const RequestRules& rules, Request* out) {
  const auto dial = FindDial(rules.limits.dials, wire.rat_plus_dial());
  if (!dial.ok()) {
    return absl::Status(dial.status().code(),
                        absl::StrCat("rat_plus_dial ", dial.status().message()));
  }
  out->dials.last = *dial;
  return absl::OkStatus();
}

// `name`: "candidates[3]".
absl::StatusOr<std::vector<int32_t>> MakeCandidate(const v1::Candidate& wire,
                                                   const std::string& name,
                                                   const RequestRules& rules) {
  if (wire.candidate_case() == v1::Candidate::CANDIDATE_NOT_SET) {
    return absl::InvalidArgumentError(absl::StrCat(name, " is missing; set text or tokens"));
  }
  if (wire.has_tokens()) {
    std::vector<int32_t> ids(wire.tokens().ids().begin(), wire.tokens().ids().end());
    const absl::Status status =
        ValidateIds(ids, absl::StrCat(name, ".tokens.ids"), rules.limits.vocab_size);
    if (!status.ok()) return status;
    return ids;
  }
  const std::string field = absl::StrCat(name, ".text");
  if (rules.tokenizer == nullptr) return NoTokenizer(field.c_str());
  const absl::Status size = CheckTextBytes(field.c_str(), wire.text().size(), rules);
  if (!size.ok()) return size;
  Tokenizer::EncodeOptions options;
  options.continues_text = true;
  return rules.tokenizer->Encode(wire.text(), options);
}

}  // namespace

SolverOptions MakeSolver(const v1::SolverParams& wire, SolverOptions solver) {
  if (wire.has_cg_tolerance()) solver.cg_tolerance = wire.cg_tolerance();
  if (wire.has_cg_max_steps()) solver.cg_max_steps = wire.cg_max_steps();
  return solver;
}

RequestRules MakeRequestRules(const RequestLimits& limits, const Tokenizer* tokenizer) {
  RequestRules rules;
  rules.limits = limits;
  rules.tokenizer = tokenizer;
  if (tokenizer != nullptr) {
    rules.grammars =
        std::make_shared<GrammarCache>(tokenizer, GrammarBytes(tokenizer->num_pieces()));
  }
  for (int id = 0; tokenizer != nullptr && id < tokenizer->num_pieces(); ++id) {
    rules.max_piece_bytes = std::max(rules.max_piece_bytes, tokenizer->PieceText(id).size());
  }
  // A character without a piece becomes up to four byte pieces.
  rules.max_text_bytes = std::max<size_t>(4, rules.max_piece_bytes) * limits.max_context;
  return rules;
}

absl::StatusOr<std::vector<Request>> MakeRequests(const v1::GenerateRequest& wire,
                                                  const RequestRules& rules, uint64_t seed,
                                                  std::vector<int32_t> history) {
  absl::Status status = CheckUnused(wire);
  if (!status.ok()) return status;
  const int choices = wire.has_num_choices() ? wire.num_choices() : 1;
  status = bounds::kNumChoices.Check(bounds::kNumChoices.field, choices);
  if (!status.ok()) return status;
  if (wire.has_session() && choices > 1) {
    return absl::InvalidArgumentError(absl::StrCat("num_choices is ", choices,
                                                   "; 1 in a session, which goes on with one; fork "
                                                   "the session for others"));
  }
  const int max_context = rules.limits.max_context;
  const size_t from_session = history.size();
  const bool continues = from_session > 0;
  Request out;
  out.sampling = MakeSampling(wire.sampling(), rules.sampling, seed);
  out.stop = MakeStop(wire, rules.stop, max_context - 1);
  out.text = MakeText(wire, rules, continues);
  out.solver = MakeSolver(wire.solver(), rules.solver);
  out.priority = wire.priority();
  out.cache = MakeCache(wire);
  status = ReadDial(wire, rules, &out);
  if (!status.ok()) return status;
  // This comes before any text is tokenized.
  status = ValidateOptions(out, rules.limits, NameOnWire);
  if (!status.ok()) return status;

  auto grammar = MakeGrammar(wire, rules);
  if (!grammar.ok()) return grammar.status();
  out.grammar = *std::move(grammar);
  absl::StatusOr<std::vector<int32_t>> prompt = MakePrompt(wire, rules, history);
  if (!prompt.ok()) return prompt.status();
  out.prompt = std::move(history);
  out.prompt.insert(out.prompt.end(), prompt->begin(), prompt->end());
  out.stop = MakeStop(wire, rules.stop, max_context - static_cast<int>(out.prompt.size()));
  status = ValidatePrompt(out, rules.limits, NameOnWire, from_session);
  if (!status.ok()) return status;
  // A client that makes a session wants to continue it.
  if (wire.has_session()) out.cache.importance = 1;
  std::vector<Request> requests(choices, out);
  for (int i = 0; i < choices; ++i) {
    requests[i].sampling.seed += i;
    if (choices > 1) requests[i].cache.snapshot_at = LastBlockEnd(out.prompt.size());
  }
  if (wire.echo_prompt()) requests[0].score_from = 1;
  return requests;
}

absl::StatusOr<std::vector<Request>> MakeRequests(const v1::ScoreRequest& wire,
                                                  const RequestRules& rules,
                                                  std::vector<int32_t> history) {
  Request out;
  if (wire.has_num_logprobs()) out.sampling.num_logprobs = wire.num_logprobs();
  out.solver = MakeSolver(wire.solver(), rules.solver);
  out.cache = MakeCache(wire);
  out.priority = wire.priority();
  out.stop.max_tokens = 0;
  out.score_from = 1;
  absl::Status status = ReadDial(wire, rules, &out);
  if (status.ok()) status = ValidateOptions(out, rules.limits, NameInScore);
  if (!status.ok()) return status;
  const int count = wire.candidates_size();
  status = bounds::kCandidates.Check(bounds::kCandidates.field, count);
  if (!status.ok()) return status;

  const size_t from_session = history.size();
  absl::StatusOr<std::vector<int32_t>> prompt = MakePrompt(wire, rules, history);
  if (!prompt.ok()) return prompt.status();
  out.prompt = std::move(history);
  out.prompt.insert(out.prompt.end(), prompt->begin(), prompt->end());
  const int max_context = rules.limits.max_context;
  if (count == 0) {
    if (!prompt->empty() && from_session > 0) out.score_from = static_cast<int>(from_session);
    status = ValidatePrompt(out, rules.limits, NameInScore, from_session);
    if (!status.ok()) return status;
    return std::vector<Request>{std::move(out)};
  }
  const auto size = static_cast<int>(out.prompt.size());
  status =
      bounds::kPrompt.UpTo(max_context - 1)
          .Check(bounds::kPrompt.field, size, absl::StrCat(" (max_context ", max_context, ")"));
  if (!status.ok()) return status;
  out.score_from = size;
  if (count > 1) out.cache.snapshot_at = LastBlockEnd(size);
  const int64_t most = std::max<int64_t>(kMaxScoreTokens, int64_t{4} * max_context);
  int64_t tokens = 0;
  std::vector<Request> requests;
  for (int i = 0; i < count; ++i) {
    const std::string name = absl::StrCat(bounds::kCandidate.field, "[", i, "]");
    auto candidate = MakeCandidate(wire.candidates(i), name, rules);
    if (!candidate.ok()) return candidate.status();
    status = bounds::kCandidate.UpTo(max_context - size)
                 .Check(name, static_cast<double>(candidate->size()),
                        absl::StrCat(" (max_context ", max_context, " less ", size,
                                     " tokens of prompt)"));
    if (!status.ok()) return status;
    tokens += size + static_cast<int64_t>(candidate->size());
    if (tokens > most) {
      return absl::InvalidArgumentError(
          absl::StrCat("candidates, each with its prompt, have more than ", most,
                       " tokens together; send them in several calls"));
    }
    requests.push_back(out);
    requests[i].prompt.insert(requests[i].prompt.end(), candidate->begin(), candidate->end());
  }
  return requests;
}

absl::StatusOr<std::vector<int32_t>> TokenizeChecked(const v1::TokenizeRequest& wire,
                                                     const RequestRules& rules) {
  if (rules.tokenizer == nullptr) return NoTokenizer(wire.has_chat() ? "chat" : "text");
  // More tokens than fit a prompt are allowed, but not so many that one call delays the others.
  const size_t most = std::max(rules.max_text_bytes, kMaxTokenizeBytes);
  if (wire.has_chat()) {
    if (!wire.text().empty()) {
      return absl::InvalidArgumentError("text and chat are both set; send one of them");
    }
    const absl::Status status = CheckNoTextOptions(wire);
    if (!status.ok()) return status;
    return EncodeChat(wire.chat(), *rules.tokenizer, most, absl::Now());
  }
  if (wire.text().size() > most) {
    return absl::InvalidArgumentError(absl::StrCat(
        "text has ", wire.text().size(), " bytes; at most ", most, " (tokenize it in pieces)"));
  }
  Tokenizer::EncodeOptions options;
  options.add_bos = wire.has_add_bos() ? wire.add_bos() : rules.tokenizer->default_add_bos();
  options.parse_special = wire.parse_special();
  return rules.tokenizer->Encode(wire.text(), options);
}

absl::StatusOr<std::string> DetokenizeChecked(const v1::DetokenizeRequest& wire,
                                              const RequestRules& rules) {
  if (rules.tokenizer == nullptr) return NoTokenizer("text");
  const std::vector<int32_t> ids(wire.token_ids().begin(), wire.token_ids().end());
  const absl::Status status = ValidateIds(ids, "token_ids", rules.limits.vocab_size);
  if (!status.ok()) return status;
  return rules.tokenizer->Decode(ids,
                                 !wire.has_skip_special_tokens() || wire.skip_special_tokens());
}

}  // namespace packrat
