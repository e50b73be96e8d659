// Generate, end to end: a server in this process, real sockets, gRPC's own client.
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>

#include <algorithm>
#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/server/generate.h"

namespace packrat {
namespace {

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
  // Over HTTP its path stands between them.
  EXPECT_EQ(server.AccessLines(" call=Generate "), 1);
  EXPECT_EQ(server.AccessLines(" status=OK finish=length prompt_tokens=3 cached_tokens=0 "
                               "generated_tokens=20"),
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

TEST(Streaming, ACallJoinsTheTraceOfItsCaller) {
  TestServer server;
  auto stub = StubFor(server);
  const std::string trace = "4bf92f3577b34da6a3ce929d0e0e4736";
  const std::string parent = "00-" + trace + "-00f067aa0ba902b7-01";
  const auto response = [&](const std::vector<std::string>& parents) {
    grpc::ClientContext context;
    for (const std::string& value : parents) context.AddMetadata("traceparent", value);
    EXPECT_TRUE(ReadAll(stub->Generate(&context, Ids({5}, 1)).get()).status.ok());
    return Trailer(context, "traceresponse");
  };
  const std::string before =
      absl::FormatTime("%Y-%m-%dT%H:%M:%E6SZ", absl::Now(), absl::UTCTimeZone());
  const std::string answer = response({parent});
  ASSERT_EQ(answer.size(), parent.size());
  EXPECT_EQ(answer.substr(0, 36), "00-" + trace + "-");
  EXPECT_EQ(answer.substr(52), "-01");
  const std::string span = answer.substr(36, 16);
  EXPECT_NE(span, "00f067aa0ba902b7");
  const std::string logged = absl::StrCat(" trace_id=", trace, " span_id=", span,
                                          " parent_span_id=00f067aa0ba902b7 start=");
  EXPECT_TRUE(Eventually([&] { return server.AccessLines(logged) == 1; }));
  for (const std::string& line : server.log_lines()) {
    const size_t at = line.find(logged);
    if (at == std::string::npos) continue;
    // Times of this form are in the order of their letters.
    const std::string start = line.substr(at + logged.size(), before.size());
    EXPECT_GE(start, before);
    EXPECT_LT(start, line) << "it began before its line was written";
  }
  // None, a broken one, and two.
  for (const std::vector<std::string>& parents :
       {std::vector<std::string>(), {"00-" + trace + "-1-01"}, {parent, parent}}) {
    EXPECT_EQ(response(parents), "");
  }
  EXPECT_TRUE(Eventually([&] { return server.AccessLines("Generate") == 4; }));
  EXPECT_EQ(server.AccessLines("trace_id"), 1);
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
  const char* arguments[] = {client.c_str(), "complete",           "--token_ids=5,6",
                             "--ignore_eos", "--max_tokens=50000", address.c_str(),
                             nullptr};
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

}  // namespace
}  // namespace packrat
