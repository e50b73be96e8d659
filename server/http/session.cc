#include "server/http/session.h"

#include <algorithm>
#include <boost/asio/basic_waitable_timer.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/check.h"
#include "server/http/answer_head.h"
#include "server/http/answer_queue.h"
#include "server/http/peer.h"
#include "server/http/reply.h"
#include "server/http/request_reader.h"

namespace packrat {
namespace {

namespace asio = boost::asio;
using Error = boost::system::error_code;
using Milliseconds = std::chrono::milliseconds;
using Timer = asio::basic_waitable_timer<std::chrono::steady_clock,
                                         asio::wait_traits<std::chrono::steady_clock>,
                                         asio::io_context::executor_type>;

// How long a refused request may go on sending before its connection is closed.
constexpr Milliseconds kLinger{1000};
// A body that has been coming for so long may be refused for the sake of others.
constexpr Milliseconds kSlow{2000};
constexpr char kTooManyBodies[] = "too many requests are being sent at once";
// Read at once: while a client is silent or is being answered, of a head, and of a body.
constexpr size_t kWatchBytes = 1024;
constexpr size_t kHeadBytes = 4096;
constexpr size_t kBodyBytes = 32768;

// At most one read and one write are under way. While an answer is made and sent, the read tells
// that the client has gone, or brings the beginning of its next request.
class HttpSession final : public Session, public std::enable_shared_from_this<HttpSession> {
 public:
  HttpSession(SessionContext* context, HttpSocket socket)
      : context_(*context),
        connection_(std::move(socket), context->tls.on() ? context->tls.Get() : nullptr),
        answers_(&connection_, context->loop.get()),
        timer_(context->loop->io()),
        place_(context_.all.insert(context_.all.end(), this)) {
    ++context_.open;
    List(&context_.waiting);
  }

  void Start() {
    peer_ = PeerOf(connection_.fd());
    if (!connection_.tls()) return AwaitRequest();
    SetDeadline(context_.options.request);
    connection_.Handshake([self = shared_from_this()](bool ok) {
      if (self->state_ == State::kClosed) return;
      ok ? self->AwaitRequest() : self->Close();
    });
  }

  void Close() override {
    if (state_ == State::kClosed) return;
    const auto alive = shared_from_this();
    state_ = State::kClosed;
    Unlist();
    context_.all.erase(place_);
    --context_.open;
    timer_.cancel();
    connection_.Close();
    upload_.reset();
    const std::shared_ptr<Reply> reply = LeaveAnswer();
    answers_.Drop();
    if (reply != nullptr) reply->TellGone();
  }

  void Answer(uint64_t request, AnswerPart part) override {
    const bool current = state_ == State::kAnswering && request == request_number_;
    if (current && part.kind == AnswerPart::Kind::kCut) return Cut();
    if (!current || ending_) {
      if (part.done != nullptr) part.done(false);
      return;
    }
    switch (part.kind) {
      case AnswerPart::Kind::kWhole:
        PACKRAT_CHECK(!begun_, "an answer after the first piece of another");
        return SendWhole(std::move(part.answer), std::move(part.done));
      case AnswerPart::Kind::kBegin:
        PACKRAT_CHECK(!begun_, "two heads of an answer");
        begun_ = true;
        // Such a client knows the end of an answer by that of the connection.
        if (version_ < 11) keep_alive_ = false;
        return Queue(Head(&part.answer, std::nullopt) + Framed(part.answer.body),
                     std::move(part.done));
      case AnswerPart::Kind::kPiece:
        PACKRAT_CHECK(begun_, "a piece before the head");
        return Queue(Framed(part.answer.body), std::move(part.done));
      case AnswerPart::Kind::kEnd:
        PACKRAT_CHECK(begun_, "an end before the head");
        return QueueLast(
            {Framed(part.answer.body) + (Chunked() ? kLastChunk : ""), "", std::move(part.done)});
      case AnswerPart::Kind::kNone:
        return begun_ ? Cut() : Refuse(500, "the request has not been answered");
      case AnswerPart::Kind::kCut:
        break;  // Above.
    }
  }

  bool RefuseSlowBody() override {
    // What is taken as it comes makes no room here.
    if (upload_ != nullptr) return false;
    if (std::chrono::steady_clock::now() - body_began_ < kSlow) return false;
    Refuse(503, kTooManyBodies);
    return true;
  }

