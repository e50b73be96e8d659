// OpenAI's HTTP API as functions without a network: the JSON of a request becomes the messages of
// proto/packrat/v1, and what comes back becomes JSON or server-sent events. Which fields there are,
// and where each goes, is in fields.h; docs/openai.md says what differs from OpenAI's own server.
#ifndef PACKRAT_SERVER_OPENAI_OPENAI_H_
#define PACKRAT_SERVER_OPENAI_OPENAI_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "models/text/tool_calls/tool_call_reader.h"
#include "models/text/tool_calls/tool_format.h"
#include "proto/packrat/v1/inference.pb.h"
#include "server/openai/json.h"

namespace packrat::openai {

enum class Endpoint {
  kCompletions,  // POST /v1/completions
  kChat,         // POST /v1/chat/completions
  kResponses,    // POST /v1/responses
};

// What is the same for all requests.
struct Context {
  std::string model;        // Its name. A request that names another gets NOT_FOUND.
  std::string fingerprint;  // Of model and numerics: "system_fingerprint". Empty: null is sent.
  int64_t started = 0;      // Unix seconds: the model's "created".
  int max_context = 0;      // Tokens; told by /v1/models.
  // The bytes of a token alone (Tokenizer::PieceText), for ids that the engine has accepted. Null
  // where the model has no tokenizer.
  std::function<std::string(int32_t)> piece;
  // How the model writes calls of tools. Null: nobody knows, and they stay text.
  const ToolFormat* tool_format = nullptr;
  // Whether the model's chat template names such a role. Null: there is no template.
  std::function<bool(const std::string&)> names_role;
  // The id of the model's special token that is written so; -1: it has none. Null without a
  // tokenizer.
  std::function<int32_t(const std::string&)> special;
};

inline constexpr int kMaxPrompts = 256;  // Of one request to /v1/completions.

using Prompt = std::variant<std::string, std::vector<int32_t>>;  // Text, or token ids.

// What the client wants of the answer. Beside `stream` only AnswerWriter reads it.
struct AnswerForm {
  Endpoint endpoint = Endpoint::kCompletions;
  bool stream = false;         // Answer with text/event-stream; else application/json.
  bool include_usage = false;  // A last event with it.
  bool echo = false;
  bool logprobs = false;
  int num_logprobs = 0;        // Beside the token that was taken.
  bool tokens_as_ids = false;  // Tokens are shown as "token_id:17".
  // Which tools' calls are looked for in the answer; none: all of it is text.
  ToolCallReader::Tools tools;
  bool one_call = false;  // Further calls of an answer are not told.
  // The answer is a call, of which so much is in the prompt.
  std::optional<std::string> forced_call;
  int calls = 1;
  int made = 1;                 // Choices that each call makes,
  int shown = 1;                // and those of them that are shown, the best.
  std::vector<Prompt> prompts;  // To echo, one for each call.
  OrderedJson repeated;         // /v1/responses: the members of its answer that repeat the request.
};

// What a status of ours calls a field, and what this client calls it: "sampling.top_p" is "top_p".
using NameList = std::vector<std::pair<std::string, std::string>>;
// `status` with the client's names in its message, and the field of which it speaks, if it does.
absl::Status InNames(const NameList& names, const absl::Status& status);

// A request that was understood. Its ranges are checked by who runs the calls.
struct Ask {
  // One for each prompt, to be run side by side; a ScoreRequest where nothing is generated (echo
  // with max_tokens 0).
  std::vector<std::variant<v1::GenerateRequest, v1::ScoreRequest>> calls;
  AnswerForm form;
  NameList names;
  bool listed = false;  // The prompts came as a list.
  // Where the calls have a grammar that was made of tools: the refusal that names those parameters
  // that a grammar cannot be made of; OK: they are none of the reason. Null: they are not.
  std::function<absl::Status()> why_no_grammar;

  // A refusal of calls[call] in the client's names: of a list its prompt is prompt[call]. It may
  // take as long as the call that was refused.
  absl::Status InClientsNames(const absl::Status& status, size_t call) const;
};

// INVALID_ARGUMENT names the field as the client wrote it; NOT_FOUND: another model.
absl::StatusOr<Ask> ParseAsk(Endpoint endpoint, absl::string_view body, const Context& context);

// POST /tokenize {"prompt": TEXT, "add_special_tokens": BOOL}, or the fields of a chat, and
// /detokenize {"tokens": [IDS]}. Refused as above.
struct TokenizeAsk {
  v1::TokenizeRequest call;
  NameList names;
};
struct DetokenizeAsk {
  v1::DetokenizeRequest call;
  NameList names;
};
absl::StatusOr<TokenizeAsk> ParseTokenize(absl::string_view body, const Context& context);
absl::StatusOr<DetokenizeAsk> ParseDetokenize(absl::string_view body, const Context& context);

// Makes the answer of one Ask from the messages of its calls. Not thread-safe.
class AnswerWriter {
 public:
  virtual ~AnswerWriter() = default;

  // Each returns what is to be written now: whole server-sent events, or nothing. Without `stream`
  // only Finish() returns something, the body.
  //
  // What a stream begins with: call it once the first call is admitted, before anything else.
  virtual std::string Begin() = 0;
  // A message of calls[call]. The order within a call and a choice is that of its stream.
  virtual std::string Add(size_t call, const v1::GenerateResponse& message) = 0;
  // Every call has ended well.
  virtual std::string Finish() = 0;
  // A call failed after Begin() of a stream: the event that says so, and the stream's end.
  virtual std::string Fail(const absl::Status& status) = 0;
};

// `id`: the request's id, of which "cmpl-ID" is made. `now`: Unix seconds. `context` outlives it.
std::unique_ptr<AnswerWriter> MakeAnswerWriter(AnswerForm form, const Context& context,
                                               absl::string_view id, int64_t now);

struct ErrorAnswer {
  int http_status = 500;
  std::string body;                           // application/json
  std::optional<absl::Duration> retry_after;  // For the headers Retry-After and retry-after-ms.
};
// `status` is not OK.
ErrorAnswer MakeErrorAnswer(const absl::Status& status);

// GET /v1/models, and /v1/models/NAME: NOT_FOUND if NAME is not the model's.
std::string ListModels(const Context& context);
absl::StatusOr<std::string> GetModel(const Context& context, absl::string_view name);

// POST /v1/embeddings: why there are none.
absl::Status NoEmbeddings();

// GET /openapi.json: the description of all of the above.
std::string OpenApi();

}  // namespace packrat::openai

#endif  // PACKRAT_SERVER_OPENAI_OPENAI_H_
