// gRPC's connections: how many, how old, what they may do; compressed messages.
#include <arpa/inet.h>
#include <grpcpp/client_context.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <string>
#include <thread>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/client/connection.h"
#include "tests/server/generate.h"
#include "tests/server/short_folder.h"
#include "tests/server/test_server.h"

namespace packrat {
namespace {

// HTTP/2 by hand: what a library would not do.
class RawConnection {
 public:
  struct Frame {
    int type = -1;  // -1: the server has closed.
    int flags = 0;
    std::string payload;
  };
  static constexpr int kData = 0, kHeaders = 1, kSettings = 4, kPing = 6, kGoAway = 7;

  explicit RawConnection(int port) : fd_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in to = {};
    to.sin_family = AF_INET;
    to.sin_port = htons(port);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const timeval patience = {60, 0};
    setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    EXPECT_EQ(connect(fd_, reinterpret_cast<sockaddr*>(&to), sizeof(to)), 0);
  }
  ~RawConnection() { close(fd_); }
  RawConnection(const RawConnection&) = delete;
  RawConnection& operator=(const RawConnection&) = delete;

  void Hello() {
    Send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    SendFrame(kSettings, 0, "");
  }
  // False: the server has reset the connection.
  bool SendFrame(int type, int flags, const std::string& payload, int stream = 0) {
    return Send(std::string{0, 0, static_cast<char>(payload.size()), static_cast<char>(type),
                            static_cast<char>(flags), 0, 0, 0, static_cast<char>(stream)} +
                payload);
  }
  // The headers of a call.
  void Call(const std::string& path, int stream) {
    std::string block;
    for (const std::pair<std::string, std::string>& header :
         {std::pair<std::string, std::string>{":method", "POST"},
          {":scheme", "http"},
          {":path", path},
          {":authority", "x"},
          {"content-type", "application/grpc"},
          {"te", "trailers"}}) {
      block += '\0';  // Neither part is in a table.
      block += static_cast<char>(header.first.size()) + header.first;
      block += static_cast<char>(header.second.size()) + header.second;
    }
    SendFrame(kHeaders, 4, block, stream);
  }
  Frame Next() {
    const std::string head = Receive(9);
    if (head.size() < 9) return {};
    const auto byte = [&](int i) { return static_cast<unsigned char>(head[i]); };
    Frame frame;
    frame.type = byte(3);
    frame.flags = byte(4);
    frame.payload = Receive(byte(0) << 16 | byte(1) << 8 | byte(2));
    return frame;
  }
  // The next frame of that type; -1 where the server closes before.
  Frame Next(int type) {
    for (;;) {
      Frame frame = Next();
      if (frame.type == type || frame.type == -1) return frame;
    }
  }

 private:
  bool Send(const std::string& bytes) {
    return send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL) ==
           static_cast<ssize_t>(bytes.size());
  }
  std::string Receive(size_t size) {
    std::string bytes(size, '\0');
    const ssize_t n = size == 0 ? 0 : recv(fd_, bytes.data(), size, MSG_WAITALL);
    bytes.resize(n < 0 ? 0 : n);
    return bytes;
  }

  const int fd_;
};

absl::Status Info(const std::string& address) {
  Connection connection({address});
  v1::GetModelInfoResponse info;
  return connection.GetModelInfo(&info).status;
}

TEST(Connections, BeyondTheLimitAreClosedAtOnce) {
  TestServer::Options options;
  options.server.max_connections = 2;
  TestServer server(options);
  const int port = server.server().grpc_port();
  RawConnection first(port);
  first.Hello();
  EXPECT_EQ(first.Next(RawConnection::kSettings).type, RawConnection::kSettings);
  {
    RawConnection second(port);
    second.Hello();
    EXPECT_EQ(second.Next(RawConnection::kSettings).type, RawConnection::kSettings);
    RawConnection third(port);
    third.Hello();
    EXPECT_EQ(third.Next().type, -1);
  }
  // There is room again.
  EXPECT_TRUE(Eventually([&] { return Info(server.address()).ok(); }));
  int told = 0;
  for (const std::string& line : server.log_lines()) {
    told += absl::StrContains(line, "--max_connections");
  }
  EXPECT_EQ(told, 1);
}

TEST(Connections, TellHowManyStreamsTheyTake) {
  TestServer::Options options;
  options.server.max_connection_streams = 77;
  TestServer server(options);
  RawConnection raw(server.server().grpc_port());
  raw.Hello();
  const std::string settings = raw.Next(RawConnection::kSettings).payload;
  int streams = -1;
  for (size_t i = 0; i + 6 <= settings.size(); i += 6) {
    const auto byte = [&](int k) { return static_cast<unsigned char>(settings[i + k]); };
    if (byte(0) == 0 && byte(1) == 3)
      streams = byte(4) << 8 | byte(5);  // SETTINGS_MAX_CONCURRENT_STREAMS
  }
  EXPECT_EQ(streams, 77);
}

