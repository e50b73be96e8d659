#include "runtime/capacity.h"

#include <algorithm>
#include <limits>

#include "runtime/saved_state.h"
#include "runtime/sequence_state.h"
#include "runtime/state_tiers.h"

namespace packrat {
namespace {

// Of a kept state's file, beside text and parts.
constexpr int64_t kMostHeaderBytes = 512;

}  // namespace

int SequencesOf(const StateLayout& layout, const PartCounts& parts, int64_t tokens) {
  const PartCounts need = SequenceNeeds(layout, tokens);
  int sequences = std::numeric_limits<int>::max();
  for (int kind = 0; kind < need.kinds(); ++kind) {
    if (need[kind] > 0) sequences = std::min(sequences, parts[kind] / need[kind]);
  }
  return sequences;
}

KeptStates KeptStatesOf(const StateLayout& layout, const PartCounts& parts,
                        const EngineOptions& options, int tokens) {
  KeptStates kept;
  if (tokens < kMinSnapshotTokens) return kept;
  int64_t left = RememberedTokens(options) / tokens;
  const auto take = [&left](int64_t states) {
    const int64_t taken = std::min(states, left);
    left -= taken;
    return taken;
  };
  kept.pool = take(SequencesOf(layout, parts, tokens));
  // Below the pool (state_tiers.h): half of the memory is kept free where there is a folder, and
  // what it is too small for goes there in pieces.
  const bool folder = !options.state_dir.empty();
  const int64_t memory = options.state_host_memory;
  const int64_t bytes =
      WholeBlocks(static_cast<int64_t>(SavedPartBytes(layout, tokens)) +
                  int64_t{tokens} * static_cast<int64_t>(sizeof(int32_t)) + kMostHeaderBytes);
  if (bytes <= memory) kept.memory = take(memory / (folder ? 2 : 1) / bytes);
  if (folder && memory > 0) kept.disk = take(options.state_disk / bytes);
  return kept;
}

std::vector<Capacity> CapacityOf(const StateLayout& layout, const PartCounts& parts,
                                 const EngineOptions& options, const SessionOptions& sessions) {
  std::vector<Capacity> rows;
  for (int64_t next = 256;; next *= 4) {
    const int tokens = static_cast<int>(std::min<int64_t>(next, options.max_context));
    Capacity row;
    row.tokens = tokens;
    row.sequence_bytes = static_cast<int64_t>(layout.SequenceBytes(tokens));
    row.sequences = std::min(options.max_running, SequencesOf(layout, parts, tokens));
    row.kept = KeptStatesOf(layout, parts, options, tokens);
    row.idle_sessions = std::min<int64_t>(sessions.max_sessions, sessions.max_tokens / tokens);
    rows.push_back(row);
    if (tokens == options.max_context) return rows;
  }
}

}  // namespace packrat
