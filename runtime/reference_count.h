// References to a pool's parts and runs as their holders know them, to compare with the pool's.
#ifndef PACKRAT_RUNTIME_REFERENCE_COUNT_H_
#define PACKRAT_RUNTIME_REFERENCE_COUNT_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "runtime/page_runs.h"
#include "runtime/state_pool.h"

namespace packrat {

class ReferenceCount {
 public:
  // With what the pool's runs hold: their pages, and the runs before them. The pool outlives it.
  explicit ReferenceCount(const StatePool& pool);
  // All that somebody refers to himself.
  template <class State>  // SequenceState or Snapshot
  void Add(const State& state, StatePool::Holder holder) {
    const auto add = [holder](PartRefs* refs) {
      ++refs->all;
      refs->cache += holder == StatePool::Holder::kCache ? 1 : 0;
    };
    state.ForEachPart([&](int kind, int32_t part) { add(&parts_[kind][part]); });
    state.ForEachRun([&](int kind, int32_t run) { add(&runs_[kind][run]); });
  }
  // INTERNAL naming a part or run that has other references in the pool.
  absl::Status Check() const;

 private:
  const StatePool& pool_;
  std::vector<std::vector<PartRefs>> parts_, runs_;  // By kind.
};

}  // namespace packrat

#endif  // PACKRAT_RUNTIME_REFERENCE_COUNT_H_
