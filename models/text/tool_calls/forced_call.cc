#include "models/text/tool_calls/forced_call.h"

#include <algorithm>
#include <cstddef>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "models/text/grammar/grammar_rules.h"
#include "models/text/grammar/json_schema.h"

namespace packrat {
namespace {

using OrderedJson = nlohmann::ordered_json;

const OrderedJson* Find(const OrderedJson& object, const char* name) {
  const auto found = object.find(name);
  return found == object.end() ? nullptr : &*found;
}

std::string Dump(const OrderedJson& value) {
  return value.dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
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

OrderedJson ParametersOf(const OrderedJson& function) {
  const OrderedJson* found = Find(function, "parameters");
  if (found != nullptr && !found->is_null()) return *found;
  return {
      {"type", "object"}, {"additionalProperties", false}, {"properties", OrderedJson::object()}};
}

// Of {"name": "..", `member`: {..}}.
OrderedJson JsonCallSchema(const OrderedJson& functions, const char* member) {
  OrderedJson calls = OrderedJson::array();
  for (const OrderedJson& function : functions) {
    const std::string at = functions.size() > 1 ? absl::StrCat("#/anyOf/", calls.size()) : "#";
    OrderedJson parameters = ParametersOf(function);
    MoveReferences(absl::StrCat(at, "/properties/", member), &parameters);
    calls.push_back(
        {{"type", "object"},
         {"properties", {{"name", {{"const", function["name"]}}}, {member, parameters}}},
         {"required", {"name", member}}});
  }
  return calls.size() == 1 ? calls[0] : OrderedJson{{"anyOf", calls}};
}

// Behind the name, where arguments follow: a special token in most models of this format.
constexpr char kArgs[] = "[ARGS]";

// A name in a message.
std::string Shown(const std::string& name) { return Dump(name.substr(0, 64)); }

std::string Literal(absl::string_view text) {
  return absl::StrCat(
      "\"",
      absl::StrReplaceAll(text, {{"\\", "\\\\"}, {"\"", "\\\""}, {"\n", "\\n"}, {"\r", "\\r"}}),
      "\"");
}

// As a part of a rule.
std::string TokenOrText(const std::string& text, const SpecialTokens& special) {
  const int32_t id = special != nullptr ? special(text) : -1;
  return id < 0 ? Literal(text) : absl::StrCat("<[", id, "]>");
}

std::string Json(const OrderedJson& schema) { return absl::StrCat("%json-line ", Dump(schema)); }

struct Argument {
  std::string name;
  OrderedJson schema;
  bool required;
};

// In the order in which they come. INVALID_ARGUMENT unless the schema lists them.
absl::StatusOr<std::vector<Argument>> ArgumentsOf(const OrderedJson& parameters) {
  std::vector<Argument> arguments;
  if (!parameters.is_object()) return absl::InvalidArgumentError("parameters is not an object");
  for (const char* key : {"$ref", "allOf", "anyOf", "oneOf"}) {
    if (!parameters.contains(key)) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("parameters has ", key, ", and must list its properties"));
  }
  const OrderedJson* properties = Find(parameters, "properties");
  if (properties != nullptr && !properties->is_object()) {
    return absl::InvalidArgumentError("parameters.properties is not an object");
  }
  if (properties != nullptr) {
    for (const auto& [name, schema] : properties->items()) {
      // An argument that may not be there is not.
      if (schema == OrderedJson(false)) continue;
      arguments.push_back({name, schema, false});
    }
  }
  if (const OrderedJson* required = Find(parameters, "required")) {
    if (!required->is_array()) {
      return absl::InvalidArgumentError("parameters.required is not a list");
    }
    // A client may send hundreds of thousands of both.
    absl::flat_hash_map<std::string, size_t> places;
    for (const Argument& argument : arguments) places.emplace(argument.name, places.size());
    for (const OrderedJson& name : *required) {
      if (!name.is_string()) continue;
      const auto [place, added] = places.emplace(name.get<std::string>(), arguments.size());
      if (added) arguments.push_back({place->first, OrderedJson::object(), true});
      arguments[place->second].required = true;
    }
  }
  size_t repeated = 0;  // Bytes.
  for (Argument& argument : arguments) {
    if (argument.schema == OrderedJson(true)) argument.schema = OrderedJson::object();
    if (!argument.schema.is_object()) {
      return absl::InvalidArgumentError(
          absl::StrCat("argument ", Shown(argument.name), " has no schema"));
    }
    // Each schema stands alone, with what it may refer to.
    if (!absl::StrContains(Dump(argument.schema), "\"$ref\"")) continue;
    for (const char* key : {"$defs", "definitions"}) {
      const OrderedJson* found = Find(parameters, key);
      if (found == nullptr) continue;
      if (repeated > kMaxGrammarBytes) {
        return absl::InvalidArgumentError("parameters is too large with what each $ref repeats");
      }
      argument.schema[key] = *found;
      repeated += Dump(*found).size();
    }
  }
  return arguments;
}

bool IsType(const OrderedJson& schema, absl::string_view type) {
  const OrderedJson* found = Find(schema, "type");
  return found != nullptr && found->is_string() && found->get<std::string>() == type;
}

absl::Status CheckName(const std::string& what, const std::string& name, bool (*fits)(char)) {
  if (!name.empty() && std::all_of(name.begin(), name.end(), fits)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(what, " cannot be written there"));
}

bool FitsCode(char c) {
  return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '-' || c == '.';
}
bool FitsMark(char c) { return c != '>' && c != '\n' && c != '\r'; }

// As Python or JSON writes them; models do both.
constexpr char kBoolean[] = R"(("true" | "false" | "True" | "False"))";

// Whether an argument's values are written as JSON by its schema.
bool IsJson(const ToolFormat& format, const OrderedJson& schema) {
  if (format.call == ToolFormat::Call::kMarked) return !IsType(schema, "string");
  return !IsType(schema, "boolean") || schema.contains("const") || schema.contains("enum");
}

// name(argument=value, ..), as rules of which `rule` is the whole. The values are JSON, which some
// models write there in any case, and which is nearly always a literal of Python too.
absl::StatusOr<std::string> PythonRules(const ToolFormat& format, const std::string& rule,
                                        const OrderedJson& function,
                                        const std::vector<Argument>& arguments) {
  const auto name = function["name"].get<std::string>();
  std::string rules =
      absl::StrCat(rule, " ::= ", Literal(absl::StrCat(name, "(")), " ", rule, "-first-0\n");
  // From each argument on: where it is the first that is written, and where others were.
  for (const bool first : {true, false}) {
    const std::string own = absl::StrCat(rule, first ? "-first-" : "-next-");
    for (size_t i = 0; i < arguments.size(); ++i) {
      const Argument& argument = arguments[i];
      const absl::Status fits =
          CheckName(absl::StrCat("argument ", Shown(argument.name)), argument.name, FitsCode);
      if (!fits.ok()) return fits;
      const bool json = IsJson(format, argument.schema);
      absl::StrAppend(&rules, own, i,
                      " ::= ", Literal(absl::StrCat(first ? "" : ", ", argument.name, "=")), " ",
                      json ? Json(argument.schema) : kBoolean, " ", rule, "-next-", i + 1);
      if (!argument.required) absl::StrAppend(&rules, " | ", own, i + 1);
      absl::StrAppend(&rules, "\n");
    }
    absl::StrAppend(&rules, own, arguments.size(), " ::= \")\"\n");
  }
  return rules;
}

// A text in which `mark`, whose first byte is nowhere else in it, does not come: a rule for each
// number of its bytes that have just come.
std::string TextWithout(absl::string_view mark) {
  const std::string first = Literal(mark.substr(0, 1));
  std::string rules =
      absl::StrCat("text-0 ::= ([^", mark.substr(0, 1), "] text-0 | ", first, " text-1)?\n");
  for (size_t i = 1; i < mark.size(); ++i) {
    const absl::string_view next = mark.substr(i, 1);
    absl::StrAppend(&rules, "text-", i, " ::= (", first, " text-1 | [^", mark.substr(0, 1), next,
                    "] text-0");
    if (i + 1 < mark.size()) absl::StrAppend(&rules, " | ", Literal(next), " text-", i + 1);
    absl::StrAppend(&rules, ")?\n");
  }
  return rules;
}

// What stands between the marks of an argument.
std::string MarkedValue(const ToolFormat& format, const OrderedJson& schema) {
  if (IsJson(format, schema)) return Json(schema);
  OrderedJson values = OrderedJson::array();
  if (const OrderedJson* one = Find(schema, "const")) {
    values.push_back(*one);
  } else if (const OrderedJson* some = Find(schema, "enum")) {
    values = *some;
  }
  std::vector<std::string> texts;
  for (const OrderedJson& value : values) {
    if (value.is_string()) texts.push_back(Literal(value.get<std::string>()));
  }
  return texts.empty() ? "text-0" : absl::StrCat("(", absl::StrJoin(texts, " | "), ")");
}

// <function=name>, <parameter=argument> and so on, each on a line of its own.
absl::StatusOr<std::string> MarkedRules(const ToolFormat& format, const std::string& rule,
                                        const OrderedJson& function,
                                        const std::vector<Argument>& arguments) {
  const auto name = function["name"].get<std::string>();
  std::string rules = absl::StrCat(rule, " ::= ", Literal(absl::StrCat("<function=", name, ">\n")));
  for (const Argument& argument : arguments) {
    const absl::Status fits =
        CheckName(absl::StrCat("argument ", Shown(argument.name)), argument.name, FitsMark);
    if (!fits.ok()) return fits;
    absl::StrAppend(&rules, " (", Literal(absl::StrCat("<parameter=", argument.name, ">\n")), " ",
                    MarkedValue(format, argument.schema), " \"\\n</parameter>\\n\")",
                    argument.required ? "" : "?");
  }
  return absl::StrCat(rules, " \"</function>\"\n");
}

// `args`: kArgs as a part of a rule.
absl::StatusOr<std::string> WrittenRules(const ToolFormat& format, const std::string& rule,
                                         const OrderedJson& function, const std::string& args) {
  const auto name = function["name"].get<std::string>();
  const bool marked = format.call == ToolFormat::Call::kMarked;
  const absl::Status fits = CheckName("its name", name, marked ? FitsMark : FitsCode);
  if (!fits.ok()) return fits;
  const OrderedJson parameters = ParametersOf(function);
  if (format.call == ToolFormat::Call::kNamed) {
    return absl::StrCat(rule, " ::= ", Literal(name), " ", args, " ", Json(parameters), "\n");
  }
  const absl::StatusOr<std::vector<Argument>> arguments = ArgumentsOf(parameters);
  if (!arguments.ok()) return arguments.status();
  return marked ? MarkedRules(format, rule, function, *arguments)
                : PythonRules(format, rule, function, *arguments);
}

// A call of one of the functions, in a grammar.
struct CallGrammar {
  std::string call;   // The right side of a rule.
  std::string rules;  // That it refers to, behind a line break; or nothing.
};

absl::StatusOr<CallGrammar> GrammarOf(const ToolFormat& format, const OrderedJson& functions,
                                      const SpecialTokens& special) {
  if (format.call == ToolFormat::Call::kJson) {
    return CallGrammar{Json(JsonCallSchema(functions, format.arguments)), ""};
  }
  const std::string args = TokenOrText(kArgs, special);
  CallGrammar grammar = {"", "\n"};
  std::vector<std::string> calls;
  for (const OrderedJson& function : functions) {
    calls.push_back(absl::StrCat("call-", calls.size()));
    const absl::StatusOr<std::string> call = WrittenRules(format, calls.back(), function, args);
    if (!call.ok()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "calls of ", Shown(function["name"].get<std::string>()),
          " cannot be forced in the format ", format.name, ": ", call.status().message()));
    }
    absl::StrAppend(&grammar.rules, *call);
  }
  grammar.call = absl::StrJoin(calls, " | ");
  if (format.call == ToolFormat::Call::kMarked) grammar.rules += TextWithout("</parameter>");
  return grammar;
}

}  // namespace

