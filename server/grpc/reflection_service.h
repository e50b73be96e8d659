// grpc.reflection.v1: what the server's services and messages look like, for grpcurl and its like.
#ifndef PACKRAT_SERVER_GRPC_REFLECTION_SERVICE_H_
#define PACKRAT_SERVER_GRPC_REFLECTION_SERVICE_H_

#include <string>
#include <utility>
#include <vector>

#include "proto/grpc/reflection/v1/reflection.grpc.pb.h"

namespace packrat {

class ReflectionService final : public grpc::reflection::v1::ServerReflection::CallbackService {
 public:
  // `services`: full names, of files that are linked in.
  explicit ReflectionService(std::vector<std::string> services) : services_(std::move(services)) {}

  grpc::ServerBidiReactor<grpc::reflection::v1::ServerReflectionRequest,
                          grpc::reflection::v1::ServerReflectionResponse>*
  ServerReflectionInfo(grpc::CallbackServerContext* context) override;

 private:
  const std::vector<std::string> services_;
};

}  // namespace packrat

#endif  // PACKRAT_SERVER_GRPC_REFLECTION_SERVICE_H_
