// Calls of Generate with gRPC's own client, for tests.
#ifndef PACKRAT_TESTS_SERVER_GENERATE_H_
#define PACKRAT_TESTS_SERVER_GENERATE_H_

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>

#include <memory>
#include <string>
#include <vector>

#include "proto/packrat/v1/inference.grpc.pb.h"
#include "tests/server/test_server.h"

namespace packrat {

struct Result {
  grpc::Status status;
  std::vector<int32_t> ids;
  std::string text;
  int messages = 0;
  v1::Finished finished;
};

inline std::unique_ptr<v1::Inference::Stub> StubFor(const TestServer& server) {
  return v1::Inference::NewStub(
      grpc::CreateChannel(server.address(), grpc::InsecureChannelCredentials()));
}

inline Result ReadAll(grpc::ClientReader<v1::GenerateResponse>* reader) {
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

inline Result Generate(v1::Inference::Stub* stub, const v1::GenerateRequest& request) {
  grpc::ClientContext context;
  return ReadAll(stub->Generate(&context, request).get());
}

inline v1::GenerateRequest Ids(const std::vector<int32_t>& ids, int max_tokens) {
  v1::GenerateRequest request;
  request.mutable_tokens()->mutable_ids()->Assign(ids.begin(), ids.end());
  request.mutable_stop()->set_max_tokens(max_tokens);
  request.mutable_stop()->set_ignore_eos(true);
  request.mutable_sampling()->set_temperature(0);
  return request;
}

inline std::string Trailer(const grpc::ClientContext& context, const char* key) {
  const auto& trailers = context.GetServerTrailingMetadata();
  const auto found = trailers.find(key);
  return found == trailers.end() ? "" : std::string(found->second.data(), found->second.size());
}

// A client that takes in no more than a window of 64 KiB unless somebody reads.
inline std::unique_ptr<v1::Inference::Stub> NarrowStubFor(const TestServer& server) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  return v1::Inference::NewStub(
      grpc::CreateCustomChannel(server.address(), grpc::InsecureChannelCredentials(), arguments));
}

// Long texts that are cheap to compute.
inline TestServer::Options LongTexts() {
  TestServer::Options options;
  options.model.max_context = 100000;
  options.model.full = false;
  options.model.rat = false;
  options.server.engine.max_running = 4;
  options.server.stream_idle_timeout = absl::Hours(24);
  return options;
}

}  // namespace packrat

#endif  // PACKRAT_TESTS_SERVER_GENERATE_H_
