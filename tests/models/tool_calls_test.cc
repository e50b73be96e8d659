// Calls of tools as models write them, cut anywhere.
#include <gtest/gtest.h>

#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "models/text/tool_calls/tool_call_reader.h"
#include "models/text/tool_calls/tool_format.h"

namespace packrat {
namespace {

const ToolCallReader::Tools kTools = {
    {"f", {{"text", false}, {"some", true}}}, {"get_weather", {{"city", false}}}, {"a.b-c", {}}};

// "text|name(arguments)|text": what `answer` is read as, if it comes in pieces that end at `cuts`.
std::string Read(const ToolFormat& format, const std::string& answer, std::vector<size_t> cuts,
                 const std::optional<std::string>& begun = std::nullopt) {
  ToolCallReader reader(format, kTools, begun);
  std::vector<ToolCallReader::Piece> all;
  const auto add = [&all](std::vector<ToolCallReader::Piece> pieces) {
    for (ToolCallReader::Piece& piece : pieces) {
      EXPECT_FALSE(piece.name.empty() && piece.text.empty()) << "an empty piece";
      if (!all.empty() && all.back().call == piece.call && piece.name.empty()) {
        all.back().text += piece.text;
      } else {
        EXPECT_EQ(piece.call >= 0, !piece.name.empty());
        all.push_back(std::move(piece));
      }
    }
  };
  size_t begin = 0;
  cuts.push_back(answer.size());
  for (const size_t end : cuts) {
    add(reader.Push(answer.substr(begin, end - begin)));
    begin = end;
  }
  add(reader.Finish());
  std::string result;
  int calls = 0;
  for (const ToolCallReader::Piece& piece : all) {
    if (piece.call >= 0) {
      EXPECT_EQ(piece.call, calls++);
      absl::StrAppend(&result, "|", piece.name, "(", piece.text, ")");
    } else {
      absl::StrAppend(&result, "|", piece.text);
    }
  }
  return result.empty() ? "" : result.substr(1);
}

// The same however it is cut.
std::string ReadAnyhow(const std::string& name, const std::string& answer,
                       const std::optional<std::string>& begun = std::nullopt) {
  const ToolFormat* format = FindToolFormat(name);
  if (format == nullptr) return "no format " + name;
  const std::string whole = Read(*format, answer, {}, begun);
  std::vector<size_t> all;
  for (size_t cut = 1; cut < answer.size(); ++cut) {
    EXPECT_EQ(Read(*format, answer, {cut}, begun), whole) << "cut at " << cut;
    all.push_back(cut);
  }
  EXPECT_EQ(Read(*format, answer, all, begun), whole) << "byte by byte";
  return whole;
}

struct Case {
  const char *answer, *read;
};

TEST(ToolCalls, Hermes) {
  const Case cases[] = {
      {"", ""},
      {" Just <text>.\n", " Just <text>.\n"},
      {"<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": [1, {\"y\": "
       "\"}\\\"\"}]}}\n</tool_call>",
       R"(f({"x": [1, {"y": "}\""}]}))"},
      {"Let me see.\n\n<tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call>\n<tool_call>\n"
       "{\"name\": \"get_weather\", \"arguments\": {\"city\": \"P\xc3\xa4ris\"}}\n</tool_call>\n",
       "Let me see.|f({})|get_weather({\"city\": \"P\xc3\xa4ris\"})"},
      {"<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call> Done. ", "f({})| Done."},
      // Members in any order, others among them, arguments as a string, none.
      {R"(<tool_call>{"arguments": {"x": 1}, "id": {"name": "z"}, "name": "f"}</tool_call>)",
       R"(f({"x": 1}))"},
      {R"(<tool_call>{"id": 7, "name": "f", "arguments": "{\"x\": 1}"}</tool_call>)",
       R"(f({"x": 1}))"},
      {R"(<tool_call>{"name": "f"}</tool_call>)", "f({})"},
      {R"(<tool_call>{"name": "f", "arguments": null}</tool_call>)", "f({})"},
      // A list of calls between the marks.
      {R"(<tool_call>[{"name": "f", "arguments": {}}, {"name": "a.b-c", "arguments": {"f": 2}}])"
       "</tool_call>",
       R"(f({})|a.b-c({"f": 2}))"},
      // Cut: what was told stays.
      {R"(<tool_call>{"name": "f", "arguments": {"x": "lo)", R"(f({"x": "lo))"},
      {R"(<tool_call>{"name": "f", "arguments": {}}</tool_c)", "f({})"},
      // None is text, all of it.
      {"a <tool", "a <tool"},
      {"a <tool_call>", "a <tool_call>"},
      {"a <tool_call> is a mark", "a <tool_call> is a mark"},
      {"<tool_call></tool_call>", "<tool_call></tool_call>"},
      {"<tool_call> </tool_c", "<tool_call> </tool_c"},
      {R"(<tool_call>{"name": "f"}</tool_call> or <tool_call> this </tool_call>)",
       "f({})| or <tool_call> this </tool_call>"},
      {R"(<tool_call>{"name": "unknown", "arguments": {}}</tool_call>)",
       R"(<tool_call>{"name": "unknown", "arguments": {}}</tool_call>)"},
      {R"(<tool_call>{"name": "f", "arguments": {}}, {"name": "unknown"}</tool_call>)",
       R"(f({})|, {"name": "unknown"}</tool_call>)"},
      {R"(<tool_call>{"name": 7}</tool_call>)", R"(<tool_call>{"name": 7}</tool_call>)"},
      {R"(<tool_call>{"name": "f")", "f()"},
      {R"(<tool_call>{"nam)", R"(<tool_call>{"nam)"},
      {"<tool_call>{]}</tool_call>", "<tool_call>{]}</tool_call>"},
      {R"(<tool_call>{: 1, "name": "f"}</tool_call>)",
       R"(<tool_call>{: 1, "name": "f"}</tool_call>)"},
      // Broken behind what was told.
      {R"(<tool_call>{"name": "f", ]{"name": "f"}</tool_call>)",
       R"(f()|{"name": "f"}</tool_call>)"},
      {R"(<tool_call>{"name": "f", "x": ]}</tool_call>)", "f()|}</tool_call>"},
      {R"(<tool_call>{"name": "f", "name": {"x": 1}, "arguments": {}}</tool_call>)", "f({})"},
  };
  for (const auto& [answer, read] : cases) EXPECT_EQ(ReadAnyhow("hermes", answer), read);
}

TEST(ToolCalls, Llama) {
  const Case cases[] = {
      {R"({"name": "f", "parameters": {"x": 1}})", R"(f({"x": 1}))"},
      {R"(<|python_tag|>{"type": "function", "name": "f", "parameters": {}})", "f({})"},
      {"<|python_tag|>\n{\"name\": \"f\", \"parameters\": {}}", "f({})"},
      {" \n{\"name\": \"f\", \"parameters\": {}}; {\"name\": \"a.b-c\", \"parameters\": {}}",
       "f({})|a.b-c({})"},
      {R"({"answer": 42})", R"({"answer": 42})"},
      {R"(The JSON {"name": "f", "parameters": {}})",
       R"(The JSON {"name": "f", "parameters": {}})"},
      {" ", " "},
      {"<|python", "<|python"},
      {"<|python_tag|>print(1)", "<|python_tag|>print(1)"},
  };
  for (const auto& [answer, read] : cases) EXPECT_EQ(ReadAnyhow("llama", answer), read);
}

TEST(ToolCalls, ListsBehindAMark) {
  for (const auto& [format, begin, end] :
       {std::tuple("mistral", "[TOOL_CALLS]", ""), std::tuple("granite", "<|tool_call|>", ""),
        std::tuple("nemotron", "<TOOLCALL>", "</TOOLCALL>")}) {
    const std::string answer = absl::StrCat(
        "Yes. ", begin, R"([{"name": "f", "arguments": {"x": 1}}, {"name": "f", "arguments": {}}])",
        end);
    EXPECT_EQ(ReadAnyhow(format, answer), R"(Yes.|f({"x": 1})|f({}))");
  }
}

TEST(ToolCalls, NamesBeforeTheirArguments) {
  const Case cases[] = {
      {R"([TOOL_CALLS]f[ARGS]{"x": {"y": 1}}[TOOL_CALLS]a.b-c[ARGS]{})",
       R"(f({"x": {"y": 1}})|a.b-c({}))"},
      {R"(So: [TOOL_CALLS]f{"x": "}"})", R"(So:|f({"x": "}"}))"},
      {R"([TOOL_CALLS]f[CALL_ID]Ab3dEf7h9[ARGS]{"x": 1})", R"(f({"x": 1}))"},
      {R"([TOOL_CALLS]f[CALL_ID]{"x": 1})", R"([TOOL_CALLS]f[CALL_ID]{"x": 1})"},
      {R"([TOOL_CALLS][{"name": "f", "arguments": {}}])", "f({})"},
      {R"([TOOL_CALLS]unknown{"x": 1})", R"([TOOL_CALLS]unknown{"x": 1})"},
      {"[TOOL_CALLS]f[AR", "[TOOL_CALLS]f[AR"},
  };
  for (const auto& [answer, read] : cases) EXPECT_EQ(ReadAnyhow("mistral_args", answer), read);
}

