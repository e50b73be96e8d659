// An HTTP server whose requests the test answers.
#ifndef PACKRAT_TESTS_SERVER_HTTP_HTTP_REPLIES_H_
#define PACKRAT_TESTS_SERVER_HTTP_HTTP_REPLIES_H_

#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <deque>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/mutex.h"
#include "server/http/http_server.h"
#include "tests/server/gate.h"
#include "tests/server/http/http_client.h"

namespace packrat {

inline constexpr char kGet[] = "GET /late HTTP/1.1\r\nHost: h\r\n\r\n";
inline constexpr char kProbe[] = "GET /probe HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";

// A request whose answer the test gives.
struct Taken {
  HttpRequest request;
  std::shared_ptr<HttpReply> reply;

  // True once the client has taken it.
  bool Write(const std::string& piece) const {
    std::atomic<int> done{-1};
    reply->Write(piece, [&done](bool ok) { done = ok ? 1 : 0; });
    EXPECT_TRUE(Eventually([&done] { return done >= 0; }));
    return done == 1;
  }
};

class HttpReplies : public testing::Test {
 protected:
  HttpReplies() : log_(Logger::Format::kText, [](const std::string&) {}) {
    options_.address = "127.0.0.1:0";
    options_.body_bytes = 20000;
  }
  void Start() {
    const auto later = [this](HttpRequest request, std::shared_ptr<HttpReply> reply) {
      MutexLock lock(&mutex_);
      taken_.push_back({std::move(request), std::move(reply)});
      changed_.notify_all();
    };
    auto started = HttpServer::Start(
        options_,
        {{"/late", "GET", later, false, 1024, true, true},
         {"/late", "POST", later, false, 9000, true},
         {"/drop", "GET", [](const HttpRequest&, const std::shared_ptr<HttpReply>&) {}},
         {"/echo/*", "POST", AtOnce([](const HttpRequest& r) {
            return HttpAnswer{200, "text/x",
                              absl::StrCat(r.path, " ", r.Header("x-a"), " ", r.body)};
          }),
          false, 9000, false, true},
         {"/probe", "GET", AtOnce([](const HttpRequest&) {
            return HttpAnswer{200, "text/x", "well\n"};
          })},
         {"/upload", "POST", nullptr, false, 9000, false, false,
          [this](const HttpRequest&) { return upload_; }}},
        &log_);
    ASSERT_TRUE(started.ok()) << started.status();
    server_ = *std::move(started);
  }
  // Waits for the next request.
  Taken Next() {
    MutexLock lock(&mutex_);
    while (taken_.empty()) lock.Wait(&changed_);
    Taken next = std::move(taken_.front());
    taken_.pop_front();
    return next;
  }
  bool NoneWaits() {
    MutexLock lock(&mutex_);
    return taken_.empty();
  }
  std::string Ask(const std::string& request) { return HttpClient(server_->port()).Ask(request); }

  Logger log_;
  HttpServer::Options options_;
  std::shared_ptr<HttpUpload> upload_;  // Of the one request to /upload.
  Mutex mutex_;
  std::condition_variable changed_;
  std::deque<Taken> taken_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<HttpServer> server_;
};

}  // namespace packrat

#endif  // PACKRAT_TESTS_SERVER_HTTP_HTTP_REPLIES_H_
