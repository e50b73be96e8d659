#include "server/openai/fields.h"

#include <google/protobuf/descriptor.h>

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "kernels/check.h"
#include "server/openai/readers.h"

namespace packrat::openai {
namespace {

using google::protobuf::FieldDescriptor;

constexpr int Bit(Endpoint endpoint) { return 1 << static_cast<int>(endpoint); }
constexpr int kText = Bit(Endpoint::kCompletions);
constexpr int kChat = Bit(Endpoint::kChat);
constexpr int kResponses = Bit(Endpoint::kResponses);
constexpr int kChoices = kText | kChat;
constexpr int kTalk = kChat | kResponses;
constexpr int kAll = kText | kChat | kResponses;

// A value with a place of its own.
Field Option(int endpoints, const char* name, const char* path, const Bound* bound,
             const char* what) {
  return {endpoints, name, what, "", path, bound, nullptr};
}

Field Special(int endpoints, const char* name, ReadField read, const char* schema,
              const char* what) {
  return {endpoints, name, what, schema, nullptr, nullptr, read};
}

// What changes nothing here, or is taken with these values only.
Field Neutral(int endpoints, const char* name, const char* schema, const char* what) {
  return {endpoints, name, what, schema, nullptr, nullptr, nullptr};
}

constexpr char kString[] = R"({"type":"string"})";
constexpr char kInteger[] = R"({"type":"integer"})";
constexpr char kBoolean[] = R"({"type":"boolean"})";
constexpr char kObject[] = R"({"type":"object"})";
constexpr char kList[] = R"({"type":"array","items":{}})";
constexpr char kObjects[] = R"({"type":"array","items":{"type":"object"}})";
constexpr char kChoiceCount[] = R"({"type":"integer","minimum":1,"maximum":16})";
constexpr char kLogprobCount[] = R"({"type":"integer","minimum":0,"maximum":20})";
constexpr char kFalse[] = R"({"enum":[false]})";
constexpr char kTrue[] = R"({"enum":[true]})";

std::vector<Field> MakeFields() {
  return {
      // What OpenAI's API has.
      Special(kAll, "model", ReadModel, kString, "The model's name, as /v1/models tells it."),
      Special(kText, "prompt", ReadPrompt,
              R"({"oneOf":[{"type":"string"},{"type":"array","items":{"type":"string"}},)"
              R"({"type":"array","items":{"type":"integer"}},)"
              R"({"type":"array","items":{"type":"array","items":{"type":"integer"}}}]})",
              "Text, token ids, or a list of either: up to 256 prompts."),
      Special(kChat, "messages", ReadMessages,
              R"({"type":"array","items":{"$ref":"#/components/schemas/ChatMessage"}})",
              "Messages with role (system, developer, user, assistant, tool) and content: a string "
              "or parts of type text."),
      Special(kResponses, "input", ReadInput,
              R"({"type":["string","array"],"items":{"$ref":"#/components/schemas/InputItem"}})",
              "What the user says, or a list of messages."),
      Special(kResponses, "instructions", ReadInstructions, kString,
              "A system message before the input."),
      Option(kText, "max_tokens", "stop.max_tokens", &bounds::kMaxTokensBesideScores,
             "Default: 256, or what fits. 0 with echo alone: the prompt is scored."),
      Option(kChat, "max_tokens", "stop.max_tokens", &bounds::kMaxTokens,
             "The same as max_completion_tokens."),
      Option(kChat, "max_completion_tokens", "stop.max_tokens", &bounds::kMaxTokens,
             "Default: 4096, or what fits."),
      Option(kResponses, "max_output_tokens", "stop.max_tokens", &bounds::kMaxTokens,
             "Default: 4096, or what fits."),
      Option(kAll, "temperature", "sampling.temperature", &bounds::kTemperature,
             "0: the likeliest token. Default: the model's, or 1."),
      Special(kAll, "top_p", ReadTopP, R"({"type":"number","minimum":0,"maximum":1})",
              "0: the likeliest token. Default: the model's, or 1."),
      Special(kChoices, "n", ReadN, kChoiceCount, "Choices for each prompt. Default 1."),
      Special(kText, "best_of", ReadBestOf, kChoiceCount,
              "So many are made, and the n of the best mean log-probability are sent."),
      Special(kText, "echo", ReadEcho, kBoolean, "The prompt comes before the text."),
      Special(kText, "logprobs", ReadCompletionLogprobs, kLogprobCount,
              "Log-probabilities of the tokens, and of so many of the best at each."),
      Special(kChat, "logprobs", ReadChatLogprobs, kBoolean, "Log-probabilities of the tokens."),
      Special(kTalk, "top_logprobs", ReadTopLogprobs, kLogprobCount,
              "And of so many of the best at each."),
      Special(kAll, "stop", ReadStop, R"({"type":["string","array"],"items":{"type":"string"}})",
              "Up to 16 strings that end the text."),
      Option(kAll, "seed", "sampling.seed", nullptr,
             "Equal seeds give equal texts. Default: drawn by the server."),
      Option(kAll, "presence_penalty", "sampling.presence_penalty", &bounds::kPresencePenalty,
             "Of tokens that the text has."),
      Option(kAll, "frequency_penalty", "sampling.frequency_penalty", &bounds::kFrequencyPenalty,
             "Of tokens, by how often the text has them."),
      Special(kAll, "logit_bias", ReadLogitBias,
              R"({"type":"object","additionalProperties":{"type":"number"}})",
              "By token id, in [-1000, 1000]."),
      Special(kAll, "stream", ReadStream, kBoolean, "The answer comes as server-sent events."),
      Special(kAll, "stream_options", ReadStreamOptions, kObject,
              "include_usage: a last event with the usage, which /v1/responses has in any case."),
      Special(
          kTalk, "tool_choice", ReadToolChoice,
          R"({"oneOf":[{"enum":["none","auto","required"]},{"type":"object"}]})",
          "none: the template sees no tools. required, or the name of a function: the answer is "
          "one call."),
      Special(kChat, "tools", ReadTools, kObjects, "Functions that the model may call."),
      Special(kResponses, "tools", ReadResponseTools, kObjects,
              "Functions that the model may call."),
      Special(kChoices, "response_format", ReadResponseFormat, kObject,
              "text, json_object, or json_schema with a schema."),
      Special(kResponses, "text", ReadText, kObject,
              "format: text, json_object, json_schema. verbosity: as in a chat."),
      Special(kResponses, "include", ReadInclude, kList,
              "message.output_text.logprobs: log-probabilities of the tokens. "
              "reasoning.encrypted_content: without effect."),
      Special(kResponses, "previous_response_id", RefuseKept, kString,
              "Refused: no responses are kept."),
      Special(kResponses, "conversation", RefuseKept, R"({"type":["string","object"]})",
              "Refused: no conversations are kept."),
      Special(kChat, "reasoning_effort", ReadVariable, kEfforts,
              "A variable of the chat template, if it has one of this name."),
      Special(kResponses, "reasoning", ReadReasoning, kObject,
              "effort: a variable of the chat template, reasoning_effort. summary: auto, without "
              "effect."),
      Special(kChat, "verbosity", ReadVariable, kVerbosities,
              "A variable of the chat template, if it has one of this name."),
      Special(kChat, "functions", RefuseFunctions, kObjects, "Refused: send tools."),
      Special(kChat, "function_call", RefuseFunctions, R"({"type":["string","object"]})",
              "Refused: send tools and tool_choice."),

      // What it has, and this server has no use for.
      Neutral(kText, "suffix", R"({"enum":[""]})", "This server does not fill in the middle."),
      Neutral(kAll, "user", kString, "Without effect."),
      Neutral(kAll, "safety_identifier", kString, "Without effect."),
      Neutral(kAll, "prompt_cache_key", kString, "Without effect: the cache needs none."),
      Special(kAll, "metadata", CheckMetadata,
              R"({"type":"object","maxProperties":16,"additionalProperties":)"
              R"({"type":"string","maxLength":512}})",
              "Without effect; /v1/responses repeats it."),
      Neutral(kTalk, "prompt_cache_retention", R"({"enum":["in_memory","in-memory","24h"]})",
              "Without effect: the server's flags say how long states are kept."),
      Neutral(kChat, "prediction", kObject, "Without effect: it could save time alone."),
      Neutral(kResponses, "max_tool_calls",
              R"({"type":"integer","minimum":0,"maximum":2147483647})",
              "Without effect: it counts calls of built-in tools, and there are none."),
      Neutral(kAll, "service_tier", R"({"enum":["auto","default"]})", "Without effect."),
      Neutral(kTalk, "store", kFalse, "No answers are kept."),
      Special(kTalk, "parallel_tool_calls", ReadParallelCalls, kBoolean,
              "false: no more than one call is told. Default true."),
      Neutral(kChat, "modalities", R"({"enum":[["text"]]})", "Text alone."),
      Neutral(kResponses, "background", kFalse, "A response is made while the client waits."),
      Neutral(kResponses, "truncation", R"({"enum":["disabled"]})", "A text too long is refused."),

      // Packrat's own, by the names of its gRPC API. vLLM's clients know most of them.
      Special(kAll, "top_k", ReadTopK, kInteger, "0 or -1: off."),
      Option(kAll, "min_p", "sampling.min_p", &bounds::kMinP,
             "Drops what is less likely than min_p times the likeliest."),
      Option(kAll, "repetition_penalty", "sampling.repetition_penalty", &bounds::kRepetitionPenalty,
             "Of tokens of prompt and text."),
      Option(kAll, "min_tokens", "stop.min_tokens", &bounds::kMinTokens,
             "No end and no stop before."),
      Option(kAll, "ignore_eos", "stop.ignore_eos", nullptr,
             "The model's end ids do not end the text."),
      Option(kAll, "stop_token_ids", "stop.token_ids", nullptr, "Ids that end the text."),
      Option(kAll, "allowed_token_ids", "sampling.allowed_token_ids", nullptr,
             "Nothing else is drawn."),
      Option(kAll, "banned_token_ids", "sampling.banned_token_ids", nullptr, "Never drawn."),
      Option(kAll, "skip_special_tokens", "skip_special_tokens", nullptr,
             "Default true: control tokens give no text."),
      Option(kText, "add_bos", "add_bos", nullptr,
             "Of a prompt of text. Default: the tokenizer's."),
      Option(kText, "add_special_tokens", "add_bos", nullptr, "The same as add_bos."),
      Option(kText, "parse_special", "parse_special", nullptr,
             "Control tokens written in the prompt become their ids."),
      Option(kAll, "session", "session", nullptr, "A session's handle."),
      Option(kAll, "use_cache", "use_cache", nullptr,
             "Default true: goes on from the state of a text that began alike."),
      Option(kAll, "cache_salt", "cache_salt", nullptr, "States are shared within one salt alone."),
      Option(kAll, "priority", "priority", &bounds::kPriority, "Higher is served first."),
      Option(kAll, "solver", "solver", nullptr, "cg_tolerance and cg_max_steps, for Mesa layers."),
      Option(kAll, "rat_plus_dial", "rat_plus_dial", nullptr,
             "What layers of RAT+ see; one of those that the server has."),
      Option(kAll, "grammar", "grammar", nullptr, "The text follows a grammar (GBNF)."),
      Option(kAll, "regex", "regex", nullptr, "The text matches a regular expression."),
      Special(kAll, "json_schema", ReadJsonSchema, R"({"type":["object","string"]})",
              "The text is JSON by a schema."),

      // vLLM's names of the same, and what its clients send.
      Special(kAll, "guided_json", ReadJsonSchema, R"({"type":["object","string"]})",
              "The same as json_schema."),
      Option(kAll, "guided_regex", "regex", nullptr, "The same as regex."),
      Option(kAll, "guided_grammar", "grammar", nullptr, "The same as grammar."),
      Special(kAll, "structured_outputs", ReadStructuredOutputs, kObject,
              "One of json, regex and grammar."),
      Special(kTalk, "chat_template_kwargs", ReadTemplateKwargs, kObject,
              "Further variables of the chat template."),
      Option(kTalk, "add_generation_prompt", "chat.add_generation_prompt", nullptr,
             "Default true: the assistant speaks next."),
      Special(kText, "return_tokens_as_token_ids", ReadTokensAsIds, kBoolean,
              "Tokens are shown as token_id:17."),
      Neutral(kChat, "echo", kFalse, "A chat is not repeated."),
      Neutral(kChat, "continue_final_message", kFalse, "A message is not continued."),
      Neutral(kChat, "add_special_tokens", kFalse, "The template writes them."),
      Neutral(kAll, "use_beam_search", kFalse, "There is none."),
      Neutral(kAll, "length_penalty", R"({"enum":[1]})", "Of beam search."),
      Neutral(kAll, "include_stop_str_in_output", kFalse, "Stop strings are never sent."),
      Neutral(kAll, "spaces_between_special_tokens", kTrue, "Without effect."),
      Neutral(kAll, "detokenize", kTrue, "The answer is text."),
      Neutral(kAll, "bad_words", R"({"enum":[[]]})", "See banned_token_ids."),

      // What vLLM's router adds to every request.
      Neutral(kChoices, "no_stop_trim", kFalse, "Stop strings are never sent."),
      Neutral(kChoices, "return_hidden_states", kFalse, "They are not sent."),
      Neutral(kChat, "separate_reasoning", kBoolean, "Without effect: all text is content."),
      Neutral(kChat, "stream_reasoning", kBoolean, "Without effect."),
      Neutral(kChat, "include_reasoning", kBoolean, "Without effect."),
  };
}

const FieldDescriptor& DescriptorOf(const char* path) {
  const google::protobuf::Descriptor* type = v1::GenerateRequest::descriptor();
  const FieldDescriptor* field = nullptr;
  for (const absl::string_view name : absl::StrSplit(path, '.')) {
    field = type->FindFieldByName(std::string(name));
    PACKRAT_CHECK(field != nullptr) << path;
    type = field->message_type();
  }
  return *field;
}

OrderedJson Number(double value) {
  const auto whole = static_cast<int64_t>(value);
  return static_cast<double>(whole) == value ? OrderedJson(whole) : OrderedJson(value);
}

const char* JsonType(const FieldDescriptor& field) {
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_FLOAT:
      return "number";
    case FieldDescriptor::CPPTYPE_BOOL:
      return "boolean";
    case FieldDescriptor::CPPTYPE_STRING:
      return "string";
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return "object";
    default:
      return "integer";
  }
}

bool HasType(const OrderedJson& value, const std::string& type) {
  if (type == "string") return value.is_string();
  if (type == "boolean") return value.is_boolean();
  if (type == "array") return value.is_array();
  if (type == "object") return value.is_object();
  return value.is_number();  // Who reads an integer sees whether it is one.
}

}  // namespace