 private:
  enum class State { kHandshake, kIdle, kHead, kBody, kAnswering, kLingering, kClosed };

  // Also true if the server asks for no certificate.
  bool Trusted() const { return !context_.tls.asks_clients() || connection_.HasPeerCertificate(); }

  // A session is in one of the lists of its context, or in none.
  void List(SessionList* list, bool first = false) {
    Unlist();
    list_ = list;
    listed_ = list->insert(first ? list->begin() : list->end(), this);
  }
  void Unlist() {
    if (list_ != nullptr) list_->erase(listed_);
    list_ = nullptr;
  }

  void SetDeadline(Milliseconds time) {
    timer_.expires_after(time);
    timer_.async_wait([self = shared_from_this()](const Error& error) {
      // It may have been set anew when it had already run out.
      if (!error && self->timer_.expiry() <= std::chrono::steady_clock::now()) self->OnDeadline();
    });
  }
  void SetNoDeadline() { timer_.expires_at(std::chrono::steady_clock::time_point::max()); }

  void OnDeadline() {
    if (state_ == State::kHead || state_ == State::kBody) {
      return Refuse(408, "the request did not come in time");
    }
    Close();
  }

  void AwaitRequest() {
    state_ = State::kIdle;
    SetDeadline(context_.options.idle);
    // The next request may have come with the last one.
    Consume();
  }

  void Read() {
    if (reading_ || state_ == State::kClosed) return;
    if (input_ended_) return OnEndOfInput();
    reading_ = true;
    connection_.AwaitInput([self = shared_from_this()](bool ok) {
      self->reading_ = false;
      if (self->state_ == State::kClosed) return;
      ok ? self->TakeInput() : self->Close();
    });
  }

  void TakeInput() {
    size_t most = kBodyBytes;
    if (state_ == State::kIdle || state_ == State::kAnswering) most = kWatchBytes;
    if (state_ == State::kHead) most = kHeadBytes;
    const auto [news, bytes, unused] =
        connection_.Read(static_cast<char*>(buffer_.prepare(most).data()), most);
    switch (news) {
      case HttpConnection::News::kLater:
        ReleaseBuffer();
        return Read();
      case HttpConnection::News::kFailed:
        return Close();
      case HttpConnection::News::kEnd:
        input_ended_ = true;
        return OnEndOfInput();
      case HttpConnection::News::kBytes:
        break;
    }
    buffer_.commit(bytes);
    switch (state_) {
      case State::kAnswering:
        // What comes beyond this is left to the system: the client waits.
        if (buffer_.size() < kHeadBytes) Read();
        break;
      case State::kLingering:
        buffer_.clear();
        Read();
        break;
      default:
        Consume();
    }
  }

  // Of a client that has sent nothing more.
  void ReleaseBuffer() {
    if (buffer_.size() == 0) buffer_.shrink_to_fit();
  }

  void OnEndOfInput() {
    if (state_ == State::kHead || state_ == State::kBody) {
      return Refuse(400, "the request ended before it was complete");
    }
    if (state_ != State::kAnswering) return Close();
    const std::shared_ptr<Reply> reply = reply_.lock();
    if (reply != nullptr) reply->TellGone();
  }

  // Takes what has come of a request.
  void Consume() {
    if (state_ == State::kIdle) {
      if (buffer_.size() == 0) return Read();
      state_ = State::kHead;
      // For the whole head: bytes that trickle in do not extend it.
      SetDeadline(context_.options.request);
      reader_.emplace(context_.options.max_header_bytes);
      // Until its head is there.
      path_.clear();
      route_ = nullptr;
      cors_.clear();
      version_ = 11;
      head_only_ = false;
    }
    for (;;) {
      const RequestReader::News news = reader_->Take(&buffer_);
      if (news == RequestReader::News::kBad) return Refuse(reader_->status(), reader_->message());
      if (news == RequestReader::News::kHead) {
        if (!OnHead()) return;
        continue;
      }
      const bool whole = news == RequestReader::News::kWhole;
      if (upload_ != nullptr &&
          !reader_->TakeBody([this](auto piece) { return upload_->Take(piece); })) {
        keep_alive_ = keep_alive_ && whole;
        return OnRequest();
      }
      if (upload_ == nullptr && held_ != nullptr && !HoldBody()) return;
      if (whole) return OnRequest();
      if (upload_ == nullptr || RoomForUpload()) Read();
      return;
    }
  }

