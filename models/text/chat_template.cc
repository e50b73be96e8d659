#include "models/text/chat_template.h"

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <limits>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "models/files/file.h"
#include "models/files/json.h"
#include "models/files/ordered_json.h"
#include "models/text/jinja/native.h"
#include "models/text/jinja/value.h"

namespace packrat {
namespace {

using jinja::Dict;
using jinja::List;
using jinja::Value;

constexpr size_t kMaxFileBytes = 1 << 20;
// Messages hold such a field three levels below their list.
constexpr int kMaxFieldDepth = Value::kMaxDepth - 4;

Value Foreign(const std::string& text) { return Value::String(text, MarkedText::kForeign); }

// Of a text that is as deep as ParseField() lets it be.
Value FromJson(const OrderedJson& json) {
  switch (json.type()) {
    case OrderedJson::value_t::boolean:
      return Value::Bool(json.get<bool>());
    case OrderedJson::value_t::number_integer:
      return Value::Int(json.get<int64_t>());
    case OrderedJson::value_t::number_unsigned:
      if (json.get<uint64_t>() > uint64_t{std::numeric_limits<int64_t>::max()}) break;
      return Value::Int(json.get<int64_t>());
    case OrderedJson::value_t::number_float:
      break;
    case OrderedJson::value_t::string:
      return Foreign(json.get_ref<const std::string&>());
    case OrderedJson::value_t::array: {
      List items;
      for (const OrderedJson& item : json) items.push_back(FromJson(item));
      return Value::FromList(std::move(items));
    }
    case OrderedJson::value_t::object: {
      Dict dict;
      for (const auto& [name, item] : json.items()) dict.Set(Foreign(name), FromJson(item));
      return Value::FromDict(std::move(dict));
    }
    default:
      return Value::None();
  }
  return Value::Float(json.get<double>());
}

absl::StatusOr<Value> ParseField(const std::string& text, const std::string& field,
                                 OrderedJson::value_t type) {
  // A template shows keys in the order of the request.
  const absl::StatusOr<OrderedJson> json = ParseOrderedJson(text, field, kMaxFieldDepth);
  if (!json.ok()) return json.status();
  if (json->type() != type) {
    return absl::InvalidArgumentError(absl::StrCat(
        field, ": must be ", type == OrderedJson::value_t::array ? "a list" : "an object"));
  }
  Value value = FromJson(*json);
  if (value.weight() <= jinja::Budget::kMaxWeight) return value;
  return absl::InvalidArgumentError(absl::StrCat(field, ": is too large"));
}

// The roles of every API are not the client's own words: some templates make special tokens of
// them,
// "<|" + role + "|>".
Value Role(const std::string& role) {
  constexpr const char* kKnown[] = {"system", "developer", "user", "assistant", "tool", "function"};
  const bool known = std::any_of(std::begin(kKnown), std::end(kKnown),
                                 [&](const char* name) { return role == name; });
  return known ? Value::Own(role) : Foreign(role);
}

// OpenAI's API writes arguments as a string of JSON, and most templates want them as an object.
// Null where there is nothing to change.
std::optional<Value> WithParsedArguments(const Value& call) {
  if (!call.IsDict()) return std::nullopt;
  const Value* function = call.dict().Find("function");
  const Value& named = function != nullptr ? *function : call;
  if (!named.IsDict()) return std::nullopt;
  const Value* arguments = named.dict().Find("arguments");
  if (arguments == nullptr || !arguments->IsString()) return std::nullopt;
  absl::StatusOr<Value> parsed =
      ParseField(arguments->text(), "arguments", OrderedJson::value_t::object);
  if (!parsed.ok()) return std::nullopt;
  Dict changed = named.dict();
  changed.Set(Value::Own("arguments"), *std::move(parsed));
  if (function == nullptr) return Value::FromDict(std::move(changed));
  Dict whole = call.dict();
  whole.Set(Value::Own("function"), Value::FromDict(std::move(changed)));
  return Value::FromDict(std::move(whole));
}

// `parse_arguments`: see above. *parsed tells whether there was anything to parse.
absl::StatusOr<Value> Message(const ChatTurn& turn, const std::string& where, bool parse_arguments,
                              bool* parsed) {
  Dict message;
  // Under both names that templates read.
  if (turn.reasoning_content) message.Set(Value::Own("thinking"), Foreign(*turn.reasoning_content));
  message.Set(Value::Own("role"), Role(turn.role));
  // OpenAI's API has a null where there is none, on which many templates fail, or print "None".
  if (turn.content) message.Set(Value::Own("content"), Foreign(*turn.content));
  if (turn.name) message.Set(Value::Own("name"), Foreign(*turn.name));
  if (turn.tool_call_id) message.Set(Value::Own("tool_call_id"), Foreign(*turn.tool_call_id));
  if (turn.reasoning_content) {
    message.Set(Value::Own("reasoning_content"), Foreign(*turn.reasoning_content));
  }
  if (turn.tool_calls_json) {
    absl::StatusOr<Value> calls =
        ParseField(*turn.tool_calls_json, where + ".tool_calls_json", OrderedJson::value_t::array);
    if (!calls.ok()) return calls.status();
    List list = calls->list();
    for (Value& call : list) {
      std::optional<Value> changed = WithParsedArguments(call);
      if (!changed) continue;
      *parsed = true;
      if (parse_arguments) call = *std::move(changed);
    }
    message.Set(Value::Own("tool_calls"), Value::FromList(std::move(list)));
  }
  return Value::FromDict(std::move(message));
}

// What stands in quotes of either kind. Where they are of the text around it, there are more words
// than literals.
void AddWords(absl::string_view source, absl::flat_hash_set<std::string>* words) {
  constexpr size_t kLongest = 64;
  const auto in_word = [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '-';
  };
  for (size_t at = 0; at < source.size(); ++at) {
    if (source[at] != '\'' && source[at] != '"') continue;
    size_t end = at + 1;
    while (end < source.size() && end - at <= kLongest && in_word(source[end])) ++end;
    if (end > at + 1 && end < source.size() && source[end] == source[at]) {
      words->emplace(source.substr(at + 1, end - at - 1));
    }
  }
}

}  // namespace

absl::Status ChatTemplate::Add(const std::string& where, const std::string& name,
                               const std::string& source) {
  absl::StatusOr<jinja::Template> parsed = jinja::Template::Parse(source);
  if (!parsed.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat(where, ", chat template ", Quoted(name), ": ", parsed.status().message()));
  }
  templates_.emplace_back(name, *std::move(parsed));
  if (tool_format_ == nullptr) tool_format_ = ToolFormatOf(source);
  AddWords(source, &words_);
  return absl::OkStatus();
}

