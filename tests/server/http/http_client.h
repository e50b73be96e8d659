// A client that says over a socket whatever a test wants, and hears every byte.
#ifndef PACKRAT_TESTS_SERVER_HTTP_HTTP_CLIENT_H_
#define PACKRAT_TESTS_SERVER_HTTP_HTTP_CLIENT_H_

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace packrat {

class HttpClient {
 public:
  explicit HttpClient(int port) : fd_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in to = {};
    to.sin_family = AF_INET;
    to.sin_port = htons(port);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    Connect(reinterpret_cast<sockaddr*>(&to), sizeof(to));
  }
  explicit HttpClient(const std::string& path)
      : fd_(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_un to = {};
    to.sun_family = AF_UNIX;
    path.copy(to.sun_path, path.size());
    Connect(reinterpret_cast<sockaddr*>(&to), sizeof(to));
  }
  ~HttpClient() { Close(); }
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;

  // False: the server has closed.
  bool Send(const std::string& bytes) {
    return send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL) ==
           static_cast<ssize_t>(bytes.size());
  }
  // What comes until the server closes; after a minute of silence what came.
  std::string ReadAll() {
    std::string answer;
    char buffer[4096];
    for (ssize_t n; (n = recv(fd_, buffer, sizeof(buffer), 0)) > 0;) answer.append(buffer, n);
    return answer;
  }
  // Reads as much, and keeps its end alone.
  std::string ReadToEnd() {
    std::string end;
    char buffer[4096];
    for (ssize_t n; (n = recv(fd_, buffer, sizeof(buffer), 0)) > 0;) {
      end.append(buffer, n);
      if (end.size() > 16) end.erase(0, end.size() - 16);
    }
    return end;
  }
  std::string Ask(const std::string& request) {
    Send(request);
    return ReadAll();
  }
  // Reads until `end` has come.
  std::string ReadUntil(const std::string& end) {
    std::string answer;
    char byte;
    while (!absl::EndsWith(answer, end) && recv(fd_, &byte, 1, 0) == 1) answer += byte;
    return answer;
  }
  // Sends no more; what comes is still read.
  void HalfClose() { shutdown(fd_, SHUT_WR); }
  void Close() {
    if (fd_ >= 0) close(fd_);
    fd_ = -1;
  }
  // Closes so that the server gets a reset.
  void Reset() {
    const linger none = {1, 0};
    setsockopt(fd_, SOL_SOCKET, SO_LINGER, &none, sizeof(none));
    Close();
  }

 private:
  void Connect(const sockaddr* to, socklen_t size) {
    const timeval patience = {60, 0};
    setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    EXPECT_EQ(connect(fd_, to, size), 0);
  }
  int fd_;
};

// A POST of `body`; `headers`: further ones, each with its line break.
// An answer without the time at which it was made, as "Date: Sun, 06 Nov 1994 08:49:37 GMT", which
// must be there.
inline std::string WithoutDate(std::string answer) {
  const size_t at = answer.find("\r\nDate: ");
  const size_t end = answer.find(" GMT\r\n", at);
  EXPECT_EQ(end - at, std::string("\r\nDate: Sun, 06 Nov 1994 08:49:37").size()) << answer;
  return end == answer.npos ? answer : answer.erase(at, end + 4 - at);
}

inline std::string HttpPost(const std::string& path, const std::string& body,
                            const std::string& headers = "") {
  return absl::StrCat("POST ", path, " HTTP/1.1\r\nHost: h\r\n", headers,
                      "Content-Length: ", body.size(), "\r\n\r\n", body);
}

}  // namespace packrat

#endif  // PACKRAT_TESTS_SERVER_HTTP_HTTP_CLIENT_H_
