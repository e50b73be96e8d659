// Chat templates against what jinja2 makes of them; tests/data/chat_templates/expect.py tells what
// is compared.
#include "models/text/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/civil_time.h"
#include "absl/time/time.h"
#include "models/text/jinja/native.h"
#include "nlohmann/json.hpp"
#include "tests/models/conversation.h"
#include "tests/models/test_files.h"

namespace packrat {
namespace {

using jinja::Dict;
using jinja::List;
using jinja::Value;
using testing::HasSubstr;
using OrderedJson = nlohmann::ordered_json;

constexpr char kFolder[] = "tests/data/chat_templates/";
constexpr size_t kMaxBytes = 1 << 20;

std::string ReadFile(const std::string& name) {
  std::ifstream file(kFolder + name, std::ios::binary);
  EXPECT_TRUE(file) << name;
  return {std::istreambuf_iterator<char>(file), {}};
}

const OrderedJson& Expected() {
  static const OrderedJson expected = OrderedJson::parse(ReadFile("expected.json"));
  return expected;
}

// The clock of expect.py, whatever the time zone.
absl::Time Now() {
  return absl::FromCivil(absl::CivilSecond(2024, 2, 5, 6, 7, 8), absl::LocalTimeZone());
}

Value FromJson(const OrderedJson& json) {
  if (json.is_null()) return Value::None();
  if (json.is_boolean()) return Value::Bool(json.get<bool>());
  if (json.is_number_integer()) return Value::Int(json.get<int64_t>());
  if (json.is_number()) return Value::Float(json.get<double>());
  if (json.is_string()) return Value::String(json.get<std::string>(), MarkedText::kForeign);
  if (json.is_array()) {
    List list;
    for (const auto& item : json) list.push_back(FromJson(item));
    return Value::FromList(list);
  }
  Dict dict;
  for (const auto& [name, item] : json.items()) {
    dict.Set(Value::String(name, MarkedText::kForeign), FromJson(item));
  }
  return Value::FromDict(dict);
}

absl::StatusOr<MarkedText> RenderSource(const std::string& source,
                                        const jinja::Template::Variables& variables,
                                        jinja::Template::Limits limits = {}) {
  const auto parsed = jinja::Template::Parse(source);
  if (!parsed.ok()) return parsed.status();
  limits.now = Now();
  return parsed->Render(variables, limits);
}

jinja::Template::Variables SnippetVariables() {
  jinja::Template::Variables variables;
  for (const auto& [name, value] : Expected()["variables"].items()) {
    variables.emplace_back(name, FromJson(value));
  }
  return variables;
}

TEST(Jinja, SnippetsGiveWhatPythonGives) {
  const auto variables = SnippetVariables();
  ASSERT_GT(Expected()["snippets"].size(), 150u);
  for (const auto& test : Expected()["snippets"]) {
    const std::string source = test["source"];
    const auto rendered = RenderSource(source, variables);
    if (test.contains("text")) {
      EXPECT_TRUE(rendered.ok()) << source << "\n" << rendered.status();
      if (rendered.ok()) {
        EXPECT_EQ(rendered->text(), test["text"].get<std::string>()) << source;
        EXPECT_EQ(rendered->marks().size(), rendered->size()) << source;
      }
    } else if (test.contains("raised")) {
      EXPECT_EQ(rendered.status().message(), test["raised"].get<std::string>());
    } else {
      EXPECT_FALSE(rendered.ok()) << source << "\n"
                                  << rendered->text() << "\n"
                                  << test["error"].get<std::string>();
    }
  }
}

// A model's folder with a template.
class Folder {
 public:
  explicit Folder(const std::string& source, const std::string& config = R"("bos_token": "<s>",
      "eos_token": {"content": "</s>"})") {
    dir_.Write("tokenizer_config.json", absl::StrCat("{", config, R"(, "chat_template": )",
                                                     OrderedJson(source).dump(), "}"));
  }
  const TempDir& dir() const { return dir_; }
  absl::StatusOr<ChatTemplate> Load() const {
    const auto config = LoadTokenizerConfig(dir_.path());
    EXPECT_TRUE(config.ok()) << config.status();
    return ChatTemplate::Load(dir_.path(), *config);
  }

