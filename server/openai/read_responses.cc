// POST /v1/responses: a chat whose answer is made of typed items.
#include <initializer_list>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/openai/readers.h"

namespace packrat::openai {
namespace {

// Reads a text of an item, which must be there.
absl::StatusOr<std::string> ReadMember(const std::string& field, const OrderedJson& item,
                                       const char* member) {
  const std::string name = absl::StrCat(field, ".", member);
  const OrderedJson* found = Find(item, member);
  if (found == nullptr) return Refuse(name, "is missing");
  return ReadString(name, *found);
}

absl::StatusOr<std::string> ReadTexts(const std::string& field, const OrderedJson& item,
                                      const char* member,
                                      std::initializer_list<const char*> types) {
  const OrderedJson* found = Find(item, member);
  const std::string name = absl::StrCat(field, ".", member);
  if (found == nullptr) return Refuse(name, "is missing");
  return ReadContent(name, *found, types);
}

// The items of an input, in their order. What our answers say beside them ("id", "status") comes
// back, and is known.
class Items {
 public:
  Items(const Context& context, v1::ChatMessages* chat) : context_(context), chat_(chat) {}

  absl::Status Read(const std::string& field, const OrderedJson& item) {
    if (!item.is_object()) return MustBe(field, item, "an object");
    const OrderedJson* type = Find(item, "type");
    if (type != nullptr && *type == "function_call") return ReadCall(field, item);
    if (type != nullptr && *type == "reasoning") return PassReasoning(field, item);
    End();
    if (type != nullptr && *type == "function_call_output") return ReadOutput(field, item);
    if (type == nullptr || *type == "message") return ReadMessage(field, item);
    if (*type == "item_reference") {
      return Refuse(absl::StrCat(field, ".type"),
                    "is \"item_reference\"; this server keeps no items: send them whole, which "
                    "clients do that are told \"store\": false");
    }
    return Refuse(absl::StrCat(field, ".type"),
                  absl::StrCat("is ", Shown(*type),
                               "; this server takes messages, function_call and "
                               "function_call_output"));
  }

  // Calls that follow one another, and the assistant's message before them, are one message of a
  // chat.
  void End() {
    if (calls_.empty()) return;
    const int size = chat_->messages_size();
    const bool said = size > 0 && chat_->messages(size - 1).role() == "assistant";
    v1::ChatMessage* message = said ? chat_->mutable_messages(size - 1) : chat_->add_messages();
    message->set_role("assistant");
    message->set_tool_calls_json(Dump(calls_));
    calls_.clear();
  }

 private:
  // Of another server's answers: ours have none, and clients send back what they got.
  static absl::Status PassReasoning(const std::string& field, const OrderedJson& item) {
    return OnlyMembers(field, item,
                       {"type", "id", "status", "summary", "content", "encrypted_content"});
  }

  absl::Status ReadMessage(const std::string& field, const OrderedJson& item) {
    const absl::Status others =
        OnlyMembers(field, item, {"type", "role", "content", "id", "status"});
    if (!others.ok()) return others;
    const absl::StatusOr<std::string> role = ReadRole(absl::StrCat(field, ".role"), item, context_);
    if (!role.ok()) return role.status();
    const auto text = ReadTexts(field, item, "content", {"input_text", "output_text"});
    if (!text.ok()) return text.status();
    v1::ChatMessage* message = chat_->add_messages();
    message->set_role(*role);
    message->set_content(*text);
    return absl::OkStatus();
  }

  absl::Status ReadCall(const std::string& field, const OrderedJson& item) {
    const absl::Status others =
        OnlyMembers(field, item, {"type", "call_id", "name", "arguments", "id", "status"});
    if (!others.ok()) return others;
    std::string texts[3];
    const char* const members[] = {"call_id", "name", "arguments"};
    for (int i = 0; i < 3; ++i) {
      absl::StatusOr<std::string> text = ReadMember(field, item, members[i]);
      if (!text.ok()) return text.status();
      texts[i] = *std::move(text);
    }
    calls_.push_back({{"id", texts[0]},
                      {"type", "function"},
                      {"function", {{"name", texts[1]}, {"arguments", texts[2]}}}});
    return absl::OkStatus();
  }

