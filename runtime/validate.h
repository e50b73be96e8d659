// The one check of a request's fields: what passes can run to its end.
#ifndef PACKRAT_RUNTIME_VALIDATE_H_
#define PACKRAT_RUNTIME_VALIDATE_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "runtime/request.h"

namespace packrat {

// The bounds that come from the model and from the engine's options.
struct RequestLimits {
  int vocab_size = 0;
  int num_ids = 0;      // Ids from here to vocab_size are padding.
  int max_context = 0;  // Tokens.
  bool has_tokenizer = false;
  std::vector<int32_t> eos_ids;
  std::vector<std::string> dials;  // ModelConfig::dials.
};

// What a front end calls a field, so that a message names what the client wrote; `field` as in
// Bound::field.
using FieldNames = std::string (*)(absl::string_view field);
std::string NameInRequest(absl::string_view field);  // As it is in request.h.

// INVALID_ARGUMENT names the field, its value and its range. FAILED_PRECONDITION: stop strings
// where there is no tokenizer.
absl::Status ValidateRequest(const Request& request, const RequestLimits& limits,
                             FieldNames names = NameInRequest);

// Its two parts, for a front end that makes the prompt only once the rest is known to be good. The
// first allows max_tokens what the shortest prompt would leave to it. `from_session`: so many of
// the prompt's tokens, its first, are a session's, which the message then says.
absl::Status ValidateOptions(const Request& request, const RequestLimits& limits, FieldNames names);
absl::Status ValidatePrompt(const Request& request, const RequestLimits& limits, FieldNames names,
                            size_t from_session = 0);

// INVALID_ARGUMENT names the first that is not in [0, vocab_size), as "NAME[3]".
absl::Status ValidateIds(const std::vector<int32_t>& ids, absl::string_view name, int vocab_size);

// The ids that may not be drawn before min_tokens: the stop ids, and the model's end ids unless
// they are ignored.
std::vector<int32_t> EndIds(const StopParams& stop, const std::vector<int32_t>& eos_ids);

}  // namespace packrat

#endif  // PACKRAT_RUNTIME_VALIDATE_H_