 private:
  TempDir dir_;
};

TEST(ChatTemplate, ConversationsGiveWhatPythonGives) {
  const OrderedJson& conversations = Expected()["conversations"];
  int texts = 0;
  for (const auto& test : Expected()["templates"]) {
    const auto chat = Folder(ReadFile(test["file"])).Load();
    ASSERT_TRUE(chat.ok()) << chat.status();
    for (size_t i = 0; i < conversations.size(); ++i) {
      const OrderedJson& expected = test["results"][i];
      const std::string what = absl::StrCat(test["file"].get<std::string>(), ", conversation ", i);
      const auto rendered = chat->Render(ToConversation(conversations[i]), kMaxBytes, Now());
      if (!expected.contains("text")) {
        EXPECT_FALSE(rendered.ok()) << what << ": " << rendered->text() << "\n" << expected;
        if (!expected.contains("raised")) continue;
        EXPECT_THAT(std::string(rendered.status().message()),
                    HasSubstr(expected["raised"].get<std::string>()));
        continue;
      }
      ++texts;
      EXPECT_TRUE(rendered.ok()) << what << ": " << rendered.status();
      if (!rendered.ok()) continue;
      EXPECT_EQ(rendered->text(), expected["text"].get<std::string>()) << what;
    }
  }
  EXPECT_GT(texts, 150);
}

// --- Marks. ---

// The text with what came from outside in brackets.
std::string Shown(const MarkedText& text) {
  std::string shown;
  const std::string marks = text.marks() + char{MarkedText::kOwn};
  char before = MarkedText::kOwn;
  for (size_t i = 0; i <= text.size(); ++i) {
    const char now = marks[i];
    if (now != before) shown += now == MarkedText::kOwn ? "»" : "«";
    if (i < text.size()) shown += text.text()[i];
    before = now;
  }
  return shown;
}

TEST(Jinja, TextRemembersWhereItCameFrom) {
  const jinja::Template::Variables variables = {
      {"x", Value::String("ab-cd", MarkedText::kForeign)},
      {"padded", Value::String("  ab ", MarkedText::kForeign)},
      {"d", FromJson(OrderedJson::parse(R"({"k": "v\n", "l": ["w"]})"))},
  };
  const std::pair<const char*, const char*> kCases[] = {
      {"<{{ x }}>", "<«ab-cd»>"},
      {"{{ '<' + x + '>' }}", "<«ab-cd»>"},
      {"{{ '<' ~ x ~ 1 ~ '>' }}", "<«ab-cd»1>"},
      {"{{ (' <' ~ padded ~ '> ') | trim }}", "<«  ab »>"},
      {"{{ padded.strip() ~ '.' }}", "«ab»."},
      {"{{ ('<' ~ x)[0:2] }}", "<«a»"},
      {"{{ ('<' ~ x)[::-1] }}", "«dc-ba»<"},
      {"{{ x | replace('-', '+') }}", "«ab»+«cd»"},
      {"{{ 'own-own' | replace('-', x) }}", "own«ab-cd»own"},
      {"{{ x.replace('b', '') }}", "«a-cd»"},
      {"{{ x | upper }}{{ x.title() }}{{ 'q' | upper }}", "«AB-CDAb-Cd»Q"},
      {"{{ x.split('-') | join('+') }}", "«ab»+«cd»"},
      {"{{ '<' ~ d | tojson ~ '>' }}", "<«{\"k\": \"v\\n\", \"l\": [\"w\"]}»>"},
      {"{{ {'own': 1} | tojson }}", "«{\"»own«\": 1}»"},
      {"{{ d.l }}{{ ['own'] }}", "«['w']['»own«']»"},
      {"{% for k, v in d.items() %}{{ k }}.{% endfor %}", "«k».«l»."},
      {"{% for c in x %}{{ c }},{% endfor %}", "«a»,«b»,«-»,«c»,«d»,"},
      {"{% set y %}<{{ x }}>{% endset %}{{ y }}", "<«ab-cd»>"},
      {"{% macro m(a) %}<{{ a }}>{% endmacro %}{{ m(x) }}{{ m('x') }}", "<«ab-cd»><x>"},
      {"{% filter upper %}a{{ x }}{% endfilter %}", "A«AB-CD»"},
      {"{{ '{}!'.format(x) }}{{ x * 2 }}{{ x | indent(1, true) }}", "«ab-cd»!«ab-cdab-cd» «ab-cd»"},
      {"{{ x | first ~ x | last ~ x | reverse }}", "«addc-ba»"},
      {"{{ x if false else 'own' }}{{ x | default('own') }}{{ none | default(x, true) }}",
       "own«ab-cdab-cd»"},
      {"{{ x | length }}{{ x == 'ab-cd' }}{{ x.find('-') }}", "5True2"},
  };
  for (const auto& [source, expected] : kCases) {
    const auto rendered = RenderSource(source, variables);
    ASSERT_TRUE(rendered.ok()) << source << rendered.status();
    EXPECT_EQ(Shown(*rendered), expected) << source;
  }
}

TEST(ChatTemplate, WhatMessagesSayIsMarked) {
  const auto chat =
      Folder(R"({{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.name }}:{{ m.content }}
{%- for c in m.tool_calls or [] %}{{ c.function.arguments.a }}{{ c.function.arguments | tojson }}{% endfor %}
{%- endfor %}{{ tools[0].name }}{{ extra }}{{ eos_token }})")
          .Load();
  ASSERT_TRUE(chat.ok()) << chat.status();
  Conversation conversation;
  ChatTurn turn;
  turn.role = "user";
  turn.name = "N";
  turn.content = "C";
  conversation.messages.push_back(turn);
  turn.role = "critic";
  // As OpenAI's API writes arguments.
  turn.tool_calls_json = R"([{"function": {"name": "f", "arguments": "{\"a\": \"A\"}"}}])";
  conversation.messages.push_back(turn);
  conversation.tools_json = R"([{"name": "T"}])";
  conversation.template_kwargs_json = R"({"extra": "E"})";
  const auto rendered = chat->Render(conversation, kMaxBytes, Now());
  ASSERT_TRUE(rendered.ok()) << rendered.status();
  // Roles of the API are not the client's words, since special tokens are made of them.
  EXPECT_EQ(Shown(*rendered), "<s><|user|>«N»:«C»<|«critic»|>«N»:«CA{\"a\": \"A\"}TE»</s>");
}

