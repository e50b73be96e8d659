// The OpenAPI description, made of the list of fields that the parser reads.
#include <algorithm>
#include <initializer_list>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/openai/fields.h"
#include "server/openai/open_api_parts.h"

namespace packrat::openai {
namespace {

// An object with these members at least.
OrderedJson Object(std::initializer_list<std::pair<const char*, OrderedJson>> members) {
  OrderedJson properties = OrderedJson::object(), required = OrderedJson::array();
  for (const auto& [name, schema] : members) {
    properties[name] = schema;
    required.push_back(name);
  }
  return {{"type", "object"}, {"properties", properties}, {"required", required}};
}

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

constexpr char kForm[] = "OpenAi";

OrderedJson Answer(const char* schema) { return Content("application/json", Ref(schema)); }

OrderedJson Post(const char* summary, OrderedJson body, OrderedJson responses) {
  return {{"post",
           {{"summary", summary},
            {"requestBody", JsonBody(std::move(body))},
            {"responses", std::move(responses)}}}};
}

OrderedJson Generating(const char* summary, Endpoint endpoint, const char* needed,
                       const char* answer) {
  OrderedJson ok = Answer(answer);
  ok["text/event-stream"] = OrderedJson::object();  // OpenAPI 3.1 has no schemas of events.
  return Post(summary, RequestSchema(endpoint, needed),
              Responses(std::move(ok), kForm, true, {kNotFound, kConflict}));
}

OrderedJson Get(const char* summary, const char* answer, std::initializer_list<int> more = {}) {
  return {{"get",
           {{"summary", summary}, {"responses", Responses(Answer(answer), kForm, false, more)}}}};
}

// A name that is unknown may be null.
OrderedJson OnlyThese(OrderedJson object) {
  object["additionalProperties"] = Type("null");
  return object;
}

OrderedJson WithOptional(OrderedJson object,
                         std::initializer_list<std::pair<const char*, OrderedJson>> members) {
  for (const auto& [name, schema] : members) object["properties"][name] = schema;
  return OnlyThese(std::move(object));
}

OrderedJson TokenizePath() {
  // Either a text, or the fields of a chat.
  OrderedJson chat = RequestSchema(Endpoint::kChat, "messages");
  const OrderedJson text =
      WithOptional(Object({{"prompt", Type("string")}}),
                   {{"model", OrNull("string")}, {"add_special_tokens", OrNull("boolean")}});
  return Post("The tokens of a text, or of a chat.", {{"anyOf", {text, std::move(chat)}}},
              Responses(Answer("Tokens"), kForm, true, {kNotFound}));
}

OrderedJson DetokenizePath() {
  return Post(
      "The text of tokens.",
      WithOptional(Object({{"tokens", ListOf(Type("integer"))}}), {{"model", OrNull("string")}}),
      Responses(Answer("Text"), kForm, true, {kNotFound}));
}

// The parts of a content.
OrderedJson PartsOf(std::initializer_list<const char*> types) {
  const OrderedJson part =
      WithOptional(Object({{"type", {{"enum", types}}}, {"text", Type("string")}}),
                   {{"annotations", OrderedJson::object()}, {"logprobs", OrderedJson::object()}});
  return {{"type", {"string", "array"}}, {"items", part}};
}

OrderedJson ChatMessage() {
  OrderedJson content = PartsOf({"text"});
  content["type"].push_back("null");
  return WithOptional(Object({{"role", Type("string")}}),
                      {{"content", content},
                       {"name", OrNull("string")},
                       {"tool_calls", {{"type", {"array", "null"}}, {"items", Type("object")}}},
                       {"tool_call_id", OrNull("string")},
                       {"reasoning_content", OrNull("string")},
                       {"annotations", OrderedJson::object()}});
}

OrderedJson InputItem() {
  const OrderedJson any = OrderedJson::object();
  const OrderedJson text = PartsOf({"input_text", "output_text"});
  const OrderedJson message =
      WithOptional(Object({{"role", Type("string")}, {"content", text}}),
                   {{"type", {{"enum", {"message", nullptr}}}}, {"id", any}, {"status", any}});
  const OrderedJson call = WithOptional(Object({{"type", {{"enum", {"function_call"}}}},
                                                {"call_id", Type("string")},
                                                {"name", Type("string")},
                                                {"arguments", Type("string")}}),
                                        {{"id", any}, {"status", any}});
  const OrderedJson output = WithOptional(Object({{"type", {{"enum", {"function_call_output"}}}},
                                                  {"call_id", Type("string")},
                                                  {"output", text}}),
                                          {{"id", any}, {"status", any}});
  OrderedJson reasoning = Object({{"type", {{"enum", {"reasoning"}}}}});
  for (const char* member : {"id", "status", "summary", "content", "encrypted_content"}) {
    reasoning["properties"][member] = any;
  }
  return {{"anyOf", {message, call, output, reasoning}}};
}

struct Refusal {
  int status;
  const char* what;
};
constexpr Refusal kRefusals[] = {
    {400, "The request is wrong, and the message says in which field."},
    {401, "The server wants an API key, and knows none like this."},
    {404, "There is no such model or session."},
    {409, "Another call generates in the session."},
    {413, "The body is longer than --max_message_bytes."},
    {415,
     "The header Content-Type says something else, or Content-Encoding that the body is packed."},
    {429, "The queue is full, or a limit is reached. Retry-After says when to come again."},
    {499, "The client has closed its direction of the connection."},
    {500, "The text failed."},
    {503, "The server loads, drains or is full. Retry-After says when to come again."},
    {504, "The deadline of X-Request-Timeout has passed."},
};

OrderedJson ErrorResponses() {
  OrderedJson responses = OrderedJson::object();
  for (const auto& [form, schema] : {std::pair("OpenAi", "Error"), {"Packrat", "Status"}}) {
    for (const Refusal& refusal : kRefusals) {
      responses[absl::StrCat(form, refusal.status)] = {{"description", refusal.what},
                                                       {"content", Answer(schema)}};
    }
  }
  return responses;
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
          {"Tokens", Object({{"count", Type("integer")},
                             {"max_model_len", Type("integer")},
                             {"tokens", ListOf(Type("integer"))}})},
          {"Text", Object({{"prompt", Type("string")}})},
          {"ChatMessage", ChatMessage()},
          {"InputItem", InputItem()},
          {"Status", Object({{"code", Type("integer")}, {"message", Type("string")}})},
          {"Error", Object({{"error", error}})}};
}

}  // namespace

