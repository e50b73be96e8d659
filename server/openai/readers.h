// What reads the fields that are more than a value with a place: see ReadField in fields.h.
#ifndef PACKRAT_SERVER_OPENAI_READERS_H_
#define PACKRAT_SERVER_OPENAI_READERS_H_

#include <initializer_list>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/openai/fields.h"

namespace packrat::openai {

// JSON schemas of what a chat has as fields and /v1/responses within others.
inline constexpr char kEfforts[] = R"({"enum":["none","minimal","low","medium","high","xhigh"]})";
inline constexpr char kVerbosities[] = R"({"enum":["low","medium","high"]})";

// Of all endpoints, in read_options.cc.
absl::Status ReadModel(const std::string& name, const OrderedJson& value, Draft* draft);
absl::Status ReadStream(const std::string& name, const OrderedJson& value, Draft* draft);
absl::Status CheckMetadata(const std::string& name, const OrderedJson& value, Draft* draft);
absl::Status ReadStreamOptions(const std::string& name, const OrderedJson& value, Draft* draft);
absl::Status ReadN(const std::string& name, const OrderedJson& value, Draft* draft);
absl::Status ReadStop(const std::string& name, const OrderedJson& value, Draft* draft);
absl::Status ReadLogitBias(const std::string& name, const OrderedJson& value, Draft* draft);
absl::Status ReadTopP(const std::string& name, const OrderedJson& value, Draft* draft);
absl::Status ReadTopK(const std::string& name, const OrderedJson& value, Draft* draft);
absl::Status ReadTopLogprobs(const std::string& name, const OrderedJson& value, Draft* draft);
absl::Status ReadTokensAsIds(const std::string& name, const OrderedJson& value, Draft* draft);
absl::Status ReadResponseFormat(const std::string& name, const OrderedJson& value, Draft* draft);
absl::Status ReadJsonSchema(const std::string& name, const OrderedJson& value, Draft* draft);
absl::Status ReadStructuredOutputs(const std::string& name, const OrderedJson& value, Draft* draft);

// Refuses an answer of two forms, once all fields and tools are read.
absl::Status CheckOneForm(const Draft& draft);

// Of /v1/completions, in read_completions.cc.
absl::Status ReadPrompt(const std::string& name, const OrderedJson& value, Draft* draft);
absl::Status ReadBestOf(const std::string& name, const OrderedJson& value, Draft* draft);
absl::Status ReadEcho(const std::string& name, const OrderedJson& value, Draft* draft);
absl::Status ReadCompletionLogprobs(const std::string& name, const OrderedJson& value,
                                    Draft* draft);
// Makes the calls of what has been read, as the next two do.
absl::StatusOr<Ask> FinishCompletions(Draft draft);

// Of /v1/chat/completions, in read_chat.cc.
absl::Status ReadMessages(const std::string& name, const OrderedJson& value, Draft* draft);
absl::Status ReadTemplateKwargs(const std::string& name, const OrderedJson& value, Draft* draft);
// A variable of the template that has the field's name.
absl::Status ReadVariable(const std::string& name, const OrderedJson& value, Draft* draft);
absl::Status RefuseFunctions(const std::string& name, const OrderedJson& value, Draft* draft);
absl::Status ReadChatLogprobs(const std::string& name, const OrderedJson& value, Draft* draft);
absl::StatusOr<Ask> FinishChat(Draft draft);

// The text of a message: a string, or a list of parts, of one of `types`. The parts become lines.
absl::StatusOr<std::string> ReadContent(const std::string& field, const OrderedJson& value,
                                        std::initializer_list<const char*> types);
// "developer" is what OpenAI calls "system" by now; templates know the latter. Refuses roles that
// are neither OpenAI's nor among those that the model's template names.
absl::StatusOr<std::string> ReadRole(const std::string& field, const OrderedJson& message,
                                     const Context& context);
// What FinishChat() and FinishResponses() do alike: one call, with its tools.
absl::StatusOr<Ask> FinishOneCall(Draft draft);

// Of both, in read_tools.cc.
absl::Status ReadTools(const std::string& name, const OrderedJson& value, Draft* draft);
absl::Status ReadResponseTools(const std::string& name, const OrderedJson& value, Draft* draft);
absl::Status ReadParallelCalls(const std::string& name, const OrderedJson& value, Draft* draft);
absl::Status ReadToolChoice(const std::string& name, const OrderedJson& value, Draft* draft);
// What the tools make of the call and of its answer, once all fields are read.
absl::Status FinishTools(Draft* draft);

// Of /v1/responses, in read_responses.cc.
absl::Status ReadInput(const std::string& name, const OrderedJson& value, Draft* draft);
absl::Status ReadInstructions(const std::string& name, const OrderedJson& value, Draft* draft);
absl::Status ReadText(const std::string& name, const OrderedJson& value, Draft* draft);
absl::Status ReadInclude(const std::string& name, const OrderedJson& value, Draft* draft);
absl::Status ReadReasoning(const std::string& name, const OrderedJson& value, Draft* draft);
// What would have been kept here, and is not.
absl::Status RefuseKept(const std::string& name, const OrderedJson& value, Draft* draft);
absl::StatusOr<Ask> FinishResponses(Draft draft);

}  // namespace packrat::openai

#endif  // PACKRAT_SERVER_OPENAI_READERS_H_
