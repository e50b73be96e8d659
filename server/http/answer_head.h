// The text of an answer's head. Private to server/http.
#ifndef PACKRAT_SERVER_HTTP_ANSWER_HEAD_H_
#define PACKRAT_SERVER_HTTP_ANSWER_HEAD_H_

#include <cstddef>
#include <optional>
#include <string>

#include "server/http/http_reply.h"

namespace packrat {

struct AnswerFrame {
  int version = 11;  // Of the request: 10 or 11.
  bool keep_alive = true;
  std::optional<size_t> length;  // Of the body; none: it comes in pieces.
};

// Line breaks in a header's value end it there: nobody who fills one in can add others.
std::string AnswerHead(const HttpAnswer& answer, const AnswerFrame& frame);

// A piece as HTTP/1.1 frames it. An empty one would end the body, so it has no frame.
std::string Chunk(const std::string& piece);
inline constexpr char kLastChunk[] = "0\r\n\r\n";

}  // namespace packrat

#endif  // PACKRAT_SERVER_HTTP_ANSWER_HEAD_H_
