// Bodies of requests over HTTP: in any pieces, with limits, and from clients that are slow.
#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tests/server/http/http_replies.h"

namespace packrat {
namespace {

using HttpBodies = HttpReplies;

TEST_F(HttpBodies, TakeBodiesThatComeInAnyPieces) {
  Start();
  const std::string end = "/echo/x v body\nof two lines";
  const std::string whole =
      HttpPost("/echo/x", "body\nof two lines", "X-A: v\r\nConnection: close\r\n");
  const std::string chunked = absl::StrCat(
      "POST /echo/x HTTP/1.1\r\nHost: h\r\nX-A: v\r\nConnection: close\r\nTransfer-Encoding: "
      "chunked\r\n\r\n",
      "5;what=so\r\nbody\n\r\n", "C\r\nof two lines\r\n", "0\r\nX-A: trailer\r\n\r\n");
  for (const std::string& request : {whole, chunked}) {
    EXPECT_TRUE(absl::EndsWith(Ask(request), end)) << request;
    HttpClient slow(server_->port());
    for (const char byte : request) ASSERT_TRUE(slow.Send(std::string(1, byte)));
    EXPECT_TRUE(absl::EndsWith(slow.ReadAll(), end)) << request;
    // Cut anywhere, it has an answer that says so.
    for (size_t cut = 1; cut < request.size(); ++cut) {
      HttpClient client(server_->port());
      client.Send(request.substr(0, cut));
      client.HalfClose();
      ASSERT_TRUE(absl::StartsWith(client.ReadAll(), "HTTP/1.1 400 ")) << request.substr(0, cut);
    }
  }
  EXPECT_TRUE(Eventually([&] { return server_->body_bytes() == 0; }));
}

TEST_F(HttpBodies, HaveALimitOfBodiesForEachRoute) {
  Start();
  const std::string fits(9000, 'x');
  EXPECT_TRUE(absl::EndsWith(Ask(HttpPost("/echo/", fits, "Connection: close\r\n")), fits));
  EXPECT_TRUE(absl::StartsWith(Ask(HttpPost("/echo/", fits + "x")), "HTTP/1.1 413 "));
  EXPECT_TRUE(absl::StartsWith(
      Ask("POST /echo/ HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2329\r\n"),
      "HTTP/1.1 413 "));
  EXPECT_TRUE(absl::StartsWith(
      Ask("POST /echo/ HTTP/1.1\r\nHost: h\r\nContent-Length: 18446744073709551615\r\n\r\n"),
      "HTTP/1.1 413 "));
  // Not what a chunk says beside its length either.
  EXPECT_TRUE(absl::StartsWith(
      Ask(absl::StrCat("POST /echo/ HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1;",
                       std::string(9000, 'y'))),
      "HTTP/1.1 400 "));
}

TEST_F(HttpBodies, AreNotUnpacked) {
  Start();
  for (const char* coding : {"gzip", "x-gzip", "br", "identity, gzip"}) {
    for (const char* twice : {"", "Content-Encoding: identity\r\n"}) {
      const std::string answer = Ask(HttpPost(
          "/echo/", "\x1f\x8b", absl::StrCat("Content-Encoding: ", coding, "\r\n", twice)));
      EXPECT_TRUE(absl::StartsWith(answer, "HTTP/1.1 415 ")) << answer;
      EXPECT_TRUE(absl::StrContains(
          answer, absl::StrCat("the header Content-Encoding is ", coding, "; identity alone")))
          << answer;
    }
  }
  const std::string plain = "Connection: close\r\ncontent-encoding: Identity\r\n";
  EXPECT_TRUE(absl::EndsWith(Ask(HttpPost("/echo/", "body", plain)), " body"));
  // Without a body it says nothing.
  EXPECT_TRUE(absl::EndsWith(Ask("GET /probe HTTP/1.1\r\nHost: h\r\nContent-Encoding: gzip\r\n"
                                 "Connection: close\r\n\r\n"),
                             "well\n"));
}

TEST_F(HttpBodies, RefuseWhatTwoServersMightReadInTwoWays) {
  Start();
  const std::string post = "POST /echo/ HTTP/1.1\r\nHost: h\r\n";
  const std::string chunks = "\r\n1\r\nx\r\n0\r\n\r\n";
  for (const char* headers :
       {"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 1\r\n",
        "Content-Length: 1\r\nContent-Length: 2\r\n", "Content-Length: +1\r\n",
        "Content-Length: -1\r\n", "Content-Length: 0x1\r\n", "Content-Length : 1\r\n"}) {
    EXPECT_TRUE(absl::StartsWith(Ask(absl::StrCat(post, headers, chunks)), "HTTP/1.1 400 "))
        << headers;
  }
  EXPECT_TRUE(absl::StartsWith(Ask(absl::StrCat(post, "Transfer-Encoding: gzip\r\n", chunks)),
                               "HTTP/1.1 501 "));
  EXPECT_TRUE(absl::StartsWith(
      Ask(absl::StrCat(post, "Transfer-Encoding: chunked, gzip\r\n", chunks)), "HTTP/1.1 501 "));
  EXPECT_TRUE(absl::StartsWith(
      Ask(absl::StrCat("POST /echo/ HTTP/1.0\r\nTransfer-Encoding: chunked\r\n", chunks)),
      "HTTP/1.0 501 "));
}

TEST_F(HttpBodies, HaveALimitOfAllBodiesTogether) {
  Start();
  const std::string body(9000, 'x');
  HttpClient one(server_->port()), two(server_->port());
  one.Send(HttpPost("/late", body));
  std::vector<Taken> calls;
  calls.push_back(Next());
  two.Send(HttpPost("/late", body));
  calls.push_back(Next());
  EXPECT_EQ(server_->body_bytes(), 18000);
  const std::string refused = Ask(HttpPost("/late", body));
  EXPECT_TRUE(absl::StartsWith(refused, "HTTP/1.1 503 ")) << refused;
  EXPECT_TRUE(absl::StrContains(refused, "Retry-After: 1\r\n")) << refused;
  EXPECT_TRUE(absl::EndsWith(Ask(kProbe), "well\n"));
  // As long as the handler has it.
  calls[0].request = {};
  EXPECT_EQ(server_->body_bytes(), 9000);
  HttpClient three(server_->port());
  three.Send(HttpPost("/late", body));
  calls.push_back(Next());
  EXPECT_EQ(server_->body_bytes(), 18000);
}

TEST_F(HttpBodies, ASlowBodyMakesRoomForOthers) {
  Start();
  const std::string half = HttpPost("/echo/", std::string(9000, 'x')).substr(0, 8000);
  HttpClient slow(server_->port()), other(server_->port());
  slow.Send(half);
  other.Send(half);
  EXPECT_TRUE(Eventually([&] { return server_->body_bytes() > 15000; }));
  // Once it counts as slow.
  EXPECT_TRUE(Eventually([&] {
    return absl::StartsWith(
        Ask(HttpPost("/echo/", std::string(9000, 'y'), "Connection: close\r\n")), "HTTP/1.1 200 ");
  }));
  EXPECT_TRUE(absl::StartsWith(slow.ReadAll(), "HTTP/1.1 503 "));
}

TEST_F(HttpBodies, AskForBodiesThatWait) {
  Start();
  HttpClient client(server_->port());
  const std::string head =
      "POST /echo/ HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nConnection: "
      "close\r\nContent-Length: ";
  client.Send(head + "4\r\n\r\n");
  EXPECT_EQ(client.ReadUntil("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
  EXPECT_TRUE(absl::EndsWith(client.Ask("body"), "/echo/  body"));
  EXPECT_TRUE(absl::StartsWith(Ask(head + "4\r\n\r\nbody"), "HTTP/1.1 200 "));  // It came unasked.
  EXPECT_TRUE(absl::StartsWith(Ask(head + "9001\r\n\r\n"), "HTTP/1.1 413 "));
  EXPECT_TRUE(absl::StartsWith(
      Ask("POST /echo/ HTTP/1.1\r\nHost: h\r\nExpect: more\r\nContent-Length: 1\r\n\r\n"),
      "HTTP/1.1 417 "));
}

TEST_F(HttpBodies, GiveABodyItsTimeAndNoMore) {
  options_.body = std::chrono::milliseconds(200);
  Start();
  HttpClient client(server_->port());
  client.Send("POST /echo/ HTTP/1.1\r\nHost: h\r\nContent-Length: 9000\r\n\r\n");
  EXPECT_TRUE(Eventually([&] {
    absl::SleepFor(absl::Milliseconds(5));
    return !client.Send("x");
  }));
  HttpClient silent(server_->port());
  EXPECT_TRUE(absl::StartsWith(
      silent.Ask("POST /echo/ HTTP/1.1\r\nHost: h\r\nContent-Length: 9000\r\n\r\n"),
      "HTTP/1.1 408 "));
}

// Takes a body in pieces of 1000 bytes, for each of which the test makes room.
class PiecesUpload : public HttpUpload {
 public:
  bool Take(absl::string_view piece) override {
    bytes_ += piece.size();
    return true;
  }
  bool AwaitRoom(std::function<void()> resume) override {
    if (bytes_ < 1000) return true;
    bytes_ -= 1000;
    MutexLock lock(&mutex_);
    resume_ = std::move(resume);
    return false;
  }
  void Answer(std::shared_ptr<HttpReply> reply) override {
    reply->Send({200, "text/x", "taken", {}});
  }
  bool Waits() {
    MutexLock lock(&mutex_);
    return resume_ != nullptr;
  }
  void MakeRoom() {
    std::function<void()> resume;
    {
      MutexLock lock(&mutex_);
      resume = std::exchange(resume_, nullptr);
    }
    resume();
  }

 private:
  size_t bytes_ = 0;
  Mutex mutex_;
  std::function<void()> resume_ ABSL_GUARDED_BY(mutex_);
};

// However long each piece waits for room; once there is some, a client is waited for no longer than
// for a body.
TEST_F(HttpBodies, GiveEachPieceItsTimeOnceThereIsRoom) {
  options_.body = std::chrono::milliseconds(2000);
  Start();
  const std::string head =
      "POST /upload HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 3000\r\n\r\n";
  const std::string piece(1000, 'x');
  for (const bool silent : {false, true}) {
    const auto upload = std::make_shared<PiecesUpload>();
    upload_ = upload;
    HttpClient client(server_->port());
    client.Send(head);
    for (int i = 0; i < 2; ++i) {
      client.Send(piece);
      ASSERT_TRUE(Eventually([&] { return upload->Waits(); }));
      absl::SleepFor(absl::Milliseconds(2500));
      upload->MakeRoom();
    }
    const std::string answer = client.Ask(silent ? "" : piece);
    EXPECT_TRUE(absl::StartsWith(answer, silent ? "HTTP/1.1 408 " : "HTTP/1.1 200 ")) << answer;
  }
}

}  // namespace
}  // namespace packrat
