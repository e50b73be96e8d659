// The API over HTTP, against gRPC's: the same requests have the same answers and refusals.
#include <cstdint>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "server/api_keys.h"
#include "server/http/proto_json.h"
#include "tests/server/generate.h"
#include "tests/server/http_api.h"
#include "tests/server/short_folder.h"

namespace packrat {
namespace {

std::string IdsJson(int max_tokens, const std::string& more = "") {
  return absl::StrCat(R"({"prompt":[5,6,7],"max_tokens":)", max_tokens,
                      R"(,"temperature":0,"ignore_eos":true)", more, "}");
}

// Completions.

TEST(HttpApi, CompletesAsGrpcDoes) {
  TestServer server(WithTokenizer());
  const Result grpc = Generate(StubFor(server).get(), Ids({5, 6, 7}, 20));
  ASSERT_TRUE(grpc.status.ok()) << grpc.status.error_message();
  const Answer whole = Post(server, "/v1/completions", IdsJson(20));
  ASSERT_EQ(whole.status, 200) << whole.body;
  const Json json = whole.json();
  EXPECT_EQ(json["choices"][0]["text"], grpc.text);
  EXPECT_EQ(json["choices"][0]["finish_reason"], "length");
  EXPECT_EQ(json["usage"]["prompt_tokens"], 3);
  EXPECT_EQ(json["usage"]["completion_tokens"], 20);

  const Answer stream =
      Post(server, "/v1/completions",
           IdsJson(20, R"(,"stream":true,"stream_options":{"include_usage":true})"));
  ASSERT_EQ(stream.status, 200) << stream.body;
  EXPECT_TRUE(stream.Has("Content-Type: text/event-stream")) << stream.head;
  EXPECT_TRUE(stream.whole);
  EXPECT_TRUE(absl::EndsWith(stream.body, "data: [DONE]\n\n")) << stream.body;
  std::string text;
  Json usage;
  for (const Json& event : Events(stream)) {
    if (!event["choices"].empty()) text += event["choices"][0]["text"].get<std::string>();
    if (event.contains("usage") && !event["usage"].is_null()) usage = event["usage"];
  }
  EXPECT_EQ(text, grpc.text);
  EXPECT_EQ(usage["completion_tokens"], 20);
}

// Clients shorten their prompt then, also where it was not even tokenized, or ask for less.
TEST(HttpApi, TextsThatAreTooLongHaveACode) {
  TestServer server(WithTokenizer());
  for (const size_t bytes : {10000, 300000}) {
    const Answer answer = Post(server, "/v1/completions",
                               absl::StrCat(R"({"prompt":")", std::string(bytes, '%'), R"("})"));
    EXPECT_EQ(answer.status, 400) << answer.body;
    EXPECT_EQ(answer.json()["error"]["code"], "context_length_exceeded") << answer.body;
  }
  const auto code = [&server](const char* max_tokens) {
    const Answer answer = Post(server, "/v1/completions",
                               absl::StrCat(R"({"prompt":"a","max_tokens":)", max_tokens, "}"));
    EXPECT_EQ(answer.status, 400) << answer.body;
    return answer.json()["error"]["code"];
  };
  EXPECT_EQ(code("100000"), "context_length_exceeded");
  EXPECT_EQ(code("-1"), nullptr);
}

TEST(HttpApi, RefusesInTheFormOfTheApi) {
  TestServer::Options options = WithTokenizer();
  options.server.max_message_bytes = 20000;
  TestServer server(options);
  const auto expect = [&](const Answer& answer, int status, const char* what) {
    EXPECT_EQ(answer.status, status) << what << answer.body;
    EXPECT_TRUE(answer.json()["error"]["message"].is_string()) << what << answer.body;
  };
  const std::string path = "/v1/completions";
  expect(Post(server, path, "{"), 400, "cut");
  expect(Post(server, path, ""), 400, "empty");
  expect(Post(server, path, std::string(19000, '[')), 400, "deep");
  expect(Post(server, path, R"({"prompt":"a","temperature":-1})"), 400, "range");
  expect(Post(server, path, R"({"prompt":"a","model":"other"})"), 404, "model");
  expect(Post(server, path, R"({"prompt":"a"})", "Content-Type: text/plain\r\n"), 415, "type");
  expect(Post(server, path, R"({"prompt":"a"})", ""), 415, "no type");
  expect(Post(server, path, "", ""), 415, "no type and no body");
  expect(Post(server, path, std::string(20001, ' ')), 413, "large");
  expect(Post(server, path, "{}", absl::StrCat(kJsonType, "Content-Encoding: gzip\r\n")), 415,
         "packed");
  expect(Post(server, "/v1/completion", "{}"), 404, "path");
  expect(Post(server, "/v1/models", "{}"), 405, "method");
  expect(Post(server, "/v1/embeddings", "{}"), 400, "embeddings");
  expect(Post(server, path, R"({"prompt":"a"})",
              absl::StrCat(kJsonType, "X-Request-Timeout: soon\r\n")),
         400, "timeout");
  // Everything of this was logged and counted, but for what no handler got.
  EXPECT_GT(server.AccessLines("status=INVALID_ARGUMENT"), 4);
}

// OpenAI's clients show the message alone, and a base URL without /v1 is the likeliest mistake.
TEST(HttpApi, SaysWhichPageIsMissingAndWhichIsMeant) {
  TestServer server(WithTokenizer());
  const std::pair<const char*, const char*> cases[] = {
      {"/chat/completions", "; there is /v1/chat/completions"},
      {"/v1/v1/completions", "; there is /v1/completions"},
      {"/v1/responses//", "; there is /v1/responses"},
      {"/v1/nope", ""},
      {"/nope", ""}};
  for (const auto& [path, hint] : cases) {
    const Answer answer = Post(server, path, "{}");
    EXPECT_EQ(answer.status, 404) << path;
    EXPECT_TRUE(answer.Has("Content-Type: application/json")) << answer.head;
    EXPECT_EQ(answer.json()["error"]["message"],
              absl::StrCat("there is no ", path, " here, which POST asks for", hint));
    EXPECT_EQ(answer.json()["error"]["type"], "invalid_request_error");
  }
  EXPECT_EQ(Post(server, "/v1/models", "{}").json()["error"]["message"],
            "/v1/models takes GET, HEAD and not POST");
  const Answer unnamed = Read(server.Get("/v1/models/"));
  EXPECT_EQ(unnamed.status, 404);
  EXPECT_EQ(unnamed.json()["error"]["message"], "/v1/models/ names no model; this server has fake");
  // Under packrat.v1 it is a status of gRPC.
  EXPECT_EQ(Post(server, "/packrat/v1/Nope", "{}").json()["code"], 5);
}

TEST(HttpApi, TheLogTellsThePath) {
  TestServer server(WithTokenizer());
  const auto logged = [&server](const std::string& text) {
    return Eventually([&] { return server.AccessLines(text) == 1; });
  };
  for (const char* path : {"/v1/completions", "/packrat/v1/Generate", "/packrat/v1/GetModelInfo",
                           "/packrat/v1/LoadSession", "/tokenize"}) {
    Post(server, path, "{");
    EXPECT_TRUE(logged(absl::StrCat(" path=", path, " status="))) << path;
  }
  Post(server, "/v1/completions", "{}", "");
  EXPECT_TRUE(logged("error=\"the header Content-Type must be application/json\""));
  server.Get("/v1/models/fake");
  EXPECT_TRUE(logged("call=GetModelInfo path=/v1/models/* status=OK"));
  EXPECT_EQ(Post(server, "/v1/completions", IdsJson(2)).status, 200);
  EXPECT_TRUE(logged("call=Generate path=/v1/completions status=OK"));
  Generate(StubFor(server).get(), Ids({5, 6, 7}, 2));
  EXPECT_TRUE(logged("call=Generate status=OK"));
}

// As it sent it, and of several prompts the one that is wrong.
TEST(HttpApi, NamesTheFieldThatIsWrong) {
  TestServer server(WithTokenizer());
  const std::string far = "99999999";
  const std::string longer(300000, '%');
  const struct {
    const char* path;
    std::string body, param;
    int status = 400;
  } cases[] = {
      {"/detokenize", R"({"tokens":[1,-1]})", "tokens[1]"},
      {"/detokenize", R"({"tokens":[1],"foo":1})", "foo"},
      {"/detokenize", R"({"tokens":[1],"model":"zzz"})", "model", 404},
      {"/tokenize", R"({"prompt":"a","foo":1})", "foo"},
      {"/tokenize", R"({"prompt":"a","model":"zzz"})", "model", 404},
      {"/tokenize", R"({"prompt":"a","model":1})", "model"},
      {"/tokenize", R"({"messages":[{"role":"user","content":"a"}]})", "messages"},
      {"/v1/completions", absl::StrCat(R"({"prompt":[1,)", far, "]}"), "prompt[1]"},
      {"/v1/completions", absl::StrCat(R"({"prompt":[[1],[)", far, "]]}"), "prompt[1][0]"},
      {"/v1/completions", absl::StrCat(R"({"prompt":[[1,)", far, "]]}"), "prompt[0][1]"},
      {"/v1/completions", absl::StrCat(R"({"prompt":["a",")", longer, "\"]}"), "prompt[1]"},
      {"/v1/completions", absl::StrCat(R"({"prompt":")", longer, "\"}"), "prompt"},
      {"/v1/completions", absl::StrCat(R"({"prompt":"a","logit_bias":{"1":1,")", far, R"(":1}})"),
       absl::StrCat("logit_bias.", far)},
      {"/v1/completions", R"({"prompt":"a","logit_bias":{"1":5000}})", "logit_bias.1"},
  };
  for (const auto& one : cases) {
    const Answer answer = Post(server, one.path, one.body);
    const std::string what = absl::StrCat(one.path, one.body.substr(0, 100), answer.body);
    ASSERT_EQ(answer.status, one.status) << what;
    const Json error = answer.json()["error"];
    EXPECT_EQ(error["param"], one.param) << what;
    // Its first words say so too.
    EXPECT_TRUE(absl::StartsWith(error["message"].get<std::string>(), one.param)) << what;
  }
}

