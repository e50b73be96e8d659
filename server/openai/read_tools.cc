// Tools, and which of them is to be called.
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "server/openai/readers.h"

namespace packrat::openai {
namespace {

// INVALID_ARGUMENT unless it is {"type": "function", `inner`: {"name": "..", ..}}, or has the name
// beside the type if there is no `inner`.
absl::Status CheckTool(const std::string& field, const OrderedJson& tool, const char* inner) {
  if (!tool.is_object()) return MustBe(field, tool, "an object");
  const OrderedJson* type = Find(tool, "type");
  const std::string type_name = absl::StrCat(field, ".type");
  if (type == nullptr) return Refuse(type_name, "is missing");
  if (*type != "function") return MustBe(type_name, *type, "\"function\"");
  const OrderedJson* function = inner != nullptr ? Find(tool, inner) : &tool;
  const std::string function_name = inner != nullptr ? absl::StrCat(field, ".", inner) : field;
  if (function == nullptr) return Refuse(function_name, "is missing");
  if (!function->is_object()) return MustBe(function_name, *function, "an object");
  const OrderedJson* name = Find(*function, "name");
  if (name == nullptr) return Refuse(absl::StrCat(function_name, ".name"), "is missing");
  return ReadString(absl::StrCat(function_name, ".name"), *name).status();
}

// The arguments whose values are texts.
std::set<std::string> TextsOf(const OrderedJson& function) {
  std::set<std::string> texts;
  const OrderedJson* parameters = Find(function, "parameters");
  if (parameters == nullptr || !parameters->is_object()) return texts;
  const OrderedJson* properties = Find(*parameters, "properties");
  if (properties == nullptr || !properties->is_object()) return texts;
  for (const auto& [name, schema] : properties->items()) {
    const OrderedJson* type = schema.is_object() ? Find(schema, "type") : nullptr;
    if (type != nullptr && *type == "string") texts.insert(name);
  }
  return texts;
}

// References in a schema that has become a part of another one, at `place` there.
void MoveReferences(const std::string& place, OrderedJson* schema) {
  if (!schema->is_structured()) return;
  for (auto it = schema->begin(); it != schema->end(); ++it) {
    const std::string key = schema->is_object() ? it.key() : "";
    if (key == "$ref" && it->is_string() && absl::StartsWith(it->get<std::string>(), "#")) {
      *it = absl::StrCat(place, it->get<std::string>().substr(1));
    } else if (key != "const" && key != "enum" && key != "default" && key != "examples") {
      MoveReferences(place, &*it);
    }
  }
}

// Of the JSON that calls this function.
OrderedJson CallSchema(const OrderedJson& function, const char* arguments, const std::string& at) {
  const OrderedJson* found = Find(function, "parameters");
  OrderedJson parameters = found != nullptr ? *found
                                            : OrderedJson{{"type", "object"},
                                                          {"additionalProperties", false},
                                                          {"properties", OrderedJson::object()}};
  MoveReferences(absl::StrCat(at, "/properties/", arguments), &parameters);
  return {{"type", "object"},
          {"properties", {{"name", {{"const", function["name"]}}}, {arguments, parameters}}},
          {"required", {"name", arguments}}};
}

absl::Status ForceCall(Draft* draft) {
  const ToolFormat* format = draft->context->tool_format;
  if (draft->tools.empty()) return Refuse("tool_choice", "asks for a call, and tools has none");
  if (format == nullptr || format->forced_begin == nullptr) {
    return Refuse(
        "tool_choice",
        format == nullptr
            ? "asks for a call, and the model's chat template does not show how it writes "
              "one; the server's --tool_format can say so"
            : absl::StrCat("asks for a call, and calls in the model's format (", format->name,
                           ") cannot be forced"));
  }
  OrderedJson calls = OrderedJson::array();
  for (const OrderedJson& tool : draft->tools) {
    const OrderedJson& function = tool["function"];
    const bool any = draft->forced_tool.empty();
    if (!any && function["name"] != draft->forced_tool) continue;
    const std::string at =
        any && draft->tools.size() > 1 ? absl::StrCat("#/anyOf/", calls.size()) : std::string("#");
    calls.push_back(CallSchema(function, format->arguments, at));
    if (!any) break;
  }
  if (calls.empty()) {
    return Refuse("tool_choice", absl::StrCat("names ", ShownName(draft->forced_tool),
                                              ", which is not among tools"));
  }
  const OrderedJson schema = calls.size() == 1 ? calls[0] : OrderedJson{{"anyOf", calls}};
  draft->form.forced_call = true;
  draft->request.mutable_chat()->set_answer_prefix(format->forced_begin);
  return draft->Set("json_schema", "tool_choice", Dump(schema));
}

}  // namespace

absl::Status ReadTools(const std::string& name, const OrderedJson& value, Draft* draft) {
  for (size_t i = 0; i < value.size(); ++i) {
    const absl::Status status = CheckTool(absl::StrCat(name, "[", i, "]"), value[i], "function");
    if (!status.ok()) return status;
  }
  draft->tools = value;
  return absl::OkStatus();
}

// Templates know the form of chat: {"type": "function", "function": {"name": .., ..}}.
absl::Status ReadResponseTools(const std::string& name, const OrderedJson& value, Draft* draft) {
  for (size_t i = 0; i < value.size(); ++i) {
    const absl::Status status = CheckTool(absl::StrCat(name, "[", i, "]"), value[i], nullptr);
    if (!status.ok()) return status;
    OrderedJson function = value[i];
    function.erase("type");
    draft->tools.push_back({{"type", "function"}, {"function", std::move(function)}});
  }
  return absl::OkStatus();
}

// "none", "auto", "required", or {"type": "function", "function": {"name": ..}}, which
// /v1/responses has without "function".
absl::Status ReadToolChoice(const std::string& name, const OrderedJson& value, Draft* draft) {
  if (value == "auto") return absl::OkStatus();
  if (value == "none") {
    draft->no_tools = true;
    return absl::OkStatus();
  }
  draft->call_forced = true;
  if (value == "required") return absl::OkStatus();
  if (!value.is_object()) {
    return MustBe(name, value, "\"none\", \"auto\", \"required\" or an object");
  }
  const char* inner = draft->endpoint == Endpoint::kChat ? "function" : nullptr;
  const absl::Status status = CheckTool(name, value, inner);
  if (!status.ok()) return status;
  draft->forced_tool = (inner != nullptr ? value[inner] : value)["name"].get<std::string>();
  return absl::OkStatus();
}

absl::Status FinishTools(Draft* draft) {
  if (draft->no_tools) return absl::OkStatus();
  if (draft->call_forced) {
    const absl::Status status = ForceCall(draft);
    if (!status.ok()) return status;
  }
  if (draft->tools.empty()) return absl::OkStatus();
  draft->request.mutable_chat()->set_tools_json(Dump(draft->tools));
  if (draft->context->tool_format == nullptr) return absl::OkStatus();
  for (const OrderedJson& tool : draft->tools) {
    const OrderedJson& function = tool["function"];
    draft->form.tools[function["name"].get<std::string>()] = TextsOf(function);
  }
  // The marks of calls are control tokens in some models.
  if (!draft->request.has_skip_special_tokens()) draft->request.set_skip_special_tokens(false);
  return absl::OkStatus();
}

}  // namespace packrat::openai
