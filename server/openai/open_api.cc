// The OpenAPI description, made of the list of fields that the parser reads.
#include <initializer_list>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/openai/fields.h"

namespace packrat::openai {
namespace {

OrderedJson Content(const char* type, OrderedJson schema) {
  return {{type, {{"schema", std::move(schema)}}}};
}

OrderedJson Ref(const char* schema) {
  return {{"$ref", absl::StrCat("#/components/schemas/", schema)}};
}

// An object with these members at least.
OrderedJson Object(std::initializer_list<std::pair<const char*, OrderedJson>> members) {
  OrderedJson properties = OrderedJson::object(), required = OrderedJson::array();
  for (const auto& [name, schema] : members) {
    properties[name] = schema;
    required.push_back(name);
  }
  return {{"type", "object"}, {"properties", properties}, {"required", required}};
}

OrderedJson Type(const char* type) { return {{"type", type}}; }
OrderedJson OrNull(const char* type) { return {{"type", OrderedJson::array({type, "null"})}}; }
OrderedJson ListOf(OrderedJson items) { return {{"type", "array"}, {"items", std::move(items)}}; }

// null in a request is as if the field had been left out.
OrderedJson OrNothing(OrderedJson schema) {
  if (const auto type = schema.find("type"); type != schema.end()) {
    if (type->is_string()) *type = OrderedJson::array({*type});
    type->push_back("null");
  }
  if (const auto values = schema.find("enum"); values != schema.end()) values->push_back(nullptr);
  if (const auto ways = schema.find("oneOf"); ways != schema.end()) {
    ways->push_back({{"type", "null"}});
  }
  return schema;
}

OrderedJson RequestSchema(Endpoint endpoint, const char* needed) {
  OrderedJson properties = OrderedJson::object();
  for (const Field& field : Fields()) {
    if (!BelongsTo(field, endpoint)) continue;
    OrderedJson schema = SchemaOf(field);
    if (absl::string_view(field.name) != needed) schema = OrNothing(std::move(schema));
    schema["description"] = field.what;
    properties[field.name] = std::move(schema);
  }
  return {{"type", "object"},
          {"properties", std::move(properties)},
          {"required", OrderedJson::array({needed})},
          {"additionalProperties", false}};
}

OrderedJson Answers(OrderedJson ok, const char* error = "Error") {
  return {{"200", {{"description", "The answer."}, {"content", std::move(ok)}}},
          {"default",
           {{"description", "Why there is none."},
            {"content", Content("application/json", Ref(error))}}}};
}

OrderedJson Post(const char* summary, Endpoint endpoint, const char* needed, const char* answer) {
  OrderedJson ok = Content("application/json", Ref(answer));
  ok["text/event-stream"] = OrderedJson::object();  // OpenAPI 3.1 has no schemas of events.
  return {{"post",
           {{"summary", summary},
            {"requestBody",
             {{"required", true},
              {"content", Content("application/json", RequestSchema(endpoint, needed))}}},
            {"responses", Answers(std::move(ok))}}}};
}

OrderedJson Get(const char* summary, const char* answer) {
  return {
      {"get",
       {{"summary", summary}, {"responses", Answers(Content("application/json", Ref(answer)))}}}};
}

OrderedJson Header(const char* name, const char* type, const char* what) {
  return {{"name", name}, {"in", "header"}, {"description", what}, {"schema", Type(type)}};
}

// Sessions as bytes, which are the only bodies that are no JSON.
OrderedJson SavePath() {
  const OrderedJson request = {
      {"type", "object"},
      {"properties",
       {{"session", Type("string")}, {"cache_salt", Type("string")}, {"solver", Type("object")}}},
      {"required", OrderedJson::array({"session"})},
      {"additionalProperties", false}};
  return {
      {"post",
       {{"summary", "A session with its state."},
        {"requestBody", {{"required", true}, {"content", Content("application/json", request)}}},
        {"responses", Answers({{"application/octet-stream", OrderedJson::object()}}, "Status")}}}};
}

OrderedJson LoadPath() {
  return {
      {"post",
       {{"summary", "A new session of what SaveSession has given."},
        {"parameters",
         {Header("X-Cache-Salt", "string", "Of the turns to come."),
          Header("X-Session-Ttl", "number",
                 "Seconds without use after which it expires. Default: the saved session's.")}},
        {"requestBody",
         {{"required", true}, {"content", {{"application/octet-stream", OrderedJson::object()}}}}},
        {"responses", Answers(Content("application/json", Ref("LoadedSession")), "Status")}}}};
}

OrderedJson Schemas() {
  const OrderedJson usage = Object({{"prompt_tokens", Type("integer")},
                                    {"completion_tokens", Type("integer")},
                                    {"total_tokens", Type("integer")}});
  const OrderedJson response_usage = Object({{"input_tokens", Type("integer")},
                                             {"output_tokens", Type("integer")},
                                             {"total_tokens", Type("integer")}});
  const OrderedJson text_choice = Object({{"index", Type("integer")},
                                          {"text", Type("string")},
                                          {"logprobs", OrNull("object")},
                                          {"finish_reason", Type("string")}});
  const OrderedJson message = Object({{"role", Type("string")}, {"content", OrNull("string")}});
  const OrderedJson chat_choice = Object({{"index", Type("integer")},
                                          {"message", message},
                                          {"logprobs", OrNull("object")},
                                          {"finish_reason", Type("string")}});
  const auto answer = [&usage](const OrderedJson& choice) {
    return Object({{"id", Type("string")},
                   {"object", Type("string")},
                   {"created", Type("integer")},
                   {"model", Type("string")},
                   {"choices", ListOf(choice)},
                   {"usage", usage}});
  };
  const OrderedJson error = Object({{"message", Type("string")},
                                    {"type", Type("string")},
                                    {"param", OrNull("string")},
                                    {"code", OrNull("string")}});
  return {{"Completion", answer(text_choice)},
          {"ChatCompletion", answer(chat_choice)},
          {"Response", Object({{"id", Type("string")},
                               {"object", Type("string")},
                               {"created_at", Type("integer")},
                               {"status", Type("string")},
                               {"model", Type("string")},
                               {"output", ListOf(Type("object"))},
                               {"usage", response_usage}})},
          {"Model", Object({{"id", Type("string")},
                            {"object", Type("string")},
                            {"created", Type("integer")},
                            {"owned_by", Type("string")}})},
          {"ModelList", Object({{"object", Type("string")}, {"data", ListOf(Ref("Model"))}})},
          // With state_tokens and state_dropped where they say something.
          {"LoadedSession", Object({{"session", Type("object")}})},
          {"Status", Object({{"code", Type("integer")}, {"message", Type("string")}})},
          {"Error", Object({{"error", error}})}};
}

}  // namespace

std::string OpenApi() {
  OrderedJson model = Get("One model.", "Model");
  model["parameters"] = OrderedJson::array({OrderedJson{
      {"name", "model"}, {"in", "path"}, {"required", true}, {"schema", Type("string")}}});
  const OrderedJson paths = {
      {"/v1/completions",
       Post("Continues a prompt.", Endpoint::kCompletions, "prompt", "Completion")},
      {"/v1/chat/completions",
       Post("Answers in a conversation.", Endpoint::kChat, "messages", "ChatCompletion")},
      {"/v1/responses", Post("Answers an input.", Endpoint::kResponses, "input", "Response")},
      {"/v1/models", Get("The models of this server.", "ModelList")},
      {"/v1/models/{model}", std::move(model)},
      {"/packrat/v1/SaveSession", SavePath()},
      {"/packrat/v1/LoadSession", LoadPath()}};
  const OrderedJson document = {
      {"openapi", "3.1.0"},
      {"info",
       {{"title", "Packrat"},
        {"version", "1"},
        {"description",
         "The part of OpenAI's API that a Packrat server has, and sessions as bytes."}}},
      {"security",
       OrderedJson::array({OrderedJson::object(), OrderedJson{{"bearer", OrderedJson::array()}}})},
      {"paths", paths},
      {"components",
       {{"schemas", Schemas()},
        {"securitySchemes", {{"bearer", {{"type", "http"}, {"scheme", "bearer"}}}}}}}};
  return document.dump(2) + "\n";
}

}  // namespace packrat::openai
