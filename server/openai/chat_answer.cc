// The answer of POST /v1/chat/completions.
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"
#include "server/openai/answer_parts.h"

namespace packrat::openai {
namespace {

struct Choice {
  Choice(const AnswerForm& form, const Context& context) : pieces(form, context) {}

  ChoiceText pieces;
  // Without `stream` all of it.
  std::string text;
  OrderedJson calls = OrderedJson::array();
  OrderedJson logprobs = OrderedJson::array();
  const char* finish = "null";  // Or "stop", "length" or "tool_calls", as JSON.
};

// As JSON.
const char* FinishOf(const Choice& choice, v1::FinishReason reason) {
  if (reason == v1::FINISH_REASON_LENGTH || !choice.pieces.has_calls()) return FinishJson(reason);
  return "\"tool_calls\"";
}

class ChatWriter : public AnswerWriter {
 public:
  ChatWriter(AnswerForm form, const Context& context, absl::string_view id, int64_t now)
      : form_(std::move(form)),
        names_(context, false),
        id_(id),
        now_(now),
        head_(AnswerHead(context, absl::StrCat("chatcmpl-", id),
                         form_.stream ? "chat.completion.chunk" : "chat.completion", now)) {
    for (int i = 0; i < form_.made; ++i) choices_.emplace_back(form_, context);
  }

  std::string Begin() override {
    std::string events;
    for (int i = 0; form_.stream && i < form_.made; ++i) {
      events += Delta(i, R"({"role":"assistant","content":""})", "null", "null");
    }
    return events;
  }

  std::string Add(size_t call, const v1::GenerateResponse& message) override {
    PACKRAT_CHECK(call == 0 && message.choice() >= 0 && message.choice() < form_.made);
    OrderedJson logprobs;
    if (form_.logprobs) logprobs = OrderedJson::array();
    for (int i = 0; form_.logprobs && i < message.logprobs_size(); ++i) {
      logprobs.push_back(
          ChatLogprob(names_, message.token_ids(i), message.logprobs(i), form_.num_logprobs));
    }
    if (message.has_finished()) usage_.Add(message);
    return form_.stream ? Stream(message, logprobs) : Keep(message, logprobs);
  }

  std::string Finish() override {
    if (form_.stream) {
      if (!form_.include_usage) return kDone;
      return absl::StrCat(
          Event(absl::StrCat(head_, "\"choices\":[],\"usage\":", Dump(usage_.Json()), "}")), kDone);
    }
    std::string shown;
    for (size_t i = 0; i < choices_.size(); ++i) {
      const Choice& choice = choices_[i];
      const bool calls = choice.pieces.has_calls();
      absl::StrAppend(&shown, i > 0 ? "," : "", "{\"index\":", i,
                      ",\"message\":{\"role\":\"assistant\",\"content\":",
                      calls && choice.text.empty() ? "null" : JsonText(choice.text),
                      ",\"refusal\":null", calls ? ",\"tool_calls\":" : "",
                      calls ? Dump(choice.calls) : "",
                      "},\"logprobs\":", form_.logprobs ? Dump(Logprobs(choice.logprobs)) : "null",
                      ",\"finish_reason\":", choice.finish, "}");
    }
    return absl::StrCat(head_, "\"choices\":[", shown, "],\"usage\":", Dump(usage_.Json()), "}");
  }

  std::string Fail(const absl::Status& status) override {
    return absl::StrCat(Event(MakeErrorAnswer(status).body), kDone);
  }

 private:
  static OrderedJson Logprobs(const OrderedJson& content) {
    return {{"content", content}, {"refusal", nullptr}};
  }

  // A call as it begins.
  OrderedJson CallJson(int choice, const ToolCallReader::Piece& piece) const {
    return {{"id", CallId(id_, now_, choice, piece.call)},
            {"type", "function"},
            {"function", {{"name", piece.name}, {"arguments", ""}}}};
  }

  std::string Keep(const v1::GenerateResponse& message, const OrderedJson& logprobs) {
    Choice& choice = choices_[message.choice()];
    for (const ToolCallReader::Piece& piece : choice.pieces.Add(message)) {
      if (piece.call < 0) {
        choice.text += piece.text;
        continue;
      }
      if (!piece.name.empty()) choice.calls.push_back(CallJson(message.choice(), piece));
      choice.calls.back()["function"]["arguments"].get_ref<std::string&>() += piece.text;
    }
    if (form_.logprobs) {
      choice.logprobs.insert(choice.logprobs.end(), logprobs.begin(), logprobs.end());
    }
    if (message.has_finished()) choice.finish = FinishOf(choice, message.finished().reason());
    return "";
  }

  std::string Stream(const v1::GenerateResponse& message, const OrderedJson& logprobs) {
    Choice& choice = choices_[message.choice()];
    std::vector<ToolCallReader::Piece> pieces = choice.pieces.Add(message);
    // Log-probabilities have a place beside a delta alone.
    if (pieces.empty() && !logprobs.empty()) pieces.emplace_back();
    std::string events, scores = form_.logprobs ? Dump(Logprobs(logprobs)) : "null";
    for (const ToolCallReader::Piece& piece : pieces) {
      events += Delta(message.choice(), DeltaOf(message.choice(), piece), scores, "null");
      scores = "null";
    }
    if (message.has_finished()) {
      events +=
          Delta(message.choice(), "{}", "null", FinishOf(choice, message.finished().reason()));
    }
    return events;
  }

  std::string DeltaOf(int choice, const ToolCallReader::Piece& piece) const {
    if (piece.call < 0) return absl::StrCat("{\"content\":", JsonText(piece.text), "}");
    OrderedJson call = {{"index", piece.call}};
    if (!piece.name.empty()) call.update(CallJson(choice, piece));
    call["function"]["arguments"] = piece.text;
    return Dump({{"tool_calls", OrderedJson::array({call})}});
  }

  // The arguments but `index` are JSON.
  std::string Delta(int index, absl::string_view delta, absl::string_view logprobs,
                    absl::string_view finish) const {
    return absl::StrCat(kEventStart, head_, "\"choices\":[{\"index\":", index, ",\"delta\":", delta,
                        ",\"logprobs\":", logprobs, ",\"finish_reason\":", finish, "}]",
                        form_.include_usage ? ",\"usage\":null}" : "}", kEventEnd);
  }

  const AnswerForm form_;
  const TokenNames names_;
  const std::string id_;
  const int64_t now_;
  const std::string head_;
  std::vector<Choice> choices_;
  UsageSum usage_;
};

}  // namespace

std::unique_ptr<AnswerWriter> MakeChatWriter(AnswerForm form, const Context& context,
                                             absl::string_view id, int64_t now) {
  return std::make_unique<ChatWriter>(std::move(form), context, id, now);
}

}  // namespace packrat::openai
