#include "server/request_rules.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "proto/packrat/v1/inference.pb.h"

namespace packrat {
namespace {

absl::Status NoTokenizer(const char* what) {
  return absl::FailedPreconditionError(
      absl::StrCat(what, " needs a tokenizer, and this model has none; send token ids"));
}

std::string Number(double value) {
  // Only what an integer can hold may become one; NaN is not below either.
  const bool whole = std::abs(value) < 1e15 && value == std::floor(value);
  return whole ? absl::StrCat(static_cast<int64_t>(value)) : absl::StrCat(value);
}

// The first error is the one that is told.
class Checker {
 public:
  // NaN is in no range.
  void Range(const char* field, double value, double low, double high) {
    Require(value >= low && value <= high, field, value, "[", low, high, "]");
  }
  void AboveRange(const char* field, double value, double low, double high) {
    Require(value > low && value <= high, field, value, "(", low, high, "]");
  }
  void BelowRange(const char* field, double value, double low, double high) {
    Require(value >= low && value < high, field, value, "[", low, high, ")");
  }
  void Count(const char* field, int64_t count, int64_t most) {
    if (status_.ok() && count > most) {
      status_ = absl::InvalidArgumentError(
          absl::StrCat(field, " has ", count, " entries; at most ", most));
    }
  }
  void Id(const char* field, int index, int64_t id, int vocab_size) {
    if (status_.ok() && (id < 0 || id >= vocab_size)) {
      status_ = absl::InvalidArgumentError(
          absl::StrCat(field, "[", index, "] is ", id, "; token ids are in [0, ", vocab_size, ")"));
    }
  }
  template <typename Ids>
  void IdList(const char* field, const Ids& ids, int most, int vocab_size) {
    Count(field, ids.size(), most);
    for (int i = 0; status_.ok() && i < ids.size(); ++i) Id(field, i, ids[i], vocab_size);
  }
  void Fail(const std::string& message) {
    if (status_.ok()) status_ = absl::InvalidArgumentError(message);
  }
  bool ok() const { return status_.ok(); }
  const absl::Status& status() const { return status_; }

