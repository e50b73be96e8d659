// grpc.reflection.v1: describes the server's services and messages to tools such as grpcurl.
#ifndef PACKRAT_SERVER_GRPC_REFLECTION_SERVICE_H_
#define PACKRAT_SERVER_GRPC_REFLECTION_SERVICE_H_

#include <string>
#include <utility>
#include <vector>

#include "proto/grpc/reflection/v1/reflection.grpc.pb.h"
#include "server/grpc/unread_calls.h"

namespace packrat {

class ReflectionService final : public grpc::reflection::v1::ServerReflection::CallbackService {
 public:
  // `services`: full names, of files that are linked in. `unread` outlives the service.
  ReflectionService(std::vector<std::string> services, UnreadCalls* unread)
      : services_(std::move(services)), unread_(unread) {}

  // The same as grpc.reflection.v1alpha, which has the same messages. Many tools know only that.
  grpc::Service* predecessor() { return &predecessor_; }

  grpc::ServerBidiReactor<grpc::reflection::v1::ServerReflectionRequest,
                          grpc::reflection::v1::ServerReflectionResponse>*
  ServerReflectionInfo(grpc::CallbackServerContext* context) override;

 private:
  class Predecessor final : public grpc::Service {
   public:
    explicit Predecessor(ReflectionService* service);
  };

  const std::vector<std::string> services_;
  UnreadCalls* const unread_;
  Predecessor predecessor_{this};
};

}  // namespace packrat

#endif  // PACKRAT_SERVER_GRPC_REFLECTION_SERVICE_H_