TEST(ToolCalls, Python) {
  const Case cases[] = {
      {"<|tool_call_start|>[get_weather(city=\"Paris\", days=3), f()]<|tool_call_end|>Checking.",
       R"(get_weather({"city":"Paris","days":3})|f({})|Checking.)"},
      {R"(<|tool_call_start|>[f(a='it\'s "x"', b=[1, -2.5e3, (True, None)], c={'k': false,}, )"
       R"(d="\u00e4\x41\d")]<|tool_call_end|>)",
       "f({\"a\":\"it's \\\"x\\\"\",\"b\":[1,-2500.0,[true,null]],\"c\":{\"k\":false},"
       "\"d\":\"\xc3\xa4"
       "A\\\\d\"})"},
      {R"(<|tool_call_start|>[{"name": "f", "arguments": {"x": 1}}]<|tool_call_end|>)",
       R"(f({"x": 1}))"},
      {"<|tool_call_start|>[f(a=\"x\ny\")]<|tool_call_end|>", R"(f({"a":"x\ny"}))"},
      {"<|tool_call_start|>[f(a=\"all:\tcc\r\x01\")]<|tool_call_end|>",
       R"(f({"a":"all:\tcc\r\u0001"}))"},
      {"<|tool_call_start|>[f(7)]<|tool_call_end|>", "<|tool_call_start|>[f(7)]<|tool_call_end|>"},
      {"<|tool_call_start|>[f(a=1]<|tool_call_end|>",
       "<|tool_call_start|>[f(a=1]<|tool_call_end|>"},
      {"<|tool_call_start|>[f(a=1 b=2)]", "<|tool_call_start|>[f(a=1 b=2)]"},
      {"<|tool_call_start|>[f(a=[1 2])]", "<|tool_call_start|>[f(a=[1 2])]"},
      {"<|tool_call_start|>[f(a=1", "<|tool_call_start|>[f(a=1"},
      {"<|tool_call_start|>[f(a=')", "<|tool_call_start|>[f(a=')"},
  };
  for (const auto& [answer, read] : cases) EXPECT_EQ(ReadAnyhow("lfm2", answer), read);
  EXPECT_EQ(ReadAnyhow("olmo", "Hm.\n<function_calls>\nf(x=1)\na.b-c()\n</function_calls>"),
            R"(Hm.|f({"x":1})|a.b-c({}))");
  // However deep, it ends.
  EXPECT_EQ(
      Read(*FindToolFormat("olmo"),
           "<function_calls>f(x=" + std::string(10000, '[') + std::string(10000, ']') + ")", {})
          .substr(0, 20),
      "<function_calls>f(x=");
}

