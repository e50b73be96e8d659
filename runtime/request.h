// What a caller asks of the engine and what it gets back.
#ifndef PACKRAT_RUNTIME_REQUEST_H_
#define PACKRAT_RUNTIME_REQUEST_H_

#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "kernels/sampling.h"  // kMaxLogprobs
#include "runtime/mutex.h"

namespace packrat {

// Limits of a request that the model does not set.
inline constexpr int kMaxStopStrings = 16;
inline constexpr int kMaxStopStringBytes = 256;  // Each.
inline constexpr int kMaxStopIds = 256;

// How a token is drawn. A token is a function of the logits, the seed and its position alone.
// Order: bias and bans, penalties, temperature, top-k, top-p, min-p.
struct SamplingParams {
  float temperature = 1.0f;         // 0: greedy. Range [0, 100].
  int top_k = 0;                    // 0: off. Range [0, vocab_size].
  float top_p = 1.0f;               // Range (0, 1].
  float min_p = 0.0f;               // Drop tokens below min_p * p(best). Range [0, 1).
  float repetition_penalty = 1.0f;  // On prompt and generated tokens. Range (0, 10].
  float presence_penalty = 0.0f;    // On generated tokens. Range [-10, 10].
  float frequency_penalty = 0.0f;   // On generated tokens. Range [-10, 10].
  std::vector<std::pair<int32_t, float>> logit_bias;  // (id, bias in [-1000, 1000]); ids distinct.
  std::vector<int32_t> allowed_ids;                   // Empty: all.
  std::vector<int32_t> banned_ids;
  uint64_t seed = 0;
  int num_logprobs = -1;  // -1: none; n >= 0: the chosen token's and the n best. Range [-1, 20].
};

// Stop strings are sought in the text of the generated tokens as
// TextDecoder(tokenizer, skip_special_tokens, continues_text) decodes it; who shows the text
// decodes it the same way, so that safe_text_bytes counts the same bytes.
struct StopParams {
  std::vector<std::string>
      stop_strings;               // At most kMaxStopStrings, each of 1 to
                                  // kMaxStopStringBytes bytes. Never emitted, not even half.
  std::vector<int32_t> stop_ids;  // Beside the model's end ids; at most kMaxStopIds.
  bool skip_special_tokens = true;
  bool continues_text = true;
  int min_tokens = 0;       // The first so many tokens are no end or stop ids, and a
                            // stop string that they complete does not count. Range
                            // [0, max_tokens].
  int max_tokens = 256;     // Range [1, max_context - prompt].
  bool ignore_eos = false;  // The model's end ids do not end the text.
};

enum class FinishReason {
  kLength,  // max_tokens reached
  kEos,     // one of the model's end ids
  kStopId,
  kStopString,
  kCancelled,
  kDeadline,
  kError,  // `status` says what
};
const char* FinishReasonName(FinishReason reason);  // "length", "eos", "stop_id", ...

struct TokenLogprobs {
  float logprob = 0;  // Of the chosen token, natural log, under the distribution after bias, bans
                      // and penalties, before temperature and cuts.
  std::vector<std::pair<int32_t, float>> top;  // Best first.
};

// Final words on a request. The end id or stop id that ended the text is counted in
// `completion_tokens` (it was computed) but is not among the emitted tokens. The token that
// completes a stop string is emitted, since it may begin with text that stands before the string;
// its safe_text_bytes ends where the stop string begins.
struct Usage {
  int prompt_tokens = 0;
  int cached_tokens = 0;      // Prompt tokens not computed because a cache had them.
  int completion_tokens = 0;  // Generated, the ending token included.
  int64_t cg_solves = 0;
  int64_t cg_steps = 0;
  int64_t cg_unconverged = 0;
  absl::Duration queue_time;           // Submit to admission.
  absl::Duration time_to_first_token;  // Submit to the first token.
  absl::Duration total_time;           // Submit to finish.
};

struct Finish {
  FinishReason reason;
  absl::Status status;  // Not OK for kCancelled, kDeadline and kError.
  Usage usage;
};

// The channel from the engine to one consumer. The engine appends and never waits; a consumer that
// does not read leaves here its token ids (at most max_tokens of them) and nothing else.
class Outbox {
 public:
  struct Update {
    bool admitted = false;                // The request has left the queue at some time.
    std::vector<int32_t> tokens;          // New since the last Take().
    std::vector<TokenLogprobs> logprobs;  // Parallel to tokens where asked for, else empty.
    // Bytes of the whole generated text (from its first byte) that may be shown: what may still
    // become a stop string is held back. Max where there are no stop strings, and with every finish
    // but kStopString.
    size_t safe_text_bytes = std::numeric_limits<size_t>::max();
    std::optional<Finish> finish;  // Set once, with or after the last token.
  };

  // `notify` is called by the engine's thread after each change, without locks held; it must be
  // quick and must not call the engine. At most one notification is outstanding: none is sent
  // between one notification and the next Take().
  explicit Outbox(std::function<void()> notify) : notify_(std::move(notify)) {}

  // Consumer: everything new since the last call. False if there is nothing new.
  bool Take(Update* update);

  // Engine side.
  // So that no append allocates token storage while fewer than kReservedTokens wait to be read (the
  // lists inside of TokenLogprobs are allocated). Not more: what a client claims is not memory yet.
  static constexpr int kReservedTokens = 16384;
  void Reserve(int max_tokens, bool logprobs);
  void Admit();
  void Append(int32_t token, std::optional<TokenLogprobs> logprobs, size_t safe_text_bytes);
  void Close(Finish finish);  // Last call.
  void Notify();              // Sends the notification if something is new and none is outstanding.

 private:
  const std::function<void()> notify_;
  Mutex mutex_;
  Update pending_ ABSL_GUARDED_BY(mutex_);
  bool dirty_ ABSL_GUARDED_BY(mutex_) = false;
  bool outstanding_ ABSL_GUARDED_BY(mutex_) = false;
};

struct Request {
  uint64_t id = 0;              // Unique; names the request in Cancel().
  std::vector<int32_t> prompt;  // At least one token.
  SamplingParams sampling;
  StopParams stop;
  float cg_tolerance = 1e-4f;  // Range [1e-7, 0.1].
  int cg_max_steps = 64;       // Range [1, 1024].
  int priority = 0;            // Higher runs first, but waiting counts: see scheduler.h.
  std::string tenant;          // Who takes turns with the others; all that is empty is one.
  double tenant_weight = 1;    // Its share beside that of others. Above 0.
  absl::Time deadline = absl::InfiniteFuture();  // By the clock of Engine::Step().
  std::shared_ptr<Outbox> outbox;
};

}  // namespace packrat

#endif  // PACKRAT_RUNTIME_REQUEST_H_
