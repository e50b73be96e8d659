// Requests over HTTP with a list of prompts: each is a call of its own, and all are let in as one.
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "server/api_keys.h"
#include "tests/server/generate.h"
#include "tests/server/http_api.h"
#include "tests/server/short_folder.h"

namespace packrat {
namespace {

constexpr char kPath[] = "/v1/completions";
constexpr char kStream[] = R"(,"stream":true)";

// So many prompts of one token, with n 3.
std::string ListOf(int prompts, const std::string& more = "") {
  std::string list;
  for (int i = 0; i < prompts; ++i) absl::StrAppend(&list, i == 0 ? "" : ",", "[", 5 + i, "]");
  return absl::StrCat(R"({"prompt":[)", list, R"(],"n":3,"max_tokens":4,"ignore_eos":true)", more,
                      "}");
}

// One sequence runs, eight requests wait.
TestServer::Options ShortQueue() {
  TestServer::Options options = WithTokenizer();
  options.server.engine.max_running = 1;
  options.server.engine.max_queue = 8;
  return options;
}

TEST(HttpLists, NumberTheirChoices) {
  TestServer server(WithTokenizer());
  std::vector<std::string> texts;
  for (const int first : {5, 50, 500}) {
    texts.push_back(Generate(StubFor(server).get(), Ids({first, 6}, 8)).text);
  }
  const std::string body =
      R"({"prompt":[[5,6],[50,6],[500,6]],"max_tokens":8,"temperature":0,"ignore_eos":true)";
  const Json whole = Post(server, "/v1/completions", body + "}").json();
  ASSERT_EQ(whole["choices"].size(), 3u) << whole;
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(whole["choices"][i]["index"], i);
    EXPECT_EQ(whole["choices"][i]["text"], texts[i]);
  }
  EXPECT_EQ(whole["usage"]["completion_tokens"], 24);
  std::vector<std::string> streamed(3);
  for (const Json& event : Events(Post(server, "/v1/completions", body + R"(,"stream":true})"))) {
    for (const Json& choice : event["choices"]) {
      streamed[choice["index"].get<int>()] += choice["text"].get<std::string>();
    }
  }
  EXPECT_EQ(streamed, texts);
  EXPECT_TRUE(Eventually([&] { return server.Metric("packrat_streams_open") == 0; }));
}

// Also where the first prompt is at work long before the second has been read.
TEST(HttpLists, OneBadPromptRefusesAllBeforeAStreamBegins) {
  TestServer server(WithTokenizer());
  std::string words;
  for (int i = 0; i < 3000; ++i) words += " dog";
  for (const std::string& second : {std::string("[50,99999999]"), "\"" + words + "\""}) {
    const bool ids = second[0] == '[';
    const std::string body =
        absl::StrCat(R"({"prompt":[)", ids ? "[5,6]" : "\"a\"", ",", second,
                     R"(],"max_tokens":400,"temperature":0,"ignore_eos":true)");
    for (const char* more : {"", kStream}) {
      for (int i = 0; i < 5; ++i) {
        const Answer answer = Post(server, kPath, absl::StrCat(body, more, "}"));
        ASSERT_EQ(answer.status, 400) << answer.body;
        EXPECT_EQ(answer.json()["error"]["param"], ids ? "prompt[1][1]" : "prompt[1]")
            << answer.body;
      }
    }
  }
  EXPECT_TRUE(Eventually([&] { return server.Metric("packrat_streams_open") == 0; }));
  EXPECT_TRUE(Eventually([&] { return server.StateBytesUsed() == 0; }));
}

// A stream waits until all are queued, and not until all run.
TEST(HttpLists, StreamWhatComesFirst) {
  TestServer server(ShortQueue());
  server.gate().Close();
  HttpClient client(server.server().http_port());
  client.Send(
      HttpPost(kPath, ListOf(2, kStream), absl::StrCat(kJsonType, "Connection: close\r\n")));
  server.gate().WaitUntilHeld();
  server.gate().Allow(3);
  const std::string first = client.ReadUntil("\n\n");
  EXPECT_TRUE(absl::StartsWith(first, "HTTP/1.1 200")) << first;
  EXPECT_GE(server.Metric("packrat_requests_waiting{"), 4);
  server.gate().Open();
  EXPECT_TRUE(absl::StrContains(client.ReadAll(), "[DONE]"));
}

TEST(HttpLists, ThatNeverFitAreRefusedWithTheNumbers) {
  TestServer server(ShortQueue());
  for (const char* more : {"", kStream}) {
    const Answer answer = Post(server, kPath, ListOf(3, more));
    EXPECT_EQ(answer.status, 400) << answer.body;
    EXPECT_TRUE(absl::StrContains(answer.body, "9 requests at once, and max_queue is 8"))
        << answer.body;
  }
  EXPECT_EQ(Post(server, kPath, ListOf(2)).status, 200);
  // What is wrong with a field is said of the field.
  const Answer field = Post(server, kPath, R"({"prompt":["a","b"],"n":2000000000})");
  EXPECT_EQ(field.json()["error"]["param"], "n") << field.body;
  const Answer best = Post(server, kPath, R"({"prompt":["a","b"],"best_of":2000000000})");
  EXPECT_EQ(best.json()["error"]["param"], "best_of") << best.body;
  // A request that is not let in has one line.
  EXPECT_TRUE(Eventually([&] { return server.AccessLines("9 requests at once") == 2; }));
  EXPECT_EQ(server.AccessLines("CANCELLED"), 0);
}

TEST(HttpLists, ThatFindNoRoomTakeNone) {
  TestServer server(ShortQueue());
  server.gate().Close();
  HttpClient runs(server.server().http_port());
  const std::string close = absl::StrCat(kJsonType, "Connection: close\r\n");
  runs.Send(HttpPost(kPath, ListOf(2, R"(,"seed":1)"), close));
  server.gate().WaitUntilHeld();
  // Whom a step lets in waits until it is over.
  ASSERT_TRUE(Eventually([&] { return server.Metric("packrat_requests_waiting{") == 6; }));
  for (const char* more : {"", kStream}) {
    const Answer answer = Post(server, kPath, ListOf(2, more));
    EXPECT_EQ(answer.status, 429) << answer.body;
    EXPECT_TRUE(absl::StrContains(answer.head, "Retry-After: ")) << answer.head;
    EXPECT_EQ(answer.json()["error"]["code"], "rate_limit_exceeded") << answer.body;
    EXPECT_EQ(server.Metric("packrat_requests_waiting{"), 6);
  }
  server.gate().Open();
  EXPECT_TRUE(absl::StrContains(runs.ReadAll(), "HTTP/1.1 200"));
  EXPECT_TRUE(Eventually([&] { return server.AccessLines("the queue is full") == 2; }));
  EXPECT_EQ(server.AccessLines("CANCELLED"), 0);
}

// Of a tenant whose share is four requests and who may have one stream.
TEST(HttpLists, OfATenantAreOneRequest) {
  TestServer::Options options = ShortQueue();
  options.server.api_keys = ShortFolder() + "/keys";
  std::ofstream(options.server.api_keys) << ApiKeyLine("team", "s3cret") << " streams=1\n";
  TestServer server(options);
  const std::string headers = absl::StrCat(kJsonType, "Authorization: Bearer s3cret\r\n");
  EXPECT_EQ(Post(server, kPath, ListOf(2), headers).status, 200);
  EXPECT_TRUE(Eventually([&] { return server.Metric("packrat_streams_open") == 0; }));
  server.gate().Close();
  HttpClient runs(server.server().http_port());
  runs.Send(HttpPost(kPath, ListOf(2), absl::StrCat(headers, "Connection: close\r\n")));
  server.gate().WaitUntilHeld();
  const Answer beside = Post(server, kPath, ListOf(1), headers);
  EXPECT_EQ(beside.status, 429);
  EXPECT_TRUE(absl::StrContains(beside.body, "all 1 streams of team")) << beside.body;
  server.gate().Open();
  EXPECT_TRUE(absl::StrContains(runs.ReadAll(), "HTTP/1.1 200"));
}

// Half of a queue that has room for both.
TEST(HttpLists, OfATenantHaveItsShareOfTheQueue) {
  TestServer::Options options = ShortQueue();
  options.server.engine.max_queue = 16;
  options.server.api_keys = ShortFolder() + "/keys";
  std::ofstream(options.server.api_keys) << ApiKeyLine("team", "s3cret") << "\n";
  TestServer server(options);
  const std::string headers = absl::StrCat(kJsonType, "Authorization: Bearer s3cret\r\n");
  server.gate().Close();
  HttpClient runs(server.server().http_port());
  runs.Send(HttpPost(kPath, ListOf(2), absl::StrCat(headers, "Connection: close\r\n")));
  server.gate().WaitUntilHeld();
  ASSERT_TRUE(Eventually([&] { return server.Metric("packrat_requests_waiting{") == 6; }));
  const Answer beside = Post(server, kPath, ListOf(2), headers);
  EXPECT_EQ(beside.status, 429);
  EXPECT_TRUE(absl::StrContains(beside.body, "6 requests of team wait")) << beside.body;
  server.gate().Open();
  EXPECT_TRUE(absl::StrContains(runs.ReadAll(), "HTTP/1.1 200"));
}

// There is nothing to score, which no shorter prompt would mend.
TEST(HttpLists, APromptOfOneTokenIsNotTooLong) {
  TestServer server(WithTokenizer());
  const Answer answer =
      Post(server, kPath, R"({"prompt":[[5,6],[5]],"echo":true,"max_tokens":0,"logprobs":1})");
  EXPECT_EQ(answer.status, 400) << answer.body;
  EXPECT_EQ(answer.json()["error"]["param"], "prompt[1]") << answer.body;
  EXPECT_TRUE(answer.json()["error"]["code"].is_null()) << answer.body;
}

}  // namespace
}  // namespace packrat
