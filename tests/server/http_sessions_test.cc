// Sessions as bytes over HTTP: those that gRPC has, whole, cut, and from clients that stand still.
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/server/generate.h"
#include "tests/server/http_api.h"

namespace packrat {
namespace {

std::string HeaderOf(const Answer& answer, const std::string& name) {
  for (absl::string_view line : absl::StrSplit(answer.head, "\r\n")) {
    if (absl::ConsumePrefix(&line, name + ": ")) return std::string(line);
  }
  return "";
}

TEST(HttpSessions, MovesSessionsAsBytes) {
  static constexpr char kBytes[] = "Content-Type: application/octet-stream\r\n";
  static constexpr char kSave[] = "/packrat/v1/SaveSession";
  static constexpr char kLoad[] = "/packrat/v1/LoadSession";
  TestServer server(WithTokenizer()), other(WithTokenizer());
  const std::string handle = Post(server, "/packrat/v1/CreateSession", "{}").json()["session"];
  const std::string ask = absl::StrCat(R"({"session":")", handle, R"("})");
  v1::GenerateRequest turn = Ids(std::vector<int32_t>(40, 5), 20);
  turn.set_session(handle);
  ASSERT_TRUE(Generate(StubFor(server).get(), turn).status.ok());

  const Answer saved = Post(server, kSave, ask);
  ASSERT_EQ(saved.status, 200) << saved.body;
  EXPECT_TRUE(saved.whole);
  EXPECT_EQ(HeaderOf(saved, "X-Saved-Bytes"), absl::StrCat(saved.body.size()));
  EXPECT_EQ(HeaderOf(saved, "X-Saved-Tokens"), "60");
  EXPECT_EQ(HeaderOf(saved, "X-Saved-State-Tokens"), "59");
  // What gRPC saves, and takes.
  grpc::ClientContext context;
  v1::SaveSessionRequest request;
  request.set_session(handle);
  auto reader = StubFor(server)->SaveSession(&context, request);
  std::string bytes;
  for (v1::SaveSessionResponse message; reader->Read(&message);) bytes += message.data();
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(saved.body, bytes);

  const Answer loaded = Post(other, kLoad, bytes, absl::StrCat(kBytes, "X-Session-Ttl: 100\r\n"));
  ASSERT_EQ(loaded.status, 200) << loaded.body;
  EXPECT_EQ(loaded.json()["state_tokens"], 59);
  EXPECT_EQ(loaded.json()["session"]["tokens"], 60);
  EXPECT_EQ(loaded.json()["session"]["ttl_seconds"], 100.0);

  EXPECT_EQ(Post(server, kSave, R"({"session":"none"})").status, 404);
  EXPECT_EQ(Post(other, kLoad, bytes).status, 415);
  EXPECT_EQ(Post(other, kLoad, bytes.substr(0, 100), kBytes).json()["code"], 15);  // DATA_LOSS
  EXPECT_EQ(Post(other, kLoad, "", kBytes).json()["code"], 15);
  for (const char* header : {"X-Session-Ttl: soon\r\n", "X-Session-Ttl: -1\r\n"}) {
    EXPECT_EQ(Post(other, kLoad, bytes, absl::StrCat(kBytes, header)).json()["code"], 3) << header;
  }
  const std::string salt = absl::StrCat(kBytes, "X-Cache-Salt: ", std::string(300, 's'), "\r\n");
  EXPECT_EQ(Post(other, kLoad, bytes, salt).json()["code"], 3);
  EXPECT_TRUE(Eventually([&] { return other.AccessLines("LoadSession") == 7; }));
  for (const TestServer* one : {&server, &other}) {
    EXPECT_TRUE(Eventually([&] {
      return one->Metric("packrat_session_transfer_bytes{") == 0 &&
             one->Metric("packrat_streams_open{") == 0;
    }));
  }
}

constexpr char kHead[] =
    "POST /packrat/v1/LoadSession HTTP/1.1\r\nHost: h\r\nConnection: close\r\n"
    "Content-Type: application/octet-stream\r\n";

// A session of 60 tokens, of that server.
std::string SavedBytes(TestServer& server) {
  const std::string handle = Post(server, "/packrat/v1/CreateSession", "{}").json()["session"];
  v1::GenerateRequest turn = Ids(std::vector<int32_t>(40, 5), 20);
  turn.set_session(handle);
  EXPECT_TRUE(Generate(StubFor(server).get(), turn).status.ok());
  return Post(server, "/packrat/v1/SaveSession", absl::StrCat(R"({"session":")", handle, R"("})"))
      .body;
}

TEST(HttpSessions, AreTakenAsTheyCome) {
  TestServer server(WithTokenizer());
  const std::string bytes = SavedBytes(server);
  HttpClient pieces(server.server().http_port());
  pieces.Send(absl::StrCat(kHead, "Transfer-Encoding: chunked\r\n\r\n"));
  for (size_t at = 0; at < bytes.size(); at += 1000) {
    const std::string piece = bytes.substr(at, 1000);
    ASSERT_TRUE(pieces.Send(absl::StrCat(absl::Hex(piece.size()), "\r\n", piece, "\r\n")));
  }
  const Answer loaded = Read(pieces.Ask("0\r\n\r\n"));
  ASSERT_EQ(loaded.status, 200) << loaded.body;
  EXPECT_EQ(loaded.json()["state_tokens"], 59);

  // Its memory is held from its first bytes on, and none of it among the bodies of requests.
  {
    HttpClient leaves(server.server().http_port());
    leaves.Send(absl::StrCat(kHead, "Content-Length: ", bytes.size(), "\r\n\r\n",
                             bytes.substr(0, bytes.size() - 1)));
    EXPECT_TRUE(Eventually([&] {
      return server.Metric("packrat_session_transfer_bytes{") >= static_cast<double>(bytes.size());
    }));
    EXPECT_EQ(server.Metric("packrat_http_body_bytes{"), 0);
    EXPECT_TRUE(Eventually([&] { return server.Metric("packrat_streams_open{") == 1; }));
  }
  EXPECT_TRUE(Eventually([&] { return server.AccessLines("did not come to its end") == 1; }));
  EXPECT_TRUE(Eventually([&] {
    return server.Metric("packrat_session_transfer_bytes{") == 0 &&
           server.Metric("packrat_streams_open{") == 0;
  }));
  EXPECT_EQ(server.AccessLines("LoadSession"), 2);
}

// With a state that is larger than what all such calls may hold, and is read no faster than its
// pieces find their place.
TEST(HttpSessions, GoAndComeInPieces) {
  constexpr int64_t kLimit = 96 << 10;
  TestServer::Options options = WithTokenizer();
  options.server.message_bytes = 4 * kLimit;
  options.model.max_context = 6000;
  TestServer server(options), other(options);
  const std::string handle = Post(server, "/packrat/v1/CreateSession", "{}").json()["session"];
  v1::GenerateRequest turn = Ids(std::vector<int32_t>(5000, 5), 20);
  turn.set_session(handle);
  ASSERT_TRUE(Generate(StubFor(server).get(), turn).status.ok());
  const Answer saved =
      Post(server, "/packrat/v1/SaveSession", absl::StrCat(R"({"session":")", handle, R"("})"));
  ASSERT_EQ(saved.status, 200) << saved.body;
  EXPECT_TRUE(saved.whole);
  EXPECT_EQ(HeaderOf(saved, "X-Saved-Bytes"), absl::StrCat(saved.body.size()));
  ASSERT_GT(static_cast<int64_t>(saved.body.size()), 2 * kLimit);
  const std::string head = absl::StrCat(kHead, "Content-Length: ", saved.body.size(), "\r\n\r\n");
  const auto load = [&](const std::string& bytes) {
    HttpClient client(other.server().http_port());
    return Read(client.Ask(absl::StrCat(head, bytes)));
  };
  const auto nothing_held = [&] {
    return other.Metric("packrat_session_transfer_bytes{") == 0 &&
           other.Metric("packrat_streams_open{") == 0 &&
           other.Metric("packrat_state_cached_bytes") == 0;
  };
  {
    HttpClient leaves(other.server().http_port());
    leaves.Send(absl::StrCat(head, saved.body.substr(0, saved.body.size() - 1)));
    EXPECT_TRUE(Eventually([&] { return other.Metric("packrat_state_cached_bytes") > 0; }));
  }
  EXPECT_TRUE(Eventually(nothing_held));
  std::string damaged = saved.body;
  damaged.back() ^= 1;
  EXPECT_EQ(load(damaged).json()["code"], 15);
  EXPECT_TRUE(Eventually(nothing_held));
  const Answer loaded = load(saved.body);
  ASSERT_EQ(loaded.status, 200) << loaded.body;
  EXPECT_EQ(loaded.json()["state_tokens"], 5019);
  EXPECT_GT(other.Metric("packrat_state_cached_bytes"), 0);
}

// Before the rest of it comes, and what is refused at once before any of it.
TEST(HttpSessions, WhatCannotBeLoadedIsRefusedEarly) {
  TestServer server(WithTokenizer());
  const std::string bytes = SavedBytes(server);
  const auto answer = [&](const std::string& headers, const std::string& begin) {
    HttpClient client(server.server().http_port());
    return Read(client.Ask(absl::StrCat(kHead, headers, "\r\n", begin)));
  };
  const std::string length = "Content-Length: 1000000\r\n";
  EXPECT_EQ(answer(length, std::string(100, 'x')).json()["code"], 15);  // DATA_LOSS
  EXPECT_EQ(answer(length, bytes + "x").json()["code"], 15);
  // Nor is memory taken for what a client only announces.
  const std::string far = "Content-Length: 500000000000\r\n";
  EXPECT_EQ(answer(far, bytes + "x").json()["code"], 15);
  const std::string asks = absl::StrCat(length, "Expect: 100-continue\r\n");
  for (const char* ttl : {"soon", "0", "3601"}) {
    EXPECT_EQ(answer(absl::StrCat(asks, "X-Session-Ttl: ", ttl, "\r\n"), "").status, 400) << ttl;
  }
  EXPECT_EQ(answer(absl::StrCat(asks, "X-Cache-Salt: ", std::string(300, 's'), "\r\n"), "").status,
            400);
  EXPECT_EQ(answer(absl::StrCat(asks, "X-Request-Timeout: soon\r\n"), "").status, 400);
  const Answer large = answer("Content-Length: 1000000000000\r\n", "");
  EXPECT_EQ(large.status, 413) << large.body;
  EXPECT_TRUE(Eventually([&] { return server.AccessLines("LoadSession") == 8; }));
  EXPECT_EQ(server.Metric("packrat_session_transfer_bytes{"), 0);
  // Places are given back after the log has the line.
  EXPECT_TRUE(Eventually([&] { return server.Metric("packrat_streams_open{") == 0; }));
}

// It holds the session's bytes until then.
TEST(HttpSessions, DropsWhoDoesNotTakeASession) {
  TestServer::Options options = LongTexts();
  options.model.max_context = 2000000;  // More than the system keeps for a client.
  options.server.stream_idle_timeout = absl::Milliseconds(200);
  TestServer server(options);
  const std::string handle = Post(server, "/packrat/v1/CreateSession", "{}").json()["session"];
  v1::GenerateRequest turn = Ids(std::vector<int32_t>(1900000, 5), 1);
  turn.set_session(handle);
  ASSERT_TRUE(Generate(StubFor(server).get(), turn).status.ok());
  HttpClient client(server.server().http_port());
  client.Send(HttpPost("/packrat/v1/SaveSession", absl::StrCat(R"({"session":")", handle, R"("})"),
                       kJsonType));
  EXPECT_TRUE(absl::StrContains(client.ReadUntil("\r\n\r\n"), "200 OK"));
  EXPECT_TRUE(Eventually([&] { return server.AccessLines("stood still") == 1; }));
  EXPECT_EQ(server.Metric("packrat_session_transfer_bytes{"), 0);
}

}  // namespace
}  // namespace packrat