absl::StatusOr<ChatTemplate> ChatTemplate::Load(const std::string& dir,
                                                const TokenizerConfig& config) {
  ChatTemplate made;
  for (const auto& [name, token] : config.token_names) {
    made.token_names_.emplace_back(name, Value::Own(token));
  }
  List additional;
  for (const std::string& token : config.additional_special_tokens) {
    additional.push_back(Value::Own(token));
  }
  if (!additional.empty()) {
    made.token_names_.emplace_back("additional_special_tokens",
                                   Value::FromList(std::move(additional)));
  }
  // Names and files, the first of which is the default.
  constexpr std::pair<const char*, const char*> kFiles[] = {
      {"default", "/chat_template.jinja"},
      {"tool_use", "/additional_chat_templates/tool_use.jinja"}};
  for (const auto& [name, file] : kFiles) {
    const absl::StatusOr<std::string> source = ReadSmallFile(dir + file, kMaxFileBytes);
    if (absl::IsNotFound(source.status())) continue;
    if (!source.ok()) return source.status();
    const absl::Status status = made.Add(dir + file, name, *source);
    if (!status.ok()) return status;
  }
  const auto has = [&made](absl::string_view name) {
    return std::any_of(made.templates_.begin(), made.templates_.end(),
                       [name](const auto& known) { return known.first == name; });
  };
  if (has("default")) return made;
  if (!config.chat_template_error.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(dir, "/", config.chat_template_error));
  }
  for (const auto& [name, source] : config.chat_templates) {
    if (has(name)) continue;
    const absl::Status status = made.Add(dir + "/tokenizer_config.json", name, source);
    if (!status.ok()) return status;
  }
  if (!made.templates_.empty()) return made;

  const std::string path = dir + "/chat_template.json";
  const absl::StatusOr<std::string> text = ReadSmallFile(path, kMaxFileBytes);
  if (absl::IsNotFound(text.status())) {
    // Its name is its folder's; the whole path is none of a client's business.
    const absl::string_view folder = absl::StripSuffix(dir, "/");
    return absl::NotFoundError(
        absl::StrCat("the model ", folder.substr(folder.rfind('/') + 1),
                     " has no chat template, neither in chat_template.jinja nor in "
                     "tokenizer_config.json or chat_template.json"));
  }
  if (!text.ok()) return text.status();
  const absl::StatusOr<Json> json = ParseJson(text->data(), text->size(), path);
  if (!json.ok()) return json.status();
  if (!json->is_object() || !json->value("chat_template", Json()).is_string()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": chat_template must be a string"));
  }
  const absl::Status status =
      made.Add(path, "default", (*json)["chat_template"].get<std::string>());
  if (!status.ok()) return status;
  return made;
}

