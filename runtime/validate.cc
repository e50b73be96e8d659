#include "runtime/validate.h"

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "runtime/sampler.h"

namespace packrat {
namespace {

// `range` as text, so that "(0, 10]" reads as such; `ok` decides.
template <typename T>
absl::Status Check(bool ok, absl::string_view field, absl::string_view range, T got) {
  if (ok) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(field, " must be in ", range, ", got ", got));
}

// False for NaN.
bool Within(float x, float low, float high) { return x >= low && x <= high; }

absl::Status CheckIds(const std::vector<int32_t>& ids, absl::string_view field, int vocab_size) {
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= vocab_size) {
      return Check(false, absl::StrCat(field, "[", i, "]"), absl::StrCat("[0, ", vocab_size, ")"),
                   ids[i]);
    }
  }
  return absl::OkStatus();
}

absl::Status CheckLogitBias(const SamplingParams& params, int vocab_size) {
  std::vector<int32_t> ids;
  for (const auto& [id, bias] : params.logit_bias) {
    ids.push_back(id);
    absl::Status status = Check(Within(bias, -1000, 1000), absl::StrCat("logit_bias of token ", id),
                                "[-1000, 1000]", bias);
    if (!status.ok()) return status;
  }
  absl::Status status = CheckIds(ids, "logit_bias", vocab_size);
  if (!status.ok()) return status;
  std::sort(ids.begin(), ids.end());
  const auto twice = std::adjacent_find(ids.begin(), ids.end());
  if (twice == ids.end()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("logit_bias must name each token once, got token ", *twice, " twice"));
}

absl::Status CheckSampling(const SamplingParams& p, int vocab_size) {
  const absl::Status checks[] = {
      Check(Within(p.temperature, 0, 100), "temperature", "[0, 100]", p.temperature),
      Check(p.top_k >= 0 && p.top_k <= vocab_size, "top_k", absl::StrCat("[0, ", vocab_size, "]"),
            p.top_k),
      Check(p.top_p > 0 && p.top_p <= 1, "top_p", "(0, 1]", p.top_p),
      Check(p.min_p >= 0 && p.min_p < 1, "min_p", "[0, 1)", p.min_p),
      Check(p.repetition_penalty > 0 && p.repetition_penalty <= 10, "repetition_penalty", "(0, 10]",
            p.repetition_penalty),
      Check(Within(p.presence_penalty, -10, 10), "presence_penalty", "[-10, 10]",
            p.presence_penalty),
      Check(Within(p.frequency_penalty, -10, 10), "frequency_penalty", "[-10, 10]",
            p.frequency_penalty),
      Check(p.num_logprobs >= -1 && p.num_logprobs <= kMaxLogprobs, "num_logprobs",
            absl::StrCat("[-1, ", kMaxLogprobs, "]"), p.num_logprobs),
      CheckLogitBias(p, vocab_size),
      CheckIds(p.allowed_ids, "allowed_ids", vocab_size),
      CheckIds(p.banned_ids, "banned_ids", vocab_size),
  };
  for (const absl::Status& status : checks) {
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status CheckStop(const StopParams& stop, const RequestLimits& limits) {
  if (!stop.stop_strings.empty() && !limits.has_tokenizer) {
    return absl::FailedPreconditionError("stop_strings need a tokenizer, and the model has none");
  }
  absl::Status status =
      Check(stop.stop_strings.size() <= kMaxStopStrings, "stop_strings",
            absl::StrCat("[0, ", kMaxStopStrings, "] strings"), stop.stop_strings.size());
  for (size_t i = 0; status.ok() && i < stop.stop_strings.size(); ++i) {
    const size_t bytes = stop.stop_strings[i].size();
    status =
        Check(bytes >= 1 && bytes <= kMaxStopStringBytes, absl::StrCat("stop_strings[", i, "]"),
              absl::StrCat("[1, ", kMaxStopStringBytes, "] bytes"), bytes);
  }
  if (status.ok()) {
    status = Check(stop.stop_ids.size() <= kMaxStopIds, "stop_ids",
                   absl::StrCat("[0, ", kMaxStopIds, "] ids"), stop.stop_ids.size());
  }
  if (status.ok()) status = CheckIds(stop.stop_ids, "stop_ids", limits.vocab_size);
  if (status.ok()) {
    status = Check(stop.min_tokens >= 0 && stop.min_tokens <= stop.max_tokens, "min_tokens",
                   absl::StrCat("[0, max_tokens = ", stop.max_tokens, "]"), stop.min_tokens);
  }
  return status;
}

absl::Status CheckLength(const Request& request, int max_context) {
  const int64_t prompt = static_cast<int64_t>(request.prompt.size());
  if (prompt < 1 || prompt >= max_context) {
    return absl::InvalidArgumentError(absl::StrCat("prompt must have 1 to ", max_context - 1,
                                                   " tokens (max_context ", max_context,
                                                   " less one to generate), got ", prompt));
  }
  const int64_t room = max_context - prompt;
  return Check(request.stop.max_tokens >= 1 && request.stop.max_tokens <= room, "max_tokens",
               absl::StrCat("[1, ", room, "] (max_context ", max_context, " less ", prompt,
                            " tokens of prompt)"),
               request.stop.max_tokens);
}

}  // namespace

std::vector<int32_t> EndIds(const StopParams& stop, const std::vector<int32_t>& eos_ids) {
  std::vector<int32_t> ids = stop.stop_ids;
  if (!stop.ignore_eos) ids.insert(ids.end(), eos_ids.begin(), eos_ids.end());
  return ids;
}

absl::Status ValidateRequest(const Request& request, const RequestLimits& limits) {
  absl::Status status = CheckLength(request, limits.max_context);
  if (status.ok()) status = CheckIds(request.prompt, "prompt", limits.vocab_size);
  if (status.ok()) status = CheckSampling(request.sampling, limits.vocab_size);
  if (status.ok()) status = CheckStop(request.stop, limits);
  if (status.ok()) {
    status = Check(Within(request.cg_tolerance, 1e-7f, 0.1f), "cg_tolerance", "[1e-07, 0.1]",
                   request.cg_tolerance);
  }
  if (status.ok()) {
    status = Check(request.cg_max_steps >= 1 && request.cg_max_steps <= 1024, "cg_max_steps",
                   "[1, 1024]", request.cg_max_steps);
  }
  if (!status.ok()) return status;
  if (!AnythingToSample(request.sampling, {}, limits.num_ids)) {
    return absl::InvalidArgumentError(
        "allowed_token_ids and banned_token_ids leave no token to sample");
  }
  if (request.stop.min_tokens > 0 &&
      !AnythingToSample(request.sampling, EndIds(request.stop, limits.eos_ids), limits.num_ids)) {
    return absl::InvalidArgumentError(
        "min_tokens excludes the end and stop ids, and allowed_token_ids and banned_token_ids "
        "leave no other "
        "token to sample");
  }
  return absl::OkStatus();
}

}  // namespace packrat
