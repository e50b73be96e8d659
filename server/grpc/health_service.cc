#include "server/grpc/health_service.h"

#include <memory>
#include <utility>

#include "server/grpc/message_first.h"

namespace packrat {

using grpc::health::v1::HealthCheckRequest;
using grpc::health::v1::HealthCheckResponse;

// One Watch. Sends the current status, then each change that still holds when it can be sent.
// Deletes itself.
class HealthService::Watcher final : public grpc::ServerWriteReactor<HealthCheckResponse> {
 public:
  Watcher(HealthService* health, std::string service)
      : health_(health), service_(std::move(service)) {}
  const std::string& service() const { return service_; }

  void Tell(Status status) {
    MutexLock lock(&mutex_);
    now_ = status;
    Next();
  }
  void Refuse() {
    MutexLock lock(&mutex_);
    End({grpc::StatusCode::RESOURCE_EXHAUSTED, "too many watches of health"});
  }

  void OnWriteDone(bool ok) override {
    MutexLock lock(&mutex_);
    writing_ = false;
    if (!ok) cancelled_ = true;
    Next();
  }
  void OnCancel() override {
    MutexLock lock(&mutex_);
    cancelled_ = true;
    Next();
  }
  void OnDone() override {
    health_->Remove(this);
    delete this;
  }

 private:
  // One operation at a time.
  void Next() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (writing_ || ended_) return;
    if (cancelled_) return End({grpc::StatusCode::CANCELLED, "the watch is over"});
    if (now_ == message_.status()) return;
    writing_ = true;
    message_.set_status(now_);
    StartWrite(&message_);
  }
  void End(const grpc::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    ended_ = true;
    Finish(status);
  }

  HealthService* const health_;
  const std::string service_;
  Mutex mutex_;
  Status now_ ABSL_GUARDED_BY(mutex_) = HealthCheckResponse::UNKNOWN;
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  // The status that was sent last; at first UNKNOWN, which is never sent.
  HealthCheckResponse message_ ABSL_GUARDED_BY(mutex_);
};

HealthService::HealthService(UnreadCalls* unread) {
  const auto* service = HealthCheckRequest::descriptor()->file()->FindServiceByName("Health");
  const auto handle = [&](const char* method, auto handler) {
    MarkMethodStreamed(service->FindMethodByName(method)->index(),
                       MessageFirst(std::move(handler), unread).release());
  };
  handle("Check",
         std::make_unique<
             grpc::internal::CallbackUnaryHandler<HealthCheckRequest, HealthCheckResponse>>(
             [this](auto*... call) { return Check(call...); }));
  handle(
      "Watch",
      std::make_unique<
          grpc::internal::CallbackServerStreamingHandler<HealthCheckRequest, HealthCheckResponse>>(
          [this](auto*... call) { return Watch(call...); }));
}

void HealthService::Set(const std::string& service, bool serving) {
  MutexLock lock(&mutex_);
  serving_[service] = serving;
  for (Watcher* watcher : watchers_) {
    if (watcher->service() == service) watcher->Tell(StatusOf(service));
  }
}

HealthService::Status HealthService::StatusOf(const std::string& service) const {
  const auto found = serving_.find(service);
  if (found == serving_.end()) return HealthCheckResponse::SERVICE_UNKNOWN;
  return found->second ? HealthCheckResponse::SERVING : HealthCheckResponse::NOT_SERVING;
}

grpc::ServerUnaryReactor* HealthService::Check(grpc::CallbackServerContext* context,
                                               const HealthCheckRequest* request,
                                               HealthCheckResponse* response) {
  Status status;
  {
    MutexLock lock(&mutex_);
    status = StatusOf(request->service());
  }
  response->set_status(status);
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  reactor->Finish(status == HealthCheckResponse::SERVICE_UNKNOWN
                      ? grpc::Status(grpc::StatusCode::NOT_FOUND, "no such service")
                      : grpc::Status::OK);
  return reactor;
}

grpc::ServerWriteReactor<HealthCheckResponse>* HealthService::Watch(
    grpc::CallbackServerContext* context, const HealthCheckRequest* request) {
  auto* const watcher = new Watcher(this, request->service());
  MutexLock lock(&mutex_);
  if (watchers_.size() >= kMostWatches) {
    watcher->Refuse();
  } else {
    watchers_.insert(watcher);
    watcher->Tell(StatusOf(watcher->service()));
  }
  return watcher;
}

void HealthService::Remove(Watcher* watcher) {
  MutexLock lock(&mutex_);
  watchers_.erase(watcher);
}

}  // namespace packrat
