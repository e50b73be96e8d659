// Answers that come later, from other threads and in pieces, and clients that do what they like
// meanwhile.
#include "server/http/http_reply.h"

#include <gtest/gtest.h>
#include <malloc.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tests/server/http/http_replies.h"

namespace packrat {
namespace {

HttpAnswer Head() { return {200, "text/event-stream", "", {{"X-B", "b\r\nX-C: no"}}}; }

TEST_F(HttpReplies, ComeInPieces) {
  Start();
  HttpClient client(server_->port());
  client.Send(kGet);
  const Taken call = Next();
  EXPECT_TRUE(absl::StartsWith(call.request.peer, "ipv4:127.0.0.1:")) << call.request.peer;
  call.reply->Begin(Head());
  // Each is there before the next is made, and an empty one does not end the body.
  EXPECT_EQ(WithoutDate(client.ReadUntil("\r\n\r\n")),
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nX-B: b\r\n"
            "Transfer-Encoding: chunked\r\n\r\n");
  EXPECT_TRUE(call.Write("one"));
  EXPECT_EQ(client.ReadUntil("one\r\n"), "3\r\none\r\n");
  EXPECT_TRUE(call.Write(""));
  EXPECT_TRUE(call.Write("0123456789abcdef"));
  EXPECT_EQ(client.ReadUntil("ef\r\n"), "10\r\n0123456789abcdef\r\n");
  std::atomic<bool> done{false};
  call.reply->End("end", [&done](bool ok) { done = ok; });
  EXPECT_EQ(client.ReadUntil("0\r\n\r\n"), "3\r\nend\r\n0\r\n\r\n");
  EXPECT_TRUE(Eventually([&] { return done.load(); }));
  // The connection goes on.
  EXPECT_TRUE(absl::EndsWith(client.Ask(kProbe), "well\n"));
}

TEST_F(HttpReplies, ComeWithoutFramesToOldClients) {
  Start();
  HttpClient client(server_->port());
  client.Send("GET /late HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
  const Taken call = Next();
  call.reply->Begin(Head());
  EXPECT_TRUE(call.Write("one"));
  call.reply->End("two");
  EXPECT_EQ(WithoutDate(client.ReadAll()),
            "HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\nX-B: b\r\n"
            "Connection: close\r\n\r\nonetwo");
}

TEST_F(HttpReplies, HaveNoBodyForHead) {
  Start();
  HttpClient client(server_->port());
  client.Send("HEAD /late HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
  const Taken call = Next();
  call.reply->Begin(Head());
  EXPECT_TRUE(call.Write("one"));
  call.reply->End("two");
  EXPECT_TRUE(absl::EndsWith(client.ReadAll(), "\r\n\r\n"));
}

TEST_F(HttpReplies, WaitForSlowReaders) {
  Start();
  HttpClient client(server_->port());
  client.Send("GET /late HTTP/1.0\r\n\r\n");
  const Taken call = Next();
  call.reply->Begin(Head());
  // 512 MB, far more than all buffers of the system hold.
  constexpr int kPieces = 8192;
  const std::string piece(65536, 'x');
  std::atomic<int> written{0};
  std::function<void()> write = [&] {
    call.reply->Write(piece, [&](bool ok) {
      ASSERT_TRUE(ok);
      ++written < kPieces ? write() : call.reply->End();
    });
  };
  write();
  int last = -1;
  EXPECT_TRUE(Eventually([&] {
    absl::SleepFor(absl::Milliseconds(100));
    return std::exchange(last, written.load()) == written.load();
  }));
  EXPECT_LT(written.load(), kPieces);
  EXPECT_TRUE(absl::EndsWith(Ask(kProbe), "well\n"));
  const size_t head = client.ReadUntil("\r\n\r\n").size();
  EXPECT_GT(head, 0u);
  EXPECT_EQ(client.ReadAll().size(), piece.size() * kPieces);
}

// Of the server's own; what the system keeps of a socket is not in it.
TEST_F(HttpReplies, CostLittleMemory) {
  Start();
  constexpr int kStreams = 400;
  std::vector<std::unique_ptr<HttpClient>> clients;
  std::vector<Taken> calls;
  const auto open = [&] {
    clients.push_back(std::make_unique<HttpClient>(server_->port()));
    clients.back()->Send(kGet);
    calls.push_back(Next());
    calls.back().reply->Begin(Head());
    EXPECT_TRUE(calls.back().Write("data: x\n\n"));
    calls.back().request = {};
  };
  for (int i = 0; i < 20; ++i) open();
  const size_t before = mallinfo2().uordblks;
  for (int i = 0; i < kStreams; ++i) open();
  const size_t each = (mallinfo2().uordblks - before) / kStreams;
  std::printf("%zu bytes a stream\n", each);
  EXPECT_LT(each, 8192u);
}

TEST_F(HttpReplies, TellThatTheClientIsGone) {
  Start();
  for (const bool begun : {false, true}) {
    for (const bool reset : {false, true}) {
      HttpClient client(server_->port());
      client.Send(kGet);
      const Taken call = Next();
      if (begun) call.reply->Begin(Head());
      if (begun) client.ReadUntil("\r\n\r\n");
      std::atomic<int> gone{0};
      call.reply->OnGone([&gone] { ++gone; });
      reset ? client.Reset() : client.Close();
      // Though nothing is written.
      EXPECT_TRUE(Eventually([&] { return gone > 0; })) << begun << reset;
      if (!begun) call.reply->Begin(Head());
      EXPECT_TRUE(Eventually([&] { return !call.Write("x"); }));
      EXPECT_EQ(gone, 1);
      // Also who asks later.
      std::atomic<bool> late{false};
      call.reply->OnGone([&late] { late = true; });
      EXPECT_TRUE(late);
    }
  }
  EXPECT_TRUE(Eventually([&] { return server_->open_connections() == 0; }));
}

TEST_F(HttpReplies, ReachWhoHasClosedItsDirection) {
  Start();
  HttpClient client(server_->port());
  // The second has no handler that waits, and is answered too.
  client.Send(absl::StrCat(kGet, "GET /probe HTTP/1.1\r\nHost: h\r\n\r\n"));
  const Taken call = Next();
  std::atomic<bool> gone{false};
  call.reply->OnGone([&gone] { gone = true; });
  client.HalfClose();
  EXPECT_TRUE(Eventually([&] { return gone.load(); }));
  call.reply->Send({200, "text/x", "late\n", {}});
  const std::string answers = client.ReadAll();
  EXPECT_TRUE(absl::StrContains(answers, "late\nHTTP/1.1 200")) << answers;
  EXPECT_TRUE(absl::EndsWith(answers, "\r\n\r\nwell\n")) << answers;
}

TEST_F(HttpReplies, AreMadeByTheServerIfNobodyElseDoes) {
  Start();
  EXPECT_TRUE(absl::StartsWith(Ask("GET /drop HTTP/1.1\r\nHost: h\r\n\r\n"), "HTTP/1.1 500 "));
  HttpClient client(server_->port());
  client.Send(kGet);
  {
    const Taken call = Next();
    call.reply->Begin(Head());
    EXPECT_TRUE(call.Write("one"));
  }
  // Without its end.
  EXPECT_FALSE(absl::EndsWith(client.ReadAll(), "0\r\n\r\n"));
}

TEST_F(HttpReplies, CanBeCut) {
  Start();
  HttpClient client(server_->port());
  client.Send("GET /late HTTP/1.0\r\n\r\n");
  const Taken call = Next();
  std::atomic<bool> gone{false};
  call.reply->OnGone([&gone] { gone = true; });
  call.reply->Begin(Head());
  EXPECT_TRUE(call.Write("one"));
  client.ReadUntil("one");
  call.reply->Cut();
  EXPECT_TRUE(Eventually([&] { return gone.load(); }));
  EXPECT_FALSE(call.Write("two"));
  EXPECT_EQ(client.ReadAll(), "");
}

TEST_F(HttpReplies, ComeInTheOrderOfTheirRequests) {
  Start();
  HttpClient client(server_->port());
  client.Send(HttpPost("/late", "first") + HttpPost("/late", "second") + kProbe);
  const Taken first = Next();
  EXPECT_EQ(first.request.body, "first");
  EXPECT_TRUE(absl::EndsWith(Ask(kProbe), "well\n"));
  EXPECT_TRUE(NoneWaits());  // It is not begun before the first is answered.
  first.reply->Send({200, "text/x", "1\n", {}});
  const Taken second = Next();
  EXPECT_EQ(second.request.body, "second");
  second.reply->Send({200, "text/x", "2\n", {}});
  const std::string answers = client.ReadAll();
  EXPECT_TRUE(absl::StrContains(answers, "\r\n\r\n1\nHTTP/1.1 200 OK")) << answers;
  EXPECT_TRUE(absl::StrContains(answers, "\r\n\r\n2\nHTTP/1.1 200 OK")) << answers;
  EXPECT_TRUE(absl::EndsWith(answers, "well\n")) << answers;
}

TEST_F(HttpReplies, SurviveTheServer) {
  Start();
  std::vector<std::unique_ptr<HttpClient>> clients;
  std::vector<Taken> calls;
  std::atomic<int> gone{0};
  for (int i = 0; i < 3; ++i) {
    clients.push_back(std::make_unique<HttpClient>(server_->port()));
    clients.back()->Send(kGet);
    calls.push_back(Next());
    calls.back().reply->OnGone([&gone] { ++gone; });
    if (i > 0) calls.back().reply->Begin(Head());
  }
  server_.reset();
  EXPECT_EQ(gone, 3);
  for (const Taken& call : calls) EXPECT_FALSE(call.Write("x"));
  calls[1].reply->Cut();
}

TEST_F(HttpReplies, LeaveRoomForProbes) {
  options_.max_connections = 32;
  Start();
  std::vector<std::unique_ptr<HttpClient>> clients;
  std::vector<Taken> calls;
  for (int i = 0; i < 30; ++i) {
    clients.push_back(std::make_unique<HttpClient>(server_->port()));
    clients.back()->Send(kGet);
    calls.push_back(Next());
  }
  const std::string refused = Ask(kGet);
  EXPECT_TRUE(absl::StartsWith(refused, "HTTP/1.1 503 ")) << refused;
  EXPECT_TRUE(absl::StrContains(refused, "Retry-After: 1\r\n")) << refused;
  // Silent clients neither end what is being answered nor keep probes out.
  std::vector<std::unique_ptr<HttpClient>> silent;
  for (int i = 0; i < 50; ++i) silent.push_back(std::make_unique<HttpClient>(server_->port()));
  EXPECT_TRUE(absl::EndsWith(Ask(kProbe), "well\n"));
  for (int i = 0; i < 30; ++i) {
    calls[i].reply->Send({200, "text/x", "late\n", {}});
    EXPECT_TRUE(absl::EndsWith(clients[i]->ReadUntil("late\n"), "late\n")) << i;
  }
  HttpClient next(server_->port());
  next.Send(kGet);
  Next();
}

TEST_F(HttpReplies, AreTheLastOnceClientsAreDismissed) {
  Start();
  HttpClient client(server_->port());
  client.Send(kGet);
  const Taken call = Next();
  call.reply->Begin(Head());
  client.ReadUntil("\r\n\r\n");
  server_->Dismiss();
  EXPECT_TRUE(call.Write("one"));
  call.reply->End();
  EXPECT_TRUE(absl::EndsWith(client.ReadUntil("0\r\n\r\n"), "one\r\n0\r\n\r\n"));
  const std::string probe = client.Ask("GET /probe HTTP/1.1\r\nHost: h\r\n\r\n");
  EXPECT_TRUE(absl::StrContains(probe, "Connection: close\r\n")) << probe;
}

TEST_F(HttpReplies, KnowTheHeadersOfTheRequest) {
  Start();
  HttpClient client(server_->port());
  client.Send(
      "GET /late?q HTTP/1.1\r\nHost: h\r\naUTHorization: Bearer k\r\nX-A: 1\r\nX-a: 2\r\n\r\n");
  const Taken call = Next();
  EXPECT_EQ(call.request.path, "/late");
  EXPECT_EQ(call.request.Header("Authorization"), "Bearer k");
  EXPECT_EQ(call.request.Header("x-a"), "");  // Neither of two counts.
  EXPECT_EQ(call.request.Header("x-b"), "");
}

TEST_F(HttpReplies, AreCountedByPathAndStatus) {
  Mutex mutex;
  std::map<std::pair<std::string, int>, int> counts;
  options_.on_answer = [&](const std::string& path, int status) {
    MutexLock lock(&mutex);
    ++counts[{path, status}];
  };
  Start();
  Ask(kProbe);
  Ask(HttpPost("/echo/", "body", "Connection: close\r\n"));
  Ask("GET /nothing HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
  Ask("no request\r\n\r\n");
  Ask(HttpPost("/echo/a", std::string(9001, 'x')));
  HttpClient client(server_->port());
  client.Send(kGet);
  const Taken call = Next();
  call.reply->Begin({200, "text/event-stream", "", {}});
  EXPECT_TRUE(call.Write("one"));
  call.reply->End();
  client.ReadUntil("0\r\n\r\n");
  MutexLock lock(&mutex);
  const std::map<std::pair<std::string, int>, int> expected = {
      {{"/probe", 200}, 1}, {{"/echo/*", 200}, 1}, {{"", 404}, 1},
      {{"", 400}, 1},       {{"/echo/*", 413}, 1}, {{"/late", 200}, 1}};
  EXPECT_EQ(counts, expected);
  EXPECT_EQ(server_->taken_connections(), 6);
  EXPECT_EQ(server_->refused_connections(), 0);
}

}  // namespace
}  // namespace packrat
