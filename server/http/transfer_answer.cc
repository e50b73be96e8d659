#include "server/http/transfer_answer.h"

#include <atomic>
#include <functional>
#include <memory>
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
 protected:
  HttpTransfer(const char* name, CallEnvironment* environment, const CallInfo& info)
      : TransferCall(name, environment, info), environment_(environment) {}

  // `status`: whether there is anything to do.
  void Begin(std::shared_ptr<HttpReply> reply, const absl::Status& status) {
    reply_ = std::move(reply);
    environment_->writer->Watch(shared_from_this());
    reply_->OnGone([weak = weak_from_this()] {
      const auto call = weak.lock();
      if (call == nullptr) return;
      call->gone_.store(true);
      call->Leave();
    });
    if (!status.ok()) return Refuse(status);
    Prepare([call = shared_from_this()](absl::Status prepared) {
      if (prepared.ok()) {
        prepared = call->Submit([call] {
          const absl::Status done = UnlessNoMemory([&] { return call->Work(); });
          if (!done.ok()) call->Refuse(done);
        });
      }
      if (!prepared.ok()) call->Refuse(prepared);
    });
  }

  // What comes before the work. `next` is called once, from any thread.
  virtual void Prepare(const Next& next) { next(absl::OkStatus()); }
  // Sends an answer if all goes well.
  virtual absl::Status Work() = 0;
  virtual HttpAnswer Refusal(const absl::Status& status) const { return StatusAnswer(status); }

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
    Send(Refusal(status));
  }
  // Of an answer that has begun: the client sees that it has no end.
  void Break(const absl::Status& status) {
    SetStatus(status);
    reply_->Cut();
    End();
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
  std::shared_ptr<HttpReply> reply_;
  std::atomic<bool> gone_{false};
};

class SaveAnswer final : public HttpTransfer {
 public:
  SaveAnswer(const ApiRequest& request, v1::SaveSessionRequest message)
      : HttpTransfer("SaveSession", request.environment, request.info),
        message_(std::move(message)) {}

  void Start(std::shared_ptr<HttpReply> reply) { Begin(std::move(reply), Enter()); }

 private:
  void Prepare(const Next& next) override { Fetch(message_, next); }
  absl::Status Work() override {
    const auto saved = Pack(message_);
    if (!saved.ok()) return saved.status();
    HttpAnswer head = {200, "application/octet-stream", "", {}};
    head.headers = {{"X-Saved-Bytes", absl::StrCat(saved->bytes())},
                    {"X-Saved-Tokens", absl::StrCat(saved->tokens())},
                    {"X-Saved-State-Tokens", absl::StrCat(saved->state_tokens())}};
    AddLabels(labels(), &head);
    reply().Begin(std::move(head));
    WriteNext();
    return absl::OkStatus();
  }

  // By the server's thread, too, where nobody catches what it throws.
  void WriteNext() {
    const absl::Status status = UnlessNoMemory([this]() -> absl::Status {
      auto self = std::static_pointer_cast<SaveAnswer>(shared_from_this());
      std::optional<std::string> piece = NextBytes();
      if (!piece.has_value()) return Submit([self] { self->FillAndWrite(); });
      WaitForClient(true);
      if (piece->empty()) {
        reply().End("", [self](bool ok) { self->Finish(ok); });
      } else {
        reply().Write(*std::move(piece), [self](bool ok) {
          self->WaitForClient(false);
          ok ? self->WriteNext() : self->Finish(false);
        });
      }
      return absl::OkStatus();
    });
    if (!status.ok()) Break(status);
  }

  void FillAndWrite() {
    const absl::Status filled = UnlessNoMemory([this] { return Fill(); });
    filled.ok() ? WriteNext() : Break(filled);
  }

  const v1::SaveSessionRequest message_;
};

class LoadAnswer final : public HttpTransfer, public HttpUpload {
 public:
  LoadAnswer(CallEnvironment* environment, const CallInfo& info, const HttpRequest& head)
      : HttpTransfer("LoadSession", environment, info),
        has_type_(HasType(head, kBytesType)),
        cache_salt_(head.Header("X-Cache-Salt")) {}
  ~LoadAnswer() override {
    if (begun_) return;
    SetStatus(absl::CancelledError("the session did not come to its end"));
    End();
  }

  // Before the body. `info`: whether the headers that all calls have are good.
  void Open(const absl::Status& info, absl::string_view ttl) {
    problem_ = info.ok() ? Enter() : info;
    double seconds = 0;
    if (problem_.ok() && !ttl.empty()) {
      if (absl::SimpleAtod(ttl, &seconds)) {
        ttl_ = TtlOf(seconds);
      } else {
        problem_ = absl::InvalidArgumentError(
            absl::StrCat("the header X-Session-Ttl is ", ttl.substr(0, 64), "; seconds"));
      }
    }
    if (problem_.ok()) problem_ = CheckLoad(cache_salt_, ttl_);
  }

  bool Take(absl::string_view piece) override {
    if (!problem_.ok() || piece.empty()) return problem_.ok();
    wrong_type_ = !has_type_;
    problem_ = has_type_ ? UnlessNoMemory([&] { return TakeBytes(piece); }) : WrongType(kBytesType);
    return problem_.ok();
  }

  bool AwaitRoom(std::function<void()> resume) override {
    if (!full()) return true;
    const absl::Status status =
        Submit([call = shared_from_this(), this, resume = std::move(resume)] {
          problem_ = UnlessNoMemory([this] {
            Place();
            return absl::OkStatus();
          });
          resume();
        });
    if (status.ok()) return false;
    problem_ = status;
    return true;
  }

  void Answer(std::shared_ptr<HttpReply> reply) override {
    begun_ = true;
    Begin(std::move(reply), problem_);
  }

 private:
  static constexpr char kBytesType[] = "application/octet-stream";

  absl::Status Work() override {
    Load(cache_salt_, ttl_, &response_, [call = shared_from_this(), this](absl::Status status) {
      if (status.ok()) status = UnlessNoMemory([this] { return SendResponse(); });
      if (!status.ok()) Refuse(status);
    });
    return absl::OkStatus();
  }
  absl::Status SendResponse() {
    Send({200, "application/json", ToJson(response_) + "\n", {}});
    return absl::OkStatus();
  }
  HttpAnswer Refusal(const absl::Status& status) const override {
    HttpAnswer answer = StatusAnswer(status);
    if (wrong_type_) answer.status = 415;
    return answer;
  }

  const bool has_type_;
  const std::string cache_salt_;
  std::optional<absl::Duration> ttl_;
  v1::LoadSessionResponse response_;
  absl::Status problem_;  // With what has come.
  bool wrong_type_ = false;
  bool begun_ = false;  // Its answer.
};

}  // namespace

void AnswerSave(const std::shared_ptr<ApiRequest>& request) {
  v1::SaveSessionRequest message;
  const absl::Status status = FromJson(request->http.body, &message);
  if (!status.ok()) return request->Refuse(status);
  request->http = {};
  std::make_shared<SaveAnswer>(*request, std::move(message))->Start(request->reply);
}

std::shared_ptr<HttpUpload> TakeSession(CallEnvironment* environment, const HttpRequest& head) {
  const absl::StatusOr<CallInfo> read = ReadCallInfo(head);
  CallInfo info = read.ok() ? *read : CallInfo();
  info.path = head.path;  // There is one.
  auto call = std::make_shared<LoadAnswer>(environment, info, head);
  call->Open(read.status(), head.Header("X-Session-Ttl"));
  return call;
}

}  // namespace packrat
