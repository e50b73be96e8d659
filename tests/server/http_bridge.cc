#include "tests/server/http_bridge.h"

#include <arpa/inet.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <grpcpp/server_context.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kernels/check.h"
#include "proto/google/rpc/error_details.pb.h"
#include "proto/google/rpc/status.pb.h"
#include "proto/packrat/v1/inference.grpc.pb.h"
#include "server/http/proto_json.h"

namespace packrat {
namespace {

// One request, and its answer as it comes.
class Exchange {
 public:
  Exchange(grpc::ServerContext* context, int port) : context_(*context) {
    fd_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    // So that a client that does not read is felt on the other side.
    const int bytes = 4096;
    setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes));
    sockaddr_in to = {};
    to.sin_family = AF_INET;
    to.sin_port = htons(static_cast<uint16_t>(port));
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connected_ = connect(fd_, reinterpret_cast<sockaddr*>(&to), sizeof(to)) == 0;
  }
  ~Exchange() { close(fd_); }
  Exchange(const Exchange&) = delete;
  Exchange& operator=(const Exchange&) = delete;

  // Sends the request and reads the head of its answer. False: none came.
  bool Ask(const std::string& method, const std::string& body,
           const std::string& type = "application/json", const std::string& headers = "") {
    std::string request =
        absl::StrCat("POST /packrat/v1/", method,
                     " HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Type: ", type,
                     "\r\nContent-Length: ", body.size(), "\r\n", headers);
    for (const auto& [name, value] : context_.client_metadata()) {
      for (const char* known : {"authorization", "x-request-id", "x-caller", "traceparent"}) {
        const absl::string_view text(value.data(), value.size());
        if (absl::string_view(name.data(), name.size()) == known) {
          absl::StrAppend(&request, known, ": ", text, "\r\n");
        }
      }
    }
    if (context_.deadline() != std::chrono::system_clock::time_point::max()) {
      const std::chrono::duration<double> left =
          context_.deadline() - std::chrono::system_clock::now();
      if (left.count() > 0 && left.count() < 1e9) {
        absl::StrAppend(&request, "X-Request-Timeout: ", left.count(), "\r\n");
      }
    }
    absl::StrAppend(&request, "\r\n", body);
    // A refusal may come before all of it is sent.
    for (size_t sent = 0; connected_ && sent < request.size();) {
      const ssize_t n = send(fd_, request.data() + sent, request.size() - sent, MSG_NOSIGNAL);
      if (n <= 0) break;
      sent += static_cast<size_t>(n);
    }
    size_t end;
    while ((end = buffer_.find("\r\n\r\n")) == std::string::npos) {
      if (!Receive()) return false;
    }
    head_ = buffer_.substr(0, end + 2);
    buffer_.erase(0, end + 4);
    chunked_ = !Header("Transfer-Encoding").empty();
    // What gRPC has in its trailers.
    for (const char* label : {"X-Request-Id", "Traceresponse"}) {
      const std::string value = Header(label);
      if (!value.empty()) context_.AddTrailingMetadata(absl::AsciiStrToLower(label), value);
    }
    return true;
  }

  bool ok() const { return absl::StartsWith(head_, "HTTP/1.1 200 "); }
  std::string Header(const std::string& name) const {
    for (const absl::string_view line : absl::StrSplit(head_, "\r\n")) {
      if (absl::StartsWithIgnoreCase(line, name + ": ")) {
        return std::string(line.substr(name.size() + 2));
      }
    }
    return "";
  }

  // 0: there is none.
  int64_t Number(const std::string& name) const {
    int64_t value = 0;
    return absl::SimpleAtoi(Header(name), &value) ? value : 0;
  }

  // What comes next of the body. False: that was all of it, or it was cut: see whole().
  bool Next(std::string* bytes) {
    if (whole_) return false;
    if (!chunked_) {
      if (buffer_.empty() && !Receive()) {
        whole_ = true;  // By the end of the connection.
        return false;
      }
      *bytes = std::exchange(buffer_, "");
      return true;
    }
    size_t line;
    while ((line = buffer_.find("\r\n")) == std::string::npos) {
      if (!Receive()) return false;
    }
    const size_t size = std::strtoul(buffer_.c_str(), nullptr, 16);
    while (buffer_.size() < line + 2 + size + 2) {
      if (!Receive()) return false;
    }
    *bytes = buffer_.substr(line + 2, size);
    buffer_.erase(0, line + 2 + size + 2);
    whole_ = size == 0;
    return !whole_;
  }
  bool whole() const { return whole_; }
  std::string Rest() {
    std::string all, bytes;
    while (Next(&bytes)) all += bytes;
    return all;
  }

