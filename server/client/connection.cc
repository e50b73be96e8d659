#include "server/client/connection.h"

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>

#include <algorithm>
#include <set>
#include <type_traits>
#include <utility>

#include "absl/time/clock.h"
#include "proto/google/rpc/error_details.pb.h"
#include "proto/google/rpc/status.pb.h"
#include "proto/grpc/health/v1/health.grpc.pb.h"
#include "proto/packrat/v1/inference.grpc.pb.h"
#include "runtime/mutex.h"

namespace packrat {
namespace {

absl::Duration RetryAfter(const grpc::Status& status) {
  google::rpc::Status details;
  if (!details.ParseFromString(status.error_details())) return absl::ZeroDuration();
  for (const auto& any : details.details()) {
    google::rpc::RetryInfo retry;
    if (any.UnpackTo(&retry)) {
      return absl::Seconds(retry.retry_delay().seconds()) +
             absl::Nanoseconds(retry.retry_delay().nanos());
    }
  }
  return absl::ZeroDuration();
}

std::shared_ptr<grpc::Channel> Connect(const Connection::Options& options) {
  grpc::ChannelArguments arguments;
  // The largest answer is a message with about a MiB of tokens; log-probabilities make it larger.
  arguments.SetMaxReceiveMessageSize(64 << 20);
  if (!options.tls) {
    return grpc::CreateCustomChannel(options.address, grpc::InsecureChannelCredentials(),
                                     arguments);
  }
  if (!options.tls_server_name.empty()) {
    arguments.SetSslTargetNameOverride(options.tls_server_name);
  }
  grpc::SslCredentialsOptions tls;
  tls.pem_root_certs = options.tls_ca;
  tls.pem_cert_chain = options.tls_certificate;
  tls.pem_private_key = options.tls_key;
  return grpc::CreateCustomChannel(options.address, grpc::SslCredentials(tls), arguments);
}

}  // namespace

struct Connection::Impl {
  explicit Impl(const Options& o)
      : options(o), channel(Connect(o)), stub(v1::Inference::NewStub(channel)) {}

  // Runs `call` with a context that Cancel() can cancel, for at most `limit` and --deadline.
  template <typename Call>
  Outcome Run(const Call& call, absl::Duration limit = absl::InfiniteDuration()) {
    grpc::ClientContext context;
    const absl::Duration deadline = std::min(options.deadline, limit);
    if (deadline < absl::InfiniteDuration()) {
      context.set_deadline(absl::ToChronoTime(absl::Now() + deadline));
    }
    if (!options.api_key.empty()) {
      context.AddMetadata("authorization", "Bearer " + options.api_key);
    }
    if (!options.caller.empty()) context.AddMetadata("x-caller", options.caller);
    if (!options.affinity.empty()) context.AddMetadata("x-session", options.affinity);
    if (!options.request_id.empty()) context.AddMetadata("x-request-id", options.request_id);
    {
      MutexLock lock(&mutex);
      contexts.insert(&context);
      if (cancelled) context.TryCancel();
    }
    const grpc::Status status = call(&context);
    {
      MutexLock lock(&mutex);
      contexts.erase(&context);
    }
    Outcome outcome;
    outcome.status =
        absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
    const auto& trailers = context.GetServerTrailingMetadata();
    const auto id = trailers.find("x-request-id");
    if (id != trailers.end()) outcome.request_id.assign(id->second.data(), id->second.size());
    // The server puts its id into every answer, also into a refusal.
    outcome.answered = status.error_code() != grpc::StatusCode::UNAVAILABLE || id != trailers.end();
    outcome.retry_after = RetryAfter(status);
    return outcome;
  }

  // A method with one answer.
  template <typename Request, typename Response>
  Outcome Unary(grpc::Status (v1::Inference::Stub::*method)(grpc::ClientContext*, const Request&,
                                                            Response*),
                const typename std::decay<Request>::type& request, Response* response,
                absl::Duration limit = absl::InfiniteDuration()) {
    return Run(
        [&](grpc::ClientContext* context) {
          return (stub.get()->*method)(context, request, response);
        },
        limit);
  }

