#include "server/http/session.h"

#include <netinet/in.h>
#include <openssl/ssl.h>
#include <sys/socket.h>

#include <array>
#include <boost/asio/basic_waitable_timer.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/check.h"
#include "server/http/answer_head.h"
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

bool IsEndOfInput(const Error& error) {
  return error == asio::error::eof || error == asio::ssl::error::stream_truncated;
}

void Tell(const std::vector<HttpDone>& dones, bool ok) {
  for (const HttpDone& done : dones) done(ok);
}

using TlsStream = asio::ssl::stream<HttpSocket>;

// `Stream`: HttpSocket or TlsStream.
//
// At most one read and one write are under way. While an answer is made and sent, the read tells
// that the client has gone, or brings the beginning of its next request.
template <typename Stream>
class SessionOf final : public Session, public std::enable_shared_from_this<SessionOf<Stream>> {
 public:
  static constexpr bool kTls = std::is_same_v<Stream, TlsStream>;

  // `tls`: the context of the stream.
  template <typename... Args>
  SessionOf(SessionContext* context, std::shared_ptr<asio::ssl::context> tls, Args&&... stream)
      : context_(*context),
        tls_(std::move(tls)),
        stream_(std::forward<Args>(stream)...),
        timer_(context->loop->io()),
        place_(context_.all.insert(context_.all.end(), this)) {
    ++context_.open;
    List(&context_.waiting);
  }

  void Start() {
    peer_ = PeerOf(socket().native_handle());
    if constexpr (kTls) {
      SetDeadline(context_.options.request);
      stream_.async_handshake(asio::ssl::stream_base::server,
                              [self = this->shared_from_this()](const Error& error) {
                                if (self->state_ == State::kClosed) return;
                                error ? self->Close() : self->AwaitRequest();
                              });
    } else {
      AwaitRequest();
    }
  }

