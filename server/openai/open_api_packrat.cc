// The OpenAPI description of packrat.v1, made of its descriptors, and of the operator's pages.
#include <google/protobuf/descriptor.h>

#include "absl/strings/match.h"
#include "proto/packrat/v1/inference.pb.h"
#include "server/openai/open_api_parts.h"

namespace packrat::openai {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::MethodDescriptor;
using google::protobuf::ServiceDescriptor;

const ServiceDescriptor& Service() {
  return *v1::GenerateRequest::descriptor()->file()->FindServiceByName("Inference");
}

// By proto3's JSON mapping: any number may be a string, and those of 64 bits are in answers.
OrderedJson ValueSchema(const FieldDescriptor& field) {
  switch (field.type()) {
    case FieldDescriptor::TYPE_MESSAGE:
      return Ref(field.message_type()->full_name());
    case FieldDescriptor::TYPE_ENUM: {
      OrderedJson names = OrderedJson::array();
      for (int i = 0; i < field.enum_type()->value_count(); ++i) {
        names.push_back(field.enum_type()->value(i)->name());
      }
      return {{"enum", names}};
    }
    case FieldDescriptor::TYPE_BOOL:
      return Type("boolean");
    case FieldDescriptor::TYPE_STRING:
      return Type("string");
    case FieldDescriptor::TYPE_BYTES:
      return {{"type", "string"}, {"contentEncoding", "base64"}};
    case FieldDescriptor::TYPE_FLOAT:
    case FieldDescriptor::TYPE_DOUBLE:
      return {{"type", {"number", "string"}}, {"format", field.type_name()}};
    default:
      return {{"type", {"integer", "string"}}, {"format", field.type_name()}};
  }
}

OrderedJson FieldSchema(const FieldDescriptor& field) {
  if (!field.is_repeated()) return {{"anyOf", {ValueSchema(field), Type("null")}}};
  return {{"type", {"array", "null"}}, {"items", ValueSchema(field)}};
}

OrderedJson MessageSchema(const Descriptor& type) {
  OrderedJson properties = OrderedJson::object();
  for (int i = 0; i < type.field_count(); ++i) {
    properties[type.field(i)->name()] = FieldSchema(*type.field(i));
  }
  return {
      {"type", "object"}, {"properties", std::move(properties)}, {"additionalProperties", false}};
}

void AddSchema(const Descriptor& type, OrderedJson* schemas) {
  if (schemas->contains(type.full_name())) return;
  (*schemas)[type.full_name()] = MessageSchema(type);
  for (int i = 0; i < type.field_count(); ++i) {
    if (const Descriptor* of = type.field(i)->message_type()) AddSchema(*of, schemas);
  }
}

OrderedJson Header(const char* name, const char* type, const char* what) {
  return {{"name", name}, {"in", "header"}, {"description", what}, {"schema", Type(type)}};
}

bool InSessions(const MethodDescriptor& method) {
  return absl::StrContains(method.name(), "Session") ||
         method.input_type()->FindFieldByName("session") != nullptr;
}

// What differs between these is what is no JSON, or more than one.
OrderedJson Answer(const MethodDescriptor& method) {
  if (method.name() == "SaveSession") return {{"application/octet-stream", OrderedJson::object()}};
  if (method.server_streaming()) {
    return {{"application/x-ndjson", OrderedJson::object()},
            {"text/event-stream", OrderedJson::object()}};
  }
  return Content("application/json", Ref(method.output_type()->full_name()));
}

OrderedJson MethodPath(const MethodDescriptor& method) {
  OrderedJson post = {{"summary", absl::StrCat(method.full_name(), " over HTTP.")}};
  if (method.client_streaming()) {
    post["parameters"] = {
        Header("X-Cache-Salt", "string", "Of the turns to come."),
        Header("X-Session-Ttl", "number",
               "Seconds without use after which it expires. Default: the saved session's.")};
    post["requestBody"] = {{"required", true},
                           {"content", {{"application/octet-stream", OrderedJson::object()}}}};
  } else {
    // No body is an empty message.
    post["requestBody"] = JsonBody(MessageSchema(*method.input_type()), /*required=*/false);
  }
  post["responses"] = InSessions(method)
                          ? Responses(Answer(method), "Packrat", true, {kNotFound, kConflict})
                          : Responses(Answer(method), "Packrat", true);
  return {{"post", std::move(post)}};
}

OrderedJson Page(const char* summary, const char* type, int bad_status, const char* bad) {
  OrderedJson responses = {
      {"200", {{"description", "The page."}, {"content", {{type, OrderedJson::object()}}}}}};
  if (bad_status != 0) {
    responses[absl::StrCat(bad_status)] = {{"description", bad},
                                           {"content", {{"text/plain", OrderedJson::object()}}}};
  }
  return {{"get", {{"summary", summary}, {"responses", std::move(responses)}}}};
}

}  // namespace

void AddPackratPaths(OrderedJson* paths) {
  for (int i = 0; i < Service().method_count(); ++i) {
    const MethodDescriptor& method = *Service().method(i);
    (*paths)[absl::StrCat("/packrat/v1/", method.name())] = MethodPath(method);
  }
  constexpr char kText[] = "text/plain";
  (*paths)["/healthz"] = Page("Whether the process works.", kText, 503, "It does not.");
  (*paths)["/readyz"] = Page("Whether it takes calls.", kText, 503, "It does not, and says why.");
  (*paths)["/metrics"] = Page("For Prometheus.", kText, 401, "With --api_keys: no key.");
  (*paths)["/version"] = Page("Which build this is.", "application/json", 0, "");
}

void AddPackratSchemas(OrderedJson* schemas) {
  for (int i = 0; i < Service().method_count(); ++i) {
    const MethodDescriptor& method = *Service().method(i);
    for (int field = 0; field < method.input_type()->field_count(); ++field) {
      const Descriptor* of = method.input_type()->field(field)->message_type();
      if (of != nullptr) AddSchema(*of, schemas);
    }
    AddSchema(*method.output_type(), schemas);
  }
}

}  // namespace packrat::openai
