// How a session reads requests and their bodies.
#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "server/http/http_session.h"

namespace packrat {
namespace {

// A body that has been coming for so long may be refused for the sake of others.
constexpr std::chrono::milliseconds kSlow{2000};
constexpr char kTooManyBodies[] = "too many requests are being sent at once";
// Read at once: while a client is silent or is being answered, of a head, and of a body.
constexpr size_t kWatchBytes = 1024;
constexpr size_t kHeadBytes = 4096;
constexpr size_t kBodyBytes = 32768;

}  // namespace

void HttpSession::AwaitRequest() {
  state_ = State::kIdle;
  SetDeadline(context_.options.idle);
  // The next request may have come with the last one.
  Consume();
}

void HttpSession::Read() {
  if (reading_ || state_ == State::kClosed) return;
  if (input_ended_) return OnEndOfInput();
  reading_ = true;
  connection_.AwaitInput([self = shared_from_this()](bool ok) {
    self->reading_ = false;
    if (self->state_ == State::kClosed) return;
    ok ? self->TakeInput() : self->Close();
  });
}

void HttpSession::TakeInput() {
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

void HttpSession::ReleaseBuffer() {
  if (buffer_.size() == 0) buffer_.shrink_to_fit();
}

void HttpSession::OnEndOfInput() {
  if (state_ == State::kHead || state_ == State::kBody) {
    return Refuse(400, "the request ended before it was complete");
  }
  if (state_ != State::kAnswering) return Close();
  const std::shared_ptr<Reply> reply = reply_.lock();
  if (reply != nullptr) reply->TellGone();
}

void HttpSession::Consume() {
  if (state_ == State::kIdle) {
    if (buffer_.size() == 0) return Read();
    state_ = State::kHead;
    // For the whole head: bytes that trickle in do not extend it.
    SetDeadline(context_.options.request);
    reader_.emplace(context_.options.max_header_bytes);
    // Until its head is there.
    path_.clear();
    route_ = nullptr;
    // Whose page asks is not known either, so a refusal is for every site or for none.
    cors_ = context_.options.cors.Headers("");
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

bool HttpSession::RoomForUpload() {
  const bool room = upload_->AwaitRoom([loop = context_.loop, weak = weak_from_this()] {
    loop->Post([weak] {
      const auto self = weak.lock();
      if (self == nullptr || self->state_ != State::kBody) return;
      self->self_.reset();
      // Each piece has the time of a body: so a slow client has an end, and a large body enough.
      self->SetDeadline(self->context_.options.body);
      self->Consume();
    });
  });
  if (room) return true;
  // It is not the client that takes this time.
  self_ = shared_from_this();
  SetNoDeadline();
  return false;
}

bool HttpSession::OnHead() {
  const HttpRequest& request = reader_->request();
  version_ = reader_->version();
  head_only_ = reader_->head_only();
  keep_alive_ = reader_->keep_alive();
  path_ = request.path;
  if (context_.options.cors.on() && Cors::IsPreflight(request)) {
    // A browser shows that there is no such page only where it may ask.
    const std::string methods =
        context_.router.Has(path_) ? context_.router.CrossOriginMethods(path_) : "GET, POST";
    if (!methods.empty()) {
      cors_.clear();
      AnswerAtOnce(context_.options.cors.Preflight(request, methods));
      return false;
    }
  }
  const Routed routed = context_.router.Find(request.method, request.path, Trusted());
  route_ = routed.route;
  const bool cross_origin = route_ != nullptr ? route_->cross_origin
                            : routed.status == 405
                                ? !context_.router.CrossOriginMethods(path_).empty()
                                : routed.status == 404;
  cors_ = cross_origin ? context_.options.cors.Headers(request.Header("Origin")) : HttpHeaders();
  if (route_ == nullptr) {
    HttpAnswer refusal = context_.options.refusal(request.path, routed.status, routed.message);
    if (!routed.allow.empty()) refusal.headers.emplace_back("Allow", routed.allow);
    AnswerAtOnce(std::move(refusal));
    return false;
  }
  if (!reader_->AllowBody(route_->max_body_bytes, route_->upload != nullptr)) {
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

void HttpSession::AnswerAtOnce(HttpAnswer answer) {
  if (reader_->has_body()) keep_alive_ = false;
  EnterAnswer();
  SendWhole(std::move(answer), nullptr);
}

bool HttpSession::ExpectBody(absl::string_view expect) {
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

bool HttpSession::HoldBody() {
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

bool HttpSession::RefuseSlowBody() {
  // What is taken as it comes makes no room here.
  if (upload_ != nullptr) return false;
  if (std::chrono::steady_clock::now() - body_began_ < kSlow) return false;
  Refuse(503, kTooManyBodies);
  return true;
}

void HttpSession::OnRequest() {
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

}  // namespace packrat
