#include "models/text/added_tokens.h"

#include <algorithm>
#include <numeric>

#include "absl/strings/string_view.h"

namespace packrat {
namespace {

unsigned char ByteAt(const std::string& text, size_t at) {
  return static_cast<unsigned char>(text[at]);
}

}  // namespace

bool AddedTokens::Add(const std::string& text, int32_t id) {
  ids_.emplace(text, id);
  std::vector<size_t>& sizes = sizes_[ByteAt(text, 0)];
  const auto at = std::lower_bound(sizes.begin(), sizes.end(), text.size(), std::greater<>());
  if (at == sizes.end() || *at != text.size()) sizes.insert(at, text.size());
  return std::accumulate(sizes.begin(), sizes.end(), size_t{0}) <= kMaxTried;
}

void AddedTokens::Find(const std::string& text, size_t begin, size_t end,
                       const std::function<size_t(size_t, size_t, int32_t)>& take) const {
  if (ids_.empty()) return;
  while (begin < end) {
    size_t taken = 0;
    for (size_t size : sizes_[ByteAt(text, begin)]) {
      if (size > end - begin) continue;
      const auto token = ids_.find(absl::string_view(text.data() + begin, size));
      if (token == ids_.end()) continue;
      taken = take(begin, size, token->second);
      if (taken > 0) break;
    }
    begin += std::max<size_t>(1, taken);
  }
}

}  // namespace packrat
