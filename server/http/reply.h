// A session's side of an answer, for other threads. Private to server/http.
#ifndef PACKRAT_SERVER_HTTP_REPLY_H_
#define PACKRAT_SERVER_HTTP_REPLY_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "runtime/mutex.h"
#include "server/http/http_reply.h"
#include "server/http/session.h"

namespace packrat {

class Reply final : public HttpReply {
 public:
  // `request`: its number in the session.
  Reply(std::shared_ptr<Loop> loop, std::weak_ptr<Session> session, uint64_t request)
      : loop_(std::move(loop)), session_(std::move(session)), request_(request) {}
  ~Reply() override;

  void Send(HttpAnswer answer, HttpDone done) override;
  void Begin(HttpAnswer head) override;
  void Write(std::string piece, HttpDone done) override;
  void End(std::string last, HttpDone done) override;
  void Cut() override;
  void OnGone(std::function<void()> gone) override;

  // Called by the session: the client has gone, or the answer is over.
  void TellGone();
  void Over();

 private:
  void Ask(AnswerPart::Kind kind, HttpAnswer answer, HttpDone done);

  const std::shared_ptr<Loop> loop_;
  const std::weak_ptr<Session> session_;
  const uint64_t request_;
  Mutex mutex_;
  std::function<void()> tell_ ABSL_GUARDED_BY(mutex_);
  bool gone_ ABSL_GUARDED_BY(mutex_) = false;
  bool over_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace packrat

#endif  // PACKRAT_SERVER_HTTP_REPLY_H_
