#include "server/http/loop.h"

#include "server/http/session.h"

namespace packrat {

void Loop::Deliver() {
  {
    MutexLock lock(&mutex_);
    taken_.swap(letters_);
  }
  for (Letter& letter : taken_) {
    const std::shared_ptr<Session> session = letter.session.lock();
    if (session != nullptr) {
      session->Answer(letter.request, std::move(letter.part));
    } else if (letter.part.done != nullptr) {
      letter.part.done(false);
    }
  }
  taken_.clear();
}

}  // namespace packrat
