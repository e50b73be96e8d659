// Tools, and which of them is to be called.
#include <algorithm>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "models/text/grammar/grammar_rules.h"
#include "models/text/tool_calls/forced_call.h"
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

bool FitsName(const std::string& name) {
  constexpr size_t kLongest = 64;
  return !name.empty() && name.size() <= kLongest &&
         std::all_of(name.begin(), name.end(), [](unsigned char c) {
           return absl::ascii_isalnum(c) || c == '_' || c == '-';
         });
}

// What a function's members are, of a tool that has one; as OpenAI's server wants them. `names`: of
// those before it, with their fields.
absl::Status CheckFunction(const std::string& field, const OrderedJson& function,
                           absl::flat_hash_map<std::string, std::string>* names) {
  const std::string name_field = absl::StrCat(field, ".name");
  const auto name = function["name"].get<std::string>();
  if (!FitsName(name)) {
    return MustBe(name_field, name, "1 to 64 letters (a-z), digits, _ and -");
  }
  const auto [first, added] = names->try_emplace(name, field);
  if (!added) {
    return Refuse(name_field, absl::StrCat("is ", Shown(name), ", as ", first->second, ".name is"));
  }
  const OrderedJson* description = Find(function, "description");
  if (description != nullptr && !description->is_string()) {
    return MustBe(absl::StrCat(field, ".description"), *description, "a string");
  }
  const OrderedJson* strict = Find(function, "strict");
  if (strict != nullptr && !strict->is_boolean()) {
    return MustBe(absl::StrCat(field, ".strict"), *strict, "true or false");
  }
  const OrderedJson* parameters = Find(function, "parameters");
  if (parameters == nullptr || parameters->is_object()) return absl::OkStatus();
  return MustBe(absl::StrCat(field, ".parameters"), *parameters, "an object, a JSON schema");
}

// The field of the parameters of the draft's tool.
std::string ParametersField(Endpoint endpoint, size_t tool) {
  const char* inner = endpoint == Endpoint::kChat ? ".function" : "";
  return absl::StrCat("tools[", tool, "]", inner, ".parameters");
}

// Functions that a grammar is made of.
struct Callable {
  OrderedJson functions = OrderedJson::array();
  std::vector<std::string> parameters;  // Their fields.

  void Add(const Draft& draft, size_t tool) {
    functions.push_back(draft.tools[tool]["function"]);
    parameters.push_back(ParametersField(draft.endpoint, tool));
  }
};

// Why calls of them cannot be written in the format, which is `why` of one of them.
absl::Status NotWritten(const Draft& draft, const Callable& callable, const std::string& where,
                        const absl::Status& why) {
  for (size_t i = 0; i < callable.functions.size(); ++i) {
    const OrderedJson one = OrderedJson::array({callable.functions[i]});
    const auto forced = ForceCall(*draft.context->tool_format, one, draft.context->special);
    if (forced.ok()) continue;
    return Refuse(callable.parameters[i], absl::StrCat(where, ": ", forced.status().message()));
  }
  return why;
}

// For Draft::why_no_grammar: which parameters are none that a grammar takes.
std::function<absl::Status()> WhyNoGrammar(const Draft& draft, Callable callable,
                                           const std::string& where) {
  // Beyond that it is the size alone.
  if (Dump(callable.functions).size() > kMaxGrammarBytes) return nullptr;
  return [format = draft.context->tool_format, callable = std::move(callable), where] {
    for (size_t i = 0; i < callable.functions.size(); ++i) {
      const absl::Status status = CheckParameters(*format, callable.functions[i]);
      if (status.ok()) continue;
      return Refuse(callable.parameters[i], absl::StrCat(where, ": ", status.message()));
    }
    return absl::OkStatus();
  };
}

// What a value may be by its schema.
struct Kinds {
  bool text = false, null = false, other = false;
};

// Tells what the values of a function's arguments may be. What references lead to can be seen any
// number of times, so that is bounded; what lies beyond is `other`.
class KindReader {
 public:
  explicit KindReader(const OrderedJson& root) : root_(root) {}

