// The client's flags, and the request that they describe.
#ifndef PACKRAT_SERVER_CLIENT_REQUEST_FLAGS_H_
#define PACKRAT_SERVER_CLIENT_REQUEST_FLAGS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/flags/declare.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "proto/packrat/v1/inference.pb.h"
#include "server/client/connection.h"
#include "server/client/given.h"

ABSL_DECLARE_FLAG(bool, json);
ABSL_DECLARE_FLAG(bool, stats);
ABSL_DECLARE_FLAG(std::string, echo);
ABSL_DECLARE_FLAG(std::string, user_label);
ABSL_DECLARE_FLAG(std::string, reply_label);
ABSL_DECLARE_FLAG(std::string, system);
ABSL_DECLARE_FLAG(std::string, history);
ABSL_DECLARE_FLAG(std::string, address);
ABSL_DECLARE_FLAG(std::string, candidates);
ABSL_DECLARE_FLAG(bool, live);
ABSL_DECLARE_FLAG(packrat::Given<absl::Duration>, ttl);
ABSL_DECLARE_FLAG(std::string, session);
ABSL_DECLARE_FLAG(std::string, output);
ABSL_DECLARE_FLAG(std::string, input);
ABSL_DECLARE_FLAG(packrat::Given<int32_t>, keep_turns);
ABSL_DECLARE_FLAG(packrat::Given<int32_t>, keep_tokens);
ABSL_DECLARE_FLAG(int32_t, limit);
ABSL_DECLARE_FLAG(int32_t, concurrency);
ABSL_DECLARE_FLAG(int32_t, requests);
ABSL_DECLARE_FLAG(int32_t, prompt_tokens);
ABSL_DECLARE_FLAG(int32_t, max_prompt_tokens);
ABSL_DECLARE_FLAG(double, rate);

namespace packrat {

// INVALID_ARGUMENT names a flag whose value cannot be sent.
absl::Status CheckFlags();
// INVALID_ARGUMENT says where the text is not UTF-8, which gRPC would not send. `what` names the
// text.
absl::Status CheckUtf8(const std::string& what, const std::string& text);

// Call CheckFlags() before.
Connection::Options ConnectionFromFlags();

// Everything but the prompt.
v1::GenerateRequest RequestFromFlags();
// Everything but the prompt and the candidates.
v1::ScoreRequest ScoreFromFlags();
// Everything but the data.
v1::SaveSessionRequest SaveFromFlags();
v1::LoadSessionRequest LoadFromFlags();

// --token_ids; empty if it is not given. INVALID_ARGUMENT if it is not a list of numbers.
absl::StatusOr<std::vector<int32_t>> TokenIdsFromFlags();

// The conversation in the file of --chat; without messages if it is not given. INVALID_ARGUMENT
// says what is wrong with it.
absl::StatusOr<v1::ChatMessages> ChatFromFlags();

// The fields that Tokenize and Detokenize share with the prompt.
void FillFromFlags(v1::TokenizeRequest* request);
void FillFromFlags(v1::DetokenizeRequest* request);

}  // namespace packrat

#endif  // PACKRAT_SERVER_CLIENT_REQUEST_FLAGS_H_
