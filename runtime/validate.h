// Every bound on a request, checked at the door: what passes can run to its end.
#ifndef PACKRAT_RUNTIME_VALIDATE_H_
#define PACKRAT_RUNTIME_VALIDATE_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "runtime/request.h"

namespace packrat {

// What of a request's bounds the model and the engine's options set.
struct RequestLimits {
  int vocab_size = 0;
  int num_ids = 0;      // Ids from here to vocab_size are padding.
  int max_context = 0;  // Tokens.
  bool has_tokenizer = false;
  std::vector<int32_t> eos_ids;
};

// INVALID_ARGUMENT naming the field, its range and what it got. FAILED_PRECONDITION for stop
// strings where there is no tokenizer.
absl::Status ValidateRequest(const Request& request, const RequestLimits& limits);

// The ids that may not be drawn before min_tokens: the stop ids, and the model's end ids unless
// they are ignored.
std::vector<int32_t> EndIds(const StopParams& stop, const std::vector<int32_t>& eos_ids);

}  // namespace packrat

#endif  // PACKRAT_RUNTIME_VALIDATE_H_