TEST(HttpApi, EndsWithTheDeadline) {
  TestServer::Options options = LongTexts();
  options.tokenizer = true;
  TestServer server(options);
  const std::string headers = absl::StrCat(kJsonType, "X-Request-Timeout: 0.05\r\n");
  const Answer whole = Post(server, "/v1/completions", IdsJson(90000), headers);
  EXPECT_EQ(whole.status, 504) << whole.body.substr(0, 1000);
  const Answer stream =
      Post(server, "/v1/completions", IdsJson(90000, R"(,"stream":true)"), headers);
  EXPECT_EQ(stream.status, 200);
  EXPECT_TRUE(stream.whole);
  const std::string end = stream.body.substr(stream.body.size() - 300);
  EXPECT_TRUE(absl::StrContains(end, "\"error\"")) << end;
}

TEST(HttpApi, FreesWhatAClientThatLeavesHad) {
  TestServer server(WithTokenizer());
  for (const bool stream : {true, false}) {
    server.gate().Close();
    auto client = std::make_unique<HttpClient>(server.server().http_port());
    client->Send(
        HttpPost("/v1/completions", IdsJson(480, stream ? R"(,"stream":true)" : ""), kJsonType));
    server.gate().WaitUntilHeld();
    if (stream) {
      server.gate().Allow(2);
      client->ReadUntil("data: ");
    }
    EXPECT_EQ(server.Metric("packrat_streams_open"), 1);
    client.reset();
    // Of some hundred steps a few are enough.
    int steps = 0;
    EXPECT_TRUE(Eventually([&] {
      server.gate().Allow(1);
      ++steps;
      return server.Metric("packrat_streams_open") == 0;
    }));
    server.gate().Open();
    EXPECT_TRUE(Eventually([&] { return server.StateBytesUsed() == 0; }));
  }
  EXPECT_EQ(server.AccessLines("status=CANCELLED"), 2);
}

