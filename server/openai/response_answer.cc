// The answer of POST /v1/responses: an object that holds messages and calls, and as a stream the
// typed events in which it comes about, numbered.
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"
#include "server/openai/answer_parts.h"

namespace packrat::openai {
namespace {

constexpr char kDelta[] = "response.output_text.delta";

// A part of the output.
struct Item {
  bool is_call;
  std::string id;
  std::string text;  // Of a call the arguments.
  OrderedJson logprobs = OrderedJson::array();
  std::string call_id, name;
  std::string id_json;
};

class ResponseWriter : public AnswerWriter {
 public:
  ResponseWriter(AnswerForm form, const Context& context, absl::string_view id, int64_t now)
      : form_(std::move(form)),
        context_(context),
        names_(context, false),
        request_id_(id),
        id_(absl::StrCat("resp_", id)),
        now_(now),
        pieces_(form_, context) {}

  std::string Begin() override {
    if (!form_.stream) return "";
    const OrderedJson response = Response("in_progress", OrderedJson::array());
    std::string events = Typed("response.created", {{"response", response}});
    events += Typed("response.in_progress", {{"response", response}});
    return events;
  }

  std::string Add(size_t call, const v1::GenerateResponse& message) override {
    PACKRAT_CHECK(call == 0 && message.choice() == 0);
    for (int i = 0; form_.logprobs && i < message.logprobs_size(); ++i) {
      logprobs_.push_back(
          ChatLogprob(names_, message.token_ids(i), message.logprobs(i), form_.num_logprobs));
    }
    if (message.has_finished()) {
      usage_.Add(message);
      cut_ = message.finished().reason() == v1::FINISH_REASON_LENGTH;
    }
    std::vector<ToolCallReader::Piece> pieces = pieces_.Add(message);
    // Tokens without text, such as the one that ends it, are the last text's.
    const bool in_call = !items_.empty() && items_.back().is_call;
    if (message.has_finished() && pieces.empty() && !in_call && !logprobs_.empty()) {
      pieces.emplace_back();
    }
    std::string events;
    for (const ToolCallReader::Piece& piece : pieces) events += AddPiece(piece);
    // Calls have no place for them.
    if (!pieces.empty() && pieces.back().call >= 0) logprobs_ = OrderedJson::array();
    return events;
  }

