// What every call needs from the server. It does not depend on gRPC.
#ifndef PACKRAT_SERVER_GENERATION_CALL_ENVIRONMENT_H_
#define PACKRAT_SERVER_GENERATION_CALL_ENVIRONMENT_H_

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "models/model.h"
#include "models/text/tokenizer.h"
#include "runtime/engine.h"
#include "runtime/mutex.h"
#include "runtime/session.h"
#include "runtime/session_transfer.h"
#include "server/api_keys.h"
#include "server/generation/byte_budget.h"
#include "server/generation/request_rules.h"
#include "server/log.h"
#include "server/metrics.h"
#include "server/options.h"
#include "server/stored_sessions.h"
#include "server/stream_writer.h"
#include "server/work_pool.h"

namespace packrat {

// A loaded model with its engine. All of it outlives the server's calls.
struct ServedModel {
  LanguageModel* model = nullptr;
  const Tokenizer* tokenizer = nullptr;
  Engine* engine = nullptr;
  SessionTransfer* transfer = nullptr;
  RequestRules rules;
};

// Counts the streams that are open, for the limit and for draining.
class StreamCount {
 public:
  // False at the limit.
  bool Enter(int limit);
  void Leave();
  int count() const;
  // Blocks until there is none, or until `deadline` on the clock of SteadyNow(): false then.
  bool WaitForNone(absl::Time deadline);

 private:
  mutable Mutex mutex_;
  std::condition_variable none_;
  int count_ ABSL_GUARDED_BY(mutex_) = 0;
};

// An unpredictable 64-bit number, for a seed or a request id: one number tells nothing about the
// next. It comes from the kernel's generator, a ChaCha20 that is given a new key from time to time.
uint64_t RandomNumber();

struct CallEnvironment {
  const ServerOptions* options = nullptr;
  Logger* log = nullptr;
  Metrics* metrics = nullptr;
  StreamWriter* writer = nullptr;
  Sessions* sessions = nullptr;
  const ApiKeys* keys = nullptr;  // Null: anybody may call.
  // For long texts. Prompts have their own pool, so that Tokenize and Detokenize calls cannot delay
  // them.
  WorkPool* prompts = nullptr;
  WorkPool* texts = nullptr;
  // Sessions that are saved and loaded: threads that may wait, and what such calls may hold.
  WorkPool* transfers = nullptr;
  ByteBudget* transfer_bytes = nullptr;
  StreamCount streams;
  StreamCount answers;  // Calls with a single answer.
  std::atomic<uint64_t> next_engine_id{1};
  std::atomic<const ServedModel*> served{nullptr};  // Null while loading.
  std::atomic<StoredSessions*> stored{nullptr};     // Set before `served`; null: no store.
  std::atomic<bool> draining{false};                // Set by the signal to stop.
  std::atomic<bool> closed{false};                  // Set a while later: no new calls.
  std::atomic<bool> stalled{false};                 // The engine stands still.

  // UNAVAILABLE if no calls are taken: while loading, after closing or a failure, or while stalled.
  absl::Status TakesCalls() const;
  // UNAVAILABLE if clients should send no calls: as TakesCalls(), and once draining has begun.
  absl::Status Ready() const;
};

}  // namespace packrat

#endif  // PACKRAT_SERVER_GENERATION_CALL_ENVIRONMENT_H_
