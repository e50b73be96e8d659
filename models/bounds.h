// What callers may ask of a model. Each range is stated once, here: for requests, the defaults of a
// server and of a generation_config.json, the tools, and the help of flags.
#ifndef PACKRAT_MODELS_BOUNDS_H_
#define PACKRAT_MODELS_BOUNDS_H_

#include <limits>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace packrat {

struct Bound {
  // Which ends belong to the range: both, not the low one, or not the high one.
  enum Ends { kBoth, kNotLow, kNotHigh };

  const char* field;  // As runtime/request.h names it.
  double low, high;
  Ends ends = kBoth;
  const char* unit = "";  // What is counted: "strings". Empty: the field's value itself is bounded.

  // The same range, with a high end that the model or another field sets.
  constexpr Bound UpTo(double most) const { return {field, low, most, ends, unit}; }
  bool Holds(double value) const;  // False for NaN.
  std::string Range() const;       // "[0, 100]", "(0, 1]".
  // INVALID_ARGUMENT unless it holds: "NAME is 101; range [0, 100]", or for what is counted "NAME
  // has 17 strings; range [0, 16]". `remark` is put at the end.
  absl::Status Check(absl::string_view name, double value, absl::string_view remark = "") const;
};

namespace bounds {

// The high end comes from the model or from another field: see Bound::UpTo().
inline constexpr double kOpen = std::numeric_limits<double>::infinity();

inline constexpr Bound kTemperature = {"sampling.temperature", 0, 100};
inline constexpr Bound kTopK = {"sampling.top_k", 0, kOpen};  // vocab_size
inline constexpr Bound kTopP = {"sampling.top_p", 0, 1, Bound::kNotLow};
inline constexpr Bound kMinP = {"sampling.min_p", 0, 1, Bound::kNotHigh};
inline constexpr Bound kRepetitionPenalty = {"sampling.repetition_penalty", 0, 10, Bound::kNotLow};
inline constexpr Bound kPresencePenalty = {"sampling.presence_penalty", -10, 10};
inline constexpr Bound kFrequencyPenalty = {"sampling.frequency_penalty", -10, 10};
inline constexpr Bound kLogitBias = {"sampling.logit_bias", 0, 1024, Bound::kBoth, "entries"};
inline constexpr Bound kBias = {"sampling.logit_bias", -1000, 1000};  // Of one entry.
inline constexpr Bound kAllowedIds = {"sampling.allowed_ids", 0, kOpen, Bound::kBoth, "ids"};
inline constexpr Bound kBannedIds = {"sampling.banned_ids", 0, kOpen, Bound::kBoth, "ids"};
inline constexpr Bound kNumLogprobs = {"sampling.num_logprobs", 0, 20};

inline constexpr Bound kStopIds = {"stop.ids", 0, 256, Bound::kBoth, "ids"};
inline constexpr Bound kMinTokens = {"stop.min_tokens", 0, kOpen};  // max_tokens
inline constexpr Bound kMaxTokens = {"stop.max_tokens", 1, kOpen};  // max_context - prompt
inline constexpr Bound kStopStrings = {"text.stop_strings", 0, 16, Bound::kBoth, "strings"};
inline constexpr Bound kStopStringBytes = {"text.stop_strings", 1, 256, Bound::kBoth, "bytes"};

// As floats, so that the 1e-7 that a client writes is inside.
inline constexpr Bound kCgTolerance = {"solver.cg_tolerance", 1e-7f, 0.1f};
inline constexpr Bound kCgMaxSteps = {"solver.cg_max_steps", 1, 1024};

// Of a request that scores: the first scored token, and max_tokens, which may be 0.
inline constexpr Bound kScoreFrom = {"score_from", 1, kOpen};  // Tokens of the prompt.
inline constexpr Bound kMaxTokensBesideScores = {"stop.max_tokens", 0, kOpen};

inline constexpr Bound kNumChoices = {"num_choices", 1, 16};
inline constexpr Bound kCandidates = {"candidates", 0, 256, Bound::kBoth, "candidates"};
inline constexpr Bound kCandidate = {"candidates", 1, kOpen, Bound::kBoth, "tokens"};  // Of one.

inline constexpr Bound kChatMessages = {"chat.messages", 1, 4096, Bound::kBoth, "messages"};
inline constexpr Bound kChatRole = {"chat.messages.role", 1, 64, Bound::kBoth, "bytes"};

inline constexpr Bound kDial = {"dials", 0, kOpen, Bound::kNotHigh};  // ModelConfig::dials
inline constexpr Bound kFinerEnd = {"dials.finer", 16, kOpen};        // kBlockTokens; the prompt
inline constexpr Bound kCacheSalt = {"cache.salt", 0, 256, Bound::kBoth, "bytes"};
inline constexpr Bound kPriority = {"priority", -100, 100};
inline constexpr Bound kPrompt = {"prompt", 1, kOpen, Bound::kBoth, "tokens"};  // max_context - 1

}  // namespace bounds
}  // namespace packrat

#endif  // PACKRAT_MODELS_BOUNDS_H_
