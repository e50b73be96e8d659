// grpc.health.v1, for balancers and probes. We do not use the library's service, since it does not
// limit watches, and since its calls are unknown to us until their message has arrived
// (message_first.h).
#ifndef PACKRAT_SERVER_GRPC_HEALTH_SERVICE_H_
#define PACKRAT_SERVER_GRPC_HEALTH_SERVICE_H_

#include <map>
#include <set>
#include <string>

#include "proto/grpc/health/v1/health.grpc.pb.h"
#include "runtime/mutex.h"
#include "server/grpc/unread_calls.h"

namespace packrat {

// Thread-safe.
class HealthService final : public grpc::health::v1::Health::CallbackService {
 public:
  // Most watches at a time; more are refused with RESOURCE_EXHAUSTED.
  static constexpr size_t kMostWatches = 4096;

  // `unread` outlives the service.
  explicit HealthService(UnreadCalls* unread);

  // A service is unknown until it is set.
  void Set(const std::string& service, bool serving);

  grpc::ServerUnaryReactor* Check(grpc::CallbackServerContext* context,
                                  const grpc::health::v1::HealthCheckRequest* request,
                                  grpc::health::v1::HealthCheckResponse* response) override;
  grpc::ServerWriteReactor<grpc::health::v1::HealthCheckResponse>* Watch(
      grpc::CallbackServerContext* context,
      const grpc::health::v1::HealthCheckRequest* request) override;

 private:
  class Watcher;
  using Status = grpc::health::v1::HealthCheckResponse::ServingStatus;

  Status StatusOf(const std::string& service) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Remove(Watcher* watcher);

  mutable Mutex mutex_;
  std::map<std::string, bool> serving_ ABSL_GUARDED_BY(mutex_);
  std::set<Watcher*> watchers_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace packrat

#endif  // PACKRAT_SERVER_GRPC_HEALTH_SERVICE_H_