  // False: it reads on later.
  bool RoomForUpload() {
    return upload_->AwaitRoom([loop = context_.loop, weak = weak_from_this()] {
      loop->Post([weak] {
        const auto self = weak.lock();
        if (self == nullptr || self->state_ != State::kBody) return;
        // Each piece has the time of a body.
        self->SetDeadline(self->context_.options.body);
        self->Consume();
      });
    });
  }

  // False: the request has been refused.
  bool OnHead() {
    const HttpRequest& request = reader_->request();
    version_ = reader_->version();
    head_only_ = reader_->head_only();
    keep_alive_ = reader_->keep_alive();
    path_ = request.path;
    if (context_.options.cors.on() && Cors::IsPreflight(request)) {
      const std::string methods = context_.router.CrossOriginMethods(path_);
      if (!methods.empty()) {
        AnswerAtOnce(context_.options.cors.Preflight(request, methods));
        return false;
      }
    }
    const Routed routed = context_.router.Find(request.method, request.path, Trusted());
    route_ = routed.route;
    if (route_ == nullptr) {
      HttpAnswer refusal = context_.options.refusal(request.path, routed.status, routed.message);
      if (!routed.allow.empty()) refusal.headers.emplace_back("Allow", routed.allow);
      AnswerAtOnce(std::move(refusal));
      return false;
    }
    if (route_->cross_origin) cors_ = context_.options.cors.Headers(request.Header("Origin"));
    if (!reader_->AllowBody(route_->max_body_bytes)) {
      Refuse(reader_->status(), reader_->message());
      return false;
    }
    if (route_->upload != nullptr) {
      reader_->request().peer = peer_;
      upload_ = route_->upload(request);
      if (!upload_->Take("")) {
        if (reader_->has_body()) keep_alive_ = false;
        OnRequest();
        return false;
      }
    }
    return !reader_->has_body() || ExpectBody(request.Header("Expect"));
  }

  // Whatever body the request has.
  void AnswerAtOnce(HttpAnswer answer) {
    if (reader_->has_body()) keep_alive_ = false;
    EnterAnswer();
    SendWhole(std::move(answer), nullptr);
  }

  bool ExpectBody(absl::string_view expect) {
    if (!expect.empty() && !absl::EqualsIgnoreCase(expect, "100-continue")) {
      Refuse(417, "Expect: 100-continue alone is known");
      return false;
    }
    state_ = State::kBody;
    SetDeadline(context_.options.body);
    List(&context_.uploading);
    held_ = std::make_shared<HeldBytes>(context_.bodies);
    body_began_ = std::chrono::steady_clock::now();
    // Who has sent some of the body does not wait for this.
    if (!expect.empty() && version_ >= 11 && buffer_.size() == 0) {
      Queue("HTTP/1.1 100 Continue\r\n\r\n", nullptr);
    }
    return true;
  }

  // Counts what has come of the body. False: there is no room, and it is refused.
  bool HoldBody() {
    while (!held_->GrowTo(reader_->body_bytes())) {
      const SessionList& others = context_.uploading;
      const bool refused = std::any_of(others.begin(), others.end(), [this](Session* other) {
        return other != this && other->RefuseSlowBody();
      });
      if (refused) continue;
      Refuse(503, kTooManyBodies);
      return false;
    }
    return true;
  }

  void OnRequest() {
    if (route_->waits) {
      // So that probes come through whatever else goes on.
      const int most = context_.options.max_connections * 15 / 16;
      if (context_.late_answers >= most) return Refuse(503, "too many connections are in use");
      ++context_.late_answers;
      late_ = true;
    }
    HttpRequest request = std::move(reader_->request());
    request.peer = peer_;
    request.held = std::move(held_);
    const std::shared_ptr<HttpUpload> upload = std::move(upload_);
    EnterAnswer();
    const auto reply = std::make_shared<Reply>(context_.loop, shared_from_this(), request_number_);
    reply_ = reply;
    Read();
    upload != nullptr ? upload->Answer(reply) : route_->handle(std::move(request), reply);
  }

