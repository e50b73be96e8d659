// A client that has sent its request and closes its own direction counts as gone (docs/http.md):
// its call is cancelled, and it still gets that answer.
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "tests/server/http_api.h"

namespace packrat {
namespace {

constexpr char kBody[] = R"({"prompt":[5,6,7],"max_tokens":480,"temperature":0,"ignore_eos":true)";

// Sends as many requests at once, closes the direction, and lets steps through until all are over.
std::string AskAndHalfClose(TestServer& server, const std::string& body, int requests) {
  const int before = server.AccessLines("status=CANCELLED");
  server.gate().Close();
  HttpClient client(server.server().http_port());
  std::string all;
  for (int i = 0; i < requests; ++i) all += HttpPost("/v1/completions", body, kJsonType);
  EXPECT_TRUE(client.Send(all));
  server.gate().WaitUntilHeld();
  client.HalfClose();
  // Of some hundred steps a few are enough.
  EXPECT_TRUE(Eventually([&] {
    server.gate().Allow(1);
    return server.AccessLines("status=CANCELLED") == before + requests;
  }));
  server.gate().Open();
  return client.ReadAll();
}

void ExpectAllFree(TestServer& server) {
  EXPECT_TRUE(Eventually([&] { return server.Metric("packrat_streams_open") == 0; }));
  EXPECT_TRUE(Eventually([&] { return server.StateBytesUsed() == 0; }));
  EXPECT_EQ(server.AccessLines("status=OK"), 0);
  const Answer next = Post(server, "/v1/completions", R"({"prompt":[5],"max_tokens":2})");
  EXPECT_EQ(next.status, 200) << next.body;
}

TEST(HttpHalfClosed, AWholeAnswerIsThatItWasCancelled) {
  TestServer server(WithTokenizer());
  const Answer answer = Read(AskAndHalfClose(server, absl::StrCat(kBody, "}"), 1));
  EXPECT_EQ(answer.status, 499) << answer.body;
  EXPECT_EQ(answer.json()["error"]["code"], "cancelled") << answer.body;
  EXPECT_TRUE(answer.Has("Connection: close")) << answer.head;
  EXPECT_TRUE(Eventually([&] { return server.AccessLines("status=CANCELLED") == 1; }));
  ExpectAllFree(server);
}

TEST(HttpHalfClosed, EachOfSeveralRequestsIsCancelled) {
  TestServer server(WithTokenizer());
  const std::string answers = AskAndHalfClose(server, absl::StrCat(kBody, "}"), 3);
  const std::vector<std::string> parts = absl::StrSplit(answers, "HTTP/1.1 499 ");
  EXPECT_EQ(parts.size(), 4u) << answers;
  EXPECT_TRUE(Eventually([&] { return server.AccessLines("status=CANCELLED") == 3; }));
  ExpectAllFree(server);
}

}  // namespace
}  // namespace packrat
