// One connection: requests and answers in turn, each with a time limit. Private to server/http.
#ifndef PACKRAT_SERVER_HTTP_SESSION_H_
#define PACKRAT_SERVER_HTTP_SESSION_H_

#include <atomic>
#include <cstdint>
#include <list>
#include <memory>
#include <utility>
#include <vector>

#include "server/http/connection.h"
#include "server/http/http_server.h"
#include "server/http/loop.h"
#include "server/http/router.h"
#include "server/http/tls_context.h"

namespace packrat {

// All of it is called by the server's thread.
class Session {
 public:
  virtual ~Session() = default;
  // Ends its waiting; it ends itself soon after.
  virtual void Close() = 0;
  // `request`: its number on this connection. Of another than the one that is being answered,
  // nothing happens but done(false). kNone: the handler has dropped its reply.
  virtual void Answer(uint64_t request, AnswerPart part) = 0;
  // What its AnswerQueue had is written, or could not be: then the session closes. `last`: it was
  // the end of an answer.
  virtual void OnWritten(bool ok, bool last) = 0;
  // Ends the request whose body it is reading, unless that began only just now or is taken as it
  // comes: then false.
  virtual bool RefuseSlowBody() = 0;
};

// The bytes of a body, counted as long as this lives; any thread may end it.
class HeldBytes {
 public:
  struct Budget {
    int64_t limit;
    std::atomic<int64_t> used{0};
  };
  explicit HeldBytes(std::shared_ptr<Budget> budget) : budget_(std::move(budget)) {}
  ~HeldBytes() { budget_->used -= bytes_; }
  HeldBytes(const HeldBytes&) = delete;
  HeldBytes& operator=(const HeldBytes&) = delete;

  // False: so many are not left. Called by the server's thread.
  bool GrowTo(int64_t bytes) {
    const int64_t more = bytes - bytes_;
    if (more <= 0) return true;
    if (budget_->used.load() + more > budget_->limit) return false;
    budget_->used += more;
    bytes_ = bytes;
    return true;
  }

 private:
  const std::shared_ptr<Budget> budget_;
  int64_t bytes_ = 0;
};

// For one thread.
using SessionList = std::list<Session*>;

// Shared by all sessions; it outlives them.
struct SessionContext {
  SessionContext(const HttpServer::Options& o, std::vector<HttpRoute> routes)
      : options(o),
        router(std::move(routes)),
        tls(o.tls),
        bodies(std::make_shared<HeldBytes::Budget>()) {
    bodies->limit = o.body_bytes;
  }

  const HttpServer::Options options;
  const Router router;
  TlsContext tls;
  const std::shared_ptr<Loop> loop = std::make_shared<Loop>();
  const std::shared_ptr<HeldBytes::Budget> bodies;
  SessionList all;
  SessionList waiting;       // For a request; first those that have sent none for the longest time.
  SessionList uploading;     // A body; first those that began first.
  int late_answers = 0;      // Of routes that wait.
  std::atomic<int> open{0};  // As many as there are in `all`.
  std::atomic<int64_t> taken{0};
  std::atomic<int64_t> refused{0};
  std::atomic<bool> dismiss{false};
};

// Serves the socket until its end. The session owns itself.
void StartSession(HttpSocket socket, SessionContext* context);

}  // namespace packrat

#endif  // PACKRAT_SERVER_HTTP_SESSION_H_
