// A SaveSession call: a session as it is, in messages of one size.
#ifndef PACKRAT_SERVER_GRPC_SAVE_CALL_H_
#define PACKRAT_SERVER_GRPC_SAVE_CALL_H_

#include <grpcpp/support/server_callback.h>

#include <memory>

#include "absl/status/status.h"
#include "proto/packrat/v1/inference.pb.h"
#include "server/grpc/grpc_transfer.h"

namespace packrat {

// Owned by itself until gRPC is done with it.
class SaveCall final : public grpc::ServerWriteReactor<v1::SaveSessionResponse>,
                       public GrpcTransfer {
 public:
  // gRPC keeps the request until the call is done.
  static SaveCall* Start(CallEnvironment* environment, grpc::CallbackServerContext* context,
                         const v1::SaveSessionRequest* request);

  void OnWriteDone(bool ok) override;
  void OnCancel() override { Leave(); }
  void OnDone() override;

 private:
  SaveCall(CallEnvironment* environment, grpc::CallbackServerContext* context,
           const v1::SaveSessionRequest* request);
  void PackAndWrite();
  void WriteNext();
  void FillAndWrite();

  const v1::SaveSessionRequest* const request_;
  std::shared_ptr<SaveCall> self_;
  v1::SaveSessionResponse message_;
};

}  // namespace packrat

#endif  // PACKRAT_SERVER_GRPC_SAVE_CALL_H_
