// What one connection writes, in order. Private to server/http.
#ifndef PACKRAT_SERVER_HTTP_ANSWER_QUEUE_H_
#define PACKRAT_SERVER_HTTP_ANSWER_QUEUE_H_

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "server/http/connection.h"
#include "server/http/http_reply.h"
#include "server/http/loop.h"

namespace packrat {

// All of it is called by the server's thread. What is added while something is being written goes
// out together after it.
class AnswerQueue {
 public:
  AnswerQueue(HttpConnection* connection, Loop* loop) : connection_(*connection), loop_(*loop) {}

  struct Part {
    std::string text;
    std::string body;  // After it; only of a whole answer.
    HttpDone done;
    bool last = false;
  };
  // `owner`, who has the queue and the connection, lives until the part is written or cannot be,
  // and is told then: OnWritten(), and `done` after it if it failed, before it if not. In no case
  // before this returns.
  void Add(Part part, const std::shared_ptr<Session>& owner);
  // Nothing of what is not being written will be.
  void Drop();

 private:
  struct Output {
    std::string text, body;
    std::vector<HttpDone> dones;
    bool last = false;
    bool empty() const { return text.empty() && body.empty() && dones.empty() && !last; }
  };
  void Flush(const std::shared_ptr<Session>& owner);
  void Write(const std::shared_ptr<Session>& owner);
  void OnWritten(bool ok, const std::shared_ptr<Session>& owner);

  HttpConnection& connection_;
  Loop& loop_;
  bool writing_ = false;
  size_t sent_ = 0;  // Of out_.
  Output out_;       // That is being written.
  Output next_;      // After it.
};

}  // namespace packrat

#endif  // PACKRAT_SERVER_HTTP_ANSWER_QUEUE_H_