absl::Status CheckSchema(const std::string& name, const OrderedJson& value,
                         const OrderedJson& schema) {
  if (const OrderedJson* taken = Find(schema, "enum")) {
    if (std::find(taken->begin(), taken->end(), value) != taken->end()) return absl::OkStatus();
    std::vector<std::string> values;
    for (const OrderedJson& one : *taken) values.push_back(Dump(one));
    return Refuse(name, absl::StrCat("is ", Shown(value), "; this server takes ",
                                     absl::StrJoin(values, " or "), " only"));
  }
  const OrderedJson* types = Find(schema, "type");
  if (types == nullptr) return absl::OkStatus();
  std::vector<std::string> names;
  if (types->is_string()) names.push_back(types->get<std::string>());
  if (types->is_array()) names = types->get<std::vector<std::string>>();
  const bool typed = std::any_of(names.begin(), names.end(),
                                 [&](const auto& type) { return HasType(value, type); });
  if (!typed) return MustBe(name, value, absl::StrCat("of type ", absl::StrJoin(names, " or ")));
  const OrderedJson* low = Find(schema, "minimum");
  const OrderedJson* high = Find(schema, "maximum");
  if (low == nullptr || high == nullptr || (value >= *low && value <= *high)) {
    return absl::OkStatus();
  }
  return Refuse(name,
                absl::StrCat("is ", Shown(value), "; range [", Dump(*low), ", ", Dump(*high), "]"));
}

