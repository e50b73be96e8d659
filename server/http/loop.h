// Where the server's thread runs. Private to server/http.
#ifndef PACKRAT_SERVER_HTTP_LOOP_H_
#define PACKRAT_SERVER_HTTP_LOOP_H_

#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "runtime/mutex.h"
#include "server/http/http_reply.h"

namespace packrat {

class Session;

// What a reply asks of its session.
struct AnswerPart {
  enum class Kind { kWhole, kBegin, kPiece, kEnd, kCut, kNone };
  Kind kind;
  HttpAnswer answer;  // Its head is that of kWhole and kBegin, its body of all.
  HttpDone done;
};

// A part on its way.
struct Letter {
  std::weak_ptr<Session> session;
  uint64_t request;
  AnswerPart part;
};

// Replies keep it, so that they may outlive the server.
class Loop {
 public:
  // Has `work` called by the thread. False, and nothing is called: it has been stopped.
  template <typename Work>
  bool Post(Work work) {
    MutexLock lock(&mutex_);
    if (stopped_) return false;
    boost::asio::post(io_, std::move(work));
    return true;
  }
  // Has the thread deliver it, in order. Those of a step come close together, and the thread takes
  // all that are there at once. False, and the letter is as it was: it has been stopped.
  bool Send(Letter* letter) {
    MutexLock lock(&mutex_);
    if (stopped_) return false;
    letters_.push_back(std::move(*letter));
    if (letters_.size() == 1) boost::asio::post(io_, [this] { Deliver(); });
    return true;
  }
  void Stop() {
    MutexLock lock(&mutex_);
    stopped_ = true;
  }
  boost::asio::io_context& io() { return io_; }

 private:
  void Deliver();

  Mutex mutex_;
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<Letter> letters_ ABSL_GUARDED_BY(mutex_);
  std::vector<Letter> taken_;  // The thread's own; its memory is used again.
  boost::asio::io_context io_{1};
};

}  // namespace packrat

#endif  // PACKRAT_SERVER_HTTP_LOOP_H_
