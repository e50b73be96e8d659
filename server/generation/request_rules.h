// Turns a request on the wire into a Request of the engine. Everything is checked before anything
// is allocated by a number that a client sent.
#ifndef PACKRAT_SERVER_GENERATION_REQUEST_RULES_H_
#define PACKRAT_SERVER_GENERATION_REQUEST_RULES_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "models/config.h"
#include "models/text/tokenizer.h"
#include "runtime/grammar_cache.h"
#include "runtime/request.h"
#include "runtime/validate.h"

namespace packrat {

namespace v1 {
class GenerateRequest;
class ScoreRequest;
class SolverParams;
class TokenizeRequest;
class DetokenizeRequest;
}  // namespace v1

// Of a text to be continued, and of an answer in a chat, which ends by itself.
inline constexpr int kDefaultMaxTokens = 256, kDefaultChatTokens = 4096;
// For all candidates of a Score call together; or 4 times max_context if that is more.
inline constexpr int64_t kMaxScoreTokens = 65536;
// For Tokenize; or what fits a prompt if that is more.
inline constexpr size_t kMaxTokenizeBytes = 256 << 10;

// What requests are checked against.
struct RequestRules {
  RequestLimits limits;  // The engine's.
  // For fields that a request leaves unset: the model's recommendations, and the server's options.
  SamplingDefaults sampling;
  StopDefaults stop;
  SolverOptions solver;
  const Tokenizer* tokenizer = nullptr;    // Null: token ids only.
  std::shared_ptr<GrammarCache> grammars;  // Null where there is no tokenizer.
  size_t max_piece_bytes = 0;              // The tokenizer's longest piece.
  size_t max_text_bytes = 0;               // More than this cannot be max_context tokens.
};

// Fills in max_piece_bytes and max_text_bytes; grammars have GrammarBytes().
RequestRules MakeRequestRules(const RequestLimits& limits, const Tokenizer* tokenizer);

// Makes a Request for each choice, with all fields but id, deadline and outbox. `seed` is used if
// the client sent none. Prompts begin with `history`, the text of the session. ValidateRequest()
// accepts the result. INVALID_ARGUMENT names the field as on the wire, and its range.
// FAILED_PRECONDITION: text, but no tokenizer; a dial that is not there.
// May take as long as GrammarCache::Get().
absl::StatusOr<std::vector<Request>> MakeRequests(const v1::GenerateRequest& wire,
                                                  const RequestRules& rules, uint64_t seed,
                                                  std::vector<int32_t> history = {});
// The same for each candidate, or for the prompt if there are none.
absl::StatusOr<std::vector<Request>> MakeRequests(const v1::ScoreRequest& wire,
                                                  const RequestRules& rules,
                                                  std::vector<int32_t> history = {});
// Of calls that name a space of states by these fields.
SolverOptions MakeSolver(const v1::SolverParams& wire, SolverOptions solver);

absl::StatusOr<std::vector<int32_t>> TokenizeChecked(const v1::TokenizeRequest& wire,
                                                     const RequestRules& rules);
absl::StatusOr<std::string> DetokenizeChecked(const v1::DetokenizeRequest& wire,
                                              const RequestRules& rules);

}  // namespace packrat

#endif  // PACKRAT_SERVER_GENERATION_REQUEST_RULES_H_
