// The standard services by their own protocols: grpc.health.v1, grpc.reflection.v1.
#include <google/protobuf/descriptor.pb.h>
#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>
#include <gtest/gtest.h>

#include <memory>
#include <set>
#include <string>

#include "proto/grpc/health/v1/health.grpc.pb.h"
#include "proto/grpc/reflection/v1/reflection.grpc.pb.h"
#include "tests/server/test_server.h"

namespace packrat {
namespace {

using grpc::health::v1::HealthCheckRequest;
using grpc::health::v1::HealthCheckResponse;
using grpc::reflection::v1::ServerReflection;
using grpc::reflection::v1::ServerReflectionRequest;
using grpc::reflection::v1::ServerReflectionResponse;

std::shared_ptr<grpc::Channel> ChannelTo(const TestServer& server) {
  return grpc::CreateChannel(server.address(), grpc::InsecureChannelCredentials());
}

TEST(Health, IsWatched) {
  TestServer::Options options;
  options.serve = false;
  TestServer server(options);
  const auto stub = grpc::health::v1::Health::NewStub(ChannelTo(server));
  grpc::ClientContext context;
  HealthCheckRequest request;
  request.set_service("packrat.v1.Inference");
  HealthCheckResponse response;
  const auto watch = stub->Watch(&context, request);
  ASSERT_TRUE(watch->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::NOT_SERVING);
  server.Serve();
  ASSERT_TRUE(watch->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::SERVING);
  context.TryCancel();
  watch->Finish();
}

// One stream, many questions.
class Reflection : public testing::Test {
 protected:
  Reflection()
      : stub_(ServerReflection::NewStub(ChannelTo(server_))),
        stream_(stub_->ServerReflectionInfo(&context_)) {}
  ~Reflection() override {
    stream_->WritesDone();
    EXPECT_TRUE(stream_->Finish().ok());
  }

  ServerReflectionResponse Ask(const ServerReflectionRequest& request) {
    ServerReflectionResponse response;
    EXPECT_TRUE(stream_->Write(request));
    EXPECT_TRUE(stream_->Read(&response));
    EXPECT_EQ(response.original_request().SerializeAsString(), request.SerializeAsString());
    return response;
  }
  ServerReflectionResponse AskSymbol(const std::string& name) {
    ServerReflectionRequest request;
    request.set_file_containing_symbol(name);
    return Ask(request);
  }

 private:
  TestServer server_;
  const std::unique_ptr<ServerReflection::Stub> stub_;
  grpc::ClientContext context_;
  const std::unique_ptr<grpc::ClientReaderWriter<ServerReflectionRequest, ServerReflectionResponse>>
      stream_;
};

// Names of the files of an answer.
std::set<std::string> Files(const ServerReflectionResponse& response) {
  std::set<std::string> names;
  for (const std::string& bytes : response.file_descriptor_response().file_descriptor_proto()) {
    google::protobuf::FileDescriptorProto file;
    EXPECT_TRUE(file.ParseFromString(bytes));
    names.insert(file.name());
  }
  return names;
}

TEST_F(Reflection, EveryListedServiceIsDescribed) {
  ServerReflectionRequest list;
  list.set_host("any");
  list.set_list_services("");
  const ServerReflectionResponse listed = Ask(list);
  EXPECT_EQ(listed.valid_host(), "any");
  std::set<std::string> names;
  for (const auto& service : listed.list_services_response().service()) {
    names.insert(service.name());
    EXPECT_FALSE(Files(AskSymbol(service.name())).empty()) << service.name();
  }
  EXPECT_EQ(names,
            (std::set<std::string>{"grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection",
                                   "packrat.v1.Inference"}));
}

TEST_F(Reflection, FindsFilesByWhatIsInThem) {
  const std::set<std::string> inference = {"proto/packrat/v1/inference.proto"};
  for (const char* symbol : {"packrat.v1.Inference.Generate", "packrat.v1.GenerateRequest",
                             "packrat.v1.FINISH_REASON_EOS"}) {
    EXPECT_EQ(Files(AskSymbol(symbol)), inference) << symbol;
  }
  ServerReflectionRequest by_name;
  by_name.set_file_by_filename("proto/packrat/v1/inference.proto");
  EXPECT_EQ(Files(Ask(by_name)), inference);
  EXPECT_EQ(Files(AskSymbol("grpc.health.v1.Health.Watch")),
            std::set<std::string>{"proto/grpc/health/v1/health.proto"});
  // With what it imports.
  EXPECT_EQ(Files(AskSymbol("google.rpc.Status")),
            (std::set<std::string>{"google/protobuf/any.proto", "proto/google/rpc/status.proto"}));
}

TEST_F(Reflection, SaysWhatThereIsNot) {
  const auto code = [](const ServerReflectionResponse& r) {
    return r.error_response().error_code();
  };
  EXPECT_EQ(code(AskSymbol("packrat.v1.Nothing")), grpc::StatusCode::NOT_FOUND);
  ServerReflectionRequest request;
  request.set_file_by_filename("nothing.proto");
  EXPECT_EQ(code(Ask(request)), grpc::StatusCode::NOT_FOUND);
  request.mutable_file_containing_extension()->set_containing_type("packrat.v1.GenerateRequest");
  request.mutable_file_containing_extension()->set_extension_number(100);
  EXPECT_EQ(code(Ask(request)), grpc::StatusCode::NOT_FOUND);
  request.set_all_extension_numbers_of_type("packrat.v1.Nothing");
  EXPECT_EQ(code(Ask(request)), grpc::StatusCode::NOT_FOUND);
  request.set_all_extension_numbers_of_type("packrat.v1.GenerateRequest");
  EXPECT_EQ(Ask(request).all_extension_numbers_response().base_type_name(),
            "packrat.v1.GenerateRequest");
  request.clear_message_request();
  EXPECT_EQ(code(Ask(request)), grpc::StatusCode::INVALID_ARGUMENT);
}

}  // namespace
}  // namespace packrat
