#include "server/http/answer_head.h"

#include <boost/beast/http/message.hpp>
#include <ostream>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace packrat {
namespace {

namespace http = boost::beast::http;

void AddHeader(std::string* head, absl::string_view name, absl::string_view value) {
  absl::StrAppend(head, name, ": ", value.substr(0, value.find_first_of("\r\n")), "\r\n");
}

// RFC 9110, 6.6.1. It is written once a second.
const std::string& Date() {
  thread_local int64_t second = -1;
  thread_local std::string date;
  const int64_t now = absl::ToUnixSeconds(absl::Now());
  if (now != second) {
    date = absl::FormatTime("%a, %d %b %Y %H:%M:%S GMT", absl::FromUnixSeconds(now),
                            absl::UTCTimeZone());
    second = now;
  }
  return date;
}

}  // namespace

std::string AnswerHead(const HttpAnswer& answer, const AnswerFrame& frame) {
  const auto reason = http::obsolete_reason(http::int_to_status(answer.status));
  std::string head =
      absl::StrCat("HTTP/", frame.version / 10, ".", frame.version % 10, " ", answer.status, " ",
                   absl::string_view(reason.data(), reason.size()), "\r\n");
  AddHeader(&head, "Date", Date());
  if (!answer.content_type.empty()) AddHeader(&head, "Content-Type", answer.content_type);
  for (const auto& [name, value] : answer.headers) AddHeader(&head, name, value);
  if (frame.length.has_value()) {
    if (answer.status != 204) AddHeader(&head, "Content-Length", absl::StrCat(*frame.length));
  } else if (frame.version >= 11) {
    AddHeader(&head, "Transfer-Encoding", "chunked");
  }
  if (!frame.keep_alive) {
    AddHeader(&head, "Connection", "close");
  } else if (frame.version < 11) {
    AddHeader(&head, "Connection", "keep-alive");
  }
  return head + "\r\n";
}

std::string Chunk(const std::string& piece) {
  if (piece.empty()) return "";
  return absl::StrCat(absl::Hex(piece.size()), "\r\n", piece, "\r\n");
}

}  // namespace packrat
