// Who is let in, who is sent away and with what words: full queues, failures, draining, limits.
#include <gtest/gtest.h>

#include <atomic>
#include <string>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "proto/google/rpc/error_details.pb.h"
#include "proto/google/rpc/status.pb.h"
#include "runtime/retry_after.h"
#include "tests/server/generate.h"

// While a thread is to be joined nothing here is an ASSERT: leaving the case would end the process.
namespace packrat {
namespace {

TEST(Admission, AFullQueueSaysWhenToComeAgain) {
  TestServer::Options options = LongTexts();
  options.server.engine.max_running = 1;
  options.server.engine.max_queue = 1;
  TestServer server(options);
  auto stub = StubFor(server);
  server.gate().Close();
  Result running, waiting;
  std::thread first([&] { running = Generate(stub.get(), Ids({5, 6}, 40)); });
  server.gate().WaitUntilHeld();
  server.gate().Allow(1);  // Admitted, and counted as such.
  server.gate().WaitUntilHeld();
  std::thread second([&] { waiting = Generate(stub.get(), Ids({5, 7}, 40)); });
  EXPECT_TRUE(Eventually([&] { return server.Metric("packrat_requests_waiting") == 1; }));

  grpc::ClientContext context;
  auto reader = stub->Generate(&context, Ids({5, 8}, 40));
  const Result refused = ReadAll(reader.get());
  EXPECT_EQ(refused.status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  google::rpc::Status details;
  EXPECT_TRUE(details.ParseFromString(refused.status.error_details()));
  EXPECT_EQ(details.code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(details.details_size(), 1);
  details.add_details();  // There is a first one in any case.
  EXPECT_EQ(details.details(0).type_url(), "type.googleapis.com/google.rpc.RetryInfo");
  google::rpc::RetryInfo retry;
  EXPECT_TRUE(details.details(0).UnpackTo(&retry));
  // A tenth of what the queue takes, or the shortest that is told.
  const absl::Duration delay =
      absl::Seconds(retry.retry_delay().seconds()) + absl::Nanoseconds(retry.retry_delay().nanos());
  EXPECT_GE(delay, kShortestRetryAfter);
  EXPECT_LE(delay, absl::Seconds(10));
  EXPECT_EQ(Trailer(context, "grpc-retry-pushback-ms"),
            absl::StrCat(absl::ToInt64Milliseconds(delay)));
  EXPECT_TRUE(Eventually([&] { return server.AccessLines("finish=refused") == 1; }));

  // Nothing is sent before admission, so a client with a retry policy gets through by itself.
  grpc::ChannelArguments arguments;
  arguments.SetServiceConfigJSON(R"({"methodConfig": [{
      "name": [{"service": "packrat.v1.Inference"}],
      "retryPolicy": {"maxAttempts": 5, "initialBackoff": "0.1s", "maxBackoff": "1s",
                      "backoffMultiplier": 2, "retryableStatusCodes": ["RESOURCE_EXHAUSTED"]}}]})");
  auto patient = v1::Inference::NewStub(
      grpc::CreateCustomChannel(server.address(), grpc::InsecureChannelCredentials(), arguments));
  Result retried;
  std::thread third([&] { retried = Generate(patient.get(), Ids({5, 9}, 40)); });
  EXPECT_TRUE(Eventually([&] { return server.AccessLines("finish=refused") == 2; }));
  server.gate().Open();
  first.join();
  second.join();
  third.join();
  EXPECT_TRUE(running.status.ok()) << running.status.error_message();
  EXPECT_TRUE(waiting.status.ok()) << waiting.status.error_message();
  EXPECT_TRUE(retried.status.ok()) << retried.status.error_message();
  EXPECT_EQ(retried.ids.size(), 40u);
}

TEST(Admission, HeadersComeWithAdmission) {
  TestServer::Options options = LongTexts();
  options.server.engine.max_running = 1;
  TestServer server(options);
  auto stub = StubFor(server);
  server.gate().Close();
  grpc::ClientContext first_context, second_context;
  auto first = stub->Generate(&first_context, Ids({5, 6}, 100));
  server.gate().WaitUntilHeld();
  server.gate().Allow(1);  // Admitted, and counted as such.
  server.gate().WaitUntilHeld();
  auto second = stub->Generate(&second_context, Ids({5, 7}, 100));
  std::atomic<bool> headers{false};
  std::thread waiter([&] {
    second->WaitForInitialMetadata();
    headers = true;
  });
  EXPECT_TRUE(Eventually([&] { return server.Metric("packrat_requests_waiting") == 1; }));
  server.gate().Allow(50);
  v1::GenerateResponse message;
  int tokens = 0;
  while (tokens < 50 && first->Read(&message)) tokens += message.token_ids_size();
  EXPECT_GE(tokens, 50);
  EXPECT_FALSE(headers.load());
  server.gate().Open();
  EXPECT_TRUE(ReadAll(first.get()).status.ok());
  waiter.join();
  EXPECT_TRUE(ReadAll(second.get()).status.ok());
}

TEST(Admission, AHigherPriorityHasTheOtherParked) {
  TestServer::Options options = LongTexts();
  options.server.engine.max_running = 1;
  TestServer server(options);
  auto stub = StubFor(server);
  server.gate().Close();
  Result low, high;
  std::thread first([&] { low = Generate(stub.get(), Ids({5, 6}, 80)); });
  server.gate().WaitUntilHeld();
  server.gate().Allow(45);
  server.gate().WaitUntilHeld();
  v1::GenerateRequest request = Ids({5, 7}, 10);
  request.set_priority(5);
  std::thread second([&] { high = Generate(stub.get(), request); });
  EXPECT_TRUE(Eventually([&] { return server.Metric("packrat_requests_waiting") == 1; }));
  server.gate().Allow(5);
  server.gate().WaitUntilHeld();
  EXPECT_EQ(server.Metric("packrat_parked_sequences"), 1);
  EXPECT_GT(server.Metric("packrat_parked_bytes"), 0);
  server.gate().Open();
  first.join();
  second.join();
  EXPECT_TRUE(low.status.ok()) << low.status.error_message();
  EXPECT_TRUE(high.status.ok()) << high.status.error_message();
  EXPECT_EQ(low.ids, server.model().GreedyAfter({5, 6}, 80));
  EXPECT_EQ(high.ids, server.model().GreedyAfter({5, 7}, 10));
  const v1::Timings& timings = low.finished.timings();
  EXPECT_GT(timings.parked_seconds(), 0);
  EXPECT_LT(timings.parked_seconds(), timings.total_seconds());
  EXPECT_EQ(high.finished.timings().parked_seconds(), 0);
  EXPECT_EQ(server.Metric("packrat_parks_total"), 1);
  EXPECT_EQ(server.Metric("packrat_resumes_total"), 1);
  EXPECT_EQ(server.Metric("packrat_parked_bytes"), 0);
}

TEST(Admission, ASequenceThatGoesBadFailsAlone) {
  TestServer server;
  auto stub = StubFor(server);
  const Result bad = Generate(stub.get(), Ids({5, FakeModel::kNotFiniteToken}, 10));
  EXPECT_EQ(bad.status.error_code(), grpc::StatusCode::INTERNAL) << bad.status.error_message();
  EXPECT_FALSE(bad.status.error_message().empty());
  EXPECT_TRUE(Generate(stub.get(), Ids({5}, 10)).status.ok());
  EXPECT_TRUE(Eventually([&] { return server.StateBytesUsed() == 0; }));
}

TEST(Draining, RunningStreamsEndAndNewOnesAreSentAway) {
  TestServer server(LongTexts());
  auto stub = StubFor(server);
  server.gate().Close();
  grpc::ClientContext context;
  auto reader = stub->Generate(&context, Ids({5, 6}, 40));
  server.gate().WaitUntilHeld();
  std::thread drain([&] { server.server().Drain(); });
  EXPECT_TRUE(Eventually([&] { return absl::StrContains(server.Get("/readyz"), " 503 "); }));
  EXPECT_TRUE(absl::StrContains(server.Get("/healthz"), " 200 "));
  EXPECT_EQ(server.Metric("packrat_ready"), 0);
  const Result refused = Generate(stub.get(), Ids({5}, 4));
  EXPECT_EQ(refused.status.error_code(), grpc::StatusCode::UNAVAILABLE);
  server.gate().Open();
  const Result result = ReadAll(reader.get());
  EXPECT_TRUE(result.status.ok()) << result.status.error_message();
  EXPECT_EQ(result.ids.size(), 40u);
  drain.join();
  EXPECT_EQ(server.Get("/healthz"), "");  // Both ports are closed.
}

TEST(Draining, TheGraceTimeEnds) {
  TestServer::Options options = LongTexts();
  options.server.drain_grace = absl::ZeroDuration();
  TestServer server(options);
  auto stub = StubFor(server);
  server.gate().Close();
  grpc::ClientContext context;
  auto reader = stub->Generate(&context, Ids({5, 6}, 90000));
  server.gate().WaitUntilHeld();
  server.gate().Allow(5);
  v1::GenerateResponse message;
  ASSERT_TRUE(reader->Read(&message));
  std::thread drain([&] { server.server().Drain(); });
  EXPECT_TRUE(Eventually([&] { return absl::StrContains(server.Get("/readyz"), " 503 "); }));
  server.gate().Open();
  const Result result = ReadAll(reader.get());
  EXPECT_EQ(result.status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(result.status.error_message(), "the server is shutting down");
  drain.join();
  EXPECT_EQ(server.AccessLines("status=UNAVAILABLE finish=error"), 1);
}

TEST(Limits, MoreStreamsThanAllowedAreRefused) {
  TestServer::Options options = LongTexts();
  options.server.max_streams = 1;
  TestServer server(options);
  auto stub = StubFor(server);
  server.gate().Close();
  grpc::ClientContext context;
  auto reader = stub->Generate(&context, Ids({5, 6}, 40));
  server.gate().WaitUntilHeld();
  const Result refused = Generate(stub.get(), Ids({5}, 4));
  EXPECT_EQ(refused.status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  server.gate().Open();
  EXPECT_TRUE(ReadAll(reader.get()).status.ok());
  // The place is free as soon as the call is over on the server's side.
  EXPECT_TRUE(Eventually([&] { return Generate(stub.get(), Ids({5}, 4)).status.ok(); }));
}

}  // namespace
}  // namespace packrat
