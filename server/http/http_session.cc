#include "server/http/http_session.h"

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "kernels/check.h"
#include "runtime/no_memory.h"
#include "server/http/answer_head.h"
#include "server/http/peer.h"

namespace packrat {
namespace {

// How long a refused request may go on sending before its connection is closed.
constexpr std::chrono::milliseconds kLinger{1000};

}  // namespace

HttpSession::HttpSession(SessionContext* context, HttpSocket socket)
    : context_(*context),
      connection_(std::move(socket), context->tls.on() ? context->tls.Get() : nullptr),
      answers_(&connection_, context->loop.get()),
      timer_(context->loop->io()),
      place_(context_.all.insert(context_.all.end(), this)) {
  ++context_.open;
  List(&context_.waiting);
}

void HttpSession::Start() {
  peer_ = PeerOf(connection_.fd());
  if (!connection_.tls()) return AwaitRequest();
  SetDeadline(context_.options.request);
  connection_.Handshake([self = shared_from_this()](bool ok) {
    if (self->state_ == State::kClosed) return;
    ok ? self->AwaitRequest() : self->Close();
  });
}

void HttpSession::Close() {
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

void HttpSession::List(SessionList* list, bool first) {
  Unlist();
  list_ = list;
  listed_ = list->insert(first ? list->begin() : list->end(), this);
}

void HttpSession::Unlist() {
  if (list_ != nullptr) list_->erase(listed_);
  list_ = nullptr;
}

void HttpSession::SetDeadline(std::chrono::milliseconds time) {
  timer_.expires_after(time);
  timer_.async_wait([self = shared_from_this()](const boost::system::error_code& error) {
    // It may have been set anew when it had already run out.
    if (!error && self->timer_.expiry() <= std::chrono::steady_clock::now()) self->OnDeadline();
  });
}

void HttpSession::OnDeadline() {
  if (state_ == State::kHead || state_ == State::kBody) {
    return Refuse(408, "the request did not come in time");
  }
  Close();
}

void HttpSession::Answer(uint64_t request, AnswerPart part) {
  const bool current = state_ == State::kAnswering && request == request_number_;
  if (current && part.kind == AnswerPart::Kind::kCut) return Cut();
  if (!current || ending_) {
    if (part.done != nullptr) part.done(false);
    return;
  }
  // A copy, by a thread where nobody catches what that may throw.
  std::string framed;
  const absl::Status status = UnlessNoMemory([&] {
    if (part.kind != AnswerPart::Kind::kWhole) framed = Framed(part.answer.body);
    return absl::OkStatus();
  });
  if (!status.ok()) {
    if (part.done != nullptr) part.done(false);
    return Cut();
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
      return Queue(Head(&part.answer, std::nullopt) + framed, std::move(part.done));
    case AnswerPart::Kind::kPiece:
      PACKRAT_CHECK(begun_, "a piece before the head");
      return Queue(std::move(framed), std::move(part.done));
    case AnswerPart::Kind::kEnd:
      PACKRAT_CHECK(begun_, "an end before the head");
      return QueueLast({framed + (Chunked() ? kLastChunk : ""), "", std::move(part.done)});
    case AnswerPart::Kind::kNone:
      return begun_ ? Cut() : Refuse(500, "the request has not been answered");
    case AnswerPart::Kind::kCut:
      break;  // Above.
  }
}

void HttpSession::EnterAnswer() {
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

void HttpSession::Refuse(int status, const std::string& message) {
  HttpAnswer refusal = context_.options.refusal(path_, status, message);
  keep_alive_ = false;
  if (state_ != State::kAnswering) EnterAnswer();
  SendWhole(std::move(refusal), nullptr);
}

std::string HttpSession::Head(HttpAnswer* answer, std::optional<size_t> length) {
  context_.options.on_answer(route_ == nullptr ? "" : route_->path, answer->status);
  answer->headers.insert(answer->headers.end(), cors_.begin(), cors_.end());
  // A client that has closed its direction may have sent more requests before.
  if (context_.dismiss.load() || (input_ended_ && buffer_.size() == 0)) keep_alive_ = false;
  return AnswerHead(*answer, {version_, keep_alive_, length});
}

std::string HttpSession::Framed(const std::string& piece) const {
  if (head_only_) return "";
  return Chunked() ? Chunk(piece) : piece;
}

void HttpSession::SendWhole(HttpAnswer answer, HttpDone done) {
  std::string head = Head(&answer, answer.body.size());
  QueueLast({std::move(head), head_only_ ? "" : std::move(answer.body), std::move(done)});
}

void HttpSession::Queue(std::string text, HttpDone done) {
  answers_.Add({std::move(text), "", std::move(done)}, shared_from_this());
}

void HttpSession::QueueLast(AnswerQueue::Part part) {
  part.last = ending_ = true;
  SetDeadline(context_.options.answer);
  // A client that does not take its answer keeps nobody out.
  List(&context_.waiting);
  answers_.Add(std::move(part), shared_from_this());
}

void HttpSession::OnWritten(bool ok, bool last) {
  if (!ok) return Close();
  if (last && state_ != State::kClosed) OnAnswered();
}

std::shared_ptr<Reply> HttpSession::LeaveAnswer() {
  self_.reset();
  if (late_) --context_.late_answers;
  late_ = false;
  std::shared_ptr<Reply> reply = reply_.lock();
  reply_.reset();
  return reply;
}

void HttpSession::OnAnswered() {
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

void HttpSession::Cut() {
  connection_.Cut();
  Close();
}

void StartSession(HttpSocket socket, SessionContext* context) {
  std::make_shared<HttpSession>(context, std::move(socket))->Start();
}

}  // namespace packrat
