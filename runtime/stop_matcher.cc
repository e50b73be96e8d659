#include "runtime/stop_matcher.h"

#include <algorithm>

#include "kernels/check.h"

namespace packrat {
namespace {

// fallback[i], for i in [1, size]: length of the longest proper prefix that is a suffix of the
// first i bytes.
std::vector<int> Fallbacks(const std::string& text) {
  std::vector<int> fallback(text.size() + 1, 0);
  for (size_t i = 1; i < text.size(); ++i) {
    size_t k = fallback[i];
    while (k > 0 && text[k] != text[i]) k = fallback[k];
    fallback[i + 1] = static_cast<int>(text[k] == text[i] ? k + 1 : 0);
  }
  return fallback;
}

}  // namespace

StopMatcher::StopMatcher(const std::vector<std::string>& stop_strings) {
  for (const std::string& text : stop_strings) {
    PACKRAT_CHECK(!text.empty());
    patterns_.push_back({text, Fallbacks(text)});
  }
}

bool StopMatcher::Push(const char* text, size_t size, bool ignore) {
  for (size_t i = 0; i < size; ++i) {
    ++seen_;
    size_t complete = 0, partial = 0;
    for (Pattern& pattern : patterns_) {
      size_t& k = pattern.matched;
      while (k > 0 && pattern.text[k] != text[i]) k = pattern.fallback[k];
      if (pattern.text[k] == text[i]) ++k;
      if (k == pattern.text.size()) {
        complete = std::max(complete, k);
        k = pattern.fallback[k];
      }
      partial = std::max(partial, k);
    }
    if (complete > 0 && !ignore) {
      safe_ = seen_ - complete;
      return true;
    }
    safe_ = seen_ - partial;
  }
  return false;
}

}  // namespace packrat