  void Close() override {
    if (state_ == State::kClosed) return;
    const auto alive = this->shared_from_this();
    state_ = State::kClosed;
    Unlist();
    context_.all.erase(place_);
    --context_.open;
    timer_.cancel();
    Error ignored;
    socket().close(ignored);
    const std::shared_ptr<Reply> reply = LeaveAnswer();
    // Those of the write that is under way follow when it has failed.
    Tell(std::exchange(next_, {}).dones, false);
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
        return Queue(AnswerHead(part.answer, Frame(std::nullopt)) + Framed(part.answer.body), "",
                     std::move(part.done), /*last=*/false);
      case AnswerPart::Kind::kPiece:
        PACKRAT_CHECK(begun_, "a piece before the head");
        return Queue(Framed(part.answer.body), "", std::move(part.done), /*last=*/false);
      case AnswerPart::Kind::kEnd:
        PACKRAT_CHECK(begun_, "an end before the head");
        return Queue(Framed(part.answer.body) + (Chunked() ? kLastChunk : ""), "",
                     std::move(part.done), /*last=*/true);
      case AnswerPart::Kind::kNone:
        return begun_ ? Cut() : Refuse(500, "the request has not been answered");
      case AnswerPart::Kind::kCut:
        break;  // Above.
    }
  }

  bool RefuseSlowBody() override {
    if (std::chrono::steady_clock::now() - body_began_ < kSlow) return false;
    Refuse(503, kTooManyBodies);
    return true;
  }

 private:
  enum class State { kHandshake, kIdle, kHead, kBody, kAnswering, kLingering, kClosed };

  // What is written at once.
  struct Output {
    std::string head, body;
    std::vector<HttpDone> dones;
    bool last = false;  // Of an answer.
    bool empty() const { return head.empty() && body.empty() && dones.empty() && !last; }
  };

  auto& socket() {
    if constexpr (kTls) {
      return stream_.next_layer();
    } else {
      return stream_;
    }
  }

  // Also true if the server asks for no certificate.
  bool Trusted() {
    if constexpr (kTls) {
      if (!context_.tls.asks_clients()) return true;
      X509* const shown = SSL_get_peer_certificate(stream_.native_handle());  // Verified.
      X509_free(shown);
      return shown != nullptr;
    } else {
      return true;
    }
  }

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
    timer_.async_wait([self = this->shared_from_this()](const Error& error) {
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
    // While this read is under way, what came before may be taken from the buffer.
    const bool watch = state_ == State::kIdle || state_ == State::kAnswering;
    const size_t bytes = state_ == State::kHead ? kHeadBytes : kBodyBytes;
    const asio::mutable_buffer target =
        watch ? asio::mutable_buffer(watched_.data(), watched_.size()) : buffer_.prepare(bytes);
    stream_.async_read_some(
        target, [self = this->shared_from_this(), watch](const Error& error, size_t read) {
          self->reading_ = false;
          if (self->state_ == State::kClosed) return;
          if (watch) {
            asio::buffer_copy(self->buffer_.prepare(read), asio::buffer(self->watched_));
          }
          self->OnRead(error, read);
        });
  }

  void OnRead(const Error& error, size_t bytes) {
    if (error && !IsEndOfInput(error)) return Close();
    if (error) {
      input_ended_ = true;
      return OnEndOfInput();
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
      if (held_ != nullptr && !HoldBody()) return;
      return news == RequestReader::News::kWhole ? OnRequest() : Read();
    }
  }

  // False: the request has been refused.
  bool OnHead() {
    const HttpRequest& request = reader_->request();
    version_ = reader_->version();
    head_only_ = reader_->head_only();
    keep_alive_ = reader_->keep_alive();
    path_ = request.path;
    const Routed routed = context_.router.Find(request.method, request.path, Trusted());
    route_ = routed.route;
    if (route_ == nullptr) {
      HttpAnswer refusal = context_.options.refusal(request.path, routed.status, routed.message);
      if (!routed.allow.empty()) refusal.headers.emplace_back("Allow", routed.allow);
      if (reader_->has_body()) keep_alive_ = false;
      EnterAnswer();
      SendWhole(std::move(refusal), nullptr);
      return false;
    }
    if (!reader_->AllowBody(route_->max_body_bytes)) {
      Refuse(reader_->status(), reader_->message());
      return false;
    }
    return !reader_->has_body() || ExpectBody(request.Header("Expect"));
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
      Queue("HTTP/1.1 100 Continue\r\n\r\n", "", nullptr, /*last=*/false);
    }
    return true;
  }

  // Counts what has come of the body. False: there is no room, and it is refused.
  bool HoldBody() {
    while (!held_->GrowTo(reader_->body_bytes())) {
      Session* const oldest = context_.uploading.front();
      if (oldest != this && oldest->RefuseSlowBody()) continue;
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
    EnterAnswer();
    const auto reply =
        std::make_shared<Reply>(context_.loop, this->shared_from_this(), request_number_);
    reply_ = reply;
    Read();
    route_->handle(std::move(request), reply);
  }

  // From here on a request has its answer: by a handler, or a refusal.
  void EnterAnswer() {
    state_ = State::kAnswering;
    ++request_number_;
    begun_ = ending_ = false;
    self_ = this->shared_from_this();
    reader_.reset();
    held_.reset();
    if (buffer_.size() == 0 && !reading_) buffer_.shrink_to_fit();
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

  AnswerFrame Frame(std::optional<size_t> length) {
    // A client that has closed its direction may have sent more requests before.
    if (context_.dismiss.load() || (input_ended_ && buffer_.size() == 0)) keep_alive_ = false;
    return {version_, keep_alive_, length};
  }
  bool Chunked() const { return version_ >= 11 && !head_only_; }
  std::string Framed(const std::string& piece) const {
    if (head_only_) return "";
    return Chunked() ? Chunk(piece) : piece;
  }

  void SendWhole(HttpAnswer answer, HttpDone done) {
    const std::string head = AnswerHead(answer, Frame(answer.body.size()));
    Queue(head, head_only_ ? "" : std::move(answer.body), std::move(done),
          /*last=*/true);
  }

  void Queue(const std::string& head, std::string&& body, HttpDone done, bool last) {
    next_.head += head;
    next_.body = std::move(body);
    if (done != nullptr) next_.dones.push_back(std::move(done));
    if (last) {
      next_.last = ending_ = true;
      SetDeadline(context_.options.answer);
      // A client that does not take its answer keeps nobody out.
      List(&context_.waiting);
    }
    if (!writing_) Flush();
  }

  void Flush() {
    writing_ = true;
    out_ = std::exchange(next_, {});
    const std::array<asio::const_buffer, 2> bytes = {asio::buffer(out_.head),
                                                     asio::buffer(out_.body)};
    asio::async_write(
        stream_, bytes,
        [self = this->shared_from_this()](const Error& error, size_t) { self->OnWritten(error); });
  }

  void OnWritten(const Error& error) {
    writing_ = false;
    const Output written = std::exchange(out_, {});
    if (error) Close();
    Tell(written.dones, !error);
    if (state_ == State::kClosed) return;
    if (written.last) return OnAnswered();
    if (!next_.empty()) Flush();
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
    if constexpr (kTls) {
      stream_.async_shutdown([self = this->shared_from_this()](const Error&) { self->Close(); });
    } else {
      // If a socket is closed with unread bytes, the client may lose the answer.
      Error ignored;
      socket().shutdown(HttpSocket::shutdown_send, ignored);
      buffer_.clear();
      Read();
    }
  }

  // Closes so that the client cannot take this for the end of an answer, and what the system still
  // has to send is dropped.
  void Cut() {
    const linger none = {1, 0};
    setsockopt(socket().native_handle(), SOL_SOCKET, SO_LINGER, &none, sizeof(none));
    Close();
  }

  SessionContext& context_;
  const std::shared_ptr<asio::ssl::context> tls_;
  Stream stream_;
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
  std::array<char, kWatchBytes> watched_;
  std::optional<RequestReader> reader_;
  std::shared_ptr<HeldBytes> held_;
  std::chrono::steady_clock::time_point body_began_;

  // Output.
  bool writing_ = false;
  Output out_;   // That is being written.
  Output next_;  // After it.

  // The request, and its answer.
  const HttpRoute* route_ = nullptr;
  std::string path_;  // Of the last one.
  uint64_t request_number_ = 0;
  // While there is an answer to wait for, which nothing else may wait for: no read, no write.
  std::shared_ptr<SessionOf> self_;
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
  if (!context->tls.on()) {
    std::make_shared<SessionOf<HttpSocket>>(context, nullptr, std::move(socket))->Start();
    return;
  }
  const auto tls = context->tls.Get();
  std::make_shared<SessionOf<TlsStream>>(context, tls, std::move(socket), *tls)->Start();
}

}  // namespace packrat
