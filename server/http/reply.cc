#include "server/http/reply.h"

#include <utility>

namespace packrat {

Reply::~Reply() {
  {
    MutexLock lock(&mutex_);
    if (over_) return;
  }
  // If it had been answered, the session lets this pass.
  Ask(AnswerPart::Kind::kNone, {}, nullptr);
}

void Reply::Send(HttpAnswer answer, HttpDone done) {
  Ask(AnswerPart::Kind::kWhole, std::move(answer), std::move(done));
}

void Reply::Begin(HttpAnswer head) { Ask(AnswerPart::Kind::kBegin, std::move(head), nullptr); }

void Reply::Write(std::string piece, HttpDone done) {
  HttpAnswer answer;
  answer.body = std::move(piece);
  Ask(AnswerPart::Kind::kPiece, std::move(answer), std::move(done));
}

void Reply::End(std::string last, HttpDone done) {
  HttpAnswer answer;
  answer.body = std::move(last);
  Ask(AnswerPart::Kind::kEnd, std::move(answer), std::move(done));
}

void Reply::Cut() { Ask(AnswerPart::Kind::kCut, {}, nullptr); }

void Reply::OnGone(std::function<void()> gone) {
  {
    MutexLock lock(&mutex_);
    if (over_) return;
    if (!gone_) {
      tell_ = std::move(gone);
      return;
    }
  }
  gone();
}

void Reply::TellGone() {
  std::function<void()> tell;
  {
    MutexLock lock(&mutex_);
    gone_ = true;
    tell = std::exchange(tell_, nullptr);
  }
  if (tell != nullptr) tell();
}

void Reply::Over() {
  std::function<void()> dropped;  // Without the lock: it may hold the last of what uses this.
  MutexLock lock(&mutex_);
  over_ = true;
  dropped = std::exchange(tell_, nullptr);
}

void Reply::Ask(AnswerPart::Kind kind, HttpAnswer answer, HttpDone done) {
  Letter letter = {session_, request_, {kind, std::move(answer), std::move(done)}};
  if (!loop_->Send(&letter) && letter.part.done != nullptr) letter.part.done(false);
}

}  // namespace packrat
