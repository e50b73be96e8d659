// An engine whose numbers are known, and what /metrics shows of them.
#ifndef PACKRAT_TESTS_SERVER_KNOWN_ENGINE_H_
#define PACKRAT_TESTS_SERVER_KNOWN_ENGINE_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "runtime/bucket_counts.h"
#include "runtime/engine.h"
#include "server/metrics.h"
#include "server/version.h"

namespace packrat {

using Samples = std::map<std::string, double>;  // By name and labels, as they are written.

// As Prometheus writes it: whole numbers in full.
inline std::string Number(double value) {
  const auto whole = static_cast<int64_t>(value);
  return static_cast<double>(whole) == value ? absl::StrCat(whole) : absl::StrCat(value);
}

// The samples of a histogram over `bounds` that has seen `values`.
inline void AddHistogram(const std::string& name, absl::Span<const double> bounds,
                         const std::vector<double>& values, Samples* samples) {
  double sum = 0;
  for (double value : values) sum += value;
  const auto below = [&](double bound) {
    double count = 0;
    for (double value : values) count += value <= bound ? 1 : 0;
    return count;
  };
  for (double bound : bounds) {
    (*samples)[absl::StrCat(name, "_bucket{model=\"m\",le=\"", Number(bound), "\"}")] =
        below(bound);
  }
  const auto count = static_cast<double>(values.size());
  (*samples)[name + "_bucket{model=\"m\",le=\"+Inf\"}"] = count;
  (*samples)[name + "_count{model=\"m\"}"] = count;
  (*samples)[name + "_sum{model=\"m\"}"] = sum;
}

inline BucketCounts Observed(absl::Span<const double> bounds, const std::vector<double>& values) {
  BucketCounts counts(bounds);
  for (double value : values) counts.Observe(value);
  return counts;
}

// Every number another one, so that no two can be taken for each other.
inline EngineStats KnownStats() {
  EngineStats stats;
  stats.waiting = 3;
  stats.running = 4;
  stats.pools = {{"slot", 10, 7, 1000, 2}, {"rat_chunk16", 100, 20, 30, 50}};
  for (int miss = 0; miss < kNumCacheMisses; ++miss) stats.cache.lookups[miss] = 310 + miss;
  stats.cache.snapshots = 41;
  stats.cache.remembered_tokens = 4242;
  stats.cache.dropped = 43;
  stats.parking.parks = 51;
  stats.parking.resumes = 48;
  stats.parking.sequences = 5;
  stats.parking.bytes = 5100;
  stats.parking.time = Observed(kSecondsBounds, {0.05, 3});
  stats.tiers.memory = {51, 52, 53};
  stats.tiers.disk = {54, 55, 56};
  stats.tiers.moved_to_memory = 57;
  stats.tiers.moved_to_disk = 58;
  stats.tiers.read_from_disk = 59;
  stats.tiers.returned = 60;
  stats.tiers.dropped = 61;  // Counted with those of the cache.
  stats.tiers.read_failures = 62;
  stats.tiers.write_failures = 63;
  stats.state_utilization = 0.75;
  stats.blocked = Blocked::kMemory;
  stats.prompt_tokens = 1100;
  stats.generated_tokens = 2200;
  stats.scored_tokens = 330;
  stats.ended_waiting = 6;
  stats.steps = 17;
  stats.solver.solves = 19;
  stats.solver.steps = 89;
  stats.solver.unconverged = 2;
  stats.max_residual = 0.375f;
  stats.model_time = absl::Milliseconds(1500);
  stats.sample_time = absl::Milliseconds(250);
  stats.grammar_time = absl::Milliseconds(75);
  stats.grammar_waits = 77;
  stats.host_time = absl::Milliseconds(125);
  stats.readers_time = absl::Milliseconds(62.5);
  stats.queue_time = Observed(kSecondsBounds, {0.0004, 0.2});
  stats.time_to_first_token = Observed(kSecondsBounds, {0.03, 0.04, 700});
  stats.inter_token_time = Observed(kSecondsBounds, {0.0005, 0.0007, 0.006, 2});
  stats.step_time = Observed(kSecondsBounds, {0.011, 0.012, 0.013, 0.014, 0.3});
  stats.step_time_ratio = Observed(kRatioBounds, {0.6, 0.95, 1, 7});
  stats.max_prompt_tokens = 52;
  stats.batch_sequences = Observed(kBatchSequencesBounds, {1, 2, 64, 64, 65, 4096});
  stats.batch_tokens = Observed(kBatchTokensBounds, {1, 3, 512, 512, 512, 600, 65536});
  return stats;
}

inline Metrics::Source KnownSource() {
  Metrics::Source source;
  source.engine = KnownStats;
  source.weight_bytes = [] { return int64_t{5000}; };
  source.scratch_bytes = [] { return int64_t{600}; };
  source.fingerprint = "f1";
  source.numerics_id = "n2";
  source.device = "d3";
  source.cpu_target = "c4";
  return source;
}

inline void AddKnownEngine(Samples* samples) {
  for (const auto& [name, value] : Samples{
           {"packrat_build_info{model=\"m\",version=\"" + std::string(kVersion) +
                "\",cpu_target=\"c4\",device=\"d3\",numerics_id=\"n2\",fingerprint=\"f1\"}",
            1},
           {"packrat_requests_waiting{model=\"m\"}", 3},
           {"packrat_requests_running{model=\"m\"}", 4},
           {"packrat_state_utilization_ratio{model=\"m\"}", 0.75},
           {"packrat_queue_blocked{model=\"m\",by=\"max_running\"}", 0},
           {"packrat_queue_blocked{model=\"m\",by=\"memory\"}", 1},
           {"packrat_state_used_bytes{model=\"m\",kind=\"slot\",tier=\"device\"}", 7000},
           {"packrat_state_used_bytes{model=\"m\",kind=\"rat_chunk16\",tier=\"device\"}", 600},
           {"packrat_state_capacity_bytes{model=\"m\",kind=\"slot\",tier=\"device\"}", 10000},
           {"packrat_state_capacity_bytes{model=\"m\",kind=\"rat_chunk16\",tier=\"device\"}", 3000},
           {"packrat_state_cached_bytes{model=\"m\",kind=\"slot\",tier=\"device\"}", 2000},
           {"packrat_state_cached_bytes{model=\"m\",kind=\"rat_chunk16\",tier=\"device\"}", 1500},
           {"packrat_prefix_cache_lookups_total{model=\"m\",miss=\"none\"}", 310},
           {"packrat_prefix_cache_lookups_total{model=\"m\",miss=\"off\"}", 311},
           {"packrat_prefix_cache_lookups_total{model=\"m\",miss=\"first_use\"}", 312},
           {"packrat_prefix_cache_lookups_total{model=\"m\",miss=\"no_snapshot\"}", 313},
           {"packrat_prefix_cache_lookups_total{model=\"m\",miss=\"evicted\"}", 314},
           {"packrat_prefix_cache_snapshots{model=\"m\"}", 41},
           {"packrat_prefix_cache_remembered_tokens{model=\"m\"}", 4242},
           {"packrat_prefix_cache_dropped_total{model=\"m\"}", 43},
           {"packrat_grammar_seconds_total{model=\"m\"}", 0.075},
           {"packrat_grammar_cut_steps_total{model=\"m\"}", 77},
           {"packrat_parks_total{model=\"m\"}", 51},
           {"packrat_resumes_total{model=\"m\"}", 48},
           {"packrat_parked_sequences{model=\"m\"}", 5},
           {"packrat_parked_bytes{model=\"m\"}", 5100},
           {"packrat_kept_states{model=\"m\",tier=\"host\"}", 51},
           {"packrat_kept_states{model=\"m\",tier=\"disk\"}", 54},
           {"packrat_kept_state_bytes{model=\"m\",tier=\"host\"}", 52},
           {"packrat_kept_state_bytes{model=\"m\",tier=\"disk\"}", 55},
           {"packrat_kept_state_capacity_bytes{model=\"m\",tier=\"host\"}", 53},
           {"packrat_kept_state_capacity_bytes{model=\"m\",tier=\"disk\"}", 56},
           {"packrat_kept_state_moves_total{model=\"m\",from=\"device\",to=\"host\"}", 57},
           {"packrat_kept_state_moves_total{model=\"m\",from=\"host\",to=\"disk\"}", 58},
           {"packrat_kept_state_moves_total{model=\"m\",from=\"disk\",to=\"host\"}", 59},
           {"packrat_kept_state_moves_total{model=\"m\",from=\"host\",to=\"device\"}", 60},
           {"packrat_kept_state_read_failures_total{model=\"m\"}", 62},
           {"packrat_kept_state_write_failures_total{model=\"m\"}", 63},
           {"packrat_weight_bytes{model=\"m\"}", 5000},
           {"packrat_scratch_bytes{model=\"m\"}", 600},
           {"packrat_prompt_tokens_total{model=\"m\"}", 1100},
           {"packrat_generated_tokens_total{model=\"m\"}", 2200},
           {"packrat_scored_tokens_total{model=\"m\"}", 330},
           {"packrat_requests_ended_waiting_total{model=\"m\"}", 6},
           {"packrat_engine_steps_total{model=\"m\"}", 17},
           {"packrat_engine_step_seconds_total{model=\"m\",part=\"model\"}", 1.5},
           {"packrat_engine_step_seconds_total{model=\"m\",part=\"sample\"}", 0.25},
           {"packrat_engine_step_seconds_total{model=\"m\",part=\"host\"}", 0.125},
           {"packrat_engine_step_seconds_total{model=\"m\",part=\"readers\"}", 0.0625},
           {"packrat_step_prompt_tokens_limit{model=\"m\"}", 52},
           {"packrat_solver_solves_total{model=\"m\"}", 19},
           {"packrat_solver_steps_total{model=\"m\"}", 89},
           {"packrat_solver_unconverged_total{model=\"m\"}", 2},
           {"packrat_solver_residual{model=\"m\"}", 0.375},
       }) {
    (*samples)[name] = value;
  }
  AddHistogram("packrat_queue_time_seconds", kSecondsBounds, {0.0004, 0.2}, samples);
  AddHistogram("packrat_parked_time_seconds", kSecondsBounds, {0.05, 3}, samples);
  AddHistogram("packrat_time_to_first_token_seconds", kSecondsBounds, {0.03, 0.04, 700}, samples);
  AddHistogram("packrat_inter_token_time_seconds", kSecondsBounds, {0.0005, 0.0007, 0.006, 2},
               samples);
  AddHistogram("packrat_engine_step_duration_seconds", kSecondsBounds,
               {0.011, 0.012, 0.013, 0.014, 0.3}, samples);
  AddHistogram("packrat_engine_step_forecast_ratio", kRatioBounds, {0.6, 0.95, 1, 7}, samples);
  AddHistogram("packrat_batch_sequences", kBatchSequencesBounds, {1, 2, 64, 64, 65, 4096}, samples);
  AddHistogram("packrat_batch_tokens", kBatchTokensBounds, {1, 3, 512, 512, 512, 600, 65536},
               samples);
}

}  // namespace packrat

#endif  // PACKRAT_TESTS_SERVER_KNOWN_ENGINE_H_
