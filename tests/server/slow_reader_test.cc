// Streams whose client takes its time, and the places that calls hold.
#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "absl/strings/match.h"
#include "absl/time/clock.h"
#include "tests/server/generate.h"
#include "tests/server/test_server.h"

namespace packrat {
namespace {

TEST(SlowReader, WhoReadsNowAndThenIsNotIdle) {
  TestServer::Options options = LongTexts();
  options.server.stream_idle_timeout = absl::Seconds(4);
  TestServer server(options);
  grpc::ClientContext context;
  v1::GenerateRequest request = Ids({5, 6}, 60000);
  request.mutable_sampling()->set_num_logprobs(20);  // A megabyte is some 4,600 tokens.
  auto narrow = NarrowStubFor(server);
  auto reader = narrow->Generate(&context, request);
  v1::GenerateResponse message;
  // This reader takes 7,000 tokens a second, in large messages or in small ones, as the engine
  // makes them: a write waits for it longer than the timeout in all, but never one for so long.
  const absl::Time start = absl::Now();
  int tokens = 0;
  while (absl::Now() - start < absl::Seconds(6) && reader->Read(&message)) {
    tokens += message.token_ids_size();
    absl::SleepFor(start + absl::Seconds(tokens / 7000.0) - absl::Now());
  }
  EXPECT_LT(tokens, 60000) << "the reader was not slow";
  const Result rest = ReadAll(reader.get());
  EXPECT_TRUE(rest.status.ok()) << rest.status.error_message();
  EXPECT_EQ(tokens + static_cast<int>(rest.ids.size()), 60000);
  EXPECT_EQ(server.AccessLines("stream_idle_timeout"), 0);
}

TEST(Places, ACallThatTheEngineRefusesGivesItsPlaceBack) {
  TestServer::Options options = LongTexts();
  options.server.engine.max_running = 1;
  options.server.engine.max_queue = 1;
  options.server.max_streams = 6;
  TestServer server(options);
  auto stub = StubFor(server);
  server.gate().Close();
  // How many of these run or wait is the engine's affair; once one is refused, the queue is full.
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  std::vector<std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>>> readers;
  for (int i = 0; i < 4; ++i) {
    contexts.push_back(std::make_unique<grpc::ClientContext>());
    readers.push_back(stub->Generate(contexts.back().get(), Ids({5, 6}, 4)));
    if (i == 0) server.gate().WaitUntilHeld();
  }
  ASSERT_TRUE(Eventually([&] { return server.AccessLines("status=RESOURCE_EXHAUSTED") >= 1; }));
  for (int i = 0; i < 20; ++i) {
    // The place comes back a moment after the client has heard of the refusal.
    ASSERT_TRUE(Eventually([&] {
      const Result refused = Generate(stub.get(), Ids({5}, 4));
      EXPECT_EQ(refused.status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
      return !absl::StrContains(refused.status.error_message(), "streams are in use");
    })) << "after "
        << i << " refusals";
  }
  server.gate().Open();
  EXPECT_TRUE(ReadAll(readers[0].get()).status.ok());
  for (size_t i = 1; i < readers.size(); ++i) ReadAll(readers[i].get());
}

}  // namespace
}  // namespace packrat