OrderedJson Responses(OrderedJson ok, const char* form, bool post,
                      std::initializer_list<int> more) {
  std::vector<int> statuses(more);
  if (post) statuses.insert(statuses.end(), std::begin(kPost), std::end(kPost));
  if (!post) statuses.insert(statuses.end(), std::begin(kGet), std::end(kGet));
  std::sort(statuses.begin(), statuses.end());
  OrderedJson responses = OrderedJson::object();
  if (!ok.is_null()) {
    responses["200"] = {{"description", "The answer."}, {"content", std::move(ok)}};
  }
  for (const int status : statuses) {
    responses[absl::StrCat(status)] = {
        {"$ref", absl::StrCat("#/components/responses/", form, status)}};
  }
  return responses;
}

std::string OpenApi() {
  OrderedJson model = Get("One model.", "Model", {kNotFound});
  model["parameters"] = OrderedJson::array({OrderedJson{
      {"name", "model"}, {"in", "path"}, {"required", true}, {"schema", Type("string")}}});
  OrderedJson paths = {
      {"/v1/completions",
       Generating("Continues a prompt.", Endpoint::kCompletions, "prompt", "Completion")},
      {"/v1/chat/completions",
       Generating("Answers in a conversation.", Endpoint::kChat, "messages", "ChatCompletion")},
      {"/v1/responses", Generating("Answers an input.", Endpoint::kResponses, "input", "Response")},
      {"/v1/models", Get("The models of this server.", "ModelList")},
      {"/v1/models/{model}", std::move(model)},
      {"/v1/embeddings",
       Post("Refused: the models continue texts.", Type("object"), Responses({}, kForm, true))},
      {"/tokenize", TokenizePath()},
      {"/detokenize", DetokenizePath()}};
  AddPackratPaths(&paths);
  OrderedJson schemas = Schemas();
  AddPackratSchemas(&schemas);
  const OrderedJson document = {
      {"openapi", "3.1.0"},
      {"info",
       {{"title", "Packrat"},
        {"version", "1"},
        {"description",
         "OpenAI's API as far as a Packrat server has it, the methods of packrat.v1.Inference, and "
         "pages for operators."}}},
      {"security",
       OrderedJson::array({OrderedJson::object(), OrderedJson{{"bearer", OrderedJson::array()}}})},
      {"paths", std::move(paths)},
      {"components",
       {{"schemas", std::move(schemas)},
        {"responses", ErrorResponses()},
        {"securitySchemes", {{"bearer", {{"type", "http"}, {"scheme", "bearer"}}}}}}}};
  return document.dump(2) + "\n";
}

}  // namespace packrat::openai