TEST(ChatTemplate, ArgumentsStayTextWhereTheTemplateWantsText) {
  const auto chat = Folder("{{ 'x' + messages[0].tool_calls[0].function.arguments }}").Load();
  Conversation conversation;
  ChatTurn turn;
  turn.role = "assistant";
  turn.tool_calls_json = R"([{"function": {"name": "f", "arguments": "{\"a\":  1}"}}])";
  conversation.messages.push_back(turn);
  const auto rendered = chat->Render(conversation, kMaxBytes, Now());
  ASSERT_TRUE(rendered.ok()) << rendered.status();
  EXPECT_EQ(rendered->text(), "x{\"a\":  1}");
}

// --- Files. ---

Conversation Hello() {
  Conversation conversation;
  conversation.messages.push_back({"user", "hi", {}, {}, {}});
  return conversation;
}

std::string Said(const TempDir& dir, const Conversation& conversation = Hello()) {
  const auto config = LoadTokenizerConfig(dir.path());
  if (!config.ok()) return std::string(config.status().message());
  const auto chat = ChatTemplate::Load(dir.path(), *config);
  if (!chat.ok()) return std::string(chat.status().message());
  const auto rendered = chat->Render(conversation, kMaxBytes, Now());
  return rendered.ok() ? rendered->text() : std::string(rendered.status().message());
}

TEST(ChatTemplate, ItsOwnFileWins) {
  const TempDir dir;
  const std::string name = dir.path().substr(dir.path().rfind('/') + 1);
  EXPECT_EQ(Said(dir), "the model " + name +
                           " has no chat template, neither in chat_template.jinja nor in "
                           "tokenizer_config.json or chat_template.json");
  dir.Write("chat_template.json", R"({"chat_template": "json {{ bos_token }}"})");
  EXPECT_EQ(Said(dir), "json ");
  dir.Write("tokenizer_config.json",
            R"({"chat_template": "config {{ bos_token }}", "bos_token": "B"})");
  EXPECT_EQ(Said(dir), "config B");
  dir.Write("chat_template.jinja", "file {{ bos_token }}{{ pad_token }}\n");
  EXPECT_EQ(Said(dir), "file B");
  dir.Write("special_tokens_map.json", R"({"bos_token": "C", "pad_token": {"content": "P"}})");
  EXPECT_EQ(Said(dir), "file CP");
  dir.Write("tokenizer_config.json", R"({"bos_token": "B", "added_tokens_decoder": {}})");
  EXPECT_EQ(Said(dir), "file B");
}