TEST(HttpApi, DropsWhoDoesNotRead) {
  TestServer::Options options = LongTexts();
  options.tokenizer = true;
  options.server.stream_idle_timeout = absl::Milliseconds(300);
  TestServer server(options);
  HttpClient client(server.server().http_port());
  client.Send(HttpPost("/packrat/v1/Generate", ToJson([] {
                         v1::GenerateRequest request = Ids({5, 6}, 90000);
                         request.mutable_sampling()->set_num_logprobs(20);
                         return request;
                       }()),
                       kJsonType));
  EXPECT_TRUE(Eventually([&] { return server.AccessLines("stream_idle_timeout") == 1; }));
  EXPECT_TRUE(Eventually([&] { return server.StateBytesUsed() == 0; }));
}

TEST(HttpApi, DrainsAsGrpcDoes) {
  TestServer server(WithTokenizer());
  server.gate().Close();
  HttpClient client(server.server().http_port());
  client.Send(HttpPost("/v1/completions", IdsJson(50, R"(,"stream":true)"), kJsonType));
  server.gate().WaitUntilHeld();
  std::thread drain([&] { server.server().Drain(); });
  // Before that a call would be taken, and wait for the gate.
  ASSERT_TRUE(Eventually([&] { return server.Metric("packrat_draining") == 1; }));
  EXPECT_TRUE(Eventually([&] {
    const Answer refused = Post(server, "/v1/completions", IdsJson(2));
    return refused.status == 503 && absl::StrContains(refused.head, "Retry-After: ");
  }));
  server.gate().Open();
  const Answer answer = Read(client.ReadAll());
  EXPECT_TRUE(answer.whole);
  EXPECT_TRUE(absl::EndsWith(answer.body, "data: [DONE]\n\n")) << answer.body;
  drain.join();
}

