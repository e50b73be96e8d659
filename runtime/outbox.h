// What the engine gives back for a request, and the channel to whoever reads it.
#ifndef PACKRAT_RUNTIME_OUTBOX_H_
#define PACKRAT_RUNTIME_OUTBOX_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "models/batch.h"
#include "runtime/mutex.h"
#include "runtime/woken_readers.h"

namespace packrat {

enum class FinishReason {
  kLength,  // max_tokens reached
  kEos,     // one of the model's end ids, or the grammar's end
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

// What the model makes of a token of the prompt, given those before it: by its distribution over
// all of the vocabulary as it is, whatever the request says of sampling.
struct TokenScore {
  int32_t token = -1;
  TokenLogprobs logprobs;  // Of the token itself, and of the best.
  int32_t best = -1;       // The likeliest; of equals the lowest id.
  float entropy = 0;       // Nats.
  float margin = 0;        // The best log-probability less the next one's.
};

// Why no part of a prompt came from the prefix cache.
enum class CacheMiss {
  kNone,        // Some did.
  kOff,         // The server or the request does not use it.
  kFirstUse,    // No text began alike, or only with less than a block.
  kNoSnapshot,  // One did, but no state was kept where they part.
  kEvicted,     // A state was, and had to give way since.
};
inline constexpr int kNumCacheMisses = 5;
const char* CacheMissName(CacheMiss miss);  // "none", "off", "first_use", ...

// What a request has used. The end id or stop id that ended the text is counted in
// `completion_tokens` (it was computed) but is not among the emitted tokens. The token that
// completes a stop string is emitted, since it may begin with text that stands before the string;
// its safe_text_bytes ends where the stop string begins.
struct Usage {
  int prompt_tokens = 0;
  int cached_tokens = 0;  // Prompt tokens not computed because the prefix cache had them.
  CacheMiss cache_miss = CacheMiss::kOff;
  int completion_tokens = 0;  // Generated, the ending token included.
  SolverStats solver;
  absl::Duration queue_time;           // Submit to admission.
  absl::Duration parked_time;          // In which others had its place.
  absl::Duration time_to_first_token;  // Submit to the first token.
  absl::Duration total_time;           // Submit to finish.
};

struct Finish {
  FinishReason reason;
  absl::Status status;  // Not OK for kCancelled, kDeadline and kError.
  Usage usage;
};

// The channel from the engine to one consumer. The engine appends and never waits. What a consumer
// does not read stays here: its token ids, at most max_tokens of them, what was asked for of each,
// and scores of the prompt.
class Outbox {
 public:
  struct Update {
    bool admitted = false;                // The request has left the queue at some time.
    std::vector<int32_t> tokens;          // New since the last Take().
    absl::Time since;                     // When the first of `tokens` came.
    std::vector<TokenLogprobs> logprobs;  // Parallel to tokens where asked for, else empty.
    std::vector<TokenScore> scores;       // New, of the prompt from Request::score_from on.
    // How many bytes of the whole generated text may be shown, counted from its first: what may
    // still become a stop string is held back. The largest size_t where there are no stop strings,
    // and with every finish but kStopString.
    size_t safe_text_bytes = std::numeric_limits<size_t>::max();
    std::optional<Finish> finish;  // Set once, with or after the last token.
  };

  // `notify` is called by the engine's thread after each change, without locks held; it must be
  // quick and must not call the engine. At most one notification is outstanding: none is sent
  // between one notification and the next Take().
  explicit Outbox(std::function<void()> notify) : notify_(std::move(notify)) {}

  // Consumer: everything new since the last call. False if there is nothing new.
  bool Take(Update* update);
  // Consumer: all that it took is where it goes, or waits for more. The engine may wait for this
  // (Notify()).
  void Settle();

  // Engine side.
  // Makes room for so many tokens, or for kReservedTokens if that is less, so that Append()
  // allocates nothing but the lists inside TokenLogprobs while fewer wait to be read. No more than
  // that, since a client can claim any max_tokens. Scores take their room as they come.
  static constexpr int kReservedTokens = 16384;
  void Reserve(int max_tokens, bool logprobs);
  void Admit();
  void Append(int32_t token, std::optional<TokenLogprobs> logprobs, size_t safe_text_bytes);
  void AppendScore(TokenScore score);
  void Close(Finish finish);  // Last call.
  // Notifies if something is new and no notification is outstanding. The consumer is added to
  // `readers`, where given, until it settles. One that has not since the last time is late: it is
  // added once more, and then not again before it settles, since it may be its client that does not
  // read. True if it is late so.
  bool Notify(const std::shared_ptr<WokenReaders>& readers = nullptr);

 private:
  const std::function<void()> notify_;
  Mutex mutex_;
  Update pending_ ABSL_GUARDED_BY(mutex_);
  bool dirty_ ABSL_GUARDED_BY(mutex_) = false;
  bool outstanding_ ABSL_GUARDED_BY(mutex_) = false;
  std::shared_ptr<WokenReaders> readers_ ABSL_GUARDED_BY(mutex_);  // Null while it is settled.
  uint64_t woken_at_ ABSL_GUARDED_BY(mutex_) = 0;                  // Their step.
  bool late_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace packrat

#endif  // PACKRAT_RUNTIME_OUTBOX_H_