absl::StatusOr<ForcedCall> ForceCall(const ToolFormat& format, const OrderedJson& functions,
                                     const SpecialTokens& special) {
  ForcedCall forced;
  forced.prefix = format.forced_begin;
  const absl::StatusOr<CallGrammar> grammar = GrammarOf(format, functions, special);
  if (!grammar.ok()) return grammar.status();
  if (format.call == ToolFormat::Call::kNamed && functions.size() == 1) {
    // There is nothing to choose.
    forced.begun = absl::StrCat(functions[0]["name"].get<std::string>(), kArgs);
    forced.prefix += forced.begun;
    forced.grammar = absl::StrCat("root ::= ", Json(ParametersOf(functions[0])));
    return forced;
  }
  forced.grammar = absl::StrCat("root ::= ", grammar->call, grammar->rules);
  return forced;
}

absl::Status CheckParameters(const ToolFormat& format, const OrderedJson& function) {
  const OrderedJson parameters = ParametersOf(function);
  if (format.call == ToolFormat::Call::kJson || format.call == ToolFormat::Call::kNamed) {
    return ParseJsonSchema(Dump(parameters)).status();
  }
  const absl::StatusOr<std::vector<Argument>> arguments = ArgumentsOf(parameters);
  if (!arguments.ok()) return arguments.status();
  for (const Argument& argument : *arguments) {
    if (!IsJson(format, argument.schema)) continue;
    const absl::Status status = ParseJsonSchema(Dump(argument.schema)).status();
    if (status.ok()) continue;
    // Its place is that in the argument's schema, but in what that refers to.
    absl::string_view why = status.message();
    const bool own = !absl::StartsWith(why, "at #/$defs/") &&
                     !absl::StartsWith(why, "at #/definitions/") &&
                     absl::ConsumePrefix(&why, "at #");
    if (!own) return status;
    return absl::InvalidArgumentError(
        absl::StrCat("at #/properties/", argument.name.substr(0, 64), why));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> JsonOrCall(const std::string& schema, const ToolFormat& format,
                                       const OrderedJson& functions, const SpecialTokens& special) {
  const absl::StatusOr<CallGrammar> grammar = GrammarOf(format, functions, special);
  if (!grammar.ok()) return grammar.status();
  const std::string begin = format.begin;
  std::string mark = begin.empty() ? "" : TokenOrText(begin, special);
  const std::string rest = std::string(format.forced_begin).substr(begin.size());
  if (!rest.empty()) absl::StrAppend(&mark, " ", Literal(rest));
  return absl::StrCat("root ::= %json ", schema, " | ", mark, " (", grammar->call, ")",
                      grammar->rules);
}

}  // namespace packrat
