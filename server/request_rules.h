// From the wire to a Request of the engine: every bound is checked here, before anything is
// allocated by what a client claims.
#ifndef PACKRAT_SERVER_REQUEST_RULES_H_
#define PACKRAT_SERVER_REQUEST_RULES_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "models/config.h"
#include "models/text/tokenizer.h"
#include "runtime/request.h"

namespace packrat {

namespace v1 {
class GenerateRequest;
class TokenizeRequest;
class DetokenizeRequest;
}  // namespace v1

inline constexpr int kMaxLogitBias = 1024;
inline constexpr int kDefaultMaxTokens = 256;
inline constexpr size_t kMaxTokenizeBytes = 256 << 10;  // Of Tokenize, or what fits a prompt.

// What requests are measured by.
struct RequestRules {
  int vocab_size = 0;
  SamplingDefaults sampling;  // For what a request leaves unset, and below.
  StopDefaults stop;
  int max_context = 0;
  const Tokenizer* tokenizer = nullptr;  // Null: token ids only.
  size_t max_piece_bytes = 0;            // The tokenizer's longest piece.
  size_t max_text_bytes = 0;             // More than this cannot be max_context tokens.
  float cg_tolerance = 1e-4f;            // Defaults of the server.
  int cg_max_steps = 64;
};

// Fills in max_piece_bytes and max_text_bytes.
RequestRules MakeRequestRules(int vocab_size, int max_context, const Tokenizer* tokenizer);

// All of a Request but id, deadline and outbox; `seed` is taken where the client sent none.
// INVALID_ARGUMENT names field and range; FAILED_PRECONDITION: text without a tokenizer.
absl::StatusOr<Request> MakeRequest(const v1::GenerateRequest& wire, const RequestRules& rules,
                                    uint64_t seed);

absl::StatusOr<std::vector<int32_t>> TokenizeChecked(const v1::TokenizeRequest& wire,
                                                     const RequestRules& rules);
absl::StatusOr<std::string> DetokenizeChecked(const v1::DetokenizeRequest& wire,
                                              const RequestRules& rules);

}  // namespace packrat

#endif  // PACKRAT_SERVER_REQUEST_RULES_H_