// What transformers' own classes have as defaults; a null says that there is none.
TEST(ChatTemplate, TokensThatNoFileNamesAreThoseOfTheClass) {
  const TempDir dir;
  dir.Write("chat_template.jinja", "{{ bos_token }},{{ eos_token }},{{ pad_token }}");
  for (const auto& [config, said] :
       {std::pair(R"({"tokenizer_class": "LlamaTokenizerFast"})", "<s>,</s>,"),
        {R"({"tokenizer_class": "LlamaTokenizer", "bos_token": null})", ",</s>,"},
        {R"({"tokenizer_class": "GPT2Tokenizer", "eos_token": "E"})", "<|endoftext|>,E,"},
        {R"({"tokenizer_class": "GemmaTokenizer"})", "<bos>,<eos>,<pad>"},
        {R"({"tokenizer_class": "Qwen2Tokenizer"})", ",<|endoftext|>,<|endoftext|>"},
        {R"({"tokenizer_class": "PreTrainedTokenizerFast"})", ",,"},
        {R"({"tokenizer_class": 1})", ",,"}}) {
    dir.Write("tokenizer_config.json", config);
    EXPECT_EQ(Said(dir), said) << config;
  }
  dir.Write("tokenizer_config.json", R"({"tokenizer_class": "LlamaTokenizer"})");
  dir.Write("special_tokens_map.json", R"({"bos_token": "M"})");
  EXPECT_EQ(Said(dir), "M,</s>,");
}

