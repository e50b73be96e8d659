// The HTTP server by itself: what it answers, what it refuses, and what slow clients cannot do.
#include "server/http/http_server.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/http/request_reader.h"
#include "tests/server/gate.h"
#include "tests/server/http/http_client.h"
#include "tests/server/short_folder.h"

namespace packrat {
namespace {

using std::chrono::milliseconds;

constexpr char kGet[] = "GET /page HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";

class Http : public testing::Test {
 protected:
  Http() : log_(Logger::Format::kText, [](const std::string&) {}) {
    options_.address = "127.0.0.1:0";
  }

  void Start() {
    auto started =
        HttpServer::Start(options_,
                          {{"/page", "GET", AtOnce([](const HttpRequest&) {
                              return HttpAnswer{200, "text/x", "text\n"};
                            })},
                           {"/large", "GET", AtOnce([](const HttpRequest&) {
                              return HttpAnswer{200, "text/x", std::string(100 << 20, 'x')};
                            })},
                           {"/post", "POST", AtOnce([](const HttpRequest& r) {
                              return HttpAnswer{200, "text/x", r.method + r.path};
                            })}},
                          &log_);
    ASSERT_TRUE(started.ok()) << started.status();
    server_ = *std::move(started);
  }
  std::string Ask(const std::string& request) { return HttpClient(server_->port()).Ask(request); }

