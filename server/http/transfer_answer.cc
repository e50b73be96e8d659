#include "server/http/transfer_answer.h"

#include <atomic>
#include <functional>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "runtime/no_memory.h"
#include "server/generation/session_calls.h"
#include "server/generation/transfer_call.h"
#include "server/http/call_headers.h"
#include "server/http/proto_json.h"

namespace packrat {
namespace {

// Kept by what it waits for: its work, or a piece that is being sent.
class HttpTransfer : public TransferCall, public std::enable_shared_from_this<HttpTransfer> {
 public:
  void Start() {
    environment_->writer->Watch(shared_from_this());
    reply_->OnGone([weak = weak_from_this()] {
      if (const auto call = weak.lock()) call->gone_.store(true);
    });
    absl::Status status = Enter();
    if (status.ok()) {
      status = Submit([call = shared_from_this()] {
        const absl::Status done = UnlessNoMemory([&] { return call->Work(); });
        if (!done.ok()) call->Refuse(done);
      });
    }
    if (!status.ok()) Refuse(status);
  }

 protected:
  HttpTransfer(const char* name, const ApiRequest& request)
      : TransferCall(name, request.environment, request.info),
        environment_(request.environment),
        reply_(request.reply),
        refuse_(request.refuse) {}

  // Sends an answer if all goes well.
  virtual absl::Status Work() = 0;

  bool cancelled() const override { return gone_.load(); }
  void Drop() override {
    gone_.store(true);
    reply_->Cut();
  }

  // The last answer.
  void Send(HttpAnswer answer) {
    AddLabels(labels(), &answer);
    WaitForClient(true);
    reply_->Send(std::move(answer), [call = shared_from_this()](bool ok) { call->Finish(ok); });
  }
  void Refuse(const absl::Status& status) {
    SetStatus(status);
    Send(refuse_(status));
  }
  // The client has all of its answer, or has gone.
  void Finish(bool ok) {
    WaitForClient(false);
    if (!ok) gone_.store(true);
    End();
  }

  HttpReply& reply() { return *reply_; }

 private:
  CallEnvironment* const environment_;
  const std::shared_ptr<HttpReply> reply_;
  const std::function<HttpAnswer(const absl::Status&)> refuse_;
  std::atomic<bool> gone_{false};
};

class SaveAnswer final : public HttpTransfer {
 public:
  SaveAnswer(const ApiRequest& request, v1::SaveSessionRequest message)
      : HttpTransfer("SaveSession", request), message_(std::move(message)) {}

 private:
  absl::Status Work() override {
    auto packed = Pack(message_);
    if (!packed.ok()) return packed.status();
    packed_ = *std::move(packed);
    const v1::SavedSession saved = Describe(packed_);
    HttpAnswer head = {200, "application/octet-stream", "", {}};
    head.headers = {{"X-Saved-Bytes", absl::StrCat(saved.bytes())},
                    {"X-Saved-Tokens", absl::StrCat(saved.tokens())},
                    {"X-Saved-State-Tokens", absl::StrCat(saved.state_tokens())}};
    AddLabels(labels(), &head);
    reply().Begin(std::move(head));
    WriteNext();
    return absl::OkStatus();
  }

  void WriteNext() {
    std::string piece = PieceOf(packed_, sent_, kSavedPieceBytes);
    sent_ += piece.size();
    WaitForClient(true);
    auto self = std::static_pointer_cast<SaveAnswer>(shared_from_this());
    if (piece.empty()) return reply().End("", [self](bool ok) { self->Finish(ok); });
    reply().Write(std::move(piece), [self](bool ok) {
      self->WaitForClient(false);
      ok ? self->WriteNext() : self->Finish(false);
    });
  }

  const v1::SaveSessionRequest message_;
  PackedSession packed_;
  size_t sent_ = 0;
};

class LoadAnswer final : public HttpTransfer {
 public:
  LoadAnswer(ApiRequest* request, std::string cache_salt, std::optional<absl::Duration> ttl)
      : HttpTransfer("LoadSession", *request),
        http_(std::move(request->http)),
        cache_salt_(std::move(cache_salt)),
        ttl_(ttl) {}

 private:
  absl::Status Work() override {
    absl::Status status = CheckLoad(cache_salt_);
    if (status.ok()) status = Hold(static_cast<int64_t>(http_.body.size()));
    v1::LoadSessionResponse response;
    if (status.ok()) status = Load(std::move(http_.body), cache_salt_, ttl_, &response);
    if (!status.ok()) return status;
    Send({200, "application/json", ToJson(response) + "\n", {}});
    return absl::OkStatus();
  }

  HttpRequest http_;  // Its body is the saved session.
  const std::string cache_salt_;
  const std::optional<absl::Duration> ttl_;
};

}  // namespace

void AnswerSave(const std::shared_ptr<ApiRequest>& request) {
  v1::SaveSessionRequest message;
  const absl::Status status = FromJson(request->http.body, &message);
  if (!status.ok()) return request->Refuse(status);
  request->http = {};
  std::make_shared<SaveAnswer>(*request, std::move(message))->Start();
}

void AnswerLoad(const std::shared_ptr<ApiRequest>& request) {
  std::optional<absl::Duration> ttl;
  const absl::string_view header = request->http.Header("X-Session-Ttl");
  double seconds = 0;
  if (!header.empty()) {
    if (!absl::SimpleAtod(header, &seconds)) {
      return request->Refuse(absl::InvalidArgumentError(
          absl::StrCat("the header X-Session-Ttl is ", header.substr(0, 64), "; seconds")));
    }
    ttl = TtlOf(seconds);
  }
  std::string salt(request->http.Header("X-Cache-Salt"));
  std::make_shared<LoadAnswer>(request.get(), std::move(salt), ttl)->Start();
}

}  // namespace packrat
