// Pages of other sites: what their browsers are told.
#include "server/http/cors.h"

#include <gtest/gtest.h>

#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tests/server/http/http_replies.h"

namespace packrat {
namespace {

constexpr char kAllow[] = "Access-Control-Allow-Origin: ";

std::string Preflight(const std::string& path, const std::string& origin) {
  return absl::StrCat("OPTIONS ", path,
                      " HTTP/1.1\r\nHost: h\r\nConnection: close\r\nOrigin: ", origin,
                      "\r\nAccess-Control-Request-Method: POST\r\n"
                      "Access-Control-Request-Headers: authorization,x-stainless-os\r\n\r\n");
}

std::string Echo(const std::string& origin) {
  return HttpPost("/echo/", "body",
                  absl::StrCat("Connection: close\r\n",
                               origin.empty() ? "" : absl::StrCat("Origin: ", origin, "\r\n")));
}

class HttpCors : public HttpReplies {
 protected:
  void StartFor(const std::string& list) {
    const auto cors = Cors::Read(list);
    ASSERT_TRUE(cors.ok()) << cors.status();
    options_.cors = *cors;
    Start();
  }
};

TEST(Cors, ReadsOrigins) {
  for (const char* good : {"", "*", "https://a.b", "http://localhost:3000, https://a.b",
                           "tauri://localhost", "http://[::1]:80"}) {
    EXPECT_TRUE(Cors::Read(good).ok()) << good;
  }
  for (const char* bad :
       {"a.b", "https://", "://a", "https://a.b/", "https://A.b", "https://a.b,",
        "https://a.b/path", "https://*.b", "null", "https://a b", "https://u@a"}) {
    const absl::Status status = Cors::Read(bad).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << bad;
    EXPECT_TRUE(absl::StrContains(status.message(), "is no origin")) << status;
  }
}

TEST_F(HttpCors, IsOffByDefault) {
  Start();
  const std::string refused = Ask(Preflight("/echo/", "https://a.b"));
  EXPECT_TRUE(absl::StartsWith(refused, "HTTP/1.1 405 ")) << refused;
  EXPECT_FALSE(absl::StrContains(refused, "Access-Control")) << refused;
  const std::string answer = Ask(Echo("https://a.b"));
  EXPECT_TRUE(absl::StartsWith(answer, "HTTP/1.1 200 ")) << answer;
  EXPECT_FALSE(absl::StrContains(answer, "Access-Control")) << answer;
  EXPECT_FALSE(absl::StrContains(answer, "Vary")) << answer;
}

TEST_F(HttpCors, AllowsTheSitesOfTheList) {
  StartFor("https://a.b,http://localhost:3000");
  for (const char* origin : {"https://a.b", "http://localhost:3000"}) {
    const std::string preflight = Ask(Preflight("/echo/", origin));
    EXPECT_TRUE(absl::StartsWith(preflight, "HTTP/1.1 204 ")) << preflight;
    for (const std::string& header :
         {absl::StrCat(kAllow, origin, "\r\n"), std::string("Vary: Origin\r\n"),
          std::string("Access-Control-Allow-Methods: POST\r\n"),
          std::string("Access-Control-Allow-Headers: authorization,x-stainless-os\r\n")}) {
      EXPECT_TRUE(absl::StrContains(preflight, header)) << header << preflight;
    }
    // A refusal is read as well; and what a page may not read by itself.
    for (const std::string& request : {Echo(origin), Echo(origin) + "x"}) {
      const std::string answer = Ask(request);
      EXPECT_TRUE(absl::StrContains(answer, absl::StrCat(kAllow, origin, "\r\n"))) << answer;
      EXPECT_TRUE(absl::StrContains(answer, "Access-Control-Expose-Headers: X-Request-Id, "))
          << answer;
    }
    const std::string large =
        Ask(HttpPost("/echo/", std::string(9001, 'x'), absl::StrCat("Origin: ", origin, "\r\n")));
    EXPECT_TRUE(absl::StartsWith(large, "HTTP/1.1 413 ")) << large;
    EXPECT_TRUE(absl::StrContains(large, kAllow)) << large;
  }
  // Another site's page learns nothing, and the next request of a connection has its own answer.
  for (const char* other : {"https://a.b.c", "https://A.b", "null", "http://localhost"}) {
    EXPECT_FALSE(absl::StrContains(Ask(Preflight("/echo/", other)), kAllow)) << other;
    EXPECT_FALSE(absl::StrContains(Ask(Echo(other)), kAllow)) << other;
  }
  HttpClient client(server_->port());
  client.Send(HttpPost("/echo/", "one", "Origin: https://a.b\r\n"));
  EXPECT_TRUE(absl::StrContains(client.ReadUntil("one"), kAllow));
  const std::string next = client.Ask(Echo(""));
  EXPECT_FALSE(absl::StrContains(next, kAllow)) << next;
  EXPECT_TRUE(absl::StrContains(next, "Vary: Origin\r\n")) << next;
}

TEST_F(HttpCors, AllowsEverySiteAndNeverCredentials) {
  StartFor("*");
  for (const std::string& request :
       {Preflight("/echo/", "https://a.b"), Echo("https://a.b"), Echo("")}) {
    const std::string answer = Ask(request);
    EXPECT_TRUE(absl::StrContains(answer, absl::StrCat(kAllow, "*\r\n"))) << answer;
    EXPECT_FALSE(absl::StrContains(answer, "Credentials")) << answer;
  }
}

TEST_F(HttpCors, IsForThePagesOfTheApiAlone) {
  StartFor("*");
  EXPECT_TRUE(absl::StartsWith(Ask(Preflight("/probe", "https://a.b")), "HTTP/1.1 405 "));
  const std::string probe =
      Ask("GET /probe HTTP/1.1\r\nHost: h\r\nOrigin: https://a.b\r\nConnection: close\r\n\r\n");
  EXPECT_TRUE(absl::EndsWith(probe, "well\n")) << probe;
  EXPECT_FALSE(absl::StrContains(probe, "Access-Control")) << probe;
  // OPTIONS of another client is no question of a browser's.
  EXPECT_TRUE(absl::StartsWith(
      Ask("OPTIONS /echo/ HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"), "HTTP/1.1 405 "));
}

// Its author sees what is wrong, and not that another site's answer may not be read.
TEST_F(HttpCors, RefusalsOfWhatIsNoPageAreReadToo) {
  StartFor("https://a.b");
  const std::string origin = "Origin: https://a.b\r\nConnection: close\r\n";
  const std::string allow = absl::StrCat(kAllow, "https://a.b\r\n");
  EXPECT_TRUE(absl::StartsWith(Ask(Preflight("/nothing", "https://a.b")), "HTTP/1.1 204 "));
  for (const auto& [request, status] :
       {std::pair(HttpPost("/nothing", "body", origin), "404"),
        {absl::StrCat("GET /echo/x HTTP/1.1\r\nHost: h\r\n", origin, "\r\n"), "405"}}) {
    const std::string answer = Ask(request);
    EXPECT_TRUE(absl::StartsWith(answer, absl::StrCat("HTTP/1.1 ", status))) << answer;
    EXPECT_TRUE(absl::StrContains(answer, allow)) << answer;
  }
  EXPECT_FALSE(
      absl::StrContains(Ask(HttpPost("/nothing", "body", "Connection: close\r\n")), kAllow));
  // What is for operators stays theirs.
  const std::string probe = Ask(HttpPost("/probe", "body", origin));
  EXPECT_TRUE(absl::StartsWith(probe, "HTTP/1.1 405 ")) << probe;
  EXPECT_FALSE(absl::StrContains(probe, kAllow)) << probe;
}

// Of a head that could not be read nobody knows whose page asked.
TEST_F(HttpCors, AHeadThatIsTooLargeIsForEverySiteOrNone) {
  const std::string large = absl::StrCat(
      "GET /echo/x HTTP/1.1\r\nHost: h\r\nOrigin: https://a.b\r\nX: ", std::string(9000, 'x'),
      "\r\n\r\n");
  StartFor("*");
  const std::string every = Ask(large);
  EXPECT_TRUE(absl::StartsWith(every, "HTTP/1.1 431 ")) << every;
  EXPECT_TRUE(absl::StrContains(every, absl::StrCat(kAllow, "*\r\n"))) << every;
  server_.reset();
  StartFor("https://a.b");
  EXPECT_FALSE(absl::StrContains(Ask(large), kAllow));
}

TEST_F(HttpCors, AnswersArePiecesToo) {
  StartFor("https://a.b");
  HttpClient client(server_->port());
  client.Send("GET /late HTTP/1.1\r\nHost: h\r\nOrigin: https://a.b\r\n\r\n");
  const Taken call = Next();
  call.reply->Begin({200, "text/event-stream", "", {}});
  EXPECT_TRUE(absl::StrContains(client.ReadUntil("\r\n\r\n"), kAllow));
}

}  // namespace
}  // namespace packrat
