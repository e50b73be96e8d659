// Generate, end to end: a server in this process, real sockets, gRPC's own client.
#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>

#include <atomic>
#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "proto/google/rpc/error_details.pb.h"
#include "proto/google/rpc/status.pb.h"
#include "proto/packrat/v1/inference.grpc.pb.h"
#include "tests/server/test_server.h"

namespace packrat {
namespace {

struct Result {
  grpc::Status status;
  std::vector<int32_t> ids;
  std::string text;
  int messages = 0;
  v1::Finished finished;
};

std::unique_ptr<v1::Inference::Stub> StubFor(const TestServer& server) {
  return v1::Inference::NewStub(
      grpc::CreateChannel(server.address(), grpc::InsecureChannelCredentials()));
}

Result ReadAll(grpc::ClientReader<v1::GenerateResponse>* reader) {
  Result result;
  v1::GenerateResponse message;
  while (reader->Read(&message)) {
    ++result.messages;
    result.ids.insert(result.ids.end(), message.token_ids().begin(), message.token_ids().end());
    result.text += message.text();
    if (message.has_finished()) result.finished = message.finished();
  }
  result.status = reader->Finish();
  return result;
}

Result Generate(v1::Inference::Stub* stub, const v1::GenerateRequest& request) {
  grpc::ClientContext context;
  return ReadAll(stub->Generate(&context, request).get());
}

v1::GenerateRequest Ids(const std::vector<int32_t>& ids, int max_tokens) {
  v1::GenerateRequest request;
  request.mutable_tokens()->mutable_ids()->Assign(ids.begin(), ids.end());
  request.mutable_stop()->set_max_tokens(max_tokens);
  request.mutable_stop()->set_ignore_eos(true);
  request.mutable_sampling()->set_temperature(0);
  return request;
}

std::string Trailer(const grpc::ClientContext& context, const char* key) {
  const auto& trailers = context.GetServerTrailingMetadata();
  const auto found = trailers.find(key);
  return found == trailers.end() ? "" : std::string(found->second.data(), found->second.size());
}

// A client that takes in no more than a window of 64 KiB unless somebody reads.
std::unique_ptr<v1::Inference::Stub> NarrowStubFor(const TestServer& server) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  return v1::Inference::NewStub(
      grpc::CreateCustomChannel(server.address(), grpc::InsecureChannelCredentials(), arguments));
}

// Long texts that are cheap to compute.
TestServer::Options LongTexts() {
  TestServer::Options options;
  options.model.max_context = 100000;
  options.model.full = false;
  options.model.rat = false;
  options.server.engine.max_running = 4;
  options.server.stream_idle_timeout = absl::Hours(24);
  return options;
}

TEST(Streaming, GivesTheModelsTokensAndTheFinalWords) {
  TestServer server;
  auto stub = StubFor(server);
  grpc::ClientContext context;
  context.AddMetadata("x-request-id", "my-id.7");
  context.AddMetadata("x-caller", "tests/streaming");
  auto request = Ids({5, 6, 7}, 20);
  request.mutable_sampling()->set_seed(41);
  auto reader = stub->Generate(&context, request);
  const Result result = ReadAll(reader.get());
  ASSERT_TRUE(result.status.ok()) << result.status.error_message();
  EXPECT_EQ(result.ids, server.model().GreedyAfter({5, 6, 7}, 20));
  EXPECT_EQ(result.text, "");
  EXPECT_EQ(result.finished.reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(result.finished.usage().prompt_tokens(), 3);
  EXPECT_EQ(result.finished.usage().completion_tokens(), 20);
  EXPECT_EQ(result.finished.seed(), 41u);
  EXPECT_EQ(result.finished.request_id(), "my-id.7");
  EXPECT_GT(result.finished.timings().total_seconds(), 0);
  EXPECT_GE(result.finished.timings().total_seconds(),
            result.finished.timings().time_to_first_token_seconds());
  EXPECT_EQ(Trailer(context, "x-request-id"), "my-id.7");
  ASSERT_TRUE(Eventually([&] { return server.AccessLines("id=my-id.7") == 1; }));
  EXPECT_EQ(server.AccessLines("id=my-id.7 caller=tests/streaming"), 1);
  EXPECT_EQ(server.AccessLines("call=Generate status=OK finish=length prompt_tokens=3 "
                               "cached_tokens=0 generated_tokens=20"),
            1);
  EXPECT_EQ(server.Metric("packrat_generated_tokens_total"), 20);
  EXPECT_EQ(server.Metric("packrat_prompt_tokens_total"), 3);
  EXPECT_EQ(server.Metric("packrat_requests_finished_total{model=\"fake\",reason=\"length\"}"), 1);
  EXPECT_EQ(server.Metric("packrat_time_to_first_token_seconds_count"), 1);
}

TEST(Streaming, AnIdThatCouldNotStandInALogIsReplaced) {
  TestServer server;
  auto stub = StubFor(server);
  grpc::ClientContext context;
  context.AddMetadata("x-request-id", "a b\"c");
  auto reader = stub->Generate(&context, Ids({5}, 1));
  ASSERT_TRUE(ReadAll(reader.get()).status.ok());
  EXPECT_EQ(Trailer(context, "x-request-id").size(), 16u);
}

TEST(Streaming, TextIsThatOfTheTokensWhateverTheStopStrings) {
  TestServer::Options options;
  options.tokenizer = true;
  TestServer server(options);
  auto stub = StubFor(server);
  v1::GenerateRequest request = Ids({}, 60);
  request.set_text("Once upon a time");
  const Result whole = Generate(stub.get(), request);
  ASSERT_TRUE(whole.status.ok()) << whole.status.error_message();
  ASSERT_EQ(whole.ids.size(), 60u);
  EXPECT_EQ(whole.text, server.tokenizer()->Decode(whole.ids, /*skip_special=*/true,
                                                   /*continues_text=*/true));
  const auto prompt = server.tokenizer()->Encode("Once upon a time", {/*add_bos=*/true});
  EXPECT_EQ(whole.ids, server.model().GreedyAfter(*prompt, 60));

  // Cut at any place of the text, the stream is what stands before.
  for (size_t begin : {size_t{0}, whole.text.size() / 3, whole.text.size() / 2}) {
    while (begin > 0 && (whole.text[begin] & 0xc0) == 0x80) --begin;
    size_t end = begin + 12;
    while ((whole.text[end] & 0xc0) == 0x80) ++end;
    const std::string stop = whole.text.substr(begin, end - begin);
    request.mutable_stop()->clear_strings();
    request.mutable_stop()->add_strings(stop);
    request.mutable_stop()->add_strings("never in the text, as long as it may be");
    const Result cut = Generate(stub.get(), request);
    ASSERT_TRUE(cut.status.ok()) << cut.status.error_message();
    EXPECT_EQ(cut.text, whole.text.substr(0, whole.text.find(stop)));
    EXPECT_EQ(cut.finished.reason(), v1::FINISH_REASON_STOP_STRING);
    // The ids too are those of the text alone.
    const std::string of_ids = server.tokenizer()->Decode(cut.ids, true, true);
    EXPECT_EQ(of_ids, cut.text.substr(0, of_ids.size()));
  }
}

TEST(Streaming, EndIdsCountButAreNotSent) {
  TestServer server;
  auto stub = StubFor(server);
  const std::vector<int32_t> text = server.model().GreedyAfter({5, 6, 7}, 10);
  v1::GenerateRequest request = Ids({5, 6, 7}, 50);
  request.mutable_stop()->add_token_ids(text[9]);
  const size_t first = std::find(text.begin(), text.end(), text[9]) - text.begin();
  const Result stopped = Generate(stub.get(), request);
  EXPECT_EQ(stopped.finished.reason(), v1::FINISH_REASON_STOP_ID);
  EXPECT_EQ(stopped.ids, std::vector<int32_t>(text.begin(), text.begin() + first));
  EXPECT_EQ(stopped.finished.usage().completion_tokens(), static_cast<int>(first) + 1);

  request = Ids({5, 6, 7}, 50);
  request.mutable_stop()->set_ignore_eos(false);
  auto* bias = request.mutable_sampling()->add_logit_bias();
  bias->set_token_id(FakeModel::kEos);
  bias->set_bias(1000);
  const Result ended = Generate(stub.get(), request);
  EXPECT_EQ(ended.finished.reason(), v1::FINISH_REASON_EOS);
  EXPECT_TRUE(ended.ids.empty());
  EXPECT_EQ(ended.finished.usage().completion_tokens(), 1);
}

TEST(Streaming, LogprobsComeWithTheirTokens) {
  TestServer server;
  v1::GenerateRequest request = Ids({5, 6}, 12);
  request.mutable_sampling()->set_num_logprobs(3);
  grpc::ClientContext context;
  auto stub = StubFor(server);
  auto reader = stub->Generate(&context, request);
  v1::GenerateResponse message;
  int count = 0;
  while (reader->Read(&message)) {
    ASSERT_EQ(message.logprobs_size(), message.token_ids_size());
    for (int i = 0; i < message.logprobs_size(); ++i, ++count) {
      ASSERT_EQ(message.logprobs(i).top_size(), 3);
      // Greedy: the token is the best one.
      EXPECT_EQ(message.logprobs(i).top(0).token_id(), message.token_ids(i));
      EXPECT_EQ(message.logprobs(i).top(0).logprob(), message.logprobs(i).logprob());
      EXPECT_LT(message.logprobs(i).logprob(), 0);
    }
  }
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(count, 12);
}

TEST(Streaming, TwoHundredStreamsGiveWhatEachGivesAlone) {
  TestServer server;
  auto stub = StubFor(server);
  const auto request = [](int i) {
    v1::GenerateRequest r = Ids({3 + i % 50, 4, 5 + i / 50}, 5 + i % 40);
    for (int j = 0; j < i % 90; ++j) r.mutable_tokens()->add_ids(10 + j % 70);
    r.mutable_sampling()->set_temperature(1);
    r.mutable_sampling()->set_seed(i);
    return r;
  };
  server.gate().Close();  // So that all are there before the first step.
  std::vector<Result> together(200);
  std::vector<std::thread> clients;
  for (int i = 0; i < 200; ++i) {
    clients.emplace_back([&, i] { together[i] = Generate(stub.get(), request(i)); });
  }
  const auto present = [&] {
    return server.Metric("packrat_requests_waiting") + server.Metric("packrat_requests_running");
  };
  EXPECT_TRUE(Eventually([&] { return present() >= 199; })) << present();
  server.gate().Open();
  for (std::thread& client : clients) client.join();
  for (int i = 0; i < 200; ++i) {
    ASSERT_TRUE(together[i].status.ok()) << i << together[i].status.error_message();
    ASSERT_EQ(together[i].ids.size(), 5u + i % 40);
  }
  for (int i = 0; i < 200; i += 7) {
    EXPECT_EQ(Generate(stub.get(), request(i)).ids, together[i].ids) << i;
  }
  EXPECT_TRUE(Eventually([&] { return server.StateBytesUsed() == 0; }));
}

TEST(Streaming, CancelFreesTheSequence) {
  TestServer server(LongTexts());
  auto stub = StubFor(server);
  server.gate().Close();
  grpc::ClientContext context;
  auto reader = stub->Generate(&context, Ids({5, 6}, 50000));
  server.gate().WaitUntilHeld();
  server.gate().Allow(3);
  v1::GenerateResponse message;
  ASSERT_TRUE(reader->Read(&message));
  EXPECT_GT(server.StateBytesUsed(), 0);
  context.TryCancel();
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  ASSERT_TRUE(Eventually([&] {
    server.gate().Allow(1);
    return server.StateBytesUsed() == 0;
  }));
  server.gate().Open();
  ASSERT_TRUE(Eventually([&] { return server.AccessLines("finish=cancelled") == 1; }));
  EXPECT_EQ(server.AccessLines("status=CANCELLED finish=cancelled prompt_tokens=2"), 1);
  EXPECT_EQ(server.Metric("packrat_errors_total{model=\"fake\",status=\"CANCELLED\"}"), 1);
}

TEST(Streaming, ClientsThatVanishFreeTheirSequences) {
  TestServer server(LongTexts());
  const std::string client = DataPath("server/client/packrat");
  const std::string address = "--address=" + server.address();
  server.gate().Close();
  const char* arguments[] = {client.c_str(),       "complete",      "--token_ids=5,6",
                             "--max_tokens=50000", address.c_str(), nullptr};
  pid_t pid = 0;
  ASSERT_EQ(
      posix_spawn(&pid, client.c_str(), nullptr, nullptr, const_cast<char**>(arguments), environ),
      0);
  server.gate().WaitUntilHeld();
  ASSERT_EQ(kill(pid, SIGKILL), 0);
  ASSERT_EQ(waitpid(pid, nullptr, 0), pid);
  EXPECT_TRUE(Eventually([&] {
    server.gate().Allow(1);
    return server.StateBytesUsed() == 0 && server.AccessLines("finish=cancelled") == 1;
  }));
}

TEST(Streaming, TheDeadlineOfTheCallEndsTheSequence) {
  TestServer server(LongTexts());
  auto stub = StubFor(server);
  server.gate().Close();
  grpc::ClientContext context;
  const auto deadline = std::chrono::system_clock::now() + std::chrono::milliseconds(200);
  context.set_deadline(deadline);
  auto reader = stub->Generate(&context, Ids({5, 6}, 50000));
  EXPECT_EQ(ReadAll(reader.get()).status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  // The server's own deadline is later, by the time that the call was on its way.
  std::this_thread::sleep_until(deadline + std::chrono::milliseconds(500));
  server.gate().Open();
  EXPECT_TRUE(Eventually(
      [&] { return server.AccessLines("status=DEADLINE_EXCEEDED finish=deadline") == 1; }));
  EXPECT_TRUE(Eventually([&] { return server.StateBytesUsed() == 0; }));
}

TEST(Streaming, ASlowReaderHoldsUpNobody) {
  TestServer server(LongTexts());
  auto stub = StubFor(server);
  grpc::ClientContext context;
  v1::GenerateRequest request = Ids({5, 6}, 8000);
  request.mutable_sampling()->set_num_logprobs(20);
  auto narrow = NarrowStubFor(server);
  auto slow = narrow->Generate(&context, request);
  slow->WaitForInitialMetadata();
  // Its text is computed to the end and its state is free, though nothing is read.
  EXPECT_TRUE(Eventually([&] {
    return server.Metric("packrat_generated_tokens_total") == 8000 && server.StateBytesUsed() == 0;
  }));
  EXPECT_EQ(server.AccessLines("Generate"), 0);
  // Others come and go.
  const Result other = Generate(stub.get(), Ids({7}, 30));
  EXPECT_TRUE(other.status.ok());
  EXPECT_EQ(other.ids.size(), 30u);
  // And it is all there when somebody reads: many tokens to a message.
  const Result late = ReadAll(slow.get());
  ASSERT_TRUE(late.status.ok()) << late.status.error_message();
  EXPECT_EQ(late.ids.size(), 8000u);
  EXPECT_LT(late.messages, 4000);
  EXPECT_EQ(late.finished.reason(), v1::FINISH_REASON_LENGTH);
}

TEST(Streaming, AReaderThatNeverReadsIsLetGo) {
  TestServer::Options options = LongTexts();
  options.server.stream_idle_timeout = absl::Milliseconds(50);
  TestServer server(options);
  grpc::ClientContext context;
  v1::GenerateRequest request = Ids({5, 6}, 8000);
  request.mutable_sampling()->set_num_logprobs(20);
  auto narrow = NarrowStubFor(server);
  auto slow = narrow->Generate(&context, request);
  EXPECT_TRUE(Eventually([&] { return server.AccessLines("stream_idle_timeout") == 1; }));
  EXPECT_TRUE(Eventually([&] { return server.StateBytesUsed() == 0; }));
  const Result late = ReadAll(slow.get());
  EXPECT_EQ(late.status.error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_LT(late.ids.size(), 8000u);
}

TEST(Streaming, AFullQueueSaysWhenToComeAgain) {
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
  ASSERT_TRUE(Eventually([&] { return server.Metric("packrat_requests_waiting") == 1; }));

  grpc::ClientContext context;
  auto reader = stub->Generate(&context, Ids({5, 8}, 40));
  const Result refused = ReadAll(reader.get());
  EXPECT_EQ(refused.status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  google::rpc::Status details;
  ASSERT_TRUE(details.ParseFromString(refused.status.error_details()));
  EXPECT_EQ(details.code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  ASSERT_EQ(details.details_size(), 1);
  EXPECT_EQ(details.details(0).type_url(), "type.googleapis.com/google.rpc.RetryInfo");
  google::rpc::RetryInfo retry;
  ASSERT_TRUE(details.details(0).UnpackTo(&retry));
  EXPECT_EQ(retry.retry_delay().seconds(), 1);
  EXPECT_EQ(Trailer(context, "grpc-retry-pushback-ms"), "1000");
  ASSERT_TRUE(Eventually([&] { return server.AccessLines("finish=refused") == 1; }));

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
  ASSERT_TRUE(Eventually([&] { return server.AccessLines("finish=refused") == 2; }));
  server.gate().Open();
  first.join();
  second.join();
  third.join();
  EXPECT_TRUE(running.status.ok()) << running.status.error_message();
  EXPECT_TRUE(waiting.status.ok()) << waiting.status.error_message();
  EXPECT_TRUE(retried.status.ok()) << retried.status.error_message();
  EXPECT_EQ(retried.ids.size(), 40u);
}

TEST(Streaming, HeadersComeWithAdmission) {
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
  ASSERT_TRUE(Eventually([&] { return server.Metric("packrat_requests_waiting") == 1; }));
  server.gate().Allow(50);
  v1::GenerateResponse message;
  for (int tokens = 0; tokens < 50; tokens += message.token_ids_size()) {
    ASSERT_TRUE(first->Read(&message));
  }
  EXPECT_FALSE(headers.load());
  server.gate().Open();
  EXPECT_TRUE(ReadAll(first.get()).status.ok());
  waiter.join();
  EXPECT_TRUE(ReadAll(second.get()).status.ok());
}

TEST(Streaming, ASequenceThatGoesBadFailsAlone) {
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
  ASSERT_TRUE(Eventually([&] { return absl::StrContains(server.Get("/readyz"), " 503 "); }));
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
  ASSERT_TRUE(Eventually([&] { return absl::StrContains(server.Get("/readyz"), " 503 "); }));
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