TEST(Connections, ThatAreOldEndAndTheirStreamsDoNot) {
  TestServer::Options options;
  options.server.max_connection_age = absl::Seconds(1);
  TestServer server(options);
  server.gate().Close();
  Result result;
  std::thread call([&] { result = Generate(StubFor(server).get(), Ids({5, 6}, 20)); });
  server.gate().WaitUntilHeld();
  RawConnection raw(server.server().grpc_port());  // Younger than that of the call.
  raw.Hello();
  EXPECT_EQ(raw.Next(RawConnection::kGoAway).type, RawConnection::kGoAway);
  server.gate().Open();
  call.join();
  EXPECT_TRUE(result.status.ok()) << result.status.error_message();
  EXPECT_EQ(result.ids.size(), 20u);
}

// A client that has not read all yet may drop the rest when it meets a reset.
TEST(Connections, AreNotResetWhileTheirClientsStillSend) {
  TestServer::Options options;
  options.server.max_connection_age = absl::Seconds(1);
  TestServer server(options);
  RawConnection raw(server.server().grpc_port());
  raw.Hello();
  // GOAWAY, a ping, and when that has an answer the last GOAWAY and the end.
  for (RawConnection::Frame frame = raw.Next(); frame.type != -1; frame = raw.Next()) {
    if (frame.type != RawConnection::kPing || frame.flags != 0) continue;
    ASSERT_TRUE(raw.SendFrame(RawConnection::kPing, 1, frame.payload));
  }
  for (int i = 0; i < 10; ++i) {
    EXPECT_TRUE(raw.SendFrame(RawConnection::kPing, 0, "12345678")) << i;
    absl::SleepFor(absl::Milliseconds(10));
  }
}

TEST(Connections, OfASilentClientAreClosedNonetheless) {
  TestServer::Options options;
  options.server.max_connection_age = absl::Seconds(1);
  TestServer server(options);
  RawConnection raw(server.server().grpc_port());
  raw.Hello();
  for (RawConnection::Frame frame = raw.Next(); frame.type != -1; frame = raw.Next()) {
    if (frame.type == RawConnection::kPing) raw.SendFrame(RawConnection::kPing, 1, frame.payload);
  }
  EXPECT_TRUE(Eventually([&] { return !raw.SendFrame(RawConnection::kPing, 0, "12345678"); }));
}

TEST(Connections, AreSentAwayBeforeCallsAreRefused) {
  TestServer server;
  server.gate().Close();
  Result result;
  std::thread call([&] { result = Generate(StubFor(server).get(), Ids({5, 6}, 20)); });
  server.gate().WaitUntilHeld();
  RawConnection early(server.server().grpc_port());
  early.Hello();
  EXPECT_EQ(early.Next(RawConnection::kSettings).type, RawConnection::kSettings);
  server.server().DismissClients();
  EXPECT_EQ(early.Next(RawConnection::kGoAway).type, RawConnection::kGoAway);
  RawConnection late(server.server().grpc_port());
  late.Hello();
  EXPECT_EQ(late.Next(RawConnection::kGoAway).type, RawConnection::kGoAway);
  // Whoever is here nonetheless is served.
  EXPECT_TRUE(Info(server.address()).ok());
  server.gate().Open();
  call.join();
  EXPECT_TRUE(result.status.ok()) << result.status.error_message();
  EXPECT_EQ(result.ids.size(), 20u);
}

TEST(Connections, MayAskEveryTenSecondsWithoutACall) {
  TestServer server;
  RawConnection raw(server.server().grpc_port());
  raw.Hello();
  // Half of ten seconds and a little, since that is what is counted. One ping too often is
  // forgiven, and a second one; the third would be answered by GOAWAY.
  for (int i = 0; i < 5; ++i) {
    if (i > 0) absl::SleepFor(absl::Milliseconds(5300));
    raw.SendFrame(RawConnection::kPing, 0, "12345678");
    for (;;) {
      const RawConnection::Frame frame = raw.Next();
      ASSERT_NE(frame.type, -1) << i;
      ASSERT_NE(frame.type, RawConnection::kGoAway) << frame.payload;
      if (frame.type == RawConnection::kPing && frame.flags == 1) break;
    }
  }
}

TEST(Connections, OverAUnixSocket) {
  const std::string path = absl::StrCat("unix:", ShortFolder(), "/g.sock");
  TestServer::Options options;
  options.server.listen = path;
  TestServer server(options);
  EXPECT_EQ(server.server().grpc_port(), 0);
  EXPECT_TRUE(Info(path).ok()) << Info(path);
}

// 20 bytes that begin a message of 100.
std::string HalfAMessage() { return std::string("\0\0\0\0\x64", 5) + std::string(15, 'x'); }

