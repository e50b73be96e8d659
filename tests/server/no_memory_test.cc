// Memory that the system refuses to one call is the answer to that call.
#include <gtest/gtest.h>

#include <string>

#include "absl/strings/match.h"
#include "server/client/connection.h"
#include "tests/server/generate.h"
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

}  // namespace
}  // namespace packrat