 private:
  void Require(bool good, const char* field, double value, const char* open, double low,
               double high, const char* close) {
    if (!status_.ok() || good) return;
    status_ = absl::InvalidArgumentError(
        absl::StrCat(field, " is ", std::isfinite(value) ? Number(value) : absl::StrCat(value),
                     "; range ", open, Number(low), ", ", Number(high), close));
  }
  absl::Status status_;
};

// Fields that have a number on the wire but no code behind them yet.
void CheckUnbuilt(const v1::GenerateRequest& wire, Checker* check) {
  const std::pair<const char*, bool> unbuilt[] = {
      {"session", wire.has_session()},   {"fork_from", wire.has_fork_from()},
      {"snapshot", wire.has_snapshot()}, {"num_choices", wire.has_num_choices()},
      {"grammar", wire.has_grammar()},   {"echo_prompt", wire.has_echo_prompt()},
  };
  for (const auto& [field, set] : unbuilt) {
    if (set) check->Fail(absl::StrCat(field, " is not supported by this server; leave it unset"));
  }
}

SamplingParams MakeSampling(const v1::SamplingParams& wire, const RequestRules& rules,
                            uint64_t seed, Checker* check) {
  const int vocab_size = rules.vocab_size;
  SamplingParams out;
  out.temperature = rules.sampling.temperature;
  out.top_k = rules.sampling.top_k;
  out.top_p = rules.sampling.top_p;
  out.min_p = rules.sampling.min_p;
  out.repetition_penalty = rules.sampling.repetition_penalty;
  if (wire.has_temperature()) out.temperature = wire.temperature();
  check->Range("sampling.temperature", out.temperature, 0, 100);
  if (wire.has_top_k()) out.top_k = wire.top_k();
  check->Range("sampling.top_k", out.top_k, 0, vocab_size);
  if (wire.has_top_p()) out.top_p = wire.top_p();
  check->AboveRange("sampling.top_p", out.top_p, 0, 1);
  if (wire.has_min_p()) out.min_p = wire.min_p();
  check->BelowRange("sampling.min_p", out.min_p, 0, 1);
  if (wire.has_repetition_penalty()) out.repetition_penalty = wire.repetition_penalty();
  check->AboveRange("sampling.repetition_penalty", out.repetition_penalty, 0, 10);
  if (wire.has_presence_penalty()) out.presence_penalty = wire.presence_penalty();
  check->Range("sampling.presence_penalty", out.presence_penalty, -10, 10);
  if (wire.has_frequency_penalty()) out.frequency_penalty = wire.frequency_penalty();
  check->Range("sampling.frequency_penalty", out.frequency_penalty, -10, 10);
  out.seed = wire.has_seed() ? wire.seed() : seed;
  if (wire.has_num_logprobs()) {
    check->Range("sampling.num_logprobs", wire.num_logprobs(), 0, kMaxLogprobs);
    out.num_logprobs = wire.num_logprobs();
  }
  check->Count("sampling.logit_bias", wire.logit_bias_size(), kMaxLogitBias);
  check->IdList("sampling.allowed_token_ids", wire.allowed_token_ids(), vocab_size, vocab_size);
  check->IdList("sampling.banned_token_ids", wire.banned_token_ids(), vocab_size, vocab_size);
  if (!check->ok()) return out;

  std::unordered_set<int32_t> seen;
  for (int i = 0; i < wire.logit_bias_size(); ++i) {
    const v1::LogitBias& entry = wire.logit_bias(i);
    check->Id("sampling.logit_bias", i, entry.token_id(), vocab_size);
    check->Range("sampling.logit_bias.bias", entry.bias(), -1000, 1000);
    if (!seen.insert(entry.token_id()).second) {
      check->Fail(absl::StrCat("sampling.logit_bias names token ", entry.token_id(),
                               " more than once; ids must be distinct"));
    }
    out.logit_bias.emplace_back(entry.token_id(), entry.bias());
  }
  out.allowed_ids.assign(wire.allowed_token_ids().begin(), wire.allowed_token_ids().end());
  out.banned_ids = rules.sampling.banned_ids;
  if (wire.banned_token_ids_size() > 0) {
    out.banned_ids.assign(wire.banned_token_ids().begin(), wire.banned_token_ids().end());
  }
  return out;
}

// All but max_tokens, whose range depends on the prompt: what no prompt could allow is refused,
// before any text is tokenized.
StopParams MakeStop(const v1::StopParams& wire, const RequestRules& rules, Checker* check) {
  StopParams out;
  check->Count("stop.strings", wire.strings_size(), kMaxStopStrings);
  check->IdList("stop.token_ids", wire.token_ids(), kMaxStopIds, rules.vocab_size);
  const int most = rules.max_context - 1;
  check->Range("stop.min_tokens", wire.min_tokens(), 0, most);
  if (wire.has_max_tokens()) check->Range("stop.max_tokens", wire.max_tokens(), 1, most);
  for (int i = 0; check->ok() && i < wire.strings_size(); ++i) {
    const size_t size = wire.strings(i).size();
    if (size < 1 || size > kMaxStopStringBytes) {
      check->Fail(absl::StrCat("stop.strings[", i, "] has ", size, " bytes; range [1, ",
                               kMaxStopStringBytes, "]"));
    }
  }
  if (!check->ok()) return out;
  // Without a tokenizer the defaults mean nothing.
  if (rules.tokenizer != nullptr) out.stop_strings = rules.stop.strings;
  if (wire.strings_size() > 0) {
    out.stop_strings.assign(wire.strings().begin(), wire.strings().end());
  }
  out.stop_ids.assign(wire.token_ids().begin(), wire.token_ids().end());
  out.min_tokens = wire.has_min_tokens() ? wire.min_tokens() : rules.stop.min_tokens;
  out.ignore_eos = wire.ignore_eos();
  return out;
}

// Tokenizing takes some hundred bytes of memory and a microsecond per byte of text.
absl::Status CheckTextBytes(const char* field, size_t size, const RequestRules& rules) {
  if (size <= rules.max_text_bytes) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(field, " has ", size, " bytes; at most ",
                                                 rules.max_text_bytes, " (", rules.max_context,
                                                 " tokens of the longest piece)"));
}

absl::StatusOr<std::vector<int32_t>> MakePrompt(const v1::GenerateRequest& wire,
                                                const RequestRules& rules) {
  if (wire.prompt_case() == v1::GenerateRequest::PROMPT_NOT_SET) {
    return absl::InvalidArgumentError("prompt is missing; set text or tokens");
  }
  if (wire.prompt_case() == v1::GenerateRequest::kTokens) {
    for (const auto& [field, set] : {std::make_pair("add_bos", wire.has_add_bos()),
                                     std::make_pair("parse_special", wire.has_parse_special())}) {
      if (set) {
        return absl::InvalidArgumentError(
            absl::StrCat(field, " goes with text; token ids are taken as they are"));
      }
    }
    const auto& ids = wire.tokens().ids();
    Checker check;
    for (int i = 0; check.ok() && i < ids.size(); ++i) {
      check.Id("tokens.ids", i, ids[i], rules.vocab_size);
    }
    if (!check.ok()) return check.status();
    return std::vector<int32_t>(ids.begin(), ids.end());
  }
  if (rules.tokenizer == nullptr) return NoTokenizer("text");
  const absl::Status size = CheckTextBytes("text", wire.text().size(), rules);
  if (!size.ok()) return size;
  Tokenizer::EncodeOptions options;
  options.add_bos = wire.has_add_bos() ? wire.add_bos() : rules.tokenizer->default_add_bos();
  options.parse_special = wire.parse_special();
  return rules.tokenizer->Encode(wire.text(), options);
}

}  // namespace