TEST(HttpApi, AsksForKeys) {
  TestServer::Options options = WithTokenizer();
  options.server.api_keys = ShortFolder() + "/keys";
  std::ofstream(options.server.api_keys) << ApiKeyLine("team", "s3cret") << " streams=1\n";
  TestServer server(options);
  const Answer none = Post(server, "/v1/completions", IdsJson(2));
  EXPECT_EQ(none.status, 401) << none.body;
  EXPECT_TRUE(none.Has("WWW-Authenticate: Bearer")) << none.head;
  EXPECT_EQ(Post(server, "/packrat/v1/GetModelInfo", "").status, 401);
  const std::string key = absl::StrCat(kJsonType, "Authorization: Bearer s3cret\r\n");
  EXPECT_EQ(Post(server, "/v1/completions", IdsJson(2), key).status, 200);
  // Its limit holds for both fronts together.
  server.gate().Close();
  HttpClient client(server.server().http_port());
  client.Send(HttpPost("/v1/completions", IdsJson(9, R"(,"stream":true)"), key));
  server.gate().WaitUntilHeld();
  grpc::ClientContext context;
  context.AddMetadata("authorization", "Bearer s3cret");
  const Result second = ReadAll(StubFor(server)->Generate(&context, Ids({5}, 2)).get());
  EXPECT_EQ(second.status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  const Answer third = Post(server, "/v1/completions", IdsJson(2), key);
  EXPECT_EQ(third.status, 429) << third.body;
  EXPECT_TRUE(absl::StrContains(third.head, "Retry-After: ")) << third.head;
  server.gate().Open();
  // Probes need none.
  EXPECT_TRUE(absl::StrContains(server.Get("/healthz"), " 200 "));
}

TEST(HttpApi, TellsTheRequestsId) {
  TestServer server(WithTokenizer());
  const Answer own = Post(server, "/v1/completions", IdsJson(2),
                          absl::StrCat(kJsonType, "X-Request-Id: mine-1\r\n"));
  EXPECT_TRUE(own.Has("X-Request-Id: mine-1")) << own.head;
  EXPECT_TRUE(Eventually([&] { return server.AccessLines("id=mine-1") == 1; }));
  const Answer refused =
      Post(server, "/v1/completions", "{", absl::StrCat(kJsonType, "X-Request-Id: a%0d%0ab\r\n"));
  EXPECT_TRUE(absl::StrContains(refused.head, "X-Request-Id: ")) << refused.head;
  EXPECT_FALSE(absl::StrContains(refused.head, "%0d")) << refused.head;
}

TEST(HttpApi, ListsModelsAndTokens) {
  TestServer server(WithTokenizer());
  const Json models = Read(server.Get("/v1/models")).json();
  EXPECT_EQ(models["data"][0]["id"], "fake") << models;
  EXPECT_EQ(Read(server.Get("/v1/models/fake")).json()["id"], "fake");
  EXPECT_EQ(Read(server.Get("/v1/models/f%61k%65")).json()["id"], "fake");
  for (const char* other : {"other", "fake%", "fake%6", "fake%zz", "fake%00"}) {
    EXPECT_EQ(Read(server.Get(absl::StrCat("/v1/models/", other))).status, 404) << other;
  }
  const Json tokens =
      Post(server, "/tokenize", R"({"prompt":"hello world","add_special_tokens":false})").json();
  EXPECT_EQ(tokens["count"], tokens["tokens"].size()) << tokens;
  EXPECT_GT(tokens["count"], 0);
  const Answer text = Post(server, "/detokenize", Json{{"tokens", tokens["tokens"]}}.dump());
  EXPECT_EQ(text.json()["prompt"], "hello world") << text.body;
  EXPECT_EQ(Post(server, "/detokenize", R"({"tokens":["a"]})").status, 400);
}

// Under /packrat/v1.

// What the lines say, and how it ended.
Result GenerateOverHttp(TestServer& server, const v1::GenerateRequest& request, int* http_status) {
  const Answer answer = Post(server, "/packrat/v1/Generate", ToJson(request));
  *http_status = answer.status;
  Result result;
  if (answer.status != 200) {
    const Json status = answer.json();
    result.status = grpc::Status(static_cast<grpc::StatusCode>(status["code"].get<int>()),
                                 status["message"].get<std::string>());
    return result;
  }
  EXPECT_TRUE(answer.Has("Content-Type: application/x-ndjson")) << answer.head;
  for (absl::string_view line : absl::StrSplit(answer.body, '\n', absl::SkipEmpty())) {
    v1::GenerateResponse message;
    EXPECT_TRUE(FromJson(line, &message).ok()) << line;
    ++result.messages;
    result.ids.insert(result.ids.end(), message.token_ids().begin(), message.token_ids().end());
    result.text += message.text();
    if (message.has_finished()) result.finished = message.finished();
  }
  return result;
}

TEST(HttpApi, SaysOfEachMessageWhatGrpcSays) {
  TestServer server(WithTokenizer());
  auto stub = StubFor(server);
  std::vector<v1::GenerateRequest> requests = {Ids({5, 6, 7}, 30), Ids({5}, 1), Ids({}, 3),
                                               Ids({5, 99999999}, 3), Ids({5}, 0)};
  requests.push_back(Ids({5}, 3));
  requests.back().mutable_sampling()->set_temperature(-1);
  requests.push_back(Ids({5}, 3));
  requests.back().set_session("no-such-session");
  requests.push_back({});
  for (const v1::GenerateRequest& request : requests) {
    const Result grpc = Generate(stub.get(), request);
    int status = 0;
    const Result http = GenerateOverHttp(server, request, &status);
    EXPECT_EQ(http.status.error_code(), grpc.status.error_code()) << request.ShortDebugString();
    EXPECT_EQ(http.status.error_message(), grpc.status.error_message());
    EXPECT_EQ(http.ids, grpc.ids);
    EXPECT_EQ(http.text, grpc.text);
    EXPECT_EQ(http.finished.reason(), grpc.finished.reason());
    EXPECT_EQ(http.finished.usage().completion_tokens(), grpc.finished.usage().completion_tokens());
    EXPECT_EQ(status == 200, grpc.status.ok()) << status;
  }
}

TEST(HttpApi, ServesAllMethods) {
  TestServer server(WithTokenizer());
  EXPECT_EQ(Post(server, "/packrat/v1/GetModelInfo", "").json()["name"], "fake");
  const Json plan = Post(server, "/packrat/v1/GetPlan", "{}").json();
  const Json info = Post(server, "/packrat/v1/GetModelInfo", "{}").json();
  EXPECT_EQ(plan["capacity"][0]["sequences"],
            absl::StrCat(info["limits"]["max_running"].get<int>()))
      << plan;
  const Json session = Post(server, "/packrat/v1/CreateSession", "{}").json();
  const std::string handle =
      session["session"].is_string() ? session["session"] : session["handle"];
  EXPECT_FALSE(handle.empty()) << session;
  EXPECT_EQ(Post(server, "/packrat/v1/ListSessions", "{}").json()["sessions"].size(), 1u);
  EXPECT_EQ(Post(server, "/packrat/v1/Tokenize", R"({"text":"a b"})").status, 200);
  const Answer unknown = Post(server, "/packrat/v1/Tokenize", R"({"txt":"a b"})");
  EXPECT_EQ(unknown.status, 400);
  EXPECT_EQ(unknown.json()["code"], 3) << unknown.body;
  EXPECT_EQ(Post(server, "/packrat/v1/Tokenise", "{}").json()["code"], 5);
  const Answer deep = Post(server, "/packrat/v1/Generate",
                           absl::StrCat(R"({"chat":)", std::string(4000, '['), "}"));
  EXPECT_EQ(deep.status, 400) << deep.body;
  const Answer score = Post(server, "/packrat/v1/Score",
                            R"({"tokens":{"ids":[5,6]},"candidates":[{"tokens":{"ids":[7]}}]})",
                            absl::StrCat(kJsonType, "Accept: text/event-stream\r\n"));
  EXPECT_EQ(score.status, 200) << score.body;
  EXPECT_TRUE(absl::StartsWith(score.body, "data: {")) << score.body;
}

}  // namespace
}  // namespace packrat
