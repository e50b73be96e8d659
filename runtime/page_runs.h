// Finished pages of one class, in runs: pages that follow each other in a text and never change
// again. A run refers to the one before it, so that one number stands for all finished pages of a
// text, however long: a snapshot adds one reference, and whoever begins with it another. Texts that
// part share the runs before that, as a tree.
//
// A page is in one run at most, and has no references of its own then. A run is the cache's alone,
// and its pages can be reclaimed, where neither a sequence refers to it nor a run that is a
// sequence's. Where that changes, it may change for the runs before it as well: so runs are joined
// where nobody refers to the place between two of them, and a text of any length has few.
#ifndef PACKRAT_RUNTIME_PAGE_RUNS_H_
#define PACKRAT_RUNTIME_PAGE_RUNS_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace packrat {

// References to a part of the pool or to a run.
struct PartRefs {
  int32_t all = 0;    // 0: free.
  int32_t cache = 0;  // Of them, the cache's.
  bool reclaimable() const { return all > 0 && all == cache; }
  bool operator==(const PartRefs& other) const { return all == other.all && cache == other.cache; }
};

class PageRuns {
 public:
  struct Run {
    int32_t before = -1;         // It refers to this one; -1: its pages are the text's first.
    int32_t end = 0;             // Pages of the text to its end.
    std::vector<int32_t> pages;  // In the order of the text.
    // A run that comes after it counts as the cache's if it can be reclaimed.
    PartRefs refs;  // all 0: there is no such run.
    int32_t begin() const { return end - static_cast<int32_t>(pages.size()); }
  };

  // A run of these pages, which come after `before`, whose reference it takes over, as one of the
  // same holder: `refs`. Or `before` with these pages as well, if nobody else refers to it. Throws
  // std::bad_alloc, then no reference has changed.
  int32_t Append(int32_t before, absl::Span<const int32_t> pages, PartRefs refs);
  // Adds to the references of a run, at least one of which stays. By how many pages those that can
  // be reclaimed become more.
  int32_t Change(int32_t run, int all, int cache);
  // Drops one reference: visit(page) for all that are free then. Returns as Change().
  template <class F>
  int32_t Drop(int32_t run, bool cache, F visit) {
    int32_t reclaimable = 0;
    while (run >= 0) {
      const Run& of = runs_[run];
      if (of.refs.all > 1) return reclaimable + Change(run, -1, cache ? -1 : 0);
      CheckLast(run, cache);
      if (cache) reclaimable -= static_cast<int32_t>(of.pages.size());
      for (const int32_t page : of.pages) visit(page);
      const int32_t before = of.before;
      Remove(run);
      run = before;
    }
    return reclaimable;
  }

  const Run& run(int32_t run) const { return runs_[run]; }
  int32_t size() const { return static_cast<int32_t>(runs_.size()); }  // Of them, some are none.
  // Pages of the text to the end of a run; -1: none.
  int32_t end(int32_t run) const { return run < 0 ? 0 : runs_[run].end; }
  // All of them, in the order of the text.
  std::vector<int32_t> PagesTo(int32_t run) const;
  // How many are free without one reference of the cache's to a run, or available without one of a
  // sequence's.
  int32_t HeldByOne(int32_t run, bool cache) const;

 private:
  bool CanJoin(int32_t run, size_t pages) const;
  void CheckLast(int32_t run, bool cache) const;
  void Remove(int32_t run);

  std::vector<Run> runs_;
  std::vector<int32_t> unused_;  // Numbers of none, with room for all of them.
};

}  // namespace packrat

#endif  // PACKRAT_RUNTIME_PAGE_RUNS_H_