RequestRules MakeRequestRules(int vocab_size, int max_context, const Tokenizer* tokenizer) {
  RequestRules rules;
  rules.vocab_size = vocab_size;
  rules.max_context = max_context;
  rules.tokenizer = tokenizer;
  for (int id = 0; tokenizer != nullptr && id < tokenizer->num_pieces(); ++id) {
    rules.max_piece_bytes = std::max(rules.max_piece_bytes, tokenizer->PieceText(id).size());
  }
  // A character that has no piece becomes up to four byte pieces.
  rules.max_text_bytes = std::max<size_t>(4, rules.max_piece_bytes) * max_context;
  return rules;
}

absl::StatusOr<Request> MakeRequest(const v1::GenerateRequest& wire, const RequestRules& rules,
                                    uint64_t seed) {
  Request out;
  Checker check;
  CheckUnbuilt(wire, &check);
  out.sampling = MakeSampling(wire.sampling(), rules, seed, &check);
  out.stop = MakeStop(wire.stop(), rules, &check);
  out.stop.skip_special_tokens = !wire.has_skip_special_tokens() || wire.skip_special_tokens();
  // An empty text is no text to continue: the first word then needs no space before it.
  out.stop.continues_text = !(wire.has_text() && wire.text().empty());
  out.cg_tolerance =
      wire.solver().has_cg_tolerance() ? wire.solver().cg_tolerance() : rules.cg_tolerance;
  // As floats: 1e-7 as a client writes it must be inside.
  check.Range("solver.cg_tolerance", out.cg_tolerance, 1e-7f, 0.1f);
  out.cg_max_steps =
      wire.solver().has_cg_max_steps() ? wire.solver().cg_max_steps() : rules.cg_max_steps;
  check.Range("solver.cg_max_steps", out.cg_max_steps, 1, 1024);
  check.Range("priority", wire.priority(), -100, 100);
  out.priority = wire.priority();
  if (!check.ok()) return check.status();
  if (!out.stop.stop_strings.empty() && rules.tokenizer == nullptr) {
    return NoTokenizer("stop.strings");
  }

  absl::StatusOr<std::vector<int32_t>> prompt = MakePrompt(wire, rules);
  if (!prompt.ok()) return prompt.status();
  const int64_t length = prompt->size();
  const int64_t room = rules.max_context - length;
  if (length < 1 || room < 1) {
    return absl::InvalidArgumentError(absl::StrCat("prompt has ", length, " tokens; range [1, ",
                                                   rules.max_context - 1, "] (max_context ",
                                                   rules.max_context, ")"));
  }
  const int64_t most = rules.stop.max_tokens > 0 ? rules.stop.max_tokens : kDefaultMaxTokens;
  out.stop.max_tokens = std::min(most, room);
  if (wire.stop().has_max_tokens()) {
    check.Range("stop.max_tokens", wire.stop().max_tokens(), 1, room);
    out.stop.max_tokens = wire.stop().max_tokens();
  }
  // A default gives way to what is asked for.
  if (!wire.stop().has_min_tokens()) {
    out.stop.min_tokens = std::min(out.stop.min_tokens, out.stop.max_tokens);
  }
  check.Range("stop.min_tokens", out.stop.min_tokens, 0, out.stop.max_tokens);
  if (!check.ok()) return check.status();
  out.prompt = *std::move(prompt);
  return out;
}

absl::StatusOr<std::vector<int32_t>> TokenizeChecked(const v1::TokenizeRequest& wire,
                                                     const RequestRules& rules) {
  if (rules.tokenizer == nullptr) return NoTokenizer("text");
  // More than fits a prompt may be counted, but not so much that one call holds up the others.
  if (wire.text().size() > std::max(rules.max_text_bytes, kMaxTokenizeBytes)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "text has ", wire.text().size(), " bytes; at most ",
        std::max(rules.max_text_bytes, kMaxTokenizeBytes), " (tokenize it in pieces)"));
  }
  Tokenizer::EncodeOptions options;
  options.add_bos = wire.has_add_bos() ? wire.add_bos() : rules.tokenizer->default_add_bos();
  options.parse_special = wire.parse_special();
  return rules.tokenizer->Encode(wire.text(), options);
}

absl::StatusOr<std::string> DetokenizeChecked(const v1::DetokenizeRequest& wire,
                                              const RequestRules& rules) {
  if (rules.tokenizer == nullptr) return NoTokenizer("text");
  Checker check;
  for (int i = 0; check.ok() && i < wire.token_ids_size(); ++i) {
    check.Id("token_ids", i, wire.token_ids(i), rules.vocab_size);
  }
  if (!check.ok()) return check.status();
  return rules.tokenizer->Decode({wire.token_ids().begin(), wire.token_ids().end()},
                                 !wire.has_skip_special_tokens() || wire.skip_special_tokens());
}

}  // namespace packrat