  const Options options;
  const std::shared_ptr<grpc::Channel> channel;
  const std::unique_ptr<v1::Inference::Stub> stub;
  Mutex mutex;
  std::set<grpc::ClientContext*> contexts ABSL_GUARDED_BY(mutex);
  bool cancelled ABSL_GUARDED_BY(mutex) = false;
};

namespace {

grpc::Status ReadAll(grpc::ClientReader<v1::GenerateResponse>* reader,
                     const std::function<void(const v1::GenerateResponse&)>& on_message) {
  v1::GenerateResponse message;
  while (reader->Read(&message)) on_message(message);
  return reader->Finish();
}

}  // namespace

Connection::Connection(const Options& options) : impl_(std::make_unique<Impl>(options)) {}

Connection::~Connection() = default;

Connection::Outcome Connection::Generate(
    const v1::GenerateRequest& request,
    const std::function<void(const v1::GenerateResponse&)>& on_message) {
  return impl_->Run([&](grpc::ClientContext* context) {
    return ReadAll(impl_->stub->Generate(context, request).get(), on_message);
  });
}

Connection::Outcome Connection::Score(
    const v1::ScoreRequest& request,
    const std::function<void(const v1::GenerateResponse&)>& on_message) {
  return impl_->Run([&](grpc::ClientContext* context) {
    return ReadAll(impl_->stub->Score(context, request).get(), on_message);
  });
}

Connection::Outcome Connection::Tokenize(const v1::TokenizeRequest& request,
                                         v1::TokenizeResponse* response) {
  return impl_->Unary(&v1::Inference::Stub::Tokenize, request, response);
}

Connection::Outcome Connection::Detokenize(const v1::DetokenizeRequest& request,
                                           v1::DetokenizeResponse* response) {
  return impl_->Unary(&v1::Inference::Stub::Detokenize, request, response);
}

Connection::Outcome Connection::GetModelInfo(v1::GetModelInfoResponse* response) {
  return impl_->Unary(&v1::Inference::Stub::GetModelInfo, {}, response);
}

Connection::Outcome Connection::CreateSession(const v1::CreateSessionRequest& request,
                                              v1::Session* response) {
  return impl_->Unary(&v1::Inference::Stub::CreateSession, request, response);
}

Connection::Outcome Connection::ListSessions(const v1::ListSessionsRequest& request,
                                             v1::ListSessionsResponse* response) {
  return impl_->Unary(&v1::Inference::Stub::ListSessions, request, response);
}

Connection::Outcome Connection::GetSession(const v1::GetSessionRequest& request,
                                           v1::Session* response, absl::Duration limit) {
  return impl_->Unary(&v1::Inference::Stub::GetSession, request, response, limit);
}

Connection::Outcome Connection::ForkSession(const v1::ForkSessionRequest& request,
                                            v1::Session* response) {
  return impl_->Unary(&v1::Inference::Stub::ForkSession, request, response);
}

Connection::Outcome Connection::RewindSession(const v1::RewindSessionRequest& request,
                                              v1::Session* response, absl::Duration limit) {
  return impl_->Unary(&v1::Inference::Stub::RewindSession, request, response, limit);
}

Connection::Outcome Connection::DeleteSession(const v1::DeleteSessionRequest& request) {
  v1::DeleteSessionResponse nothing;
  return impl_->Unary(&v1::Inference::Stub::DeleteSession, request, &nothing);
}

Connection::Outcome Connection::SaveSession(
    const v1::SaveSessionRequest& request,
    const std::function<bool(const v1::SaveSessionResponse&)>& on_message) {
  return impl_->Run([&](grpc::ClientContext* context) {
    const auto reader = impl_->stub->SaveSession(context, request);
    v1::SaveSessionResponse message;
    while (reader->Read(&message)) {
      if (!on_message(message)) context->TryCancel();
    }
    return reader->Finish();
  });
}

Connection::Outcome Connection::LoadSession(
    const std::function<bool(v1::LoadSessionRequest*)>& next, v1::LoadSessionResponse* response) {
  return impl_->Run([&](grpc::ClientContext* context) {
    const auto writer = impl_->stub->LoadSession(context, response);
    v1::LoadSessionRequest message;
    // A write fails once the server has refused the call.
    while (next(&message) && writer->Write(message)) {
    }
    writer->WritesDone();
    return writer->Finish();
  });
}

Connection::Outcome Connection::CheckHealth(const std::string& service,
                                            grpc::health::v1::HealthCheckResponse* response) {
  grpc::health::v1::HealthCheckRequest request;
  request.set_service(service);
  // The caller wants to know now. A server that does not answer is not healthy.
  constexpr absl::Duration kLimit = absl::Seconds(5);
  return impl_->Run(
      [&](grpc::ClientContext* context) {
        return grpc::health::v1::Health::NewStub(impl_->channel)->Check(context, request, response);
      },
      kLimit);
}

void Connection::Cancel() {
  MutexLock lock(&impl_->mutex);
  impl_->cancelled = true;
  for (grpc::ClientContext* context : impl_->contexts) context->TryCancel();
}

void Connection::Resume() {
  MutexLock lock(&impl_->mutex);
  impl_->cancelled = false;
}

bool Connection::cancelled() const {
  MutexLock lock(&impl_->mutex);
  return impl_->cancelled;
}

const std::string& Connection::address() const { return impl_->options.address; }

}  // namespace packrat
