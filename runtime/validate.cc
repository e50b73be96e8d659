#include "runtime/validate.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/sampling.h"
#include "models/bounds.h"
#include "runtime/sampling_state.h"

namespace packrat {
namespace {

static_assert(bounds::kNumLogprobs.high == kMaxLogprobs);

// Keeps the first error.
class Checker {
 public:
  Checker(int vocab_size, FieldNames names) : vocab_size_(vocab_size), names_(names) {}

  void Check(const Bound& bound, double value, absl::string_view remark = "") {
    if (status_.ok() && !bound.Holds(value)) {
      status_ = bound.Check(names_(bound.field), value, remark);
    }
  }
  void CheckItem(const Bound& bound, size_t index, double value, absl::string_view part = "") {
    if (status_.ok() && !bound.Holds(value)) {
      status_ = bound.Check(absl::StrCat(names_(bound.field), "[", index, "]", part), value);
    }
  }
  // How many there are, and each.
  void CheckIds(const Bound& count, const std::vector<int32_t>& ids) {
    Check(count, static_cast<double>(ids.size()));
    if (status_.ok()) status_ = ValidateIds(ids, names_(count.field), vocab_size_);
  }
  void Fail(absl::Status status) {
    if (status_.ok()) status_ = std::move(status);
  }
  bool ok() const { return status_.ok(); }
  std::string Name(const Bound& bound) const { return names_(bound.field); }
  const absl::Status& status() const { return status_; }

 private:
  const int vocab_size_;
  const FieldNames names_;
  absl::Status status_;
};

void CheckLogitBias(const SamplingParams& params, Checker* check) {
  check->Check(bounds::kLogitBias, static_cast<double>(params.logit_bias.size()));
  if (!check->ok()) return;
  std::vector<int32_t> ids;
  for (size_t i = 0; i < params.logit_bias.size(); ++i) {
    ids.push_back(params.logit_bias[i].first);
    check->CheckItem(bounds::kBias, i, params.logit_bias[i].second, ".bias");
  }
  check->CheckIds(bounds::kLogitBias, ids);
  std::sort(ids.begin(), ids.end());
  const auto twice = std::adjacent_find(ids.begin(), ids.end());
  if (twice == ids.end()) return;
  check->Fail(
      absl::InvalidArgumentError(absl::StrCat(check->Name(bounds::kLogitBias), " names token ",
                                              *twice, " more than once; ids must be distinct")));
}

void CheckSampling(const SamplingParams& p, int vocab_size, Checker* check) {
  check->Check(bounds::kTemperature, p.temperature);
  check->Check(bounds::kTopK.UpTo(vocab_size), p.top_k);
  check->Check(bounds::kTopP, p.top_p);
  check->Check(bounds::kMinP, p.min_p);
  check->Check(bounds::kRepetitionPenalty, p.repetition_penalty);
  check->Check(bounds::kPresencePenalty, p.presence_penalty);
  check->Check(bounds::kFrequencyPenalty, p.frequency_penalty);
  if (p.num_logprobs.has_value()) check->Check(bounds::kNumLogprobs, *p.num_logprobs);
  CheckLogitBias(p, check);
  check->CheckIds(bounds::kAllowedIds.UpTo(vocab_size), p.allowed_ids);
  check->CheckIds(bounds::kBannedIds.UpTo(vocab_size), p.banned_ids);
}

// max_tokens, which is 0 where a prompt is only scored.
const Bound& MaxTokens(const Request& request) {
  return request.score_from.has_value() ? bounds::kMaxTokensBesideScores : bounds::kMaxTokens;
}

void CheckStop(const Request& request, int max_context, Checker* check) {
  const StopParams& stop = request.stop;
  check->CheckIds(bounds::kStopIds, stop.ids);
  const Bound most = MaxTokens(request).UpTo(max_context - 1);
  const bool too_long = stop.max_tokens > most.high;
  check->Check(most, stop.max_tokens,
               too_long ? absl::StrCat(" (max_context ", max_context, ")") : "");
  check->Check(bounds::kMinTokens.UpTo(stop.max_tokens), stop.min_tokens);
}

void CheckText(const TextParams& text, bool has_tokenizer, Checker* check) {
  check->Check(bounds::kStopStrings, static_cast<double>(text.stop_strings.size()));
  for (size_t i = 0; check->ok() && i < text.stop_strings.size(); ++i) {
    check->CheckItem(bounds::kStopStringBytes, i, static_cast<double>(text.stop_strings[i].size()));
  }
  if (text.stop_strings.empty() || has_tokenizer) return;
  check->Fail(absl::FailedPreconditionError(
      absl::StrCat(check->Name(bounds::kStopStrings),
                   " needs a tokenizer, and this model has none; send token ids")));
}

// That something is left to draw.
void CheckChoice(const Request& request, const RequestLimits& limits, Checker* check) {
  if (!check->ok()) return;
  const std::string lists = absl::StrCat(check->Name(bounds::kAllowedIds), " and ",
                                         check->Name(bounds::kBannedIds), " leave no ");
  if (!AnythingToSample(request.sampling, {}, limits.num_ids)) {
    check->Fail(absl::InvalidArgumentError(absl::StrCat(lists, "token to sample")));
  }
  if (request.stop.min_tokens > 0 &&
      !AnythingToSample(request.sampling, EndIds(request.stop, limits.eos_ids), limits.num_ids)) {
    check->Fail(absl::InvalidArgumentError(absl::StrCat(check->Name(bounds::kMinTokens),
                                                        " excludes the end and stop ids, and ",
                                                        lists, "other token to sample")));
  }
}

}  // namespace

std::string NameInRequest(absl::string_view field) { return std::string(field); }

absl::Status ValidateIds(const std::vector<int32_t>& ids, absl::string_view name, int vocab_size) {
  const Bound bound = {"", 0, static_cast<double>(vocab_size), Bound::kNotHigh};
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] >= 0 && ids[i] < vocab_size) continue;
    return bound.Check(absl::StrCat(name, "[", i, "]"), ids[i]);
  }
  return absl::OkStatus();
}

