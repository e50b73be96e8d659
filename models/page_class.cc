#include "models/page_class.h"

#include <algorithm>
#include <limits>

#include "kernels/check.h"

namespace packrat {

std::string PageClass::Name() const {
  switch (kind) {
    case Kind::kRat:
      return "rat_chunk" + std::to_string(tokens_per_page) +
             (delay > 0 ? "_delay" + std::to_string(delay) : "");
    case Kind::kWindow:
      return "window" + std::to_string(window);
    case Kind::kFull:
      break;
  }
  return "attention";
}

int64_t PageClass::Finished(int64_t tokens) const {
  return std::max<int64_t>(0, tokens - delay) / tokens_per_page;
}

int PageClass::PagesFor(int64_t tokens) const {
  PACKRAT_CHECK(tokens >= 0);
  int64_t pages = Finished(tokens);
  if (kind != Kind::kRat && tokens % tokens_per_page != 0) ++pages;
  if (kind == Kind::kWindow) {
    // A window of w keys that ends at any position touches at most this many pages.
    pages =
        std::min<int64_t>(pages, 1 + (int64_t{window} - 1 + tokens_per_page - 1) / tokens_per_page);
  }
  return static_cast<int>(std::min<int64_t>(pages, std::numeric_limits<int>::max()));
}

PagesInUse::PagesInUse(const PageClass& page_class, int tokens) {
  const int per_page = page_class.tokens_per_page;
  first = 0;
  unfinished = static_cast<int>(page_class.Finished(tokens));
  end = page_class.kind == PageClass::Kind::kRat ? unfinished : (tokens + per_page - 1) / per_page;
  if (page_class.kind == PageClass::Kind::kWindow) {
    // The next token sees as many positions as the window has, its own included.
    first = std::max(0, tokens + 1 - page_class.window) / per_page;
    first = std::min(first, end);
    unfinished = first;  // The ring is written over.
  }
}

}  // namespace packrat
