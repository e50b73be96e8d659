// Requests to the API over HTTP, and their answers, for tests.
#ifndef PACKRAT_TESTS_SERVER_HTTP_API_H_
#define PACKRAT_TESTS_SERVER_HTTP_API_H_

#include <gtest/gtest.h>

#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "nlohmann/json.hpp"
#include "tests/server/http/http_client.h"
#include "tests/server/test_server.h"

namespace packrat {

using Json = nlohmann::json;

inline constexpr char kJsonType[] = "Content-Type: application/json\r\n";

struct Answer {
  int status = 0;
  std::string head;  // Down to the empty line.
  std::string body;  // Without the frames of its pieces.
  bool whole = true;

  Json json() const { return Json::parse(body, nullptr, /*allow_exceptions=*/false); }
  bool Has(const std::string& header) const { return absl::StrContains(head, header + "\r\n"); }
};

inline Answer Read(const std::string& text) {
  Answer answer;
  const size_t end = text.find("\r\n\r\n");
  if (end == std::string::npos) return answer;
  answer.head = text.substr(0, end + 2);
  EXPECT_TRUE(absl::SimpleAtoi(text.substr(9, 3), &answer.status)) << text;
  answer.body = text.substr(end + 4);
  if (!answer.Has("Transfer-Encoding: chunked")) return answer;
  std::string framed = std::move(answer.body);
  answer.body.clear();
  answer.whole = absl::EndsWith(framed, "0\r\n\r\n");
  for (size_t at = 0; at < framed.size();) {
    const size_t line = framed.find("\r\n", at);
    if (line == std::string::npos) break;
    const size_t size = std::strtoul(framed.c_str() + at, nullptr, 16);
    answer.body += framed.substr(line + 2, size);
    at = line + 2 + size + 2;
  }
  return answer;
}

inline Answer Post(TestServer& server, const std::string& path, const std::string& body,
                   const std::string& headers = kJsonType) {
  HttpClient client(server.server().http_port());
  return Read(client.Ask(HttpPost(path, body, absl::StrCat(headers, "Connection: close\r\n"))));
}

// The JSON of each event but the last, [DONE].
inline std::vector<Json> Events(const Answer& answer) {
  std::vector<Json> events;
  bool done = false;
  for (absl::string_view event : absl::StrSplit(answer.body, "\n\n", absl::SkipEmpty())) {
    EXPECT_FALSE(done) << answer.body;
    for (absl::string_view line : absl::StrSplit(event, '\n')) {
      if (!absl::ConsumePrefix(&line, "data: ")) continue;
      done = line == "[DONE]";
      if (!done) events.push_back(Json::parse(line));
    }
  }
  return events;
}

inline TestServer::Options WithTokenizer() {
  TestServer::Options options;
  options.tokenizer = true;
  return options;
}

}  // namespace packrat

#endif  // PACKRAT_TESTS_SERVER_HTTP_API_H_