  std::string Finish() override {
    const char* status = cut_ ? "incomplete" : "completed";
    std::string events;
    if (items_.empty()) events = BeginItem({false, absl::StrCat("msg_", request_id_), ""});
    events += EndItem(status);
    OrderedJson output = OrderedJson::array();
    for (size_t i = 0; i < items_.size(); ++i) {
      output.push_back(ItemJson(items_[i], i + 1 < items_.size() ? "completed" : status));
    }
    OrderedJson response = Response(status, std::move(output));
    response["usage"] = {
        {"input_tokens", usage_.prompt},
        {"input_tokens_details", {{"cached_tokens", usage_.cached}, {"cache_write_tokens", 0}}},
        {"output_tokens", usage_.completion},
        {"output_tokens_details", {{"reasoning_tokens", 0}}},
        {"total_tokens", usage_.prompt + usage_.completion}};
    if (cut_) response["incomplete_details"] = {{"reason", "max_output_tokens"}};
    if (!form_.stream) return Dump(response);
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
  static OrderedJson Part(const Item& item) {
    return {{"type", "output_text"},
            {"text", item.text},
            {"annotations", OrderedJson::array()},
            {"logprobs", item.logprobs}};
  }

  static OrderedJson ItemJson(const Item& item, const char* status) {
    if (item.is_call) {
      return {{"id", item.id},           {"type", "function_call"}, {"status", status},
              {"call_id", item.call_id}, {"name", item.name},       {"arguments", item.text}};
    }
    return {{"id", item.id},
            {"type", "message"},
            {"status", status},
            {"role", "assistant"},
            {"content", OrderedJson::array({Part(item)})}};
  }

  std::string AddPiece(const ToolCallReader::Piece& piece) {
    const bool is_call = piece.call >= 0;
    OrderedJson logprobs;
    if (!is_call) logprobs = std::exchange(logprobs_, OrderedJson::array());
    std::string events;
    if (items_.empty() || items_.back().is_call != is_call || !piece.name.empty()) {
      events = EndItem("completed");
      // Of several messages the first has the request's name as it is.
      const std::string number = items_.empty() ? "" : absl::StrCat("_", items_.size());
      Item item = {is_call, absl::StrCat(is_call ? "fc_" : "msg_", request_id_, number), ""};
      if (is_call) item.call_id = CallId(request_id_, now_, 0, piece.call);
      item.name = piece.name;
      events += BeginItem(std::move(item));
    }
    Item& item = items_.back();
    item.text += piece.text;
    if (!logprobs.empty()) {
      item.logprobs.insert(item.logprobs.end(), logprobs.begin(), logprobs.end());
    }
    if (!form_.stream || (piece.text.empty() && logprobs.empty())) return events;
    if (is_call) {
      if (piece.text.empty()) return events;
      return events +
             Typed("response.function_call_arguments.delta", Place({{"delta", piece.text}}));
    }
    absl::StrAppend(
        &events, "event: ", kDelta, "\n", kEventStart, "{\"delta\":", JsonText(piece.text),
        ",\"logprobs\":", logprobs.empty() ? "[]" : Dump(logprobs), ",\"item_id\":", item.id_json,
        ",\"output_index\":", items_.size() - 1, ",\"content_index\":0,\"type\":\"", kDelta,
        "\",\"sequence_number\":", sequence_++, "}", kEventEnd);
    return events;
  }

  std::string BeginItem(Item item) {
    item.id_json = JsonText(item.id);
    items_.push_back(std::move(item));
    if (!form_.stream) return "";
    OrderedJson shown = ItemJson(items_.back(), "in_progress");
    if (!items_.back().is_call) shown["content"] = OrderedJson::array();
    std::string events = Typed("response.output_item.added",
                               {{"output_index", items_.size() - 1}, {"item", std::move(shown)}});
    if (!items_.back().is_call) {
      events += Typed("response.content_part.added", Place({{"part", Part(items_.back())}}));
    }
    return events;
  }

  // The last item, if there is one, is complete.
  std::string EndItem(const char* status) {
    if (items_.empty() || !form_.stream) return "";
    const Item& item = items_.back();
    std::string events;
    if (item.is_call) {
      events = Typed("response.function_call_arguments.done",
                     Place({{"name", item.name}, {"arguments", item.text}}));
    } else {
      events = Typed("response.output_text.done",
                     Place({{"text", item.text}, {"logprobs", item.logprobs}}));
      events += Typed("response.content_part.done", Place({{"part", Part(item)}}));
    }
    return events + Typed("response.output_item.done",
                          {{"output_index", items_.size() - 1}, {"item", ItemJson(item, status)}});
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
    for (const auto& [name, value] : form_.repeated.items()) response[name] = value;
    return response;
  }

  // What an event of the last item says of where it belongs.
  OrderedJson Place(OrderedJson event) const {
    event["item_id"] = items_.back().id;
    event["output_index"] = items_.size() - 1;
    if (!items_.back().is_call) event["content_index"] = 0;
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
  const std::string request_id_, id_;
  const int64_t now_;
  ChoiceText pieces_;
  std::vector<Item> items_;
  OrderedJson logprobs_ = OrderedJson::array();  // Of tokens whose text has not come yet.
  bool cut_ = false;                             // By the limit of tokens.
  UsageSum usage_;
  int sequence_ = 0;
};

}  // namespace

std::unique_ptr<AnswerWriter> MakeResponseWriter(AnswerForm form, const Context& context,
                                                 absl::string_view id, int64_t now) {
  return std::make_unique<ResponseWriter>(std::move(form), context, id, now);
}

}  // namespace packrat::openai
