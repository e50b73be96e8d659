// What a forced call may be, and that it is read as one.
#include "models/text/tool_calls/forced_call.h"

#include <functional>
#include <iterator>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "models/files/ordered_json.h"
#include "models/text/grammar/gbnf.h"
#include "models/text/grammar/special_token.h"
#include "models/text/tool_calls/tool_call_reader.h"
#include "models/text/tool_calls/tool_format.h"
#include "tests/models/grammar/grammar_texts.h"

namespace packrat {
namespace {

using ::testing::HasSubstr;
using OrderedJson = nlohmann::ordered_json;

// Two functions. Of the first a text, a choice of texts, a number by reference, one that may be
// true, and one without a schema; the second takes nothing.
const OrderedJson& Functions() {
  static const OrderedJson& functions = *new OrderedJson(OrderedJson::parse(R"([
    {"name": "find", "parameters": {"type": "object", "$defs": {"n": {"type": "integer"}},
     "properties": {"text": {"type": "string"}, "unit": {"type": "string", "enum": ["C", "\"F\""]},
                    "days": {"$ref": "#/$defs/n"}, "deep": {"type": "boolean"}, "no": false},
     "required": ["text", "more"]}},
    {"name": "a.b-c"}])"));
  return functions;
}

ForcedCall Force(const char* format, const OrderedJson& functions = Functions(),
                 const std::function<int32_t(const std::string&)>& special = nullptr) {
  const absl::StatusOr<ForcedCall> forced = ForceCall(*FindToolFormat(format), functions, special);
  EXPECT_TRUE(forced.ok()) << forced.status();
  return forced.ok() ? *forced : ForcedCall();
}

GrammarTexts TextsOf(const ForcedCall& forced) {
  absl::StatusOr<Grammar> grammar = Compile(ParseGbnf(forced.grammar));
  EXPECT_TRUE(grammar.ok()) << grammar.status() << "\n" << forced.grammar;
  return GrammarTexts(*std::move(grammar));
}

// "name(arguments)" of the one call that the answer is.
std::string CallIn(const char* format, const ForcedCall& forced, const std::string& answer) {
  ToolCallReader reader(*FindToolFormat(format),
                        {{"find", {{"text", false}, {"unit", false}}}, {"a.b-c", {}}},
                        forced.begun);
  std::string name, arguments, text;
  for (const auto& pieces : {reader.Push(answer), reader.Finish()}) {
    for (const ToolCallReader::Piece& piece : pieces) {
      if (piece.call > 0) return "several calls";
      name += piece.name;
      (piece.call < 0 ? text : arguments) += piece.text;
    }
  }
  return text + name + "(" + arguments + ")";
}

struct Case {
  const char *answer, *call;
};

void ExpectCalls(const char* format, const std::vector<Case>& cases,
                 const std::vector<std::string>& refused) {
  const ForcedCall forced = Force(format);
  GrammarTexts texts = TextsOf(forced);
  for (const auto& [answer, call] : cases) {
    EXPECT_TRUE(texts.Matches(answer)) << format << ": " << answer;
    EXPECT_EQ(CallIn(format, forced, answer), call);
  }
  for (const std::string& answer : refused) {
    EXPECT_FALSE(texts.Matches(answer)) << format << ": " << answer;
  }
}

TEST(ForcedCall, Marked) {
  EXPECT_EQ(Force("qwen_xml").prefix, "<tool_call>\n");
  const std::string text = "<function=find>\n<parameter=text>\n";
  const std::string more = "\n</parameter>\n<parameter=more>\n[1]\n</parameter>\n</function>";
  ExpectCalls(
      "qwen_xml",
      {{"<function=a.b-c>\n</function>", "a.b-c({})"},
       // A text is what it is: of several lines, nothing, a number, nearly the mark of its end.
       {"<function=find>\n<parameter=text>\nif a < b:\n  \"</p>\n\n</parameter>\n<parameter=unit>\n"
        "\"F\"\n</parameter>\n<parameter=days>\n3\n</parameter>\n<parameter=deep>\ntrue\n"
        "</parameter>\n<parameter=more>\n{\"x\": \"<\"}\n</parameter>\n</function>",
        R"(find({"text":"if a < b:\n  \"</p>\n","unit":"\"F\"","days":3,"deep":true,)"
        R"("more":{"x":"<"}}))"},
       {"<function=find>\n<parameter=text>\n\n</parameter>\n<parameter=more>\nnull\n</parameter>\n"
        "</function>",
        R"(find({"text":"","more":null}))"},
       {"<function=find>\n<parameter=text>\n7<</<</parameter<<//parameter \n</parameter>\n"
        "<parameter=more>\n0\n</parameter>\n</function>",
        R"(find({"text":"7<</<</parameter<<//parameter ","more":0}))"}},
      {"", "<function=other>\n</function>", "<function=find>\n</function>",
       text + "a</parameter>b" + more, text + "a\n</parameter>\nb" + more,
       "<function=a.b-c>\n</function>\n", text + "a" + more + "x",
       text + "a\n</parameter>\n<parameter=unit>\nK" + more,
       text + "a\n</parameter>\n<parameter=days>\n1.5" + more,
       text + "a\n</parameter>\n<parameter=no>\n1" + more});
  GrammarTexts texts = TextsOf(Force("qwen_xml"));
  EXPECT_TRUE(texts.Matches(text + "a" + more));
  EXPECT_TRUE(texts.Matches(text + "a<x/parameter>b" + more));
  EXPECT_FALSE(
      texts.Matches("<function=find>" + more.substr(std::string("\n</parameter>").size())));
  EXPECT_TRUE(texts.Begins(text + std::string(100000, 'x') + "\xc3\xa9\n"));
}

TEST(ForcedCall, Python) {
  EXPECT_EQ(Force("lfm2").prefix, "<|tool_call_start|>[");
  EXPECT_EQ(Force("olmo").prefix, "<function_calls>");
  for (const char* format : {"lfm2", "olmo"}) {
    ExpectCalls(
        format,
        {{"a.b-c()", "a.b-c({})"},
         {R"(find(text="a\"b)\u00e9", more=[1, {"x": null}]))",
          "find({\"text\":\"a\\\"b)\xc3\xa9\",\"more\":[1,{\"x\":null}]})"},
         {R"(find(text="", unit="C", days=-3, deep=True, more=true))",
          R"(find({"text":"","unit":"C","days":-3,"deep":true,"more":true}))"},
         {R"(find(text="a", deep=false, more=0))", R"(find({"text":"a","deep":false,"more":0}))"}},
        {"", "find()", "find(more=1)", "other()", R"(find(text="a"))", R"(find(more=1, text="a"))",
         R"(find(text=7, more=1))", R"(find(text="a", more=1, ))", R"(find(, text="a"))",
         R"(find(text="a",, more=1))", R"(find(text="a" more=1))",
         R"(find(text="a", days=x, more=1))", "a.b-c() a.b-c()"});
  }
  // Whichever of them are there, commas stand between them alone.
  GrammarTexts texts = TextsOf(Force("olmo", OrderedJson::parse(R"([{"name": "f", "parameters":
      {"properties": {"a": {"const": 1}, "b": {"const": 2}, "c": {"const": 3}}}}])")));
  for (int some = 0; some < 8; ++some) {
    std::string given;
    for (int i = 0; i < 3; ++i) {
      if ((some >> i & 1) == 0) continue;
      given += given.empty() ? "" : ", ";
      given += std::string(1, static_cast<char>('a' + i)) + "=" + std::to_string(i + 1);
    }
    EXPECT_TRUE(texts.Matches("f(" + given + ")")) << given;
    EXPECT_FALSE(texts.Matches("f(" + given + ", )")) << given;
    EXPECT_FALSE(texts.Matches("f(, " + given + ")")) << given;
  }
}

TEST(ForcedCall, Named) {
  EXPECT_EQ(Force("mistral_args").prefix, "[TOOL_CALLS]");
  ExpectCalls("mistral_args",
              {{"a.b-c[ARGS]{}", "a.b-c({})"},
               {R"(find[ARGS]{"text": "[ARGS]{", "days": 3, "more": {}})",
                R"(find({"text": "[ARGS]{", "days": 3, "more": {}}))"}},
              {"a.b-c{}", "find[ARGS]{}", R"(other[ARGS]{})", R"(a.b-c[ARGS]{"x": 1})"});
  const ForcedCall one = Force("mistral_args", OrderedJson::array({Functions()[1]}));
  EXPECT_EQ(one.prefix, "[TOOL_CALLS]a.b-c[ARGS]");
  EXPECT_EQ(CallIn("mistral_args", one, "{}"), "a.b-c({})");
  EXPECT_TRUE(TextsOf(one).Matches("{}"));
}

// OpenAI's types have it so where a function takes nothing.
TEST(ForcedCall, NullParametersAreNone) {
  const ForcedCall forced =
      Force("hermes", OrderedJson::parse(R"([{"name": "a.b-c", "parameters": null}])"));
  EXPECT_EQ(CallIn("hermes", forced, R"({"name": "a.b-c", "arguments": {}})"), "a.b-c({})");
  EXPECT_FALSE(TextsOf(forced).Matches(R"({"name": "a.b-c", "arguments": {"x": 1}})"));
}

// Where the model has it, [ARGS] is that token, and not its letters.
TEST(ForcedCall, NamedWithASpecialToken) {
  const auto special = [](const std::string& text) { return text == "[ARGS]" ? 32 : -1; };
  GrammarTexts texts = TextsOf(Force("mistral_args", Functions(), special));
  EXPECT_TRUE(texts.Matches("a.b-c" + SpecialTokenBytes(32) + "{}"));
  EXPECT_FALSE(texts.Begins("a.b-c["));
  EXPECT_FALSE(texts.Begins("a.b-c" + SpecialTokenBytes(3)));
  const auto none = [](const std::string&) { return -1; };
  EXPECT_EQ(Force("mistral_args", Functions(), none).grammar, Force("mistral_args").grammar);
}

TEST(ForcedCall, Json) {
  for (const ToolFormat& format : ToolFormats()) {
    if (format.call != ToolFormat::Call::kJson) continue;
    const std::string member = std::string(R"(", ")") + format.arguments + R"(": )";
    const std::string other = member == R"(", "arguments": )" ? "parameters" : "arguments";
    const std::string none = R"({"name": "a.b-c)" + member + "{}}";
    const std::string all =
        R"({"name": "find)" + member + R"({"text": "a", "days": 3, "more": 1}})";
    ExpectCalls(
        format.name,
        {{none.c_str(), "a.b-c({})"},
         {all.c_str(), R"(find({"text": "a", "days": 3, "more": 1}))"}},
        {R"({"name": "a.b-c", ")" + other + R"(": {}})", R"({"name": "other)" + member + "{}}",
         R"({"name": "find)" + member + "{}}", R"({"name": "a.b-c"})",
         // Spaces are those of templates.
         R"({ "name": "a.b-c)" + member + "{}}", R"({"name":"a.b-c)" + member + "{}}",
         none.substr(0, none.size() - 1) + "\n}"});
  }
  // A reference to elsewhere stays one.
  const ForcedCall elsewhere =
      Force("hermes", OrderedJson::parse(R"([{"name": "f", "parameters": {"$ref": "x.json"}}])"));
  EXPECT_THAT(elsewhere.grammar, HasSubstr(R"({"$ref":"x.json"})"));
}

