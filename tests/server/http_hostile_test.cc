// JSON that is none, or that two readers would read differently, is refused on every path.
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tests/server/http_api.h"

namespace packrat {
namespace {

// Of each path that takes JSON: what it takes, which stands there with a bad thing behind it.
constexpr std::pair<const char*, const char*> kPaths[] = {
    {"/v1/completions", R"("prompt":"a")"},
    {"/v1/chat/completions", R"("messages":[{"role":"user","content":"a"}])"},
    {"/v1/responses", R"("input":"a")"},
    {"/tokenize", R"("prompt":"a")"},
    {"/detokenize", R"("tokens":[1])"},
    {"/packrat/v1/Generate", R"("text":"a")"},
    {"/packrat/v1/Score", R"("text":"a b c")"},
    {"/packrat/v1/Tokenize", R"("text":"a")"},
    {"/packrat/v1/Detokenize", R"("token_ids":[1])"},
    {"/packrat/v1/GetModelInfo", R"("a":1)"},
    {"/packrat/v1/GetPlan", R"("a":1)"},
    {"/packrat/v1/CreateSession", R"("ttl_seconds":9)"},
    {"/packrat/v1/ListSessions", R"("limit":9)"},
    {"/packrat/v1/GetSession", R"("session":"a")"},
    {"/packrat/v1/ForkSession", R"("session":"a")"},
    {"/packrat/v1/RewindSession", R"("session":"a")"},
    {"/packrat/v1/DeleteSession", R"("session":"a")"},
    {"/packrat/v1/SaveSession", R"("session":"a")"},
};

std::string Repeated(const char* text, int times) {
  std::string all;
  for (int i = 0; i < times; ++i) all += text;
  return all;
}

// What is said of the fault, in whichever form the path has.
std::string MessageOf(const Answer& answer) {
  const Json json = answer.json();
  if (!json.is_object()) return "no JSON: " + answer.body;
  const Json& error = json.contains("error") ? json["error"] : json;
  return error.value("message", "none: " + answer.body);
}

TEST(Hostile, EachIsRefusedOnEveryPath) {
  TestServer server(WithTokenizer());
  for (const auto& [path, good] : kPaths) {
    const std::string fields = good;
    const bool ours = absl::StartsWith(path, "/packrat/");
    const std::string name = fields.substr(1, fields.find('"', 1) - 1);
    const std::string value = fields.substr(fields.find(':') + 1);
    const std::pair<std::string, std::string> cases[] = {
        {absl::StrCat("{", fields, ",", fields, "}"), absl::StrCat("duplicate key \"", name, "\"")},
        {absl::StrCat("{'", name, "':", value, "}"), "not valid JSON at byte 2"},
        {absl::StrCat("{", name, ":", value, "}"), "not valid JSON at byte"},
        {absl::StrCat("{", fields, ",}"), "not valid JSON"},
        {absl::StrCat("{", fields, "} {}"), "not valid JSON"},
        {absl::StrCat("{", fields, "/**/}"), "not valid JSON"},
        {absl::StrCat("{", fields, std::string(1, '\0'), "}"), "a NUL"},
        {absl::StrCat("{", fields, ",\"x\":NaN}"), "not valid JSON"},
        {absl::StrCat("{", fields, ",\"x\":1e999}"), "number out of range"},
        {absl::StrCat("{", fields, ",\"x\":\"\\ud800\"}"), "not valid JSON"},
        {absl::StrCat("{", fields, ",\"x\":\"\xff\"}"), "not valid JSON"},
        {absl::StrCat("{", fields, ",\"x\":", Repeated("{\"a\":", 200)), "more than 128 levels"},
        // Of /packrat/v1 no list is within another.
        {std::string(4 << 20, '['), ours ? "a list in a list" : "more than 128 levels"},
        {"[]", "must be an object"},
        {"null", "must be an object"},
        {absl::StrCat("{", fields, ",\"not_a_field\":1}"), "not_a_field"},
    };
    for (const auto& [body, why] : cases) {
      const Answer answer = Post(server, path, body);
      EXPECT_EQ(answer.status, 400) << path << body.substr(0, 80) << answer.body;
      EXPECT_TRUE(absl::StrContains(MessageOf(answer), why))
          << path << " " << body.substr(0, 80) << " " << answer.body;
    }
  }
}

// Names of proto3's JSON mapping, which are the same field.
TEST(Hostile, AFieldIsThereOnceByEitherOfItsNames) {
  TestServer server(WithTokenizer());
  const std::string path = "/packrat/v1/Detokenize";
  EXPECT_EQ(Post(server, path, R"({"tokenIds":[1]})").status, 200);
  const Answer both = Post(server, path, R"({"token_ids":[1],"tokenIds":[2]})");
  EXPECT_EQ(both.status, 400);
  EXPECT_EQ(MessageOf(both), "token_ids: duplicate key \"token_ids\"");
}

// What protobuf's parser would take for something else, or pass over.
TEST(Hostile, ValuesOfAnotherShapeAreRefused) {
  TestServer server(WithTokenizer());
  for (const char* ids :
       {"[null]", "[[1]]", "[[]]", "[true]", "[{}]", "{}", "true", "[1.5]", "0", "\"0\""}) {
    const Answer answer =
        Post(server, "/packrat/v1/Detokenize", absl::StrCat("{\"token_ids\":", ids, "}"));
    EXPECT_EQ(answer.status, 400) << ids << answer.body;
    EXPECT_TRUE(absl::StrContains(MessageOf(answer), "token_ids")) << ids << answer.body;
  }
  for (const char* flag : {"1", "\"yes\"", "\"true\"", "[]", "{}", "0"}) {
    const Answer answer = Post(server, "/packrat/v1/Detokenize",
                               absl::StrCat("{\"skip_special_tokens\":", flag, "}"));
    EXPECT_EQ(answer.status, 400) << flag << answer.body;
  }
}

// Within other messages too; null is as if the field had been left out.
TEST(Hostile, FieldsOfFieldsAreLookedAt) {
  TestServer server(WithTokenizer());
  const auto message = [&](const std::string& more) {
    return MessageOf(
        Post(server, "/packrat/v1/Generate",
             absl::StrCat(R"({"tokens":{"ids":[5]},"stop":{"max_tokens":1},)", more, "}")));
  };
  EXPECT_EQ(message(R"("sampling":{"logit_bias":{"token_id":1}})"),
            "sampling: logit_bias must be a list");
  EXPECT_EQ(MessageOf(Post(server, "/packrat/v1/Generate",
                           R"({"chat":{"messages":[{"role":"a"}],"addGenerationPrompt":"no"}})")),
            "chat: add_generation_prompt must be true or false");
  EXPECT_EQ(message(R"("text":"a")"), "text: tokens and text exclude each other");
  const Answer good = Post(server, "/packrat/v1/Generate", R"({"tokens":{"ids":["5",6.0]},
      "stop":{"max_tokens":1,"strings":null},"text":null,"sampling":{"logitBias":[{"token_id":1,"bias":1}]},
      "use_cache":null,"skip_special_tokens":true})");
  EXPECT_EQ(good.status, 200) << good.body;
}

TEST(Hostile, ALongValueIsNotRepeatedWhole) {
  TestServer server(WithTokenizer());
  const Answer answer = Post(server, "/packrat/v1/CreateSession",
                             absl::StrCat("{\"ttl_seconds\":\"", std::string(100000, 'x'), "\"}"));
  EXPECT_EQ(answer.status, 400);
  EXPECT_TRUE(absl::StrContains(MessageOf(answer), "ttl_seconds")) << answer.body.substr(0, 1000);
  EXPECT_LT(answer.body.size(), 1000u);
}

}  // namespace
}  // namespace packrat
