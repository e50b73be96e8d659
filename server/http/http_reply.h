// A request over HTTP, and its answer, which may come at once or later, from any thread, whole or
// in pieces.
#ifndef PACKRAT_SERVER_HTTP_HTTP_REPLY_H_
#define PACKRAT_SERVER_HTTP_HTTP_REPLY_H_

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"

namespace packrat {

using HttpHeaders = std::vector<std::pair<std::string, std::string>>;

struct HttpRequest {
  std::string method;
  std::string path;  // Without the query, as it was sent.
  HttpHeaders headers;
  std::string body;
  std::string peer;  // "ipv4:127.0.0.1:50000", "ipv6:[::1]:50000", "unix:", as gRPC writes them.
  // The body's bytes count among those of all requests until this goes.
  std::shared_ptr<const void> held;

  // The header of this name, however it is capitalised. Empty: there is none, or more than one.
  absl::string_view Header(absl::string_view name) const;
};

struct HttpAnswer {
  int status = 200;
  std::string content_type = "text/plain";  // Empty: none.
  std::string body;
  HttpHeaders headers;  // Further ones.
};

// `ok`: the system has taken the bytes. If not, the client has gone.
using HttpDone = std::function<void(bool ok)>;

// The answer to one request: either Send(), or Begin(), any number of Write(), and End(). Any
// thread may call these; none waits. Whoever drops a reply without an answer makes it a 500.
//
// Callbacks run on the server's thread, which serves nobody else meanwhile, or in the call itself
// if the client has gone: so make no call while holding a lock that a callback takes.
class HttpReply {
 public:
  virtual ~HttpReply() = default;

  virtual void Send(HttpAnswer answer, HttpDone done = nullptr) = 0;
  // Sends the head of an answer in pieces; its body is the first.
  virtual void Begin(HttpAnswer head) = 0;
  // One at a time: the next after `done`. So a client that reads slowly holds back its answer, and
  // one piece is all that waits for it.
  virtual void Write(std::string piece, HttpDone done) = 0;
  virtual void End(std::string last = "", HttpDone done = nullptr) = 0;
  // Closes the connection, so that the client sees an answer without its end. Also for an answer
  // that waits for its client.
  virtual void Cut() = 0;

  // `gone` is called at most once, as soon as the client closes the connection, or its direction of
  // it: no server can tell these apart before it writes. A client that has closed its direction
  // alone can still read what is written. Not called once the answer is complete.
  virtual void OnGone(std::function<void()> gone) = 0;
};

// Takes the body of one request while it comes, and answers it. All of it is called by the server's
// thread, which serves nobody else meanwhile. It is dropped without Answer() where no answer of its
// own is to be sent: the client has gone, is too slow, or sends what is no body.
class HttpUpload {
 public:
  virtual ~HttpUpload() = default;
  // The next bytes. False: no more are wanted. Asked with none once, before any come.
  virtual bool Take(absl::string_view piece) = 0;
  // After it: true, more may come. False: not before `resume` was called, by any thread.
  virtual bool AwaitRoom(std::function<void()> resume) = 0;
  // The last: all of it was taken, or Take() was false.
  virtual void Answer(std::shared_ptr<HttpReply> reply) = 0;
};

}  // namespace packrat

#endif  // PACKRAT_SERVER_HTTP_HTTP_REPLY_H_
