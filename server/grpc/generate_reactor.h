// A Generate or Score call on gRPC's callback interface.
#ifndef PACKRAT_SERVER_GRPC_GENERATE_REACTOR_H_
#define PACKRAT_SERVER_GRPC_GENERATE_REACTOR_H_

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include <memory>

#include "absl/status/status.h"
#include "proto/packrat/v1/inference.pb.h"
#include "server/generation/caller.h"
#include "server/generation/generation.h"
#include "server/grpc/call_info.h"

namespace packrat {

// Owned by itself until gRPC is done with it. gRPC gives what caller.h asks of a front: OnDone() is
// the last and comes once everything has returned but the operation that ended the call, which
// touches nothing of this object once gRPC has it.
class GenerateReactor final : public grpc::ServerWriteReactor<v1::GenerateResponse>,
                              private Caller {
 public:
  // `make`: Generation::Generate or Generation::Score. gRPC keeps the request until the call is
  // done.
  template <typename Request>
  static GenerateReactor* Start(std::shared_ptr<Generation> (*make)(CallEnvironment*,
                                                                    const Request*, const CallInfo&,
                                                                    Caller*),
                                CallEnvironment* environment, grpc::CallbackServerContext* context,
                                const Request* request) {
    auto* reactor = new GenerateReactor(context);
    reactor->Begin(make(environment, request, CallInfoOf(*context), reactor));
    // gRPC calls nothing of it before it has it.
    return reactor;
  }

  void OnSendInitialMetadataDone(bool ok) override { call_->WriteDone(ok); }
  void OnWriteDone(bool ok) override { call_->WriteDone(ok); }
  void OnCancel() override { call_->Cancelled(); }
  void OnDone() override;

 private:
  using Reactor = grpc::ServerWriteReactor<v1::GenerateResponse>;

  explicit GenerateReactor(grpc::CallbackServerContext* context) : context_(context) {}
  void Begin(std::shared_ptr<Generation> call);

  void SendHeaders() override { StartSendInitialMetadata(); }
  void Write(const v1::GenerateResponse& message) override { StartWrite(&message); }
  void WriteAndFinish(const v1::GenerateResponse& message) override;
  void Finish(const absl::Status& status) override;
  void Abort() override { context_->TryCancel(); }

  grpc::CallbackServerContext* const context_;
  std::shared_ptr<Generation> call_;
};

}  // namespace packrat

#endif  // PACKRAT_SERVER_GRPC_GENERATE_REACTOR_H_
