// POST /v1/chat/completions, and what /v1/responses does like it.
#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/openai/readers.h"

namespace packrat::openai {
namespace {

absl::Status ReadToolCalls(const std::string& field, const OrderedJson& value,
                           v1::ChatMessage* message) {
  if (!value.is_array()) return MustBe(field, value, "a list");
  for (size_t i = 0; i < value.size(); ++i) {
    if (!value[i].is_object())
      return MustBe(absl::StrCat(field, "[", i, "]"), value[i], "an object");
  }
  if (!value.empty()) message->set_tool_calls_json(Dump(value));
  return absl::OkStatus();
}

absl::Status ReadMessage(const std::string& field, const OrderedJson& value, const Context& context,
                         v1::ChatMessage* message) {
  if (!value.is_object()) return MustBe(field, value, "an object");
  // What our own answers have, and clients send back: it says nothing to a template.
  absl::Status status = OnlyMembers(field, value,
                                    {"role", "content", "name", "tool_calls", "tool_call_id",
                                     "reasoning_content", "annotations"});
  if (!status.ok()) return status;
  const absl::StatusOr<std::string> role = ReadRole(absl::StrCat(field, ".role"), value, context);
  if (!role.ok()) return role.status();
  message->set_role(*role);
  if (const OrderedJson* content = Find(value, "content")) {
    const auto text = ReadContent(absl::StrCat(field, ".content"), *content, {"text"});
    if (!text.ok()) return text.status();
    message->set_content(*text);
  } else if (Find(value, "tool_calls") == nullptr) {
    return Refuse(absl::StrCat(field, ".content"), "is missing");
  }
  for (const char* member : {"name", "tool_call_id", "reasoning_content"}) {
    const OrderedJson* found = Find(value, member);
    if (found == nullptr) continue;
    status = SetPath(absl::StrCat(field, ".", member), *found, member, message);
    if (!status.ok()) return status;
  }
  const OrderedJson* calls = Find(value, "tool_calls");
  if (calls == nullptr) return absl::OkStatus();
  return ReadToolCalls(absl::StrCat(field, ".tool_calls"), *calls, message);
}

absl::Status FinishTemplateKwargs(Draft* draft) {
  OrderedJson& kwargs = draft->template_kwargs;
  for (const auto& [name, by] : draft->variables) {
    const auto& [field, value] = by;
    const OrderedJson* said = Find(kwargs, name.c_str());
    if (said == nullptr) {
      kwargs[name] = value;
    } else if (*said != value) {
      return Refuse(field, absl::StrCat("says something else than chat_template_kwargs.", name,
                                        "; send one of them"));
    }
  }
  if (!kwargs.is_null()) draft->request.mutable_chat()->set_template_kwargs_json(Dump(kwargs));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string> ReadRole(const std::string& field, const OrderedJson& message,
                                     const Context& context) {
  const OrderedJson* value = Find(message, "role");
  if (value == nullptr) return Refuse(field, "is missing");
  absl::StatusOr<std::string> role = ReadString(field, *value);
  if (!role.ok()) return role;
  if (*role == "developer") return "system";
  constexpr const char* kRoles[] = {"system", "user", "assistant", "tool", "function"};
  const bool known = std::any_of(std::begin(kRoles), std::end(kRoles),
                                 [&](const char* name) { return *role == name; });
  // Some templates take what follows a word as its number or id: "document 1".
  if (known || context.names_role == nullptr ||
      context.names_role(role->substr(0, role->find(' ')))) {
    return role;
  }
  return MustBe(field, *value,
                "system, developer, user, assistant, tool, function or another one that the "
                "model's chat template names");
}

absl::StatusOr<std::string> ReadContent(const std::string& field, const OrderedJson& value,
                                        std::initializer_list<const char*> types) {
  if (value.is_string()) return value.get<std::string>();
  if (!value.is_array()) return MustBe(field, value, "a string or a list of parts");
  std::string text;
  for (size_t i = 0; i < value.size(); ++i) {
    const std::string part = absl::StrCat(field, "[", i, "]");
    if (!value[i].is_object()) return MustBe(part, value[i], "an object");
    const OrderedJson* type = Find(value[i], "type");
    if (type == nullptr) return Refuse(absl::StrCat(part, ".type"), "is missing");
    const bool known =
        std::any_of(types.begin(), types.end(), [type](const char* name) { return *type == name; });
    if (!known) {
      return Refuse(absl::StrCat(part, ".type"),
                    absl::StrCat("is ", Shown(*type), "; this server takes text alone"));
    }
    const absl::Status others =
        OnlyMembers(part, value[i], {"type", "text", "annotations", "logprobs"});
    if (!others.ok()) return others;
    const OrderedJson* said = Find(value[i], "text");
    if (said == nullptr) return Refuse(absl::StrCat(part, ".text"), "is missing");
    const absl::StatusOr<std::string> line = ReadString(absl::StrCat(part, ".text"), *said);
    if (!line.ok()) return line;
    absl::StrAppend(&text, i > 0 ? "\n" : "", *line);
  }
  return text;
}

absl::Status ReadMessages(const std::string& name, const OrderedJson& value, Draft* draft) {
  if (value.empty()) return MustBe(name, value, "a list of one message at least");
  for (size_t i = 0; i < value.size(); ++i) {
    const absl::Status status =
        ReadMessage(absl::StrCat(name, "[", i, "]"), value[i], *draft->context,
                    draft->request.mutable_chat()->add_messages());
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status ReadTemplateKwargs(const std::string&, const OrderedJson& value, Draft* draft) {
  draft->template_kwargs = value;
  return absl::OkStatus();
}

absl::Status ReadVariable(const std::string& name, const OrderedJson& value, Draft* draft) {
  draft->variables[name] = {name, value};
  return absl::OkStatus();
}

absl::Status RefuseFunctions(const std::string& name, const OrderedJson&, Draft*) {
  return Refuse(name, name == "functions"
                          ? "is what tools was before: send tools, and in each the function"
                          : "is what tool_choice was before: send tools, and tool_choice");
}

absl::Status ReadChatLogprobs(const std::string&, const OrderedJson& value, Draft* draft) {
  draft->form.logprobs = value.get<bool>();
  return absl::OkStatus();
}

absl::StatusOr<Ask> FinishOneCall(Draft draft) {
  v1::GenerateRequest& request = draft.request;
  AnswerForm& form = draft.form;
  if (draft.stream_options && !form.stream) {
    return Refuse("stream_options", "can be used with stream only");
  }
  form.num_logprobs = draft.top_logprobs.value_or(0);
  if (form.logprobs) request.mutable_sampling()->set_num_logprobs(form.num_logprobs);
  form.shown = form.made = draft.n.value_or(1);
  if (form.made != 1) request.set_num_choices(form.made);
  const absl::Status kwargs = FinishTemplateKwargs(&draft);
  if (!kwargs.ok()) return kwargs;
  absl::Status status = FinishTools(&draft);
  if (status.ok()) status = CheckOneForm(draft);
  if (!status.ok()) return status;
  Ask ask;
  ask.names = NamesOf(draft);
  ask.form = std::move(form);
  ask.why_no_grammar = std::move(draft.why_no_grammar);
  ask.calls.emplace_back(std::move(request));
  return ask;
}

absl::StatusOr<Ask> FinishChat(Draft draft) {
  if (draft.request.chat().messages_size() == 0) return Refuse("messages", "is missing");
  if (draft.top_logprobs.has_value() && !draft.form.logprobs) {
    return Refuse("top_logprobs", "can be used with logprobs only");
  }
  return FinishOneCall(std::move(draft));
}

}  // namespace packrat::openai
