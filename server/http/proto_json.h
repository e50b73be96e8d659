// Messages of packrat.v1 as JSON, by proto3's mapping, and statuses as google.rpc.Status.
#ifndef PACKRAT_SERVER_HTTP_PROTO_JSON_H_
#define PACKRAT_SERVER_HTTP_PROTO_JSON_H_

#include <google/protobuf/message.h>

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "server/http/http_reply.h"
#include "server/openai/openai.h"

namespace packrat {

// As strictly as openai::ParseBody(). INVALID_ARGUMENT: it is no JSON, or has fields that the
// message has not. An empty text is an empty message.
absl::Status FromJson(absl::string_view text, google::protobuf::Message* message);
// In one line, with the fields' own names. Fields at their defaults are left out.
std::string ToJson(const google::protobuf::Message& message);

// The HTTP status that google.rpc.Code has for it.
int HttpStatusOf(const absl::Status& status);
// Says what to wait where another try may help, and asks for a key where that is what is missing.
HttpAnswer StatusAnswer(const absl::Status& status);

// Answers of Generate and Score: each message is a line, or an event of its own where `events`. A
// failure is a last one, {"error": google.rpc.Status}.
std::unique_ptr<openai::AnswerWriter> MakeMessageWriter(bool events);

}  // namespace packrat

#endif  // PACKRAT_SERVER_HTTP_PROTO_JSON_H_
