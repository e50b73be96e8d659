// SaveSession and LoadSession over gRPC: what both calls are there.
#ifndef PACKRAT_SERVER_GRPC_GRPC_TRANSFER_H_
#define PACKRAT_SERVER_GRPC_GRPC_TRANSFER_H_

#include <grpcpp/server_context.h>
#include <grpcpp/support/status.h>

#include "absl/status/status.h"
#include "server/generation/transfer_call.h"
#include "server/grpc/call_info.h"
#include "server/grpc/grpc_status.h"

namespace packrat {

class GrpcTransfer : public TransferCall {
 protected:
  GrpcTransfer(const char* name, CallEnvironment* environment, grpc::CallbackServerContext* context)
      : TransferCall(name, environment, CallInfoOf(*context)), context_(context) {
    AddLabels(labels(), context);
  }

  bool cancelled() const override { return context_->IsCancelled(); }
  void Drop() override { context_->TryCancel(); }

  // The status to finish with.
  grpc::Status Result(const absl::Status& status) {
    SetStatus(status);
    return ToGrpcStatus(status, context_);
  }

 private:
  grpc::CallbackServerContext* const context_;
};

}  // namespace packrat

#endif  // PACKRAT_SERVER_GRPC_GRPC_TRANSFER_H_
