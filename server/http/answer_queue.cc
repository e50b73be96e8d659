#include "server/http/answer_queue.h"

#include <algorithm>
#include <boost/asio/post.hpp>
#include <utility>

#include "absl/strings/string_view.h"
#include "server/http/session.h"

namespace packrat {
namespace {

// A body of up to so many bytes joins its head: with TLS, both are one record.
constexpr size_t kShortBody = 8192;

void Tell(const std::vector<HttpDone>& dones, bool ok) {
  for (const HttpDone& done : dones) done(ok);
}

}  // namespace

void AnswerQueue::Add(Part part, const std::shared_ptr<Session>& owner) {
  if (next_.text.empty()) {
    next_.text = std::move(part.text);
  } else {
    next_.text += part.text;
  }
  if (part.body.size() <= kShortBody) {
    next_.text += part.body;
  } else {
    next_.body = std::move(part.body);
  }
  if (part.done != nullptr) next_.dones.push_back(std::move(part.done));
  next_.last = part.last;
  if (!writing_) Flush(owner);
}

void AnswerQueue::Drop() { Tell(std::exchange(next_, {}).dones, false); }

void AnswerQueue::Flush(const std::shared_ptr<Session>& owner) {
  writing_ = true;
  sent_ = 0;
  out_ = std::exchange(next_, {});
  Write(owner);
}

void AnswerQueue::Write(const std::shared_ptr<Session>& owner) {
  const size_t all = out_.text.size() + out_.body.size();
  bool ok = true;
  if (sent_ < all) {
    const size_t of_text = std::min(sent_, out_.text.size());
    const HttpConnection::Result result =
        connection_.Write(absl::string_view(out_.text).substr(of_text),
                          absl::string_view(out_.body).substr(sent_ - of_text));
    sent_ += result.bytes;
    ok = result.news == HttpConnection::News::kBytes || result.news == HttpConnection::News::kLater;
    if (ok && sent_ < all) {
      return connection_.AwaitOutput(
          [this, owner](bool ready) { ready ? Write(owner) : OnWritten(false, owner); });
    }
  }
  boost::asio::post(loop_.io(), [this, ok, owner] { OnWritten(ok, owner); });
}

void AnswerQueue::OnWritten(bool ok, const std::shared_ptr<Session>& owner) {
  writing_ = false;
  const Output output = std::exchange(out_, {});
  if (!ok) owner->OnWritten(false, output.last);
  Tell(output.dones, ok);
  if (!ok) return;
  owner->OnWritten(true, output.last);
  if (!next_.empty() && !writing_) Flush(owner);
}

}  // namespace packrat
