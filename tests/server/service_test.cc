// What is not Generate: health, reflection, metadata of the model, tokens, malformed messages, the
// HTTP port.
#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/completion_queue.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "runtime/steady_clock.h"
#include "server/client/connection.h"
#include "tests/server/test_server.h"

namespace packrat {
namespace {

// Calls a method by its name with the bytes of a message; gives the bytes of the answer.
grpc::Status RawCall(const std::string& address, const std::string& method,
                     const std::string& request, std::string* answer) {
  grpc::GenericStub stub(grpc::CreateChannel(address, grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  grpc::CompletionQueue queue;
  const grpc::Slice slice(request);
  const grpc::ByteBuffer message(&slice, 1);
  grpc::ByteBuffer response;
  grpc::Status status;
  auto call = stub.PrepareUnaryCall(&context, method, message, &queue);
  call->StartCall();
  call->Finish(&response, &status, &response);
  void* tag;
  bool ok;
  queue.Next(&tag, &ok);
  std::vector<grpc::Slice> slices;
  if (status.ok() && response.Dump(&slices).ok()) {
    for (const grpc::Slice& s : slices) answer->append(s.begin(), s.end());
  }
  return status;
}

// A field of type string, as protobuf writes it.
std::string StringField(int number, const std::string& value) {
  return std::string{static_cast<char>(number << 3 | 2), static_cast<char>(value.size())} + value;
}

// grpc.health.v1: HealthCheckRequest.service = 1, HealthCheckResponse.status = 1.
std::string Health(const TestServer& server, const std::string& service) {
  std::string answer;
  const grpc::Status status = RawCall(server.address(), "/grpc.health.v1.Health/Check",
                                      service.empty() ? "" : StringField(1, service), &answer);
  if (!status.ok()) return absl::StrCat("status ", status.error_code());
  if (answer == std::string("\x08\x01", 2)) return "SERVING";
  if (answer == std::string("\x08\x02", 2)) return "NOT_SERVING";
  return "other";
}

TEST(Health, FollowsLoadingAndDraining) {
  TestServer::Options options;
  options.serve = false;
  TestServer server(options);
  EXPECT_EQ(Health(server, ""), "SERVING");
  EXPECT_EQ(Health(server, "packrat.v1.Inference"), "NOT_SERVING");
  EXPECT_EQ(Health(server, "no.such.Service"), "status 5");
  EXPECT_TRUE(absl::StrContains(server.Get("/healthz"), " 200 "));
  EXPECT_TRUE(absl::StrContains(server.Get("/readyz"), " 503 "));
  EXPECT_TRUE(absl::StrContains(server.Get("/readyz"), "loaded"));
  EXPECT_EQ(server.Get("/health"), server.Get("/readyz"));
  Connection connection({server.address()});
  v1::GetModelInfoResponse info;
  EXPECT_EQ(connection.GetModelInfo(&info).status.code(), absl::StatusCode::kUnavailable);
  v1::GenerateRequest request;
  request.mutable_tokens()->add_ids(5);
  EXPECT_EQ(connection.Generate(request, [](const auto&) {}).status.code(),
            absl::StatusCode::kUnavailable);

  server.Serve();
  EXPECT_EQ(Health(server, ""), "SERVING");
  EXPECT_EQ(Health(server, "packrat.v1.Inference"), "SERVING");
  EXPECT_TRUE(absl::StrContains(server.Get("/readyz"), " 200 "));
  EXPECT_EQ(server.Get("/health"), server.Get("/readyz"));
  EXPECT_TRUE(connection.GetModelInfo(&info).status.ok());
}

TEST(Health, ALostDeviceIsNotReadyForGood) {
  std::atomic<int> told{0};
  TestServer::Options options;
  options.serve = false;
  TestServer server(options);
  server.model().wait_status = absl::InternalError("cudaErrorLaunchFailure");
  ASSERT_TRUE(server.server().Serve(&server.model(), nullptr, [&] { ++told; }).ok());
  EXPECT_EQ(Health(server, "packrat.v1.Inference"), "SERVING");
  EXPECT_TRUE(server.server().failure().ok());
  Connection connection({server.address()});
  v1::GenerateRequest request;
  request.mutable_tokens()->add_ids(5);
  for (int i = 0; i < 2; ++i) {  // What runs, and what comes.
    int messages = 0;
    const auto status =
        connection.Generate(request, [&](const auto& m) { messages += m.token_ids_size(); }).status;
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
    EXPECT_TRUE(absl::StrContains(status.message(), "cudaErrorLaunchFailure")) << status;
    EXPECT_EQ(messages, 0);
  }
  ASSERT_TRUE(Eventually([&] { return told.load() == 1; }));
  EXPECT_TRUE(absl::IsUnavailable(server.server().failure()));
  EXPECT_EQ(Health(server, "packrat.v1.Inference"), "NOT_SERVING");
  EXPECT_EQ(Health(server, ""), "SERVING");
  EXPECT_TRUE(absl::StrContains(server.Get("/readyz"), " 503 "));
  EXPECT_TRUE(absl::StrContains(server.Get("/readyz"), "device is lost"));
  EXPECT_EQ(server.Metric("packrat_ready"), 0);
  const absl::Time start = SteadyNow();
  server.server().Drain();  // Nothing is left to wait for.
  EXPECT_LT(SteadyNow() - start, options.server.drain_grace);
}

TEST(Reflection, ListsTheServices) {
  TestServer server;
  grpc::GenericStub stub(grpc::CreateChannel(server.address(), grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  grpc::CompletionQueue queue;
  auto call = stub.PrepareCall(
      &context, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", &queue);
  const auto wait = [&] {
    void* tag;
    bool ok = false;
    queue.Next(&tag, &ok);
    return ok;
  };
  call->StartCall(nullptr);
  ASSERT_TRUE(wait());
  const grpc::Slice list_services(StringField(7, ""));
  call->Write(grpc::ByteBuffer(&list_services, 1), nullptr);
  ASSERT_TRUE(wait());
  grpc::ByteBuffer response;
  call->Read(&response, nullptr);
  ASSERT_TRUE(wait());
  std::vector<grpc::Slice> slices;
  ASSERT_TRUE(response.Dump(&slices).ok());
  std::string answer;
  for (const grpc::Slice& s : slices) answer.append(s.begin(), s.end());
  EXPECT_TRUE(absl::StrContains(answer, "packrat.v1.Inference"));
  EXPECT_TRUE(absl::StrContains(answer, "grpc.health.v1.Health"));
  context.TryCancel();
  grpc::Status status;
  call->Finish(&status, nullptr);
  wait();
}

TEST(Messages, WhatGrpcRefusesKeepsItsStatus) {
  TestServer::Options options;
  options.server.max_message_bytes = 2000;
  TestServer server(options);
  std::string answer;
  const char generate[] = "/packrat.v1.Inference/Generate";
  // A length that runs past the end of the message.
  const grpc::Status malformed =
      RawCall(server.address(), generate, std::string("\x0a\x7f?", 3), &answer);
  EXPECT_FALSE(malformed.ok());
  EXPECT_NE(malformed.error_code(), grpc::StatusCode::UNKNOWN);
  const grpc::Status oversize =
      RawCall(server.address(), generate, StringField(1, "x") + std::string(4000, '\0'), &answer);
  EXPECT_EQ(oversize.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  const grpc::Status unknown =
      RawCall(server.address(), "/packrat.v1.Inference/NoSuchMethod", "", &answer);
  EXPECT_EQ(unknown.error_code(), grpc::StatusCode::UNIMPLEMENTED);
  EXPECT_EQ(Health(server, "packrat.v1.Inference"), "SERVING");
  EXPECT_EQ(server.Metric("packrat_engine_steps_total"), 0);
}

TEST(Tokens, GoAndComeBack) {
  TestServer::Options options;
  options.tokenizer = true;
  TestServer server(options);
  Connection connection({server.address()});
  v1::TokenizeRequest request;
  request.set_text("Hello </s> wörld");
  request.set_add_bos(false);
  v1::TokenizeResponse tokens;
  ASSERT_TRUE(connection.Tokenize(request, &tokens).status.ok());
  EXPECT_EQ(tokens.pieces_size(), tokens.token_ids_size());
  for (int32_t id : tokens.token_ids()) EXPECT_NE(id, 2);  // Plain text stays plain text.
  v1::DetokenizeRequest back;
  *back.mutable_token_ids() = tokens.token_ids();
  v1::DetokenizeResponse text;
  ASSERT_TRUE(connection.Detokenize(back, &text).status.ok());
  EXPECT_EQ(text.text(), request.text());

  request.set_parse_special(true);
  ASSERT_TRUE(connection.Tokenize(request, &tokens).status.ok());
  EXPECT_EQ(std::count(tokens.token_ids().begin(), tokens.token_ids().end(), 2), 1);
  request.clear_add_bos();
  ASSERT_TRUE(connection.Tokenize(request, &tokens).status.ok());
  EXPECT_EQ(tokens.token_ids(0), 1);  // The tokenizer's default.

  request.set_text("\xff");
  EXPECT_FALSE(connection.Tokenize(request, &tokens).status.ok());
}

TEST(Tokens, NeedATokenizer) {
  TestServer server;
  Connection connection({server.address()});
  v1::TokenizeResponse tokens;
  EXPECT_EQ(connection.Tokenize({}, &tokens).status.code(), absl::StatusCode::kFailedPrecondition);
  v1::DetokenizeResponse text;
  EXPECT_EQ(connection.Detokenize({}, &text).status.code(), absl::StatusCode::kFailedPrecondition);
}

TEST(ModelInfo, TellsWhatAPlannerNeeds) {
  TestServer server;
  Connection connection({server.address()});
  v1::GetModelInfoResponse info;
  ASSERT_TRUE(connection.GetModelInfo(&info).status.ok());
  const StateLayout& layout = server.model().state_layout();
  EXPECT_EQ(info.name(), "fake");
  EXPECT_EQ(info.fingerprint(), server.model().fingerprint());
  EXPECT_FALSE(info.numerics_id().empty());
  EXPECT_EQ(info.vocab_size(), 101);
  ASSERT_EQ(info.layers_size(), 4);
  EXPECT_EQ(info.layers(0).type(), "rat");
  EXPECT_EQ(info.layers(3).type(), "mesa");
  EXPECT_EQ(info.state().fixed_bytes(),
            static_cast<int64_t>(layout.slot_bytes + layout.tail_bytes));
  EXPECT_EQ(info.state().bytes_at_max_context(), static_cast<int64_t>(layout.SequenceBytes(512)));
  // The parts make the whole: 512 tokens fill their pages.
  const double sum = info.state().fixed_bytes() + info.state().window_bytes() +
                     512 * info.state().bytes_per_token();
  EXPECT_NEAR(sum, info.state().bytes_at_max_context(), 0.5);
  EXPECT_GT(info.state().pool_bytes(), info.state().bytes_at_max_context());
  EXPECT_EQ(info.limits().max_context(), 512);
  EXPECT_EQ(info.limits().max_running(), 16);
  EXPECT_EQ(info.sampling_defaults().temperature(), 1);
  EXPECT_EQ(info.solver_defaults().cg_max_steps(), 64);
  EXPECT_FALSE(info.has_tokenizer());
  EXPECT_EQ(info.eos_token_ids(0), FakeModel::kEos);
}

TEST(Http, MetricsPassPromtool) {
  TestServer server;
  Connection connection({server.address()});
  v1::GenerateRequest request;
  request.mutable_tokens()->add_ids(5);
  request.mutable_sampling()->set_temperature(0);
  ASSERT_TRUE(connection.Generate(request, [](const auto&) {}).status.ok());
  request.mutable_sampling()->set_temperature(-1);
  ASSERT_FALSE(connection.Generate(request, [](const auto&) {}).status.ok());
  ASSERT_TRUE(Eventually([&] { return server.AccessLines("Generate") == 2; }));
  const std::string answer = server.Get("/metrics");
  const std::string metrics = answer.substr(answer.find("\r\n\r\n") + 4);
  for (const char* name :
       {"packrat_requests_waiting", "packrat_requests_running", "packrat_state_utilization_ratio",
        "packrat_state_used_bytes", "packrat_state_capacity_bytes", "packrat_weight_bytes",
        "packrat_scratch_bytes", "packrat_process_resident_memory_bytes",
        "packrat_prompt_tokens_total", "packrat_generated_tokens_total",
        "packrat_generated_tokens_per_second", "packrat_time_to_first_token_seconds_bucket",
        "packrat_time_per_output_token_seconds_bucket", "packrat_queue_time_seconds_bucket",
        "packrat_request_duration_seconds_bucket", "packrat_solver_steps_total",
        "packrat_requests_finished_total", "packrat_errors_total", "packrat_build_info"}) {
    EXPECT_TRUE(absl::StrContains(metrics, absl::StrCat("\n", name, "{"))) << name;
  }
  EXPECT_TRUE(absl::StrContains(metrics, "le=\"0.0005\""));
  EXPECT_EQ(server.Metric("packrat_errors_total{model=\"fake\",status=\"INVALID_ARGUMENT\"}"), 1);
  EXPECT_GT(server.Metric("packrat_process_resident_memory_bytes"), 1e6);

  const std::string file = testing::TempDir() + "/metrics.txt";
  std::ofstream(file) << metrics;
  std::FILE* check = popen(("promtool check metrics < " + file + " 2>&1").c_str(), "r");
  ASSERT_NE(check, nullptr);
  char buffer[4096];
  const size_t size = fread(buffer, 1, sizeof(buffer), check);
  EXPECT_EQ(pclose(check), 0);
  EXPECT_EQ(std::string(buffer, size), "");
}

TEST(Http, ShowsWhatIsOpenAndWhoCalls) {
  TestServer::Options options;
  options.server.metrics_by_caller = 1;
  options.server.max_streams = 77;
  TestServer server(options);
  EXPECT_EQ(server.Metric("packrat_max_streams"), 77);
  EXPECT_EQ(server.Metric("packrat_streams_open"), 0);
  EXPECT_EQ(server.Metric("packrat_draining"), 0);
  v1::GenerateRequest request;
  request.mutable_tokens()->add_ids(5);
  request.mutable_stop()->set_max_tokens(3);
  request.mutable_stop()->set_ignore_eos(true);
  Connection::Options to;
  to.address = server.address();
  to.caller = "team-a";
  Connection named(to);
  server.gate().Close();
  std::atomic<int> messages{0};
  std::thread call([&] {
    named.Generate(request, [&](const auto& m) { messages += m.token_ids_size() > 0 ? 1 : 0; });
  });
  server.gate().WaitUntilHeld();
  EXPECT_EQ(server.Metric("packrat_streams_open"), 1);
  // The first token is out by itself, so that there are two messages.
  server.gate().Allow(1);
  EXPECT_TRUE(Eventually([&] { return messages == 1; }));
  server.gate().Open();
  call.join();
  EXPECT_TRUE(Eventually([&] { return server.Metric("packrat_streams_open") == 0; }));
  to.caller = "team-b";
  Connection other(to);
  v1::GetModelInfoResponse info;
  ASSERT_TRUE(other.GetModelInfo(&info).status.ok());
  EXPECT_EQ(server.Metric("packrat_caller_generated_tokens_total{model=\"fake\",caller=\"team-a\""),
            3);
  EXPECT_EQ(server.Metric("packrat_caller_calls_total{model=\"fake\",caller=\"team-a\""), 1);
  EXPECT_EQ(server.Metric("packrat_caller_calls_total{model=\"fake\",caller=\"other\""), 1);
  EXPECT_EQ(server.Metric("packrat_inter_token_time_seconds_count"), 2);
  EXPECT_EQ(server.Metric("packrat_batch_sequences_count"), 3);
  EXPECT_GE(messages, 2);
  EXPECT_EQ(server.Metric("packrat_message_interval_seconds_count"), messages - 1);
  EXPECT_EQ(server.Metric("packrat_delivery_seconds_count"), messages);
  EXPECT_GT(server.Metric("packrat_delivery_seconds_sum"), 0);
}

TEST(Http, RatesAreSampledHoweverPatientStreamsAre) {
  TestServer::Options options;
  options.server.stream_idle_timeout = absl::Hours(24);
  TestServer server(options);
  Connection connection({server.address()});
  v1::GenerateRequest request;
  request.mutable_tokens()->add_ids(5);
  request.mutable_stop()->set_max_tokens(3);
  EXPECT_TRUE(Eventually([&] {
    connection.Generate(request, [](const auto&) {});
    return server.Metric("packrat_generated_tokens_per_second") > 0;
  }));
}

TEST(Http, TellsTheVersionAndNothingElse) {
  TestServer server;
  const std::string version = server.Get("/version");
  EXPECT_TRUE(absl::StrContains(version, " 200 ")) << version;
  EXPECT_TRUE(absl::StrContains(version, "\"model\":\"fake\"")) << version;
  EXPECT_TRUE(absl::StrContains(server.Get("/nothing"), " 404 "));
}

}  // namespace
}  // namespace packrat
