// The client's side of a channel. Calls block, and Cancel(), from any thread, ends them. Only
// connection.cc knows gRPC.
#ifndef PACKRAT_SERVER_CLIENT_CONNECTION_H_
#define PACKRAT_SERVER_CLIENT_CONNECTION_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "proto/grpc/health/v1/health.pb.h"
#include "proto/packrat/v1/inference.pb.h"

namespace packrat {

class Connection {
 public:
  struct Options {
    std::string address;                                 // A name that gRPC accepts.
    absl::Duration deadline = absl::InfiniteDuration();  // Of each call.
    std::string api_key;                                 // Empty: none.
    std::string caller;                                  // Label in the server's log; empty: none.
    std::string request_id;                              // Empty: the server makes one.
    std::string affinity;  // x-session: balancers send equal values to one replica; empty: none.
    bool tls = false;
    // PEM. Empty: the system's authorities, and no certificate.
    std::string tls_ca, tls_certificate, tls_key;
    std::string
        tls_server_name;  // The name that the server's certificate must have; empty: the address's.
  };
  // How a call ended.
  struct Outcome {
    absl::Status status;
    bool answered = true;        // False: no server was reached.
    std::string request_id;      // From the server; empty if the call did not get so far.
    absl::Duration retry_after;  // From RetryInfo; zero if there was none.
  };

  explicit Connection(const Options& options);
  ~Connection();

  Outcome Generate(const v1::GenerateRequest& request,
                   const std::function<void(const v1::GenerateResponse&)>& on_message);
  Outcome Score(const v1::ScoreRequest& request,
                const std::function<void(const v1::GenerateResponse&)>& on_message);
  Outcome Tokenize(const v1::TokenizeRequest& request, v1::TokenizeResponse* response);
  Outcome Detokenize(const v1::DetokenizeRequest& request, v1::DetokenizeResponse* response);
  Outcome GetModelInfo(v1::GetModelInfoResponse* response);
  Outcome CreateSession(const v1::CreateSessionRequest& request, v1::Session* response);
  Outcome ListSessions(const v1::ListSessionsRequest& request, v1::ListSessionsResponse* response);
  // `limit`: of its time, beside --deadline.
  Outcome GetSession(const v1::GetSessionRequest& request, v1::Session* response,
                     absl::Duration limit = absl::InfiniteDuration());
  Outcome ForkSession(const v1::ForkSessionRequest& request, v1::Session* response);
  Outcome RewindSession(const v1::RewindSessionRequest& request, v1::Session* response,
                        absl::Duration limit = absl::InfiniteDuration());
  Outcome DeleteSession(const v1::DeleteSessionRequest& request);
  // `on_message` returns false to cancel the call.
  Outcome SaveSession(const v1::SaveSessionRequest& request,
                      const std::function<bool(const v1::SaveSessionResponse&)>& on_message);
  // `next` makes the next message of the last; false: there is none.
  Outcome LoadSession(const std::function<bool(v1::LoadSessionRequest*)>& next,
                      v1::LoadSessionResponse* response);
  // `service`: full name, or empty: the server as a whole. Takes five seconds at most.
  Outcome CheckHealth(const std::string& service, grpc::health::v1::HealthCheckResponse* response);

  // Ends running and later calls with CANCELLED, until Resume().
  void Cancel();
  void Resume();
  bool cancelled() const;

  const std::string& address() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace packrat

#endif  // PACKRAT_SERVER_CLIENT_CONNECTION_H_