const char* const kMethods[] = {"/packrat.v1.Inference/Generate",
                                "/packrat.v1.Inference/Tokenize",
                                "/packrat.v1.Inference/Detokenize",
                                "/packrat.v1.Inference/GetModelInfo",
                                "/grpc.health.v1.Health/Check",
                                "/grpc.health.v1.Health/Watch",
                                "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
                                "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"};

TEST(Calls, WhoseMessageDoesNotComeEnd) {
  TestServer::Options options;
  options.server.message_timeout = absl::Seconds(2);
  TestServer server(options);
  RawConnection raw(server.server().grpc_port());
  raw.Hello();
  int stream = -1;
  for (const char* method : kMethods) {
    raw.Call(method, stream += 2);
    raw.SendFrame(RawConnection::kData, 0, HalfAMessage(), stream);
    raw.Call(method, stream += 2);  // And nothing at all.
  }
  EXPECT_TRUE(Eventually([&] { return server.Metric("packrat_calls_unread") == 16; }));
  for (int i = 0; i < 16; ++i) {
    const std::string trailers = raw.Next(RawConnection::kHeaders).payload;
    EXPECT_TRUE(absl::StrContains(trailers,
                                  "grpc-status\x01"
                                  "4"))
        << trailers;
    EXPECT_TRUE(absl::StrContains(trailers, "--message_timeout")) << trailers;
  }
  EXPECT_EQ(server.Metric("packrat_calls_unread"), 0);
  EXPECT_EQ(server.Metric("packrat_calls_unread_ended_total"), 16);
  EXPECT_TRUE(Info(server.address()).ok());
}

// Half of what messages may hold, which is two of the largest here.
TEST(Calls, SlowMessagesHaveTheirShareOfTheMemory) {
  TestServer::Options options;
  options.server.message_bytes = int64_t{4} * options.server.max_message_bytes;
  TestServer server(options);
  RawConnection raw(server.server().grpc_port());
  raw.Hello();
  for (int stream = 1; stream <= 9; stream += 2) {
    raw.Call(kMethods[0], stream);
    raw.SendFrame(RawConnection::kData, 0, HalfAMessage(), stream);
  }
  for (int i = 0; i < 3; ++i) {
    const std::string trailers = raw.Next(RawConnection::kHeaders).payload;
    EXPECT_TRUE(absl::StrContains(trailers,
                                  "grpc-status\x01"
                                  "8"))
        << trailers;
  }
  EXPECT_EQ(server.Metric("packrat_calls_unread"), 2);
  EXPECT_EQ(server.Metric("packrat_calls_unread_ended_total"), 3);
}

// Where there is least memory for messages: the largest one is read whole, and answered.
TEST(Calls, TheLargestMessageGetsThrough) {
  TestServer::Options options;
  options.server.message_bytes = int64_t{2} * options.server.max_message_bytes;
  TestServer server(options);
  v1::TokenizeRequest request;
  request.set_text(std::string(options.server.max_message_bytes - 100, 'x'));
  v1::TokenizeResponse response;
  for (int i = 0; i < 3; ++i) {
    const auto outcome = Connection({server.address()}).Tokenize(request, &response);
    // This server has no tokenizer, which is an answer.
    EXPECT_EQ(outcome.status.code(), absl::StatusCode::kFailedPrecondition) << outcome.status;
  }
}

TEST(Calls, WhoseMessageComesSlowlyAreAnswered) {
  TestServer server;
  RawConnection raw(server.server().grpc_port());
  raw.Hello();
  raw.Call("/packrat.v1.Inference/Detokenize", 1);
  // Field 9 is unknown: 18 bytes of it.
  const std::string message = std::string("\0\0\0\0\x14\x4a\x12", 7) + std::string(18, 'x');
  for (const char byte : message) {
    absl::SleepFor(absl::Milliseconds(20));
    raw.SendFrame(RawConnection::kData, 0, std::string(1, byte), 1);
  }
  raw.SendFrame(RawConnection::kData, 1, "", 1);
  const std::string trailers = raw.Next(RawConnection::kHeaders).payload;
  // This server has no tokenizer, which is an answer.
  EXPECT_FALSE(absl::StrContains(trailers,
                                 "grpc-status\x01"
                                 "4"))
      << trailers;
  EXPECT_TRUE(Eventually([&] { return server.AccessLines("Detokenize") == 1; }));
}

TEST(Messages, CompressedOnesAreRefused) {
  TestServer server;
  const auto stub = StubFor(server);
  for (const auto algorithm : {GRPC_COMPRESS_GZIP, GRPC_COMPRESS_DEFLATE}) {
    grpc::ClientContext context;
    context.set_compression_algorithm(algorithm);
    v1::GetModelInfoResponse response;
    const grpc::Status status = stub->GetModelInfo(&context, {}, &response);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::UNIMPLEMENTED) << status.error_message();
  }
  EXPECT_TRUE(Info(server.address()).ok());
}

}  // namespace
}  // namespace packrat