TEST(ToolCalls, Marks) {
  const Case cases[] = {
      {"<tool_call>\n<function=get_weather>\n<parameter=city>\n75\n</"
       "parameter>\n<parameter=days>\n3\n"
       "</parameter>\n</function>\n</tool_call>",
       R"(get_weather({"city":"75","days":3}))"},
      {"<tool_call><function=f><parameter=x>[1, 2]</parameter><parameter=y>a\nb</parameter>"
       "</function><function=f></function></tool_call>",
       R"(f({"x":[1,2],"y":"a\nb"})|f({}))"},
      {"<tool_call><function=f><parameter=text>null</parameter><parameter=some>null</parameter>"
       "</function></tool_call><tool_call><function=f><parameter=some>7</parameter></function>"
       "</tool_call>",
       R"(f({"text":"null","some":null})|f({"some":"7"}))"},
      {"<tool_call><function=unknown></function></tool_call>",
       "<tool_call><function=unknown></function></tool_call>"},
      {"<tool_call><function=f><parameter=x>1</function>",
       "<tool_call><function=f><parameter=x>1</function>"},
      {"<tool_call><function=f", "<tool_call><function=f"},
  };
  for (const auto& [answer, read] : cases) EXPECT_EQ(ReadAnyhow("qwen_xml", answer), read);
}

