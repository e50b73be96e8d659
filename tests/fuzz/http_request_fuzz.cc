// Bytes of a connection, cut into pieces anywhere: the pieces change nothing, bodies keep to their
// limit, and what is left is the next request's.
#include <algorithm>
#include <boost/asio/buffer.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"
#include "server/http/request_reader.h"

namespace packrat {
namespace {

constexpr size_t kHead = 512;
constexpr size_t kBody = 256;

// What came of the bytes, when they come in pieces of `step`.
std::vector<std::string> ReadAll(const std::string& bytes, size_t step) {
  std::vector<std::string> requests;
  boost::beast::flat_buffer input;
  size_t sent = 0;
  for (;;) {
    RequestReader reader(kHead);
    for (;;) {
      const RequestReader::News news = reader.Take(&input);
      if (news == RequestReader::News::kBad) {
        PACKRAT_CHECK(reader.status() >= 400 && reader.status() < 600);
        requests.push_back("bad");
        return requests;
      }
      if (news == RequestReader::News::kHead && !reader.AllowBody(kBody)) {
        PACKRAT_CHECK(reader.status() >= 400 && reader.status() < 600);
        requests.push_back(absl::StrCat("refused ", reader.status()));
        return requests;
      }
      if (news == RequestReader::News::kWhole) break;
      if (news == RequestReader::News::kHead) continue;
      PACKRAT_CHECK(reader.body_bytes() <= static_cast<int64_t>(2 * kBody));
      PACKRAT_CHECK(input.size() <= kHead);
      if (sent == bytes.size()) return requests;
      const size_t size = std::min(step, bytes.size() - sent);
      boost::asio::buffer_copy(input.prepare(size), boost::asio::buffer(&bytes[sent], size));
      input.commit(size);
      sent += size;
    }
    const HttpRequest& request = reader.request();
    PACKRAT_CHECK(request.body.size() <= kBody);
    std::string text = absl::StrCat(request.method, " ", request.path, " ", reader.version(), " ",
                                    reader.keep_alive(), "\n", request.body, "\n");
    for (const auto& [name, value] : request.headers)
      absl::StrAppend(&text, name, ":", value, "\n");
    requests.push_back(text);
  }
}

// Up to where a head is wrong or too long: with larger pieces that is seen sooner or later by as
// much, or its end comes before.
bool Agree(const std::vector<std::string>& a, const std::vector<std::string>& b) {
  for (size_t i = 0; i < std::max(a.size(), b.size()); ++i) {
    const std::string left = i < a.size() ? a[i] : "";
    const std::string right = i < b.size() ? b[i] : "";
    if (left == "bad" || right == "bad") return true;
    if (left != right) return false;
  }
  return true;
}

}  // namespace
}  // namespace packrat

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0 || size > 4096) return 0;
  const size_t step = 1 + data[0] % 64;
  const std::string bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  PACKRAT_CHECK(packrat::Agree(packrat::ReadAll(bytes, 1), packrat::ReadAll(bytes, step)));
  return 0;
}
