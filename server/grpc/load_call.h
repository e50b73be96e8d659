// A LoadSession call: bytes that a client has kept become a session.
#ifndef PACKRAT_SERVER_GRPC_LOAD_CALL_H_
#define PACKRAT_SERVER_GRPC_LOAD_CALL_H_

#include <grpcpp/support/server_callback.h>

#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "proto/packrat/v1/inference.pb.h"
#include "server/grpc/grpc_transfer.h"

namespace packrat {

// Owned by itself until gRPC is done with it.
class LoadCall final : public grpc::ServerReadReactor<v1::LoadSessionRequest>, public GrpcTransfer {
 public:
  static LoadCall* Start(CallEnvironment* environment, grpc::CallbackServerContext* context,
                         v1::LoadSessionResponse* response);

  void OnReadDone(bool ok) override;
  void OnCancel() override { Leave(); }
  void OnDone() override;

 private:
  LoadCall(CallEnvironment* environment, grpc::CallbackServerContext* context,
           v1::LoadSessionResponse* response);
  void ReadNext();
  // What message_ brings.
  absl::Status TakePiece();

  v1::LoadSessionResponse* const response_;
  std::shared_ptr<LoadCall> self_;
  v1::LoadSessionRequest message_;
  bool begun_ = false;
  std::string cache_salt_;
  std::optional<absl::Duration> ttl_;
};

}  // namespace packrat

#endif  // PACKRAT_SERVER_GRPC_LOAD_CALL_H_