  // Of google.rpc.Status as JSON.
  grpc::Status StatusOf(const std::string& json) {
    google::rpc::Status status;
    PACKRAT_CHECK(FromJson(json, &status).ok()) << head_ << json;
    for (const auto& detail : status.details()) {
      google::rpc::RetryInfo retry;
      if (!detail.UnpackTo(&retry)) continue;
      const int64_t ms =
          retry.retry_delay().seconds() * 1000 + retry.retry_delay().nanos() / 1000000;
      context_.AddTrailingMetadata("grpc-retry-pushback-ms", absl::StrCat(ms));
    }
    return {static_cast<grpc::StatusCode>(status.code()), status.message(),
            status.SerializeAsString()};
  }
  // Of an answer that has begun.
  static grpc::Status Cut() { return {grpc::StatusCode::CANCELLED, "the connection was cut"}; }
  // The server was not there, or closed the connection.
  grpc::Status NoAnswer() const {
    if (context_.IsCancelled()) return grpc::Status::CANCELLED;
    return {grpc::StatusCode::UNAVAILABLE, "the connection was closed"};
  }

 private:
  // False: nothing more comes, or the client has gone. One whose deadline has passed has the server
  // find that out by itself.
  bool Receive() {
    while (connected_) {
      pollfd ready = {fd_, POLLIN, 0};
      if (poll(&ready, 1, /*ms=*/2) > 0) {
        char bytes[4096];
        const ssize_t n = recv(fd_, bytes, sizeof(bytes), 0);
        if (n <= 0) return false;
        buffer_.append(bytes, static_cast<size_t>(n));
        return true;
      }
      if (context_.IsCancelled() && std::chrono::system_clock::now() < context_.deadline()) {
        return false;
      }
    }
    return false;
  }

  grpc::ServerContext& context_;
  int fd_ = -1;
  bool connected_ = false, chunked_ = false, whole_ = false;
  std::string head_, buffer_;
};

}  // namespace

struct HttpBridge::Impl final : v1::Inference::Service {
  template <typename Request>
  grpc::Status Stream(const char* method, grpc::ServerContext* context, const Request& request,
                      grpc::ServerWriter<v1::GenerateResponse>* writer) {
    Exchange exchange(context, http_port);
    if (!exchange.Ask(method, ToJson(request))) return exchange.NoAnswer();
    if (!exchange.ok()) return exchange.StatusOf(exchange.Rest());
    writer->SendInitialMetadata();
    std::string lines, bytes;
    while (exchange.Next(&bytes)) {
      lines += bytes;
      for (size_t end; (end = lines.find('\n')) != std::string::npos; lines.erase(0, end + 1)) {
        const std::string line = lines.substr(0, end);
        static constexpr absl::string_view kError = R"({"error":)";
        if (absl::StartsWith(line, kError)) {
          return exchange.StatusOf(line.substr(kError.size(), line.size() - kError.size() - 1));
        }
        v1::GenerateResponse message;
        PACKRAT_CHECK(FromJson(line, &message).ok()) << line;
        if (!writer->Write(message)) return exchange.Cut();
      }
    }
    return exchange.whole() ? grpc::Status::OK : exchange.Cut();
  }

  template <typename Request, typename Response>
  grpc::Status Unary(const char* method, grpc::ServerContext* context, const Request& request,
                     Response* response) {
    Exchange exchange(context, http_port);
    if (!exchange.Ask(method, ToJson(request))) return exchange.NoAnswer();
    const std::string body = exchange.Rest();
    if (!exchange.ok()) return exchange.StatusOf(body);
    PACKRAT_CHECK(FromJson(body, response).ok()) << body;
    return grpc::Status::OK;
  }