TEST(ForcedCall, WhatCannotBeWrittenIsRefused) {
  const std::vector<const char*> all = {"qwen_xml", "lfm2"}, python = {"olmo"};
  const struct {
    std::vector<const char*> formats;
    const char *function, *why;
  } cases[] = {
      {all, R"({"name": ""})", "its name cannot be written there"},
      {python, R"({"name": "f g"})",
       "calls of \"f g\" cannot be forced in the format olmo: its name"},
      {{"qwen_xml"}, R"({"name": "f>g"})", "its name cannot be written there"},
      {{"mistral_args"}, R"({"name": "f{"})", "its name cannot be written there"},
      {python, R"({"name": "f", "parameters": {"properties": {"a b": {}}}})",
       "argument \"a b\" cannot be written there"},
      {{"qwen_xml"},
       R"({"name": "f", "parameters": {"properties": {"a>": {}}}})",
       "argument \"a>\" cannot be written there"},
      {all, R"({"name": "f", "parameters": {"$ref": "#"}})",
       "parameters has $ref, and must list its properties"},
      {all, R"({"name": "f", "parameters": {"anyOf": []}})", "parameters has anyOf"},
      {all, R"({"name": "f", "parameters": []})", "parameters is not an object"},
      {all, R"({"name": "f", "parameters": {"properties": []}})",
       "parameters.properties is not an object"},
      {all, R"({"name": "f", "parameters": {"required": {}}})",
       "parameters.required is not a list"},
      {all, R"({"name": "f", "parameters": {"properties": {"a": 1}}})",
       "argument \"a\" has no schema"},
  };
  for (const auto& [formats, function, why] : cases) {
    for (const char* format : formats) {
      const auto forced =
          ForceCall(*FindToolFormat(format), OrderedJson::array({OrderedJson::parse(function)}),
                    /*special=*/nullptr);
      EXPECT_EQ(forced.status().code(), absl::StatusCode::kInvalidArgument) << function;
      EXPECT_THAT(forced.status().message(), HasSubstr(why)) << format;
    }
  }
}

TEST(ForcedCall, SchemasThatNoGrammarTakesHaveAPlace) {
  const OrderedJson function = OrderedJson::parse(R"({"name": "f", "parameters": {"type": "object",
      "$defs": {"n": {"type": "array", "uniqueItems": true}}, "properties": {
      "good": {"type": "integer"}, "bad": {"items": {"multipleOf": 2}}}}})");
  OrderedJson referring = function;
  referring["parameters"]["properties"]["bad"] = {{"$ref", "#/$defs/n"}};
  OrderedJson text = function;
  text["parameters"]["properties"]["bad"] = {{"type", "string"}, {"multipleOf", 2}};
  for (const char* name : {"hermes", "mistral_args", "qwen_xml", "lfm2", "olmo"}) {
    const ToolFormat& format = *FindToolFormat(name);
    EXPECT_THAT(std::string(CheckParameters(format, function).message()),
                testing::StartsWith("at #/properties/bad/items: keyword \"multipleOf\""))
        << name;
    EXPECT_THAT(std::string(CheckParameters(format, referring).message()),
                testing::StartsWith("at #/$defs/n: keyword \"uniqueItems\""))
        << name;
    // A text without quotes is free.
    EXPECT_EQ(CheckParameters(format, text).ok(), std::string(name) == "qwen_xml") << name;
    for (const OrderedJson& good : Functions()) {
      EXPECT_TRUE(CheckParameters(format, good).ok()) << name;
    }
  }
}

