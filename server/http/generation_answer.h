// Generate and Score calls, run side by side for one request over HTTP, and its answer: whole, or a
// stream.
#ifndef PACKRAT_SERVER_HTTP_GENERATION_ANSWER_H_
#define PACKRAT_SERVER_HTTP_GENERATION_ANSWER_H_

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "proto/packrat/v1/inference.pb.h"
#include "server/generation/call_environment.h"
#include "server/generation/caller.h"
#include "server/http/http_reply.h"
#include "server/openai/openai.h"

namespace packrat {

struct GenerationAsk {
  std::vector<std::variant<v1::GenerateRequest, v1::ScoreRequest>> calls;  // At least one.
  bool stream = false;
  std::string content_type;  // Of an answer that goes well.
  // Given the request's id.
  std::function<std::unique_ptr<openai::AnswerWriter>(const std::string& id)> make_writer;
  // A failure of calls[call] as the client is told of it,
  std::function<absl::Status(const absl::Status&, size_t call)> name;
  // and the answer if nothing was sent before it.
  std::function<HttpAnswer(const absl::Status&)> refuse;
};

// Returns at once; `environment` outlives the answer. Where a call fails the others are cancelled.
// Whoever calls must be a thread that may work on a short text.
void AnswerGenerations(CallEnvironment* environment, GenerationAsk ask, const CallInfo& info,
                       std::shared_ptr<HttpReply> reply);

}  // namespace packrat

#endif  // PACKRAT_SERVER_HTTP_GENERATION_ANSWER_H_
