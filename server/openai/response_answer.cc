// The answer of POST /v1/responses: an object that holds one message, and as a stream the typed
// events in which it comes about, numbered.
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"
#include "server/openai/answer_parts.h"

namespace packrat::openai {
namespace {

constexpr char kDelta[] = "response.output_text.delta";

class ResponseWriter : public AnswerWriter {
 public:
  ResponseWriter(AnswerForm form, const Context& context, absl::string_view id, int64_t now)
      : form_(std::move(form)),
        context_(context),
        names_(context, false),
        id_(absl::StrCat("resp_", id)),
        item_id_(absl::StrCat("msg_", id)),
        item_id_json_(Quoted(item_id_)),
        now_(now),
        repeated_(OrderedJson::parse(form_.request)) {}

  std::string Begin() override {
    if (!form_.stream) return "";
    const OrderedJson response = Response("in_progress", OrderedJson::array());
    OrderedJson item = Item("in_progress");
    item["content"] = OrderedJson::array();
    std::string events = Typed("response.created", {{"response", response}});
    events += Typed("response.in_progress", {{"response", response}});
    events += Typed("response.output_item.added", {{"output_index", 0}, {"item", item}});
    events += Typed("response.content_part.added", Place({{"part", Part()}}));
    return events;
  }

  std::string Add(size_t call, const v1::GenerateResponse& message) override {
    PACKRAT_CHECK(call == 0 && message.choice() == 0);
    OrderedJson logprobs;
    if (form_.logprobs) logprobs = OrderedJson::array();
    for (int i = 0; form_.logprobs && i < message.logprobs_size(); ++i) {
      logprobs.push_back(
          ChatLogprob(names_, message.token_ids(i), message.logprobs(i), form_.num_logprobs));
    }
    text_ += message.text();
    if (form_.logprobs) logprobs_.insert(logprobs_.end(), logprobs.begin(), logprobs.end());
    if (message.has_finished()) {
      usage_.Add(message);
      cut_ = message.finished().reason() == v1::FINISH_REASON_LENGTH;
    }
    if (!form_.stream || (message.text().empty() && logprobs.empty())) return "";
    return absl::StrCat("event: ", kDelta, "\n", kEventStart, "{\"delta\":", Quoted(message.text()),
                        ",\"logprobs\":", logprobs.empty() ? "[]" : Dump(logprobs),
                        ",\"item_id\":", item_id_json_,
                        ",\"output_index\":0,\"content_index\":0,\"type\":\"", kDelta,
                        "\",\"sequence_number\":", sequence_++, "}", kEventEnd);
  }

  std::string Finish() override {
    const char* status = cut_ ? "incomplete" : "completed";
    const OrderedJson item = Item(status);
    OrderedJson response = Response(status, OrderedJson::array({item}));
    response["usage"] = {
        {"input_tokens", usage_.prompt},
        {"input_tokens_details", {{"cached_tokens", usage_.cached}, {"cache_write_tokens", 0}}},
        {"output_tokens", usage_.completion},
        {"output_tokens_details", {{"reasoning_tokens", 0}}},
        {"total_tokens", usage_.prompt + usage_.completion}};
    if (cut_) response["incomplete_details"] = {{"reason", "max_output_tokens"}};
    if (!form_.stream) return Dump(response);
    std::string events =
        Typed("response.output_text.done", Place({{"text", text_}, {"logprobs", logprobs_}}));
    events += Typed("response.content_part.done", Place({{"part", Part()}}));
    events += Typed("response.output_item.done", {{"output_index", 0}, {"item", item}});
    events += Typed(absl::StrCat("response.", status), {{"response", std::move(response)}});
    return events;
  }

  std::string Fail(const absl::Status& status) override {
    OrderedJson response = Response("failed", OrderedJson::array());
    // One of the codes that clients know.
    const char* code = status.code() == absl::StatusCode::kResourceExhausted ? "rate_limit_exceeded"
                                                                             : "server_error";
    response["error"] = {{"code", code}, {"message", std::string(status.message())}};
    return Typed("response.failed", {{"response", std::move(response)}});
  }

 private:
  OrderedJson Part() const {
    OrderedJson part = {
        {"type", "output_text"}, {"text", text_}, {"annotations", OrderedJson::array()}};
    part["logprobs"] = logprobs_;
    return part;
  }

  OrderedJson Item(const char* status) const {
    return {{"id", item_id_},
            {"type", "message"},
            {"status", status},
            {"role", "assistant"},
            {"content", OrderedJson::array({Part()})}};
  }

  OrderedJson Response(const char* status, OrderedJson output) const {
    OrderedJson response = {{"id", id_},
                            {"object", "response"},
                            {"created_at", now_},
                            {"status", status},
                            {"error", nullptr},
                            {"incomplete_details", nullptr},
                            {"model", context_.model},
                            {"output", std::move(output)},
                            {"usage", nullptr}};
    for (const auto& [name, value] : repeated_.items()) response[name] = value;
    return response;
  }

  // What an event of the text says of where it belongs.
  OrderedJson Place(OrderedJson event) const {
    event["item_id"] = item_id_;
    event["output_index"] = 0;
    event["content_index"] = 0;
    return event;
  }

  std::string Typed(absl::string_view type, OrderedJson event) {
    event["type"] = std::string(type);
    event["sequence_number"] = sequence_++;
    return absl::StrCat("event: ", type, "\n", Event(Dump(event)));
  }

  const AnswerForm form_;
  const Context& context_;
  const TokenNames names_;
  const std::string id_, item_id_, item_id_json_;
  const int64_t now_;
  const OrderedJson repeated_;
  std::string text_;
  OrderedJson logprobs_ = OrderedJson::array();
  bool cut_ = false;  // By the limit of tokens.
  UsageSum usage_;
  int sequence_ = 0;
};

}  // namespace

std::unique_ptr<AnswerWriter> MakeResponseWriter(AnswerForm form, const Context& context,
                                                 absl::string_view id, int64_t now) {
  return std::make_unique<ResponseWriter>(std::move(form), context, id, now);
}

}  // namespace packrat::openai