// What takes hours, or a gigabyte, where each is held against each, or repeats the rest.
TEST(ForcedCall, ParametersOfHundredsOfThousandsOfNames) {
  std::string properties, required, referring;
  for (int i = 0; i < 300000; ++i) {
    const std::string comma = i > 0 ? "," : "", name = "\"a" + std::to_string(i) + "\"";
    properties += comma + name + ":true";
    required += comma + name;
    if (i < 20000) referring += comma + name + R"(:{"$ref":"#/$defs/a0"})";
  }
  const auto force = [](const std::string& parameters) {
    OrderedJson function = {{"name", "f"}};
    function["parameters"] = *ParseOrderedJson(parameters, "it");
    OrderedJson functions = OrderedJson::array();
    functions.push_back(std::move(function));
    return ForceCall(*FindToolFormat("olmo"), functions, /*special=*/nullptr).status();
  };
  const absl::Status listed =
      force(R"({"properties":{)" + properties + R"(},"required":[)" + required + "]}");
  EXPECT_TRUE(listed.ok()) << listed;
  EXPECT_THAT(
      force(R"({"properties":{)" + referring + R"(},"$defs":{)" + properties + "}}").message(),
      HasSubstr("parameters is too large with what each $ref repeats"));
}

// Of every format: JSON by the schema, and a call as the model writes it, mark and all.
TEST(JsonOrCall, TakesBoth) {
  const struct {
    const char *format, *call;
  } cases[] = {
      {"hermes", "<tool_call>\n{\"name\": \"a.b-c\", \"arguments\": {}}"},
      {"qwen_xml", "<tool_call>\n<function=a.b-c>\n</function>"},
      {"llama", "{\"name\": \"a.b-c\", \"parameters\": {}}"},
      {"mistral", "[TOOL_CALLS][{\"name\": \"a.b-c\", \"arguments\": {}}"},
      {"mistral_args", "[TOOL_CALLS]a.b-c[ARGS]{}"},
      {"granite", "<|tool_call|>[{\"name\": \"a.b-c\", \"arguments\": {}}"},
      {"nemotron", "<TOOLCALL>[{\"name\": \"a.b-c\", \"arguments\": {}}"},
      {"lfm2", "<|tool_call_start|>[a.b-c()"},
      {"olmo", "<function_calls>a.b-c()"},
  };
  ASSERT_EQ(std::size(cases), ToolFormats().size());
  for (const auto& [format, call] : cases) {
    SCOPED_TRACE(format);
    const absl::StatusOr<std::string> grammar =
        JsonOrCall(R"({"type": "object", "properties": {"x": {"const": 1}}, "required": ["x"]})",
                   *FindToolFormat(format), Functions(), nullptr);
    ASSERT_TRUE(grammar.ok()) << grammar.status();
    GrammarTexts texts = TextsOf({"", "", *grammar});
    EXPECT_TRUE(texts.Matches("{\n  \"x\": 1\n}"));
    EXPECT_TRUE(texts.Matches(call));
    EXPECT_FALSE(texts.Matches("{}"));
    EXPECT_FALSE(texts.Matches("Sure"));
    ToolCallReader reader(*FindToolFormat(format), {{"a.b-c", {}}}, std::nullopt);
    std::string read;
    for (const auto& pieces : {reader.Push(call), reader.Finish()}) {
      for (const ToolCallReader::Piece& piece : pieces) {
        absl::StrAppend(&read, piece.call, piece.name, piece.text, " ");
      }
    }
    EXPECT_EQ(read.substr(0, 6), "0a.b-c") << read;
    EXPECT_EQ(read.find("-1"), read.npos) << read;
  }
}

// Marks that are special tokens are none of a text's bytes.
TEST(JsonOrCall, MarksMayBeSpecialTokens) {
  const auto grammar =
      JsonOrCall("{}", *FindToolFormat("lfm2"), Functions(),
                 [](const std::string& text) { return text == "<|tool_call_start|>" ? 17 : -1; });
  ASSERT_TRUE(grammar.ok()) << grammar.status();
  EXPECT_EQ(grammar->substr(0, 54), "root ::= %json {} | <[17]> \"[\" (call-0 | call-1)\ncall-");
}

}  // namespace
}  // namespace packrat
