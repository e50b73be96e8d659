// Makes a request of the bytes of a connection. Private to server/http.
#ifndef PACKRAT_SERVER_HTTP_REQUEST_READER_H_
#define PACKRAT_SERVER_HTTP_REQUEST_READER_H_

#include <boost/beast/core/buffers_range.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/optional/optional.hpp>
#include <boost/system/error_code.hpp>
#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "server/http/http_reply.h"

namespace packrat {

// A body in memory. Beast's own takes memory for all that a client announces, which for a body that
// nobody holds as a whole may be more than there is.
struct TextBody {
  struct value_type {
    std::string text;
    bool in_pieces = false;  // Each is taken away before the next one comes.
  };
  class reader {
   public:
    template <bool is_request, class Fields>
    reader(const boost::beast::http::header<is_request, Fields>&, value_type& body) : body_(body) {}
    void init(const boost::optional<uint64_t>& length, boost::system::error_code& error) {
      error = {};
      if (length && !body_.in_pieces) body_.text.reserve(*length);
    }
    template <class Buffers>
    size_t put(const Buffers& buffers, boost::system::error_code& error) {
      error = {};
      const size_t before = body_.text.size();
      for (const auto buffer : boost::beast::buffers_range_ref(buffers)) {
        body_.text.append(static_cast<const char*>(buffer.data()), buffer.size());
      }
      return body_.text.size() - before;
    }
    void finish(boost::system::error_code& error) { error = {}; }

   private:
    value_type& body_;
  };
};

// For one request.
class RequestReader {
 public:
  // `max_header_bytes`: of the head; of what frames the body's pieces, as much again.
  explicit RequestReader(size_t max_header_bytes);

  enum class News {
    kNothing,  // More bytes are needed.
    kHead,     // The head is there. Once, before all of the following.
    kWhole,    // The request is there.
    kBad,      // No request can come of it: see status() and message().
  };
  // Takes bytes from the front of `input`; those of the next request stay there.
  News Take(boost::beast::flat_buffer* input);

  // From kHead on.
  int version() const { return version_; }  // 10, 11.
  bool keep_alive() const { return keep_alive_; }
  bool head_only() const { return head_only_; }  // HEAD.
  bool has_body() const { return has_body_; }
  // `in_pieces`: TakeBody() follows each Take(). False: its body is too large or of a kind that is
  // not known; see status() and message().
  bool AllowBody(size_t max_bytes, bool in_pieces = false);
  // Memory that the body takes.
  int64_t body_bytes() const;
  // What has come of the body since the last time, for `take`; then it is no part of the request.
  template <typename Take>
  bool TakeBody(const Take& take) {
    std::string& body = parser_.is_done() ? request_.body : parser_.get().body().text;
    const bool goes_on = body.empty() || take(absl::string_view(body));
    body.clear();
    return goes_on;
  }
  HttpRequest& request() { return request_; }  // With its body from kWhole on.

  int status() const { return status_; }
  const std::string& message() const { return message_; }

 private:
  void ReadHead();
  News ReadHost();
  News Bad(int status, std::string message);

  const size_t max_header_bytes_;
  boost::beast::http::request_parser<TextBody> parser_;
  HttpRequest request_;
  bool head_read_ = false;
  bool has_body_ = false;
  bool keep_alive_ = false;
  bool head_only_ = false;
  int version_ = 11;
  int status_ = 0;
  std::string message_;
};

// "/a" of "/a?b=c" and of "http://host/a".
std::string PathOf(const std::string& target);

}  // namespace packrat

#endif  // PACKRAT_SERVER_HTTP_REQUEST_READER_H_
