#include "server/grpc/generate_reactor.h"

#include <utility>

#include "server/grpc/grpc_status.h"

namespace packrat {

void GenerateReactor::Begin(std::shared_ptr<Generation> call) {
  call_ = std::move(call);
  AddLabels(call_->labels(), context_);
  call_->Start();
}

void GenerateReactor::WriteAndFinish(const v1::GenerateResponse& message) {
  StartWriteAndFinish(&message, grpc::WriteOptions(), grpc::Status::OK);
}

void GenerateReactor::Finish(const absl::Status& status) {
  Reactor::Finish(ToGrpcStatus(status, context_));
}

void GenerateReactor::OnDone() {
  call_->Done(context_->IsCancelled());
  delete this;
}

}  // namespace packrat
