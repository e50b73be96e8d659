// POST /v1/responses: a chat whose answer is made of typed items.
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/openai/readers.h"

namespace packrat::openai {
namespace {

// A message of the input. What our answers say beside it ("id", "status") comes back, and is known.
absl::Status ReadItem(const std::string& field, const OrderedJson& value,
                      v1::ChatMessage* message) {
  if (!value.is_object()) return MustBe(field, value, "an object");
  const OrderedJson* type = Find(value, "type");
  if (type != nullptr && *type != "message") {
    return Refuse(absl::StrCat(field, ".type"),
                  absl::StrCat("is ", Shown(*type), "; this server takes messages alone"));
  }
  const absl::Status others =
      OnlyMembers(field, value, {"type", "role", "content", "id", "status"});
  if (!others.ok()) return others;
  const absl::StatusOr<std::string> role = ReadRole(absl::StrCat(field, ".role"), value);
  if (!role.ok()) return role.status();
  const OrderedJson* content = Find(value, "content");
  const std::string content_name = absl::StrCat(field, ".content");
  if (content == nullptr) return Refuse(content_name, "is missing");
  const auto text = ReadContent(content_name, *content, {"input_text", "output_text"});
  if (!text.ok()) return text.status();
  message->set_role(*role);
  message->set_content(*text);
  return absl::OkStatus();
}

}  // namespace

absl::Status ReadInput(const std::string& name, const OrderedJson& value, Draft* draft) {
  v1::ChatMessages* chat = draft->request.mutable_chat();
  if (value.is_string()) {
    v1::ChatMessage* message = chat->add_messages();
    message->set_role("user");
    message->set_content(value.get<std::string>());
    return absl::OkStatus();
  }
  if (value.empty()) return MustBe(name, value, "a string or a list of one message at least");
  for (size_t i = 0; i < value.size(); ++i) {
    const absl::Status status =
        ReadItem(absl::StrCat(name, "[", i, "]"), value[i], chat->add_messages());
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status ReadInstructions(const std::string&, const OrderedJson& value, Draft* draft) {
  draft->instructions = value.get<std::string>();
  return absl::OkStatus();
}

absl::Status ReadText(const std::string& name, const OrderedJson& value, Draft* draft) {
  const absl::Status others = OnlyMembers(name, value, {"format"});
  if (!others.ok()) return others;
  const OrderedJson* format = Find(value, "format");
  const std::string format_name = absl::StrCat(name, ".format");
  if (format == nullptr) return absl::OkStatus();
  if (!format->is_object()) return MustBe(format_name, *format, "an object");
  return ReadResponseFormat(format_name, *format, draft);
}

absl::Status ReadInclude(const std::string& name, const OrderedJson& value, Draft* draft) {
  for (size_t i = 0; i < value.size(); ++i) {
    if (value[i] != "message.output_text.logprobs") {
      return MustBe(absl::StrCat(name, "[", i, "]"), value[i], "\"message.output_text.logprobs\"");
    }
    draft->form.logprobs = true;
  }
  return absl::OkStatus();
}

absl::Status RefusePrevious(const std::string& name, const OrderedJson&, Draft*) {
  return Refuse(name,
                "is set; this server keeps no responses: send the whole conversation as input");
}

absl::StatusOr<Ask> FinishResponses(Draft draft) {
  v1::ChatMessages* chat = draft.request.mutable_chat();
  if (chat->messages_size() == 0) return Refuse("input", "is missing");
  if (!draft.instructions.empty()) {
    v1::ChatMessage* first = chat->add_messages();
    first->set_role("system");
    first->set_content(std::move(draft.instructions));
    for (int i = chat->messages_size() - 1; i > 0; --i) {
      chat->mutable_messages()->SwapElements(i, i - 1);
    }
  }
  draft.form.logprobs = draft.form.logprobs || draft.top_logprobs.has_value();
  draft.form.request = Dump(draft.repeated);
  return FinishOneCall(std::move(draft));
}

}  // namespace packrat::openai