std::vector<int32_t> EndIds(const StopParams& stop, const std::vector<int32_t>& eos_ids) {
  std::vector<int32_t> ids = stop.ids;
  if (!stop.ignore_eos) ids.insert(ids.end(), eos_ids.begin(), eos_ids.end());
  return ids;
}

absl::Status ValidateOptions(const Request& request, const RequestLimits& limits,
                             FieldNames names) {
  Checker check(limits.vocab_size, names);
  CheckSampling(request.sampling, limits.vocab_size, &check);
  CheckStop(request, limits.max_context, &check);
  CheckText(request.text, limits.has_tokenizer, &check);
  check.Check(bounds::kCgTolerance, request.solver.cg_tolerance);
  check.Check(bounds::kCgMaxSteps, request.solver.cg_max_steps);
  const Bound dials = bounds::kDial.UpTo(std::max<double>(1, limits.dials.size()));
  for (int part = 0; part < request.dials.num_parts(); ++part) {
    check.CheckItem(dials, part, request.dials.Of(part));
  }
  check.Check(bounds::kPriority, request.priority);
  check.Check(bounds::kCacheSalt, static_cast<double>(request.cache.salt.size()));
  CheckChoice(request, limits, &check);
  return check.status();
}

absl::Status ValidatePrompt(const Request& request, const RequestLimits& limits, FieldNames names,
                            size_t from_session) {
  const auto length = static_cast<double>(request.prompt.size());
  const std::string context = absl::StrCat(" (max_context ", limits.max_context);
  const std::string parts = from_session == 0
                                ? ""
                                : absl::StrCat(": ", from_session, " of the session and ",
                                               request.prompt.size() - from_session, " new");
  Checker check(limits.vocab_size, names);
  // Where nothing is generated, the last token is scored and not computed.
  const bool only_scored = request.score_from.has_value() && request.stop.max_tokens == 0;
  Bound prompt = bounds::kPrompt.UpTo(limits.max_context - !only_scored);
  prompt.low += only_scored;
  check.Check(prompt, length, absl::StrCat(context, ")", parts));
  if (request.score_from.has_value()) {
    check.Check(bounds::kScoreFrom.UpTo(length - only_scored), *request.score_from);
  }
  check.Check(MaxTokens(request).UpTo(limits.max_context - length), request.stop.max_tokens,
              absl::StrCat(context, " less ", request.prompt.size(), " tokens of prompt)", parts));
  check.Check(bounds::kMinTokens.UpTo(request.stop.max_tokens), request.stop.min_tokens);
  // A part with a finer dial: before it ends something is sealed, and after it something computed.
  Bound end = bounds::kFinerEnd.UpTo(length - 1 - (request.stop.max_tokens == 0));
  for (size_t i = 0; i < request.dials.finer.size(); ++i) {
    check.CheckItem(end, i, request.dials.finer[i].end, ".end");
    end.low = request.dials.finer[i].end + 1;
  }
  if (!check.ok()) return check.status();
  return ValidateIds(request.prompt, check.Name(bounds::kPrompt), limits.vocab_size);
}

absl::Status ValidateRequest(const Request& request, const RequestLimits& limits,
                             FieldNames names) {
  const absl::Status status = ValidateOptions(request, limits, names);
  return status.ok() ? ValidatePrompt(request, limits, names) : status;
}

}  // namespace packrat
