// The files of the page at /, as they are served.
#include <map>
#include <memory>
#include <regex>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/http/http_server.h"
#include "server/page/page.h"

namespace packrat {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Key;
using testing::Not;

class KeptReply : public HttpReply {
 public:
  void Send(HttpAnswer answer, HttpDone) override { sent = std::move(answer); }
  void Begin(HttpAnswer) override {}
  void Write(std::string, HttpDone) override {}
  void End(std::string, HttpDone) override {}
  void Cut() override {}
  void OnGone(std::function<void()>) override {}

  HttpAnswer sent;
};

std::map<std::string, HttpAnswer> Files() {
  std::map<std::string, HttpAnswer> files;
  for (const HttpRoute& route : PageRoutes()) {
    EXPECT_EQ(route.method, "GET");
    EXPECT_FALSE(route.open_to_all);
    const auto reply = std::make_shared<KeptReply>();
    HttpRequest request;
    request.method = route.method;
    request.path = route.path;
    route.handle(request, reply);
    files[route.path] = reply->sent;
  }
  return files;
}

std::string HeaderOf(const HttpAnswer& answer, const std::string& name) {
  for (const auto& [header, value] : answer.headers) {
    if (header == name) return value;
  }
  return "";
}

TEST(PageRoutesTest, EachFileHasItsTypeAndItsContents) {
  const auto files = Files();
  ASSERT_THAT(files, ElementsAre(Key("/"), Key("/page.css"), Key("/page.js"), Key("/views.js")));
  EXPECT_EQ(files.at("/").content_type, "text/html; charset=utf-8");
  EXPECT_EQ(files.at("/").body.substr(0, 15), "<!doctype html>");
  EXPECT_TRUE(absl::EndsWith(files.at("/").body, "</html>\n"));
  EXPECT_EQ(files.at("/page.css").content_type, "text/css; charset=utf-8");
  EXPECT_THAT(files.at("/page.css").body, HasSubstr("prefers-color-scheme: dark"));
  for (const char* script : {"/page.js", "/views.js"}) {
    EXPECT_EQ(files.at(script).content_type, "text/javascript; charset=utf-8");
    EXPECT_THAT(files.at(script).body, HasSubstr("\"use strict\""));
  }
}

TEST(PageRoutesTest, TheyAreSmallAndLoadNothingFromElsewhere) {
  size_t bytes = 0;
  for (const auto& [path, answer] : Files()) {
    bytes += answer.body.size();
    std::string body = answer.body;
    // The name of SVG's elements, which nobody fetches.
    body = std::regex_replace(body, std::regex("http://www\\.w3\\.org/2000/svg"), "");
    EXPECT_THAT(body, Not(HasSubstr("http:"))) << path;
    EXPECT_THAT(body, Not(HasSubstr("https:"))) << path;
    // What a model writes is text.
    for (const char* way : {"innerHTML", "outerHTML", "insertAdjacentHTML", "document.write",
                            "localStorage", "style=\"", "onclick"}) {
      EXPECT_THAT(body, Not(HasSubstr(way))) << path;
    }
  }
  EXPECT_GT(bytes, size_t{10} << 10);
  EXPECT_LT(bytes, size_t{100} << 10);
}

TEST(PageRoutesTest, ThePolicyIsStrict) {
  for (const auto& [path, answer] : Files()) {
    const std::string policy = HeaderOf(answer, "Content-Security-Policy");
    EXPECT_EQ(policy.rfind("default-src 'none'; ", 0), 0u) << path;
    EXPECT_THAT(policy, HasSubstr("frame-ancestors 'none'"));
    EXPECT_THAT(policy, Not(HasSubstr("unsafe")));
    EXPECT_THAT(policy, Not(HasSubstr("*")));
    EXPECT_EQ(HeaderOf(answer, "X-Content-Type-Options"), "nosniff");
  }
}

}  // namespace
}  // namespace packrat