absl::StatusOr<MarkedText> ChatTemplate::Render(const Conversation& conversation, size_t max_bytes,
                                                absl::Time now) const {
  jinja::Template::Variables variables;
  absl::flat_hash_map<std::string, size_t> places;  // Of the variables: a client may name many.
  const auto set = [&](const std::string& name, Value value) {
    const auto [place, added] = places.try_emplace(name, variables.size());
    if (added) {
      variables.emplace_back(name, std::move(value));
    } else {
      variables[place->second].second = std::move(value);
    }
  };
  for (const auto& [name, token] : token_names_) set(name, token);
  set("documents", Value::None());
  set("tools", Value::None());
  set("add_generation_prompt", Value::Bool(conversation.add_generation_prompt));
  if (conversation.template_kwargs_json) {
    const absl::StatusOr<Value> given = ParseField(
        *conversation.template_kwargs_json, "template_kwargs_json", OrderedJson::value_t::object);
    if (!given.ok()) return given.status();
    for (const auto& [name, value] : given->dict().entries) {
      for (const char* taken : {"messages", "tools", "add_generation_prompt"}) {
        if (name.text() == taken) {
          return absl::InvalidArgumentError(
              absl::StrCat("template_kwargs_json: ", taken, " has a field of its own"));
        }
      }
      set(name.text(), value);
    }
  }
  const bool has_tools = conversation.tools_json.has_value();
  if (has_tools) {
    absl::StatusOr<Value> tools =
        ParseField(*conversation.tools_json, "tools_json", OrderedJson::value_t::array);
    if (!tools.ok()) return tools.status();
    set("tools", *std::move(tools));
  }
  const auto named = [this](absl::string_view name) {
    return std::find_if(templates_.begin(), templates_.end(),
                        [name](const auto& known) { return known.first == name; });
  };
  auto chosen = has_tools ? named("tool_use") : templates_.end();
  if (chosen == templates_.end()) chosen = named("default");
  if (chosen == templates_.end()) {
    return absl::InvalidArgumentError(
        has_tools ? "the model has no chat template of the name \"default\" or \"tool_use\""
                  : "the model has no chat template of the name \"default\"");
  }
  jinja::Template::Limits limits;
  limits.max_bytes = max_bytes;
  limits.now = now;
  absl::StatusOr<MarkedText> prompt;
  bool parsed = false;
  // Arguments of calls as objects; and where the template cannot use them so, as the strings that
  // they came as.
  for (bool parse_arguments : {true, false}) {
    List messages;
    for (size_t i = 0; i < conversation.messages.size(); ++i) {
      absl::StatusOr<Value> message = Message(
          conversation.messages[i], absl::StrCat("messages[", i, "]"), parse_arguments, &parsed);
      if (!message.ok()) return message.status();
      messages.push_back(*std::move(message));
    }
    set("messages", Value::FromList(std::move(messages)));
    prompt = chosen->second.Render(variables, limits);
    if (prompt.ok() || !parsed) break;
  }
  if (prompt.ok()) return prompt;
  return absl::InvalidArgumentError(
      absl::StrCat("messages: the chat template says: ", prompt.status().message()));
}

}  // namespace packrat
