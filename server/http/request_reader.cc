#include "server/http/request_reader.h"

#include <boost/beast/http/error.hpp>
#include <limits>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace packrat {
namespace {

namespace http = boost::beast::http;
using Error = boost::system::error_code;

int StatusOf(const Error& error) {
  if (error == http::error::header_limit || error == http::error::buffer_overflow) return 431;
  return error == http::error::body_limit ? 413 : 400;
}

}  // namespace

std::string PathOf(const std::string& target) {
  std::string path = target;
  for (const char* scheme : {"http://", "https://"}) {
    if (!absl::StartsWithIgnoreCase(path, scheme)) continue;
    const size_t slash = path.find('/', std::string(scheme).size());
    path = slash == std::string::npos ? "/" : path.substr(slash);
    break;
  }
  return path.substr(0, path.find_first_of("?#"));
}

RequestReader::RequestReader(size_t max_header_bytes) : max_header_bytes_(max_header_bytes) {
  parser_.header_limit(static_cast<uint32_t>(max_header_bytes));
  // AllowBody() says what it is. With none, the library compares lengths with nothing, which is
  // less than any.
  parser_.body_limit(std::numeric_limits<uint64_t>::max());
}

RequestReader::News RequestReader::Take(boost::beast::flat_buffer* input) {
  for (;;) {
    if (head_read_ && parser_.is_done()) {
      request_.body = std::move(parser_.get().body().text);
      return News::kWhole;
    }
    if (input->size() == 0) return News::kNothing;
    Error error;
    input->consume(parser_.put(input->data(), error));
    const bool needs_more = error == http::error::need_more;
    if (error && !needs_more) return Bad(StatusOf(error), error.message());
    if (!head_read_ && parser_.is_header_done()) {
      ReadHead();
      return ReadHost();
    }
    if (!needs_more) continue;
    // The parser wants it in one piece. It limits the head by itself.
    if (input->size() <= max_header_bytes_) return News::kNothing;
    return Bad(400, "the frames of the body's pieces are too long");
  }
}

void RequestReader::ReadHead() {
  const auto& head = parser_.get();
  request_.method = std::string(head.method_string());
  request_.path = PathOf(std::string(head.target()));
  for (const auto& field : head) {
    request_.headers.emplace_back(std::string(field.name_string()), std::string(field.value()));
  }
  version_ = static_cast<int>(head.version());
  head_only_ = head.method() == http::verb::head;
  keep_alive_ = parser_.keep_alive();
  has_body_ = !parser_.is_done();
  head_read_ = true;
}

// RFC 9112, 3.2: else a proxy and this server might take a request for two hosts'.
RequestReader::News RequestReader::ReadHost() {
  const size_t hosts = parser_.get().count(http::field::host);
  if (hosts > 1) return Bad(400, "the header Host is there twice");
  if (hosts == 0 && version_ >= 11) return Bad(400, "the header Host is missing");
  return News::kHead;
}

bool RequestReader::AllowBody(size_t max_bytes, bool in_pieces) {
  // A body that the parser does not see would be taken for the next request.
  const auto& head = parser_.get();
  if (head.count(http::field::transfer_encoding) > 0 && (!parser_.chunked() || version_ < 11)) {
    Bad(501, "Transfer-Encoding: chunked alone is known, and in HTTP/1.1");
    return false;
  }
  const uint64_t length = parser_.content_length().value_or(0);
  if (length > max_bytes) {
    Bad(413, absl::StrCat("the body has ", length, " bytes; at most ", max_bytes));
    return false;
  }
  if (!has_body_) return true;
  // What compresses a body would make its limit meaningless.
  for (const auto& [name, value] : request_.headers) {
    if (!absl::EqualsIgnoreCase(name, "Content-Encoding") || value.empty() ||
        absl::EqualsIgnoreCase(value, "identity")) {
      continue;
    }
    Bad(415, absl::StrCat("the header Content-Encoding is ", value.substr(0, 64),
                          "; identity alone is known: send the body as it is"));
    return false;
  }
  parser_.body_limit(max_bytes);
  parser_.get().body().in_pieces = in_pieces;
  parser_.eager(true);
  return true;
}

int64_t RequestReader::body_bytes() const {
  if (!head_read_) return 0;
  const std::string& body = request_.body.empty() ? parser_.get().body().text : request_.body;
  // Memory for a known length is taken at once and used as it comes.
  const bool known = parser_.content_length().has_value();
  return static_cast<int64_t>(known ? body.size() : body.capacity());
}

RequestReader::News RequestReader::Bad(int status, std::string message) {
  status_ = status;
  message_ = std::move(message);
  return News::kBad;
}

}  // namespace packrat