  void Add(const OrderedJson& schema, Kinds* kinds) {
    if (kinds->other || !schema.is_object() || !Spend(1)) {
      kinds->other = true;
    } else if (const OrderedJson* reference = Find(schema, "$ref"); reference != nullptr) {
      AddReferred(*reference, kinds);
    } else if (const OrderedJson* all = Alternatives(schema); all != nullptr) {
      for (const OrderedJson& one : *all) Add(one, kinds);
    } else if (const OrderedJson* values = Find(schema, "enum");
               values != nullptr && values->is_array() && Spend(values->size())) {
      for (const OrderedJson& value : *values) {
        (value.is_string() ? kinds->text : value.is_null() ? kinds->null : kinds->other) = true;
      }
    } else {
      AddType(Find(schema, "type"), kinds);
    }
  }

 private:
  static constexpr int kMostReferences = 8;  // Of which one leads to the next.
  static constexpr size_t kLookUp = 100;     // Steps: members stand in no order.

  // Whether so much more may be looked at. What is in no reference is looked at once.
  bool Spend(size_t steps) {
    if (references_ == 0) return true;
    const bool enough = steps <= left_;
    left_ -= std::min(steps, left_);
    return enough;
  }

  void AddReferred(const OrderedJson& reference, Kinds* kinds) {
    ++references_;
    const OrderedJson* found = reference.is_string() && references_ <= kMostReferences
                                   ? Resolve(reference.get_ref<const std::string&>())
                                   : nullptr;
    Add(found != nullptr ? *found : OrderedJson(), kinds);
    --references_;
  }

  // What "#/a/b" names in the root.
  const OrderedJson* Resolve(absl::string_view reference) {
    if (!absl::ConsumePrefix(&reference, "#/") || !Spend(kLookUp + reference.size())) {
      return nullptr;
    }
    const std::vector<std::string> keys = absl::StrSplit(reference, '/');
    const OrderedJson* at = &root_;
    for (const std::string& key : keys) {
      at = at != nullptr && at->is_object() ? Find(*at, key.c_str()) : nullptr;
    }
    return at;
  }

  static const OrderedJson* Alternatives(const OrderedJson& schema) {
    for (const char* name : {"anyOf", "oneOf", "allOf"}) {
      const OrderedJson* found = Find(schema, name);
      if (found != nullptr && found->is_array()) return found;
    }
    return nullptr;
  }

  void AddType(const OrderedJson* type, Kinds* kinds) {
    const auto add = [kinds](const OrderedJson& name) {
      (name == "string" ? kinds->text : name == "null" ? kinds->null : kinds->other) = true;
    };
    if (type == nullptr) {
      kinds->other = true;
    } else if (!type->is_array()) {
      add(*type);
    } else if (Spend(type->size())) {
      for (const OrderedJson& name : *type) add(name);
    } else {
      kinds->other = true;
    }
  }

  const OrderedJson& root_;
  int references_ = 0;    // In which this is.
  size_t left_ = 50'000;  // Steps within references: schemas, values, bytes of their names.
};

// The arguments whose values are texts, and whether they may be null.
std::map<std::string, bool> TextsOf(const OrderedJson& function) {
  std::map<std::string, bool> texts;
  const OrderedJson* parameters = Find(function, "parameters");
  if (parameters == nullptr || !parameters->is_object()) return texts;
  const OrderedJson* properties = Find(*parameters, "properties");
  if (properties == nullptr || !properties->is_object()) return texts;
  KindReader reader(*parameters);
  for (const auto& [name, schema] : properties->items()) {
    Kinds kinds;
    reader.Add(schema, &kinds);
    if (kinds.text && !kinds.other) texts[name] = kinds.null;
  }
  return texts;
}

// An answer by a schema, beside tools: it may be a call of one of them as well.
absl::Status LetCall(Draft* draft) {
  const auto& field = draft->set.at("json_schema").first;
  Callable callable;
  for (size_t i = 0; i < draft->tools.size(); ++i) callable.Add(*draft, i);
  const std::string where = absl::StrCat("cannot stand beside ", field);
  const auto grammar = JsonOrCall(draft->request.json_schema(), *draft->context->tool_format,
                                  callable.functions, draft->context->special);
  if (!grammar.ok()) return NotWritten(*draft, callable, where, grammar.status());
  draft->why_no_grammar = WhyNoGrammar(*draft, std::move(callable), where);
  draft->request.clear_json_schema();
  return draft->Set("grammar", field, *grammar);
}

