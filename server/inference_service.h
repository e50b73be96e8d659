// packrat.v1.Inference on gRPC's callback interface.
#ifndef PACKRAT_SERVER_INFERENCE_SERVICE_H_
#define PACKRAT_SERVER_INFERENCE_SERVICE_H_

#include <grpcpp/server_context.h>

#include "absl/status/status.h"
#include "proto/packrat/v1/inference.grpc.pb.h"
#include "server/call_environment.h"
#include "server/grpc/unread_calls.h"

namespace packrat {

class InferenceService final : public v1::Inference::CallbackService {
 public:
  // Calls whose message is not there yet are counted among `unread`. Both outlive the service.
  InferenceService(CallEnvironment* environment, UnreadCalls* unread);

  grpc::ServerWriteReactor<v1::GenerateResponse>* Generate(
      grpc::CallbackServerContext* context, const v1::GenerateRequest* request) override;
  grpc::ServerWriteReactor<v1::GenerateResponse>* Score(grpc::CallbackServerContext* context,
                                                        const v1::ScoreRequest* request) override;
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context,
                                     const v1::TokenizeRequest* request,
                                     v1::TokenizeResponse* response) override;
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context,
                                       const v1::DetokenizeRequest* request,
                                       v1::DetokenizeResponse* response) override;
  grpc::ServerUnaryReactor* GetModelInfo(grpc::CallbackServerContext* context,
                                         const v1::GetModelInfoRequest* request,
                                         v1::GetModelInfoResponse* response) override;

 private:
  CallEnvironment* const environment_;
};

}  // namespace packrat

#endif  // PACKRAT_SERVER_INFERENCE_SERVICE_H_
