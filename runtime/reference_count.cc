#include "runtime/reference_count.h"

#include "absl/strings/str_cat.h"

namespace packrat {
namespace {

absl::Status Compare(const char* what, int kind, size_t number, PartRefs held, PartRefs counted) {
  if (held == counted) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(
      what, " ", number, " of kind ", kind, " is held by ", held.all, ", of which the cache's are ",
      held.cache, "; the pool counts ", counted.all, " and ", counted.cache));
}

}  // namespace

ReferenceCount::ReferenceCount(const StatePool& pool) : pool_(pool) {
  for (int kind = 0; kind < pool.kinds(); ++kind) {
    const PageRuns& runs = pool.runs(kind);
    parts_.emplace_back(pool.total()[kind]);
    runs_.emplace_back(runs.size());
    for (int32_t i = 0; i < runs.size(); ++i) {
      const PageRuns::Run& run = runs.run(i);
      for (const int32_t page : run.pages) parts_[kind][page].all += kInRun;
      if (run.before < 0) continue;
      PartRefs& before = runs_[kind][run.before];
      ++before.all;
      before.cache += run.refs.reclaimable() ? 1 : 0;
    }
  }
}

absl::Status ReferenceCount::Check() const {
  for (int kind = 0; kind < pool_.kinds(); ++kind) {
    for (size_t i = 0; i < parts_[kind].size(); ++i) {
      const auto part = static_cast<int32_t>(i);
      const PartRefs counted = {pool_.refs(kind, part), pool_.cache_refs(kind, part)};
      const absl::Status status = Compare("part", kind, i, parts_[kind][i], counted);
      if (!status.ok()) return status;
    }
    for (size_t i = 0; i < runs_[kind].size(); ++i) {
      const PartRefs& counted = pool_.runs(kind).run(static_cast<int32_t>(i)).refs;
      const absl::Status status = Compare("run", kind, i, runs_[kind][i], counted);
      if (!status.ok()) return status;
    }
  }
  return absl::OkStatus();
}

}  // namespace packrat