absl::Status RequireCall(Draft* draft) {
  const ToolFormat* format = draft->context->tool_format;
  if (draft->tools.empty()) return Refuse("tool_choice", "asks for a call, and tools has none");
  if (format == nullptr) {
    return Refuse("tool_choice",
                  "asks for a call, and neither the model's chat template nor the server's "
                  "--tool_format says how it writes one");
  }
  Callable callable;
  for (size_t i = 0; i < draft->tools.size(); ++i) {
    const bool any = draft->forced_tool.empty();
    if (any || draft->tools[i]["function"]["name"] == draft->forced_tool) callable.Add(*draft, i);
  }
  if (callable.functions.empty()) {
    return Refuse("tool_choice", absl::StrCat("names ", ShownName(draft->forced_tool),
                                              ", which is not among tools"));
  }
  const char* const where = "cannot be those of a call that is asked for";
  const absl::StatusOr<ForcedCall> forced =
      ForceCall(*format, callable.functions, draft->context->special);
  if (!forced.ok()) return NotWritten(*draft, callable, where, forced.status());
  draft->why_no_grammar = WhyNoGrammar(*draft, std::move(callable), where);
  draft->form.forced_call = forced->begun;
  draft->request.mutable_chat()->set_answer_prefix(forced->prefix);
  // The answer that a schema describes comes in a later turn.
  draft->request.clear_json_schema();
  return draft->Set("grammar", "tool_choice", forced->grammar);
}

}  // namespace

absl::Status ReadTools(const std::string& name, const OrderedJson& value, Draft* draft) {
  absl::flat_hash_map<std::string, std::string> names;
  for (size_t i = 0; i < value.size(); ++i) {
    const std::string field = absl::StrCat(name, "[", i, "]");
    absl::Status status = CheckTool(field, value[i], "function");
    if (status.ok()) {
      status = CheckFunction(absl::StrCat(field, ".function"), value[i]["function"], &names);
    }
    if (!status.ok()) return status;
  }
  draft->tools = value;
  return absl::OkStatus();
}

// Templates know the form of chat: {"type": "function", "function": {"name": .., ..}}.
absl::Status ReadResponseTools(const std::string& name, const OrderedJson& value, Draft* draft) {
  absl::flat_hash_map<std::string, std::string> names;
  for (size_t i = 0; i < value.size(); ++i) {
    const std::string field = absl::StrCat(name, "[", i, "]");
    absl::Status status = CheckTool(field, value[i], nullptr);
    if (status.ok()) status = CheckFunction(field, value[i], &names);
    if (!status.ok()) return status;
    OrderedJson function = value[i];
    function.erase("type");
    draft->tools.push_back({{"type", "function"}, {"function", std::move(function)}});
  }
  return absl::OkStatus();
}

absl::Status ReadParallelCalls(const std::string&, const OrderedJson& value, Draft* draft) {
  draft->form.one_call = !value.get<bool>();
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
    const absl::Status status = RequireCall(draft);
    if (!status.ok()) return status;
  }
  if (draft->tools.empty()) return absl::OkStatus();
  draft->request.mutable_chat()->set_tools_json(Dump(draft->tools));
  if (draft->context->tool_format == nullptr) return absl::OkStatus();
  if (draft->request.has_json_schema()) {
    const absl::Status status = LetCall(draft);
    if (!status.ok()) return status;
  }
  for (const OrderedJson& tool : draft->tools) {
    const OrderedJson& function = tool["function"];
    draft->form.tools[function["name"].get<std::string>()] = TextsOf(function);
  }
  // The marks of calls are control tokens in some models.
  if (!draft->request.has_skip_special_tokens()) draft->request.set_skip_special_tokens(false);
  return absl::OkStatus();
}

}  // namespace packrat::openai
