// POST /v1/completions.
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/openai/readers.h"

namespace packrat::openai {
namespace {

// Options are copied for each prompt: a list of a million ids times 256 prompts must not be.
constexpr size_t kMostCopied = size_t{64} << 20;

absl::Status ReadIds(const std::string& field, const OrderedJson& value,
                     std::vector<int32_t>* ids) {
  ids->reserve(value.size());
  for (size_t i = 0; i < value.size(); ++i) {
    const absl::StatusOr<int> id = ReadInt(field, value[i]);
    if (!id.ok()) return MustBe(absl::StrCat(field, "[", i, "]"), value[i], "a token id");
    ids->push_back(*id);
  }
  return absl::OkStatus();
}

// One prompt of a list.
absl::Status ReadItem(const std::string& field, const OrderedJson& value, bool text,
                      AnswerForm* form) {
  if (value.is_string() != text || value.is_array() == text) {
    return MustBe(
        field, value,
        text ? "a string, as those before it" : "a list of token ids, as those before it");
  }
  if (text) {
    form->prompts.emplace_back(value.get<std::string>());
    return absl::OkStatus();
  }
  std::vector<int32_t> ids;
  const absl::Status status = ReadIds(field, value, &ids);
  form->prompts.emplace_back(std::move(ids));
  return status;
}

template <class Wire>
void SetPrompt(const Draft& draft, size_t index, Wire* wire) {
  if (index >= draft.form.prompts.size()) return;  // The session's text alone.
  const Prompt& prompt = draft.form.prompts[index];
  if (const auto* text = std::get_if<std::string>(&prompt)) {
    wire->set_text(*text);
  } else {
    const auto& ids = std::get<std::vector<int32_t>>(prompt);
    wire->mutable_tokens()->mutable_ids()->Add(ids.begin(), ids.end());
  }
}

// What a request asks that generates nothing.
v1::ScoreRequest MakeScore(const v1::GenerateRequest& from) {
  v1::ScoreRequest score;
  if (from.has_add_bos()) score.set_add_bos(from.add_bos());
  if (from.has_parse_special()) score.set_parse_special(from.parse_special());
  if (from.sampling().has_num_logprobs()) score.set_num_logprobs(from.sampling().num_logprobs());
  if (from.has_solver()) *score.mutable_solver() = from.solver();
  if (from.has_rat_plus_dial()) score.set_rat_plus_dial(from.rat_plus_dial());
  if (from.has_priority()) score.set_priority(from.priority());
  if (from.has_use_cache()) score.set_use_cache(from.use_cache());
  if (from.has_cache_salt()) score.set_cache_salt(from.cache_salt());
  return score;
}

// What several fields say together.
absl::Status CheckForm(const Draft& draft) {
  const AnswerForm& form = draft.form;
  if (form.prompts.empty() && !draft.request.has_session()) return Refuse("prompt", "is missing");
  if (draft.stream_options && !form.stream) {
    return Refuse("stream_options", "can be used with stream only");
  }
  if (draft.request.has_session() && form.calls > 1) {
    return Refuse("prompt", absl::StrCat("has ", form.calls, " prompts; 1 in a session"));
  }
  if (draft.request.has_session() && form.echo) {
    return Refuse("echo", "is true; the text of a session is not repeated");
  }
  const int n = draft.n.value_or(1);
  if (draft.best_of.has_value() && *draft.best_of < n) {
    return Refuse("best_of", absl::StrCat("is ", *draft.best_of, "; at least n, which is ", n));
  }
  if (form.stream && form.made > form.shown) {
    return Refuse("best_of", "is more than n; with stream nobody knows yet which are the best");
  }
  if (form.stream && form.echo && form.logprobs && form.shown > 1) {
    return Refuse("n", "is more than 1; 1 with stream, echo and logprobs together");
  }
  if (draft.request.ByteSizeLong() * form.calls > kMostCopied) {
    return Refuse("prompt", "has too many prompts for options of this size; send fewer");
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ReadPrompt(const std::string& name, const OrderedJson& value, Draft* draft) {
  AnswerForm* form = &draft->form;
  if (value.is_string()) return ReadItem(name, value, true, form);
  if (!value.is_array() || value.empty()) {
    return MustBe(name, value, "a string, token ids, or a list of either");
  }
  if (value[0].is_number()) return ReadItem(name, value, false, form);
  if (!value[0].is_string() && !value[0].is_array()) {
    return MustBe(absl::StrCat(name, "[0]"), value[0], "a string, a token id or a list of ids");
  }
  const Bound bound = {"", 1, kMaxPrompts, Bound::kBoth, "prompts"};
  absl::Status status = bound.Check(name, static_cast<double>(value.size()));
  if (!status.ok()) return WithParam(status, name);
  for (size_t i = 0; i < value.size() && status.ok(); ++i) {
    status = ReadItem(absl::StrCat(name, "[", i, "]"), value[i], value[0].is_string(), form);
  }
  form->calls = static_cast<int>(value.size());
  draft->listed = true;
  return status;
}

absl::Status ReadBestOf(const std::string& name, const OrderedJson& value, Draft* draft) {
  const absl::StatusOr<int> best_of = ReadInt(name, value);
  if (best_of.ok()) draft->best_of = *best_of;
  return best_of.status();
}

absl::Status ReadEcho(const std::string&, const OrderedJson& value, Draft* draft) {
  draft->form.echo = value.get<bool>();
  return absl::OkStatus();
}

absl::Status ReadCompletionLogprobs(const std::string& name, const OrderedJson& value,
                                    Draft* draft) {
  const absl::StatusOr<int> count = ReadInt(name, value);
  if (!count.ok()) return count.status();
  draft->form.logprobs = true;
  draft->form.num_logprobs = *count;
  return draft->Set("sampling.num_logprobs", name, value);
}

absl::StatusOr<Ask> FinishCompletions(Draft draft) {
  v1::GenerateRequest& request = draft.request;
  AnswerForm& form = draft.form;
  form.shown = draft.n.value_or(1);
  form.made = draft.best_of.value_or(form.shown);
  absl::Status status = CheckForm(draft);
  if (status.ok()) status = CheckOneForm(draft);
  if (!status.ok()) return status;
  const bool only_scored =
      form.echo && request.stop().has_max_tokens() && request.stop().max_tokens() == 0;
  if (only_scored && form.made != 1) return Refuse("n", "must be 1 where max_tokens is 0");
  if (form.made != 1) request.set_num_choices(form.made);
  // The best are found by the log-probabilities.
  if (form.made > form.shown && !form.logprobs) request.mutable_sampling()->set_num_logprobs(0);
  if (form.echo && form.logprobs) {
    request.set_echo_prompt(true);
    // Who wants a prompt's scores asks for one token more, as max_tokens 0 was refused elsewhere,
    // and drops it. An end token is not sent, and then the last score would be dropped.
    v1::StopParams* stop = request.mutable_stop();
    if (stop->max_tokens() == 1 && !stop->has_ignore_eos()) stop->set_ignore_eos(true);
  }
  Ask ask;
  for (int i = 0; i < form.calls; ++i) {
    if (only_scored) {
      v1::ScoreRequest score = MakeScore(request);
      SetPrompt(draft, i, &score);
      ask.calls.emplace_back(std::move(score));
    } else {
      v1::GenerateRequest one = request;
      SetPrompt(draft, i, &one);
      ask.calls.emplace_back(std::move(one));
    }
  }
  ask.names = NamesOf(draft);
  ask.listed = draft.listed;
  if (!form.echo) form.prompts.clear();
  ask.form = std::move(form);
  return ask;
}

}  // namespace packrat::openai
