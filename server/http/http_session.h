// A session over a socket. http_session.cc has its beginning, its end and its answers,
// http_session_input.cc what it reads. Private to server/http.
#ifndef PACKRAT_SERVER_HTTP_HTTP_SESSION_H_
#define PACKRAT_SERVER_HTTP_HTTP_SESSION_H_

#include <boost/asio/basic_waitable_timer.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"
#include "server/http/answer_queue.h"
#include "server/http/connection.h"
#include "server/http/reply.h"
#include "server/http/request_reader.h"
#include "server/http/session.h"

namespace packrat {

// At most one read and one write are under way. While an answer is made and sent, the read tells
// that the client has gone, or brings the beginning of its next request.
class HttpSession final : public Session, public std::enable_shared_from_this<HttpSession> {
 public:
  HttpSession(SessionContext* context, HttpSocket socket);

  void Start();
  void Close() override;
  void Answer(uint64_t request, AnswerPart part) override;
  void OnWritten(bool ok, bool last) override;
  bool RefuseSlowBody() override;

 private:
  using Timer =
      boost::asio::basic_waitable_timer<std::chrono::steady_clock,
                                        boost::asio::wait_traits<std::chrono::steady_clock>,
                                        boost::asio::io_context::executor_type>;
  enum class State { kHandshake, kIdle, kHead, kBody, kAnswering, kLingering, kClosed };

  // Also true if the server asks for no certificate.
  bool Trusted() const { return !context_.tls.asks_clients() || connection_.HasPeerCertificate(); }
  // A session is in one of the lists of its context, or in none.
  void List(SessionList* list, bool first = false);
  void Unlist();
  void SetDeadline(std::chrono::milliseconds time);
  void SetNoDeadline() { timer_.expires_at(std::chrono::steady_clock::time_point::max()); }
  void OnDeadline();

  void AwaitRequest();
  void Read();
  void TakeInput();
  // Of a client that has sent nothing more.
  void ReleaseBuffer();
  void OnEndOfInput();
  // Takes what has come of a request.
  void Consume();
  // Each of these: false, the request has been answered or refused.
  bool OnHead();
  bool ExpectBody(absl::string_view expect);
  bool HoldBody();       // Counts what has come of it.
  bool RoomForUpload();  // False: it reads on later.
  void OnRequest();

  // From here on a request has its answer: by a handler, or a refusal.
  void EnterAnswer();
  // Whatever body the request has.
  void AnswerAtOnce(HttpAnswer answer);
  // Of whatever the session is in; its connection is closed then.
  void Refuse(int status, const std::string& message);
  std::string Head(HttpAnswer* answer, std::optional<size_t> length);
  bool Chunked() const { return version_ >= 11 && !head_only_; }
  std::string Framed(const std::string& piece) const;
  void SendWhole(HttpAnswer answer, HttpDone done);
  void Queue(std::string text, HttpDone done);
  void QueueLast(AnswerQueue::Part part);
  // Null: no handler has a part in the answer. Called while something else holds the session.
  std::shared_ptr<Reply> LeaveAnswer();
  void OnAnswered();
  void Cut();

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
  // While there is an answer to wait for, or room for an upload, which nothing else may wait for:
  // no read, no write.
  std::shared_ptr<HttpSession> self_;
  std::weak_ptr<Reply> reply_;
  int version_ = 11;
  bool head_only_ = false;
  bool keep_alive_ = true;
  bool begun_ = false;   // Its head has been sent.
  bool ending_ = false;  // Its last part has been queued.
  bool late_ = false;    // Counted among late_answers.
};

}  // namespace packrat

#endif  // PACKRAT_SERVER_HTTP_HTTP_SESSION_H_