TEST(ToolCalls, AForcedCallBeginsAtOnce) {
  for (const ToolFormat& format : ToolFormats()) {
    const char* member = format.arguments != nullptr ? format.arguments : "arguments";
    const std::string call = absl::StrCat(R"({"name": "f", ")", member, R"(": {"x": 1}})");
    EXPECT_EQ(ReadAnyhow(format.name, call, /*begun=*/""), R"(f({"x": 1}))") << format.name;
    // As the whole text would be read.
    EXPECT_EQ(ReadAnyhow(format.name, format.forced_begin + call), R"(f({"x": 1}))") << format.name;
    EXPECT_EQ(ReadAnyhow(format.name, R"({"name")", /*begun=*/""), R"({"name")") << format.name;
  }
  EXPECT_EQ(ReadAnyhow("mistral_args", R"({"x": 1})", /*begun=*/"f[ARGS]"), R"(f({"x": 1}))");
}

// What tells the published templates of a family apart, and no more of them.
TEST(ToolCalls, TheTemplateShowsTheFormat) {
  const std::pair<const char*, const char*> cases[] = {
      // Qwen 2.5 and 3; Hermes and Granite 4 name the same marks.
      {"{{ '<tool_call>\n' }}{{ tool_call | tojson }}{{ '\n</tool_call>' }}", "hermes"},
      {"within <tool_call></tool_call> XML tags", "hermes"},
      // Qwen 3 Coder, Qwen 3.5, Nemotron 3.
      {"{{ '<tool_call>\n<function=' + tool_call.name + '>' }}", "qwen_xml"},
      {"{{- '\n<tool_call>\n<function=' ~ tool_call.name ~ '>\n<parameter=' }}", "qwen_xml"},
      // Llama 3.1 and 3.2.
      {"Respond in the format {\"name\": function name, \"parameters\": dictionary of names}.",
       "llama"},
      // Mistral 7B v0.3 and Nemo; Small 3.1, with a space; Small 3.2, with ids; Ministral 3.
      {"{{- '[TOOL_CALLS][' }}", "mistral"},
      {"{{- '[TOOL_CALLS] [' }}", "mistral"},
      {"{{- '[TOOL_CALLS]' + name }}{{- '[CALL_ID]' + id }}{{- '[ARGS]' + it | tojson }}",
       "mistral_args"},
      {"{{ '[TOOL_CALLS]' + name + '[ARGS]' }}", "mistral_args"},
      // Granite 3.
      {"respond with <|tool_call|> followed by a list", "granite"},
      // Nemotron Nano 2, and Super 1.5.
      {"use <TOOLCALL>[]</TOOLCALL>", "nemotron"},
      // LFM 2, whose templates show calls or not; LFM 2.5.
      {"{{ '<|tool_list_start|>[' }}", "lfm2"},
      {"{{ '<|im_start|>system' }}List of tools: [", "lfm2"},
      {"{{- '<|tool_call_start|>[' + (calls | join(', ')) + ']<|tool_call_end|>' -}}", "lfm2"},
      // Olmo 3.
      {"{{- '<function_calls>' -}}{{- name + '(' + arguments + ')' -}}", "olmo"},
  };
  for (const auto& [source, name] : cases) {
    ASSERT_NE(ToolFormatOf(source), nullptr) << source;
    EXPECT_STREQ(ToolFormatOf(source)->name, name);
  }
  EXPECT_EQ(ToolFormatOf("{% for m in messages %}{{ m.content }}{% endfor %}"), nullptr);
  EXPECT_EQ(ToolFormatOf("List of tools: ["), nullptr);
  EXPECT_EQ(FindToolFormat("none"), nullptr);
}

}  // namespace
}  // namespace packrat