  // From here on a request has its answer: by a handler, or a refusal.
  void EnterAnswer() {
    state_ = State::kAnswering;
    ++request_number_;
    begun_ = ending_ = false;
    self_ = shared_from_this();
    reader_.reset();
    held_.reset();
    upload_.reset();
    ReleaseBuffer();
    Unlist();
    SetNoDeadline();
  }

  // Of whatever the session is in; its connection is closed then.
  void Refuse(int status, const std::string& message) {
    HttpAnswer refusal = context_.options.refusal(path_, status, message);
    keep_alive_ = false;
    if (state_ != State::kAnswering) EnterAnswer();
    SendWhole(std::move(refusal), nullptr);
  }

  std::string Head(HttpAnswer* answer, std::optional<size_t> length) {
    context_.options.on_answer(route_ == nullptr ? "" : route_->path, answer->status);
    answer->headers.insert(answer->headers.end(), cors_.begin(), cors_.end());
    // A client that has closed its direction may have sent more requests before.
    if (context_.dismiss.load() || (input_ended_ && buffer_.size() == 0)) keep_alive_ = false;
    return AnswerHead(*answer, {version_, keep_alive_, length});
  }
  bool Chunked() const { return version_ >= 11 && !head_only_; }
  std::string Framed(const std::string& piece) const {
    if (head_only_) return "";
    return Chunked() ? Chunk(piece) : piece;
  }

  void SendWhole(HttpAnswer answer, HttpDone done) {
    std::string head = Head(&answer, answer.body.size());
    QueueLast({std::move(head), head_only_ ? "" : std::move(answer.body), std::move(done)});
  }

  void Queue(std::string text, HttpDone done) {
    answers_.Add({std::move(text), "", std::move(done)}, shared_from_this());
  }
  void QueueLast(AnswerQueue::Part part) {
    part.last = ending_ = true;
    SetDeadline(context_.options.answer);
    // A client that does not take its answer keeps nobody out.
    List(&context_.waiting);
    answers_.Add(std::move(part), shared_from_this());
  }

  void OnWritten(bool ok, bool last) override {
    if (!ok) return Close();
    if (last && state_ != State::kClosed) OnAnswered();
  }

  // Null: no handler has a part in the answer. Called while something else holds the session.
  std::shared_ptr<Reply> LeaveAnswer() {
    self_.reset();
    if (late_) --context_.late_answers;
    late_ = false;
    std::shared_ptr<Reply> reply = reply_.lock();
    reply_.reset();
    return reply;
  }

  void OnAnswered() {
    const std::shared_ptr<Reply> reply = LeaveAnswer();
    if (reply != nullptr) reply->Over();
    if (keep_alive_) return AwaitRequest();
    state_ = State::kLingering;
    List(&context_.waiting, /*first=*/true);
    SetDeadline(kLinger);
    connection_.EndOutput();
    // If a socket is closed with unread bytes, the client may lose the answer.
    buffer_.clear();
    Read();
  }

  void Cut() {
    connection_.Cut();
    Close();
  }

  SessionContext& context_;
  HttpConnection connection_;
  AnswerQueue answers_;
  Timer timer_;
  const SessionList::iterator place_;
  SessionList* list_ = nullptr;
  SessionList::iterator listed_;
  State state_ = State::kHandshake;
  std::string peer_;

  // Input.
  boost::beast::flat_buffer buffer_;
  bool reading_ = false;
  bool input_ended_ = false;
  std::optional<RequestReader> reader_;
  std::shared_ptr<HeldBytes> held_;
  std::shared_ptr<HttpUpload> upload_;  // Of a route that has such; until it answers.
  std::chrono::steady_clock::time_point body_began_;

  // The request, and its answer.
  const HttpRoute* route_ = nullptr;
  std::string path_;  // Of the last one.
  HttpHeaders cors_;  // That its answer has for browsers.
  uint64_t request_number_ = 0;
  // While there is an answer to wait for, which nothing else may wait for: no read, no write.
  std::shared_ptr<HttpSession> self_;
  std::weak_ptr<Reply> reply_;
  int version_ = 11;
  bool head_only_ = false;
  bool keep_alive_ = true;
  bool begun_ = false;   // Its head has been sent.
  bool ending_ = false;  // Its last part has been queued.
  bool late_ = false;    // Counted among late_answers.
};

}  // namespace

void StartSession(HttpSocket socket, SessionContext* context) {
  std::make_shared<HttpSession>(context, std::move(socket))->Start();
}

}  // namespace packrat