  // A session as bytes, in the messages of gRPC.
  grpc::Status SaveSession(grpc::ServerContext* context, const v1::SaveSessionRequest* request,
                           grpc::ServerWriter<v1::SaveSessionResponse>* writer) override {
    Exchange exchange(context, http_port);
    if (!exchange.Ask("SaveSession", ToJson(*request))) return exchange.NoAnswer();
    if (!exchange.ok()) return exchange.StatusOf(exchange.Rest());
    v1::SaveSessionResponse message;
    v1::SavedSession* told = message.mutable_saved();
    told->set_bytes(exchange.Number("X-Saved-Bytes"));
    told->set_tokens(static_cast<int32_t>(exchange.Number("X-Saved-Tokens")));
    told->set_state_tokens(static_cast<int32_t>(exchange.Number("X-Saved-State-Tokens")));
    do {
      if (!writer->Write(message)) return exchange.Cut();
    } while (exchange.Next(message.mutable_data()));
    return exchange.whole() ? grpc::Status::OK : exchange.Cut();
  }
  grpc::Status LoadSession(grpc::ServerContext* context,
                           grpc::ServerReader<v1::LoadSessionRequest>* reader,
                           v1::LoadSessionResponse* response) override {
    v1::LoadSessionRequest message;
    std::string bytes, headers;
    while (reader->Read(&message)) {
      if (message.has_ttl_seconds()) {
        absl::StrAppend(&headers, "X-Session-Ttl: ", message.ttl_seconds(), "\r\n");
      }
      if (!message.cache_salt().empty()) {
        absl::StrAppend(&headers, "X-Cache-Salt: ", message.cache_salt(), "\r\n");
      }
      bytes += message.data();
    }
    Exchange exchange(context, http_port);
    if (!exchange.Ask("LoadSession", bytes, "application/octet-stream", headers)) {
      return exchange.NoAnswer();
    }
    const std::string body = exchange.Rest();
    if (!exchange.ok()) return exchange.StatusOf(body);
    PACKRAT_CHECK(FromJson(body, response).ok()) << body;
    return grpc::Status::OK;
  }
  grpc::Status Generate(grpc::ServerContext* context, const v1::GenerateRequest* request,
                        grpc::ServerWriter<v1::GenerateResponse>* writer) override {
    return Stream("Generate", context, *request, writer);
  }
  grpc::Status Score(grpc::ServerContext* context, const v1::ScoreRequest* request,
                     grpc::ServerWriter<v1::GenerateResponse>* writer) override {
    return Stream("Score", context, *request, writer);
  }
#define PACKRAT_UNARY(Method, Request, Response)                                \
  grpc::Status Method(grpc::ServerContext* context, const v1::Request* request, \
                      v1::Response* response) override {                        \
    return Unary(#Method, context, *request, response);                         \
  }
  PACKRAT_UNARY(Tokenize, TokenizeRequest, TokenizeResponse)
  PACKRAT_UNARY(Detokenize, DetokenizeRequest, DetokenizeResponse)
  PACKRAT_UNARY(GetModelInfo, GetModelInfoRequest, GetModelInfoResponse)
  PACKRAT_UNARY(GetPlan, GetPlanRequest, GetPlanResponse)
  PACKRAT_UNARY(CreateSession, CreateSessionRequest, Session)
  PACKRAT_UNARY(ListSessions, ListSessionsRequest, ListSessionsResponse)
  PACKRAT_UNARY(GetSession, GetSessionRequest, Session)
  PACKRAT_UNARY(ForkSession, ForkSessionRequest, Session)
  PACKRAT_UNARY(RewindSession, RewindSessionRequest, Session)
  PACKRAT_UNARY(DeleteSession, DeleteSessionRequest, DeleteSessionResponse)
#undef PACKRAT_UNARY

  int http_port = 0;
  int port = 0;
  std::unique_ptr<grpc::Server> server;
};

HttpBridge::HttpBridge(int http_port) : impl_(std::make_unique<Impl>()) {
  impl_->http_port = http_port;
  grpc::ServerBuilder builder;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &impl_->port);
  builder.RegisterService(impl_.get());
  impl_->server = builder.BuildAndStart();
  PACKRAT_CHECK(impl_->server != nullptr);
}

HttpBridge::~HttpBridge() { impl_->server->Shutdown(std::chrono::system_clock::now()); }

std::string HttpBridge::address() const { return absl::StrCat("127.0.0.1:", impl_->port); }

}  // namespace packrat