namespace {

absl::Status ReadOne(const Field& field, const OrderedJson& value, Draft* draft) {
  if (field.path != nullptr) return draft->Set(field.path, field.name, value);
  const absl::Status status = CheckSchema(field.name, value, SchemaOf(field));
  if (!status.ok() || field.read == nullptr) return status;
  return field.read(field.name, value, draft);
}

// What the answer of /v1/responses repeats of the request, and what it says where nothing was sent.
const OrderedJson& Repeated() {
  static const OrderedJson& fields = *new OrderedJson(OrderedJson::parse(R"({
      "instructions": null, "max_output_tokens": null, "metadata": {}, "parallel_tool_calls": true,
      "previous_response_id": null, "reasoning": {"effort": null, "summary": null}, "store": false, "temperature": null, "text": {"format":
      {"type": "text"}}, "tool_choice": "auto", "tools": [], "top_logprobs": 0, "top_p": null,
      "truncation": "disabled", "user": null})"));
  return fields;
}

}  // namespace

const std::vector<Field>& Fields() {
  static const std::vector<Field>& fields = *new std::vector<Field>(MakeFields());
  return fields;
}

OrderedJson SchemaOf(const Field& field) {
  if (*field.schema != '\0') return OrderedJson::parse(field.schema);
  const FieldDescriptor& at = DescriptorOf(field.path);
  OrderedJson schema = {{"type", JsonType(at)}};
  if (at.is_repeated()) return {{"type", "array"}, {"items", schema}};
  if (field.bound == nullptr) return schema;
  const Bound& bound = *field.bound;
  schema[bound.ends == Bound::kNotLow ? "exclusiveMinimum" : "minimum"] = Number(bound.low);
  if (std::isfinite(bound.high)) {
    schema[bound.ends == Bound::kNotHigh ? "exclusiveMaximum" : "maximum"] = Number(bound.high);
  }
  return schema;
}

