#include "server/grpc/grpc_port.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "proto/packrat/v1/inference.grpc.pb.h"

namespace packrat {
namespace {

// Process-wide settings of the library; they concern only servers built from here on.
void SetUpLibrary() {
  grpc::EnableDefaultHealthCheckService(true);
  static const bool reflection = [] {
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
    return true;
  }();
  (void)reflection;
}

}  // namespace

struct GrpcPort::Impl {
  std::unique_ptr<grpc::Server> server;
  int port = 0;
};

absl::StatusOr<std::unique_ptr<GrpcPort>> GrpcPort::Start(const ServerOptions& options,
                                                          grpc::Service* service) {
  SetUpLibrary();
  auto impl = std::make_unique<Impl>();
  grpc::ServerBuilder builder;
  builder.AddListeningPort(options.listen, grpc::InsecureServerCredentials(), &impl->port);
  builder.RegisterService(service);
  builder.SetMaxReceiveMessageSize(options.max_message_bytes);
  // Two servers on one port would each get half of the clients.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  // A client whose machine has vanished sends no reset: ask after half a minute of silence.
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 30000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  impl->server = builder.BuildAndStart();
  if (impl->server == nullptr || impl->port == 0) {
    return absl::UnavailableError(
        absl::StrCat("--listen: cannot listen at ", options.listen, "; is the port taken?"));
  }
  auto port = std::unique_ptr<GrpcPort>(new GrpcPort(std::move(impl)));
  port->SetReady(false);
  return port;
}

GrpcPort::GrpcPort(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

GrpcPort::~GrpcPort() { Shutdown(absl::ZeroDuration()); }

void GrpcPort::SetAlive(bool alive) {
  impl_->server->GetHealthCheckService()->SetServingStatus("", alive);
}

void GrpcPort::SetReady(bool ready) {
  impl_->server->GetHealthCheckService()->SetServingStatus(v1::Inference::service_full_name(),
                                                           ready);
}

void GrpcPort::Shutdown(absl::Duration grace) {
  impl_->server->Shutdown(absl::ToChronoTime(absl::Now() + grace));
  impl_->server->Wait();
}

int GrpcPort::port() const { return impl_->port; }

}  // namespace packrat
