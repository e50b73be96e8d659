// Memory that the system refuses to one call is the answer to that call.
#include <gtest/gtest.h>

#include <cstddef>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "server/client/connection.h"
#include "server/generation/transfer_call.h"
#include "tests/server/generate.h"
#include "tests/server/http_api.h"
#include "tests/tools/allocations.h"

namespace packrat {
namespace {

TEST(NoMemory, IsTheAnswerToOneCall) {
  TestServer::Options options;
  options.tokenizer = true;
  options.model.max_context = 20000;
  options.model.full = false;
  options.model.rat = false;
  TestServer server(options);
  Connection connection({server.address()});
  std::string text;
  while (text.size() < (64 << 10)) text += "once upon a time, ";
  v1::TokenizeRequest tokenize;
  tokenize.set_text(text);
  v1::GenerateRequest generate;
  generate.set_text(text);
  generate.mutable_stop()->set_max_tokens(2);

  v1::TokenizeResponse tokens;
  // The messages can be read; working on a text takes many times its size.
  FailAllocationsFrom(256 << 10);
  const absl::Status tokenized = connection.Tokenize(tokenize, &tokens).status;
  const Result generated = Generate(StubFor(server).get(), generate);
  FailAllocationsFrom(0);
  EXPECT_EQ(tokenized.code(), absl::StatusCode::kResourceExhausted) << tokenized;
  EXPECT_TRUE(absl::StrContains(tokenized.message(), "memory")) << tokenized;
  EXPECT_EQ(generated.status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);

  EXPECT_EQ(connection.Tokenize(tokenize, &tokens).status, absl::OkStatus());
  EXPECT_TRUE(Generate(StubFor(server).get(), generate).status.ok());
  EXPECT_TRUE(Eventually([&] { return server.StateBytesUsed() == 0; }));
}

// A session that is sent when there is no memory for its next piece, or for the frame of one.
TEST(NoMemory, IsTheEndOfASaveThatHasBegun) {
  TestServer::Options options = LongTexts();
  options.model.max_context = 2000000;  // More than the system keeps for a client.
  TestServer server(options);
  const std::string handle = Post(server, "/packrat/v1/CreateSession", "{}").json()["session"];
  v1::GenerateRequest turn = Ids(std::vector<int32_t>(1900000, 5), 1);
  turn.set_session(handle);
  ASSERT_TRUE(Generate(StubFor(server).get(), turn).status.ok());
  constexpr size_t kPiece = kSavedMessageBytes;
  int ended = 0;
  const auto refuse_from = [&](size_t bytes) {
    HttpClient client(server.server().http_port());
    client.Send(HttpPost("/packrat/v1/SaveSession",
                         absl::StrCat(R"({"session":")", handle, R"("})"), kJsonType));
    ASSERT_TRUE(absl::StrContains(client.ReadUntil("\r\n\r\n"), "200 OK"));
    FailAllocationsFrom(bytes);
    const std::string end = client.ReadToEnd();
    FailAllocationsFrom(0);
    EXPECT_FALSE(absl::EndsWith(end, "0\r\n\r\n"));
    ++ended;
    EXPECT_TRUE(Eventually([&] { return server.AccessLines("SaveSession") == ended; }));
  };
  refuse_from(kPiece + 4);
  EXPECT_EQ(server.AccessLines("status=RESOURCE_EXHAUSTED"), 0);
  // By then the next piece may be there already, and its frame be refused again.
  while (server.AccessLines("status=RESOURCE_EXHAUSTED") == 0 && ended < 50) {
    refuse_from(kPiece / 2);
  }
  EXPECT_EQ(server.AccessLines("status=RESOURCE_EXHAUSTED"), 1);
  EXPECT_TRUE(Eventually([&] {
    return server.Metric("packrat_session_transfer_bytes{") == 0 &&
           server.Metric("packrat_streams_open{") == 0;
  }));
  HttpClient client(server.server().http_port());
  client.Send(HttpPost("/packrat/v1/SaveSession", absl::StrCat(R"({"session":")", handle, R"("})"),
                       absl::StrCat(kJsonType, "Connection: close\r\n")));
  EXPECT_TRUE(absl::EndsWith(client.ReadToEnd(), "0\r\n\r\n"));
}

}  // namespace
}  // namespace packrat
