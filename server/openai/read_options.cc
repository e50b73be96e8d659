// Fields that several endpoints have.
#include <algorithm>
#include <cstdint>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "server/openai/readers.h"

namespace packrat::openai {
namespace {

// Of valid UTF-8.
size_t Characters(const std::string& text) {
  return std::count_if(text.begin(), text.end(),
                       [](char byte) { return (static_cast<unsigned char>(byte) & 0xc0) != 0x80; });
}

}  // namespace

absl::Status ReadModel(const std::string& name, const OrderedJson& value, Draft* draft) {
  if (value == draft->context->model) return absl::OkStatus();
  return WithParam(absl::NotFoundError(absl::StrCat(name, " is ", Shown(value),
                                                    "; this server has ", draft->context->model)),
                   name);
}

absl::Status ReadStream(const std::string&, const OrderedJson& value, Draft* draft) {
  draft->form.stream = value.get<bool>();
  return absl::OkStatus();
}

// Nobody reads it, but an answer of /v1/responses repeats it, up to three times in a stream.
absl::Status CheckMetadata(const std::string& name, const OrderedJson& value, Draft*) {
  constexpr size_t kMostKeys = 16, kLongestKey = 64, kLongestValue = 512;  // As OpenAI's API has.
  if (value.size() > kMostKeys) {
    return Refuse(name, absl::StrCat("has ", value.size(), " keys; range [0, ", kMostKeys, "]"));
  }
  for (const auto& [key, text] : value.items()) {
    const std::string field = absl::StrCat(name, ".", ShownName(key));
    if (const size_t length = Characters(key); length > kLongestKey) {
      return Refuse(
          field, absl::StrCat("is a key of ", length, " characters; range [0, ", kLongestKey, "]"));
    }
    const absl::StatusOr<std::string> said = ReadString(field, text);
    if (!said.ok()) return said.status();
    if (const size_t length = Characters(*said); length > kLongestValue) {
      return Refuse(field,
                    absl::StrCat("has ", length, " characters; range [0, ", kLongestValue, "]"));
    }
  }
  return absl::OkStatus();
}

absl::Status ReadStreamOptions(const std::string& name, const OrderedJson& value, Draft* draft) {
  draft->stream_options = true;
  // The last two change nothing: usage is known at the end, and no padding is sent.
  for (const char* member : {"include_usage", "continuous_usage_stats", "include_obfuscation"}) {
    const OrderedJson* found = Find(value, member);
    if (found == nullptr) continue;
    const absl::StatusOr<bool> on = ReadBool(absl::StrCat(name, ".", member), *found);
    if (!on.ok()) return on.status();
    if (member == absl::string_view("include_usage")) draft->form.include_usage = *on;
  }
  return OnlyMembers(name, value,
                     {"include_usage", "continuous_usage_stats", "include_obfuscation"});
}

absl::Status ReadN(const std::string& name, const OrderedJson& value, Draft* draft) {
  const absl::StatusOr<int> n = ReadInt(name, value);
  if (n.ok()) draft->n = *n;
  return n.status();
}

absl::Status ReadStop(const std::string& name, const OrderedJson& value, Draft* draft) {
  return draft->Set("stop.strings", name, value.is_string() ? OrderedJson::array({value}) : value);
}

absl::Status ReadLogitBias(const std::string& name, const OrderedJson& value, Draft* draft) {
  for (const auto& [key, bias] : value.items()) {
    v1::LogitBias* entry = draft->request.mutable_sampling()->add_logit_bias();
    const std::string field = absl::StrCat(name, ".", ShownName(key));
    int32_t id = 0;
    if (!absl::SimpleAtoi(key, &id)) return Refuse(field, "is no token id");
    entry->set_token_id(id);
    const absl::Status status = SetPath(field, bias, "bias", entry);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

// The likeliest token is always within what is left, of 0 and of what a float would round to it.
absl::Status ReadTopP(const std::string& name, const OrderedJson& value, Draft* draft) {
  constexpr double kLeast = 1e-9;
  const bool least = value.is_number() && value.get<double>() >= 0 && value.get<double>() < kLeast;
  return draft->Set("sampling.top_p", name, least ? OrderedJson(kLeast) : value);
}

absl::Status ReadTopK(const std::string& name, const OrderedJson& value, Draft* draft) {
  return draft->Set("sampling.top_k", name, value == -1 ? OrderedJson(0) : value);
}

absl::Status ReadTopLogprobs(const std::string& name, const OrderedJson& value, Draft* draft) {
  const absl::StatusOr<int> count = ReadInt(name, value);
  if (count.ok()) draft->top_logprobs = *count;
  return count.status();
}

absl::Status ReadTokensAsIds(const std::string&, const OrderedJson& value, Draft* draft) {
  draft->form.tokens_as_ids = value.get<bool>();
  return absl::OkStatus();
}

absl::Status ReadJsonSchema(const std::string& name, const OrderedJson& value, Draft* draft) {
  return draft->Set("json_schema", name, value.is_string() ? value : OrderedJson(Dump(value)));
}

absl::Status ReadResponseFormat(const std::string& name, const OrderedJson& value, Draft* draft) {
  const OrderedJson* type = Find(value, "type");
  const std::string type_name = absl::StrCat(name, ".type");
  if (type == nullptr) return Refuse(type_name, "is missing");
  if (*type == "text" || *type == "json_object") {
    const absl::Status others = OnlyMembers(name, value, {"type"});
    if (!others.ok() || *type == "text") return others;
    return ReadJsonSchema(name, {{"type", "object"}}, draft);
  }
  if (*type != "json_schema") {
    return MustBe(type_name, *type, "\"text\", \"json_object\" or \"json_schema\"");
  }
  // Chat has the schema one level deeper than /v1/responses.
  const bool flat = draft->endpoint == Endpoint::kResponses;
  const std::string outer = flat ? name : absl::StrCat(name, ".json_schema");
  const OrderedJson* holder = flat ? &value : Find(value, "json_schema");
  if (holder == nullptr) return Refuse(outer, "is missing");
  if (!holder->is_object()) return MustBe(outer, *holder, "an object");
  absl::Status others =
      flat ? OnlyMembers(name, value, {"type", "name", "description", "schema", "strict"})
           : OnlyMembers(name, value, {"type", "json_schema"});
  if (others.ok() && !flat) {
    others = OnlyMembers(outer, *holder, {"name", "description", "schema", "strict"});
  }
  if (!others.ok()) return others;
  const OrderedJson* schema = Find(*holder, "schema");
  const std::string schema_name = absl::StrCat(outer, ".schema");
  if (schema == nullptr) return Refuse(schema_name, "is missing");
  if (!schema->is_object()) return MustBe(schema_name, *schema, "an object");
  return ReadJsonSchema(name, *schema, draft);
}

absl::Status CheckOneForm(const Draft& draft) {
  const v1::GenerateRequest& request = draft.request;
  const std::pair<const char*, bool> forms[] = {{"grammar", request.has_grammar()},
                                                {"regex", request.has_regex()},
                                                {"json_schema", request.has_json_schema()}};
  std::string first;
  for (const auto& [path, is_set] : forms) {
    if (!is_set) continue;
    const std::string& field = draft.set.at(path).first;
    if (!first.empty()) {
      return Refuse(field, absl::StrCat("stands beside ", first, "; send one of them"));
    }
    first = field;
  }
  return absl::OkStatus();
}

absl::Status ReadStructuredOutputs(const std::string& name, const OrderedJson& value,
                                   Draft* draft) {
  absl::Status status = OnlyMembers(name, value, {"json", "regex", "grammar"});
  if (const OrderedJson* json = Find(value, "json"); json != nullptr && status.ok()) {
    status = ReadJsonSchema(absl::StrCat(name, ".json"), *json, draft);
  }
  for (const char* member : {"regex", "grammar"}) {
    const OrderedJson* text = Find(value, member);
    if (text == nullptr || !status.ok()) continue;
    status = draft->Set(member, absl::StrCat(name, ".", member), *text);
  }
  return status;
}

}  // namespace packrat::openai
