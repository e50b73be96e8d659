// What the answers of the endpoints have in common.
#ifndef PACKRAT_SERVER_OPENAI_ANSWER_PARTS_H_
#define PACKRAT_SERVER_OPENAI_ANSWER_PARTS_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "models/text/tool_calls/tool_call_reader.h"
#include "server/openai/json.h"
#include "server/openai/openai.h"

namespace packrat::openai {

// "length" where the limit of tokens was met, else "stop", as JSON.
const char* FinishJson(v1::FinishReason reason);

// Of all calls: each prompt once, each choice, those that are not shown included.
struct UsageSum {
  int64_t prompt = 0;
  int64_t cached = 0;  // Of `prompt`.
  int64_t completion = 0;

  void Add(const v1::GenerateResponse& last);  // Of a choice: it carries `finished`.
  OrderedJson Json() const;
};

// The names of tokens.
class TokenNames {
 public:
  TokenNames(const Context& context, bool as_ids)
      : context_(context), as_ids_(as_ids || context.piece == nullptr) {}

  // The bytes of the token that was taken, of which messages carry the id alone.
  std::string Bytes(int32_t id) const { return context_.piece ? context_.piece(id) : ""; }
  // As /v1/completions shows a token: its text; "bytes:\xe2\x82" if that is not valid UTF-8, since
  // two tokens must not look the same; or "token_id:17".
  std::string Shown(int32_t id, absl::string_view bytes) const;

 private:
  const Context& context_;
  const bool as_ids_;
};

// One token as chats and responses show it, with its `most` best alternatives. Invalid UTF-8
// becomes U+FFFD in "token", and "bytes" has the truth.
OrderedJson ChatLogprob(const TokenNames& names, int32_t id, const v1::TokenLogprobs& logprobs,
                        int most);

// The text of one choice, and the calls of tools in it.
class ChoiceText {
 public:
  ChoiceText(const AnswerForm& form, const Context& context);
  // What `message` adds to them; with its last message all that is left.
  std::vector<ToolCallReader::Piece> Add(const v1::GenerateResponse& message);
  bool has_calls() const { return has_calls_; }

 private:
  std::optional<ToolCallReader> reader_;  // Nothing: all of it is text.
  bool one_call_ = false;
  bool has_calls_ = false;
};

// Nine letters and digits, as the strictest templates want them back; different for each call of an
// answer, and for answers to other requests or made at another time.
std::string CallId(absl::string_view id, int64_t now, int choice, int call);

size_t CountCharacters(absl::string_view text);  // Bytes that begin one.

// A server-sent event; `json` is one line. What goes out with each token is put together at once
// instead, between these.
std::string Event(absl::string_view json);
inline constexpr char kEventStart[] = "data: ";
inline constexpr char kEventEnd[] = "\n\n";
inline constexpr char kDone[] = "data: [DONE]\n\n";

// What all objects of one answer of the older endpoints begin with: "{"id":..,..,", or null where
// there is no fingerprint.
std::string AnswerHead(const Context& context, absl::string_view id, absl::string_view object,
                       int64_t now);

std::unique_ptr<AnswerWriter> MakeCompletionWriter(AnswerForm form, const Context& context,
                                                   absl::string_view id, int64_t now);
std::unique_ptr<AnswerWriter> MakeChatWriter(AnswerForm form, const Context& context,
                                             absl::string_view id, int64_t now);
std::unique_ptr<AnswerWriter> MakeResponseWriter(AnswerForm form, const Context& context,
                                                 absl::string_view id, int64_t now);

}  // namespace packrat::openai

#endif  // PACKRAT_SERVER_OPENAI_ANSWER_PARTS_H_