absl::Status Draft::Set(const std::string& path, const std::string& field,
                        const OrderedJson& value) {
  const auto [at, first] = set.try_emplace(path, field, value);
  if (first) return SetPath(field, value, path, &request);
  const auto& [other, said] = at->second;
  if (said == value) return absl::OkStatus();
  return Refuse(field, absl::StrCat("says something else than ", other, "; send one of them"));
}

absl::Status ReadFields(const OrderedJson& body, Draft* draft) {
  for (const auto& [name, value] : body.items()) {
    if (value.is_null()) continue;
    const auto field =
        std::find_if(Fields().begin(), Fields().end(), [&, &name = name](const Field& candidate) {
          return name == candidate.name && BelongsTo(candidate, draft->endpoint);
        });
    if (field == Fields().end()) {
      return WithParam(absl::InvalidArgumentError(absl::StrCat(
                           "Unrecognized request argument supplied: ", ShownName(name))),
                       ShownName(name));
    }
    const absl::Status status = ReadOne(*field, value, draft);
    if (!status.ok()) return status;
  }
  if (draft->endpoint != Endpoint::kResponses) return absl::OkStatus();
  for (const auto& [name, unset] : Repeated().items()) {
    const OrderedJson* sent = Find(body, name.c_str());
    draft->repeated[name] = sent != nullptr ? *sent : unset;
  }
  return absl::OkStatus();
}