  absl::Status ReadOutput(const std::string& field, const OrderedJson& item) {
    const absl::Status others =
        OnlyMembers(field, item, {"type", "call_id", "output", "id", "status"});
    if (!others.ok()) return others;
    const absl::StatusOr<std::string> id = ReadMember(field, item, "call_id");
    if (!id.ok()) return id.status();
    const auto text = ReadTexts(field, item, "output", {"input_text", "output_text"});
    if (!text.ok()) return text.status();
    v1::ChatMessage* message = chat_->add_messages();
    message->set_role("tool");
    message->set_content(*text);
    message->set_tool_call_id(*id);
    return absl::OkStatus();
  }

  const Context& context_;
  v1::ChatMessages* const chat_;
  OrderedJson calls_ = OrderedJson::array();
};

// A variable of the chat template that is a member of a field.
absl::Status ReadVariableOf(const std::string& name, const OrderedJson& value, const char* member,
                            const char* variable, const char* schema, Draft* draft) {
  const OrderedJson* found = Find(value, member);
  if (found == nullptr) return absl::OkStatus();
  const std::string field = absl::StrCat(name, ".", member);
  draft->variables[variable] = {field, *found};
  return CheckSchema(field, *found, OrderedJson::parse(schema));
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
  Items items(*draft->context, chat);
  for (size_t i = 0; i < value.size(); ++i) {
    const absl::Status status = items.Read(absl::StrCat(name, "[", i, "]"), value[i]);
    if (!status.ok()) return status;
  }
  items.End();
  if (chat->messages_size() == 0) return Refuse(name, "has no message, nor a call or its output");
  return absl::OkStatus();
}

absl::Status ReadInstructions(const std::string&, const OrderedJson& value, Draft* draft) {
  draft->instructions = value.get<std::string>();
  return absl::OkStatus();
}

absl::Status ReadText(const std::string& name, const OrderedJson& value, Draft* draft) {
  const absl::Status others = OnlyMembers(name, value, {"format", "verbosity"});
  if (!others.ok()) return others;
  const absl::Status verbosity =
      ReadVariableOf(name, value, "verbosity", "verbosity", kVerbosities, draft);
  if (!verbosity.ok()) return verbosity;
  const OrderedJson* format = Find(value, "format");
  const std::string format_name = absl::StrCat(name, ".format");
  if (format == nullptr) return absl::OkStatus();
  if (!format->is_object()) return MustBe(format_name, *format, "an object");
  return ReadResponseFormat(format_name, *format, draft);
}

absl::Status ReadInclude(const std::string& name, const OrderedJson& value, Draft* draft) {
  for (size_t i = 0; i < value.size(); ++i) {
    if (value[i] == "message.output_text.logprobs") {
      draft->form.logprobs = true;
    } else if (value[i] != "reasoning.encrypted_content") {  // Of which there is none to include.
      return MustBe(absl::StrCat(name, "[", i, "]"), value[i],
                    "\"message.output_text.logprobs\" or \"reasoning.encrypted_content\"");
    }
  }
  return absl::OkStatus();
}

absl::Status ReadReasoning(const std::string& name, const OrderedJson& value, Draft* draft) {
  const absl::Status others = OnlyMembers(name, value, {"effort", "summary"});
  if (!others.ok()) return others;
  // "auto" is what there is, which here is none.
  const OrderedJson* summary = Find(value, "summary");
  if (summary != nullptr && *summary != "auto") {
    return Refuse(absl::StrCat(name, ".summary"),
                  absl::StrCat("is ", Shown(*summary),
                               "; this server makes no summaries, and takes \"auto\" only"));
  }
  return ReadVariableOf(name, value, "effort", "reasoning_effort", kEfforts, draft);
}

absl::Status RefuseKept(const std::string& name, const OrderedJson&, Draft*) {
  return Refuse(name, absl::StrCat("is set; this server keeps no ",
                                   name == "conversation" ? "conversations" : "responses",
                                   ": send the whole conversation as input"));
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
  draft.form.repeated = std::move(draft.repeated);
  return FinishOneCall(std::move(draft));
}

}  // namespace packrat::openai