  Logger log_;
  HttpServer::Options options_;
  std::unique_ptr<HttpServer> server_;
};

TEST_F(Http, Answers) {
  Start();
  EXPECT_EQ(WithoutDate(Ask(kGet)),
            "HTTP/1.1 200 OK\r\nContent-Type: text/x\r\nContent-Length: 5\r\nConnection: close\r\n"
            "\r\ntext\n");
  const std::string head = Ask("HEAD /page HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
  EXPECT_TRUE(absl::StrContains(head, "Content-Length: 5\r\n")) << head;
  EXPECT_TRUE(absl::EndsWith(head, "\r\n\r\n")) << head;
  EXPECT_TRUE(absl::StartsWith(Ask("GET /page HTTP/1.0\r\n\r\n"), "HTTP/1.0 200 OK\r\n"));
  EXPECT_TRUE(absl::EndsWith(
      Ask("GET http://h:80/page?a=b HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"), "text\n"));
  EXPECT_TRUE(absl::EndsWith(Ask("POST /post?x HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n"
                                 "Connection: close\r\n\r\nabc"),
                             "POST/post"));
}

TEST_F(Http, SaysWhatItHasNot) {
  Start();
  const auto none = Ask("GET /pag?q HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
  EXPECT_TRUE(absl::StartsWith(none, "HTTP/1.1 404 ")) << none;
  EXPECT_TRUE(absl::EndsWith(none, "\r\n\r\nthere is no /pag here, which GET asks for\n")) << none;
  const auto far = Ask(absl::StrCat("GET /", std::string(5000, 'x'),
                                    " HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"));
  EXPECT_TRUE(absl::StartsWith(far, "HTTP/1.1 404 ")) << far;
  EXPECT_LT(far.size(), 500u);
  const auto post = Ask("DELETE /page HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
  EXPECT_TRUE(absl::StartsWith(post, "HTTP/1.1 405 ")) << post;
  EXPECT_TRUE(absl::StrContains(post, "Allow: GET, HEAD\r\n")) << post;
  EXPECT_TRUE(absl::EndsWith(post, "/page takes GET, HEAD and not DELETE\n")) << post;
  EXPECT_TRUE(absl::StrContains(Ask("HEAD /post HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"),
                                "Allow: POST\r\n"));
}

TEST_F(Http, KeepsConnections) {
  Start();
  HttpClient client(server_->port());
  for (int i = 0; i < 3; ++i) {
    client.Send("GET /page HTTP/1.1\r\nHost: h\r\n\r\n");
    EXPECT_TRUE(absl::StartsWith(client.ReadUntil("text\n"), "HTTP/1.1 200 ")) << i;
  }
  // Sent together, answered in turn.
  const std::string two = client.Ask(absl::StrCat("GET /page HTTP/1.1\r\nHost: h\r\n\r\n", kGet));
  EXPECT_TRUE(absl::StrContains(two, "text\nHTTP/1.1 200 OK\r\n")) << two;
}

TEST_F(Http, RefusesWhatIsTooLargeOrWrong) {
  Start();
  const std::string get = "GET /page HTTP/1.1\r\nHost: h\r\n";
  EXPECT_TRUE(absl::StartsWith(Ask("\x16\x03\x01 what\r\n\r\n"), "HTTP/1.1 400 "));
  EXPECT_TRUE(absl::StartsWith(Ask(absl::StrCat(get, "no colon\r\n\r\n")), "HTTP/1.1 400 "));
  const std::string fits = absl::StrCat("X: ", std::string(8000, 'x'), "\r\n");
  EXPECT_TRUE(
      absl::StartsWith(Ask(absl::StrCat(get, fits, "Connection: close\r\n\r\n")), "HTTP/1.1 200 "));
  EXPECT_TRUE(absl::StartsWith(Ask(absl::StrCat(get, fits, "Y: ", std::string(1000, 'y'))),
                               "HTTP/1.1 431 "));
  EXPECT_TRUE(absl::StartsWith(
      Ask(absl::StrCat(get, "Content-Length: 1025\r\n\r\n", std::string(1025, 'x'))),
      "HTTP/1.1 413 "));
  EXPECT_TRUE(absl::StartsWith(Ask(absl::StrCat(get, "Content-Length: 99999999999\r\n\r\n")),
                               "HTTP/1.1 413 "));
}

// As RFC 9112 wants it; probes of HTTP/1.0 send none.
TEST_F(Http, WantsOneHost) {
  Start();
  const std::string none = Ask("GET /page HTTP/1.1\r\nConnection: close\r\n\r\n");
  EXPECT_TRUE(absl::StartsWith(none, "HTTP/1.1 400 ")) << none;
  EXPECT_TRUE(absl::StrContains(none, "Host is missing")) << none;
  for (const char* version : {"1.0", "1.1"}) {
    const std::string get = absl::StrCat("GET /page HTTP/", version, "\r\nHost: h\r\n");
    const std::string two = Ask(absl::StrCat(get, "Connection: close\r\nhost: h\r\n\r\n"));
    EXPECT_TRUE(absl::StartsWith(two, "HTTP/1.1 400 ")) << two;
    EXPECT_TRUE(absl::StrContains(two, "Host is there twice")) << two;
    EXPECT_TRUE(absl::EndsWith(Ask(absl::StrCat(get, "Connection: close\r\n\r\n")), "text\n"));
  }
  EXPECT_TRUE(absl::EndsWith(Ask("GET /page HTTP/1.0\r\n\r\n"), "text\n"));
  EXPECT_TRUE(
      absl::EndsWith(Ask("GET /page HTTP/1.1\r\nHost:\r\nConnection: close\r\n\r\n"), "text\n"));
}

TEST_F(Http, KnowsNoRanges) {
  Start();
  std::string ranges = "Range: bytes=0-1";
  for (int i = 0; i < 2000; ++i) ranges += ",0-";
  const std::string answer = Ask(
      absl::StrCat("GET /page HTTP/1.1\r\nHost: h\r\n", ranges, "\r\nConnection: close\r\n\r\n"));
  EXPECT_TRUE(absl::StartsWith(answer, "HTTP/1.1 200 ")) << answer;
  EXPECT_TRUE(absl::EndsWith(answer, "\r\n\r\ntext\n")) << answer;
}

TEST_F(Http, EndsSilence) {
  options_.idle = milliseconds(50);
  Start();
  EXPECT_EQ(HttpClient(server_->port()).ReadAll(), "");
}

TEST_F(Http, GivesAWholeRequestItsTimeAndNoMore) {
  options_.request = milliseconds(200);
  Start();
  HttpClient client(server_->port());
  ASSERT_TRUE(client.Send("GET /page HTTP/1.1\r\nHost: h\r\nX: "));
  // Each byte comes well within the time; together they do not.
  EXPECT_TRUE(Eventually([&] {
    absl::SleepFor(absl::Milliseconds(5));
    return !client.Send("x");
  }));
}

TEST_F(Http, EndsAnswersThatNobodyReads) {
  options_.answer = milliseconds(100);
  Start();
  HttpClient client(server_->port());
  client.Send("GET /large HTTP/1.1\r\nHost: h\r\n\r\n");
  client.ReadUntil("\r\n\r\n");
  // Others are served while it waits.
  EXPECT_TRUE(absl::StartsWith(Ask(kGet), "HTTP/1.1 200 "));
  absl::SleepFor(absl::Milliseconds(300));
  EXPECT_LT(client.ReadAll().size(), 100u << 20);
}

TEST_F(Http, AThousandSilentConnectionsKeepNobodyOut) {
  options_.max_connections = 300;
  Start();
  std::vector<std::unique_ptr<HttpClient>> silent;
  for (int i = 0; i < 1000; ++i) {
    silent.push_back(std::make_unique<HttpClient>(server_->port()));
    silent.back()->Send(i % 2 == 0 ? "" : "GET /page HTTP/1.1\r\nHost: h\r\nX: ");
    if (i % 100 == 99) {
      EXPECT_TRUE(absl::StartsWith(Ask(kGet), "HTTP/1.1 200 ")) << i;
    }
  }
  // The oldest have been closed.
  EXPECT_EQ(silent[0]->ReadAll(), "");
}

TEST_F(Http, WhoAsksIsKeptBeforeWhoIsSilent) {
  options_.max_connections = 10;
  Start();
  HttpClient asking(server_->port());
  std::vector<std::unique_ptr<HttpClient>> silent;
  for (int i = 0; i < 40; ++i) {
    silent.push_back(std::make_unique<HttpClient>(server_->port()));
    // Connections are taken in order: once this one is answered, the silent one is there as well.
    ASSERT_TRUE(absl::StartsWith(Ask(kGet), "HTTP/1.1 200 ")) << i;
    asking.Send("GET /page HTTP/1.1\r\nHost: h\r\n\r\n");
    ASSERT_TRUE(absl::StartsWith(asking.ReadUntil("text\n"), "HTTP/1.1 200 ")) << i;
  }
}

TEST_F(Http, EndsAtOnceWhateverClientsDo) {
  Start();
  HttpClient silent(server_->port()), trickling(server_->port()), deaf(server_->port());
  trickling.Send("GET /page HTTP/1.1\r\nHost: h\r\nX: ");
  deaf.Send("GET /large HTTP/1.1\r\nHost: h\r\n\r\n");
  deaf.ReadUntil("\r\n\r\n");
  const absl::Time start = absl::Now();
  server_.reset();
  EXPECT_LT(absl::Now() - start, absl::Seconds(5));  // Shorter than any of the times above.
  EXPECT_EQ(silent.ReadAll(), "");
}

TEST_F(Http, OverAUnixSocket) {
  const std::string path = ShortFolder() + "/h.sock";
  options_.address = "unix:" + path;
  Start();
  EXPECT_EQ(server_->port(), 0);
  EXPECT_TRUE(absl::EndsWith(HttpClient(path).Ask(kGet), "text\n"));
}

TEST_F(Http, ATakenPortIsRefused) {
  Start();
  options_.address = absl::StrCat("127.0.0.1:", server_->port());
  const auto second = HttpServer::Start(options_, {}, &log_);
  EXPECT_TRUE(absl::IsUnavailable(second.status()));
  EXPECT_EQ(second.status().message(), absl::StrCat("--http_listen: cannot listen at ",
                                                    options_.address, ": the address is taken"));
}

TEST(PathOf, FindsThePathOfATarget) {
  for (const auto& [target, path] : {std::pair("/a/b", "/a/b"),
                                     {"/a?b=/c", "/a"},
                                     {"/a#b", "/a"},
                                     {"http://h/a?b", "/a"},
                                     {"HTTPS://h", "/"},
                                     {"*", "*"}}) {
    EXPECT_EQ(PathOf(target), path) << target;
  }
}

}  // namespace
}  // namespace packrat