NameList NamesOf(const Draft& draft) {
  NameList names;
  for (const auto& [path, by] : draft.set) names.emplace_back(path, by.first);
  for (const Field& field : Fields()) {
    if (field.path != nullptr && BelongsTo(field, draft.endpoint)) {
      names.emplace_back(field.path, field.name);
    }
  }
  const char* count = draft.best_of.has_value() ? "best_of" : "n";
  const char* chat = draft.endpoint == Endpoint::kChat ? "messages" : "input";
  const char* scores = draft.top_logprobs.has_value() ? "top_logprobs" : "logprobs";
  const std::pair<const char*, const char*> others[] = {
      {"num_choices", count},
      {"num_logprobs", scores},
      {"sampling.num_logprobs", scores},
      {"sampling.logit_bias", "logit_bias"},
      {"sampling.top_k", "top_k"},
      {"sampling.top_p", "top_p"},
      {"stop.strings", "stop"},
      {"text", "prompt"},
      {"tokens.ids", "prompt"},
      {"prompt", draft.endpoint == Endpoint::kCompletions ? "prompt" : chat},
      {"chat", chat},
      {"chat.messages", chat},
      {"chat.tools_json", "tools"},
      {"chat.template_kwargs_json", "chat_template_kwargs"},
      {"solver.cg_tolerance", "solver.cg_tolerance"},
      {"solver.cg_max_steps", "solver.cg_max_steps"},
  };
  names.insert(names.end(), std::begin(others), std::end(others));
  // Entries of an object have no order that a client knows.
  const auto& biases = draft.request.sampling().logit_bias();
  for (int i = 0; i < biases.size() && i < bounds::kLogitBias.high; ++i) {
    const std::string ours = absl::StrCat("sampling.logit_bias[", i, "]");
    const std::string name = absl::StrCat("logit_bias.", biases[i].token_id());
    names.emplace_back(ours, name);
    names.emplace_back(absl::StrCat(ours, ".bias"), name);
  }
  return names;
}

}  // namespace packrat::openai