TEST(ChatTemplate, ToolsHaveATemplateOfTheirOwn) {
  const TempDir dir;
  dir.Write("tokenizer_config.json", R"({"chat_template": [
      {"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]})");
  Conversation with_tools = Hello();
  with_tools.tools_json = "[]";
  EXPECT_EQ(Said(dir), "plain");
  EXPECT_EQ(Said(dir, with_tools), "tools");
  dir.Write("tokenizer_config.json", R"({"chat_template": [{"name": "rag", "template": "x"}]})");
  EXPECT_EQ(Said(dir), "the model has no chat template of the name \"default\"");
  // A file of one name goes before what tokenizer_config.json has of it, and leaves the others.
  dir.Write("tokenizer_config.json", R"({"chat_template": [
      {"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]})");
  std::filesystem::create_directory(dir.File("additional_chat_templates"));
  dir.Write("additional_chat_templates/tool_use.jinja", "file");
  EXPECT_EQ(Said(dir), "plain");
  EXPECT_EQ(Said(dir, with_tools), "file");
}

TEST(ChatTemplate, TheWordsInItsQuotesAreKnown) {
  const TempDir dir;
  dir.Write(
      "chat_template.jinja",
      R"({% if m.role == 'ipython' or m["role"] in ["a_1", 'b-c'] %}it's "two words"{% endif %})");
  const auto loaded = ChatTemplate::Load(dir.path(), {});
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  for (const char* word : {"ipython", "a_1", "b-c", "role"})
    EXPECT_TRUE(loaded->Names(word)) << word;
  for (const char* word : {"m", "if", "usr", "", "two words", "iPython", "ipytho"}) {
    EXPECT_FALSE(loaded->Names(word)) << word;
  }
}

TEST(ChatTemplate, WhatCannotBeReadIsRefusedByName) {
  const TempDir dir;
  const std::string path =
      dir.Write("tokenizer_config.json", R"({"chat_template": "\n{% nope %}"})");
  EXPECT_EQ(Said(dir),
            path + ", chat template \"default\": line 2: the tag 'nope' is not known here");
  for (const char* bad : {"5", "[5]", R"([{"name": "default"}])", R"({"default": "x"})"}) {
    dir.Write("tokenizer_config.json", absl::StrCat(R"({"chat_template": )", bad, "}"));
    EXPECT_THAT(Said(dir), HasSubstr("chat_template must be a string, or a list")) << bad;
  }
  dir.Write("chat_template.jinja", "a\xff");
  EXPECT_THAT(Said(dir), HasSubstr("is not valid UTF-8"));
}

TEST(ChatTemplate, FieldsAreRefusedByName) {
  const TempDir dir;
  dir.Write("chat_template.jinja", "{{ messages[0].content.x.y }}");
  Conversation conversation = Hello();
  EXPECT_THAT(Said(dir, conversation), HasSubstr("line 1: 'str object' has no attribute 'x'"));
  conversation.messages[0].tool_calls_json = "{}";
  EXPECT_EQ(Said(dir, conversation), "messages[0].tool_calls_json: must be a list");
  conversation.tools_json = "[1, {\"a\": 1, \"a\": 2}]";
  EXPECT_EQ(Said(dir, conversation), "tools_json: duplicate key \"a\"");
  conversation.template_kwargs_json = R"({"messages": []})";
  EXPECT_EQ(Said(dir, conversation), "template_kwargs_json: messages has a field of its own");
}

// --- Bounds. ---

TEST(Jinja, NothingIsWithoutBounds) {
  jinja::Template::Limits small;
  small.max_bytes = 10000;
  small.work = 100000;
  const std::pair<const char*, const char*> kCases[] = {
      {"{% for i in range(2000) %}0123456789{% endfor %}", "it writes more than 10000 bytes"},
      {"{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}",
       "too many steps"},
      {"{% set n = namespace(s='ab') %}{% for i in range(99) %}{% set n.s = n.s ~ n.s %}{% endfor "
       "%}",
       "a text of more than 10000 bytes"},
      {"{% set n = namespace(s='ab') %}{% for i in range(99) %}{% set n.s = n.s.replace('a', n.s) "
       "%}{% endfor %}",
       "it "},
      {"{{ 'x' * 99999999999 }}", "too long"},
      {"{{ [1] * 99999999999 }}", "too long"},
      {"{% set n = namespace(s=[0]) %}{% for i in range(99) %}{% set n.s = n.s + n.s %}{% endfor "
       "%}",
       "too many steps"},
      {"{% set n = namespace(s=[]) %}{% for i in range(99) %}{% set n.s = [n.s] %}{% endfor %}",
       "nested more than 64 deep"},
      {"{% set n = namespace(s=[0]) %}{% for i in range(50) %}{% set n.s = [n.s, n.s] %}{% endfor "
       "%}{{ n.s }}",
       "too large"},
      {"{% set n = namespace(l=1) %}{% for i in range(99) %}{% for x in [n.l] %}{% set n.l = loop "
       "%}{% endfor %}{% endfor %}",
       "nested more than 64 deep"},
      {"{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "too deep"},
      {"{% macro m(a) %}{{ a(a) }}{% endmacro %}{{ m(m) }}", "too deep"},
      {"{{ range(999999999999) }}", "more than 100000 numbers"},
      {"{{ 9223372036854775807 + 1 }}", "64 bits"},
      {"{{ 99 ** 99 }}", "64 bits"},
      {"{{ 'a' | indent(999999999) }}{{ [1] | tojson(indent=999999999) }}", ""},
      {"{% set n = namespace() %}{% set n.n = n %}{{ n }}{{ [n] }}{{ n.n == n }}", ""},
  };
  for (const auto& [source, why] : kCases) {
    const auto rendered = RenderSource(source, {}, small);
    if (*why == '\0') {
      EXPECT_TRUE(rendered.ok()) << source << rendered.status();
    } else {
      EXPECT_THAT(std::string(rendered.status().message()), HasSubstr(why)) << source;
    }
  }
}

TEST(Jinja, SourcesAreNotNestedWithoutBounds) {
  const auto nested = [](const std::string& open, const std::string& middle,
                         const std::string& close, int levels, const std::string& before = "",
                         const std::string& after = "") {
    std::string source = before;
    for (int i = 0; i < levels; ++i) source += open;
    source += middle;
    for (int i = 0; i < levels; ++i) source += close;
    return jinja::Template::Parse(source + after).status();
  };
  for (int levels : {10, 100000}) {
    EXPECT_EQ(nested("{% if x %}", "y", "{% endif %}", levels).ok(), levels == 10);
    EXPECT_EQ(nested("{% for x in y %}", "", "{% endfor %}", levels).ok(), levels == 10);
    for (const auto& [open, close] : {std::pair("(", ")"),
                                      {"[", "]"},
                                      {"{'a': ", "}"},
                                      {"-", ""},
                                      {"not ", ""},
                                      {"x[", "]"},
                                      {"f(", ")"},
                                      {"", ".x"},
                                      {"", " + 1"},
                                      {"", " or 1"},
                                      {"", "|upper"},
                                      {"1 if 1 else ", ""}}) {
      const absl::Status status = nested(open, "x", close, levels, "{{ ", " }}");
      EXPECT_EQ(status.ok(), levels == 10) << open << close << status;
    }
  }
}

}  // namespace
}  // namespace packrat
