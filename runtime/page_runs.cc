#include "runtime/page_runs.h"

#include <algorithm>
#include <utility>

#include "kernels/check.h"

namespace packrat {
namespace {

// Of runs that are joined, so that joining costs the same whatever the text: 4 KB to move. A
// million tokens are 62,500 pages, so a hundred runs or so.
constexpr size_t kMostJoined = 1024;

}  // namespace

int32_t PageRuns::Append(int32_t before, absl::Span<const int32_t> pages, PartRefs refs) {
  if (before >= 0) {
    // Snapshots may have gone since.
    Run& last = runs_[before];
    while (last.before >= 0 && CanJoin(last.before, last.pages.size())) {
      const Run& joined = runs_[last.before];
      last.pages.insert(last.pages.begin(), joined.pages.begin(), joined.pages.end());
      Remove(std::exchange(last.before, joined.before));
    }
    if (CanJoin(before, pages.size())) {
      last.pages.insert(last.pages.end(), pages.begin(), pages.end());
      last.end += static_cast<int32_t>(pages.size());
      return before;
    }
  }
  std::vector<int32_t> own(pages.begin(), pages.end());
  if (unused_.empty()) {
    if (unused_.capacity() <= runs_.size()) unused_.reserve(2 * runs_.size() + 16);
    runs_.emplace_back();
    unused_.push_back(size() - 1);
  }
  const int32_t run = unused_.back();
  unused_.pop_back();
  runs_[run] = {before, end(before) + static_cast<int32_t>(pages.size()), std::move(own), refs};
  return run;
}

int32_t PageRuns::Change(int32_t run, int all, int cache) {
  int32_t reclaimable = 0;
  while (run >= 0) {
    Run& of = runs_[run];
    PACKRAT_CHECK(of.refs.all > 0, "a reference to no run") << run;
    const bool was = of.refs.reclaimable();
    of.refs.all += all;
    of.refs.cache += cache;
    PACKRAT_CHECK(of.refs.all > 0 && of.refs.cache >= 0 && of.refs.cache <= of.refs.all,
                  "a reference of another holder")
        << run;
    if (of.refs.reclaimable() == was) break;
    const auto pages = static_cast<int32_t>(of.pages.size());
    reclaimable += was ? -pages : pages;
    // So does its own reference.
    all = 0;
    cache = was ? -1 : 1;
    run = of.before;
  }
  return reclaimable;
}

std::vector<int32_t> PageRuns::PagesTo(int32_t run) const {
  std::vector<int32_t> pages(end(run));
  for (; run >= 0; run = runs_[run].before) {
    std::copy(runs_[run].pages.begin(), runs_[run].pages.end(), pages.begin() + runs_[run].begin());
  }
  return pages;
}

int32_t PageRuns::HeldByOne(int32_t run, bool cache) const {
  size_t pages = 0;
  for (; run >= 0; run = runs_[run].before) {
    const PartRefs& refs = runs_[run].refs;
    if ((cache ? refs.all : refs.all - refs.cache) > 1) break;
    pages += runs_[run].pages.size();
  }
  return static_cast<int32_t>(pages);
}

bool PageRuns::CanJoin(int32_t run, size_t pages) const {
  return runs_[run].refs.all == 1 && runs_[run].pages.size() + pages <= kMostJoined;
}

void PageRuns::CheckLast(int32_t run, bool cache) const {
  PACKRAT_CHECK((runs_[run].refs == PartRefs{1, cache ? 1 : 0}), "a reference of another holder")
      << run;
}

void PageRuns::Remove(int32_t run) {
  runs_[run] = Run();
  unused_.push_back(run);  // Within its capacity.
}

}  // namespace packrat
