#include "server/engine_metrics.h"

#include <cstdint>

#include "absl/time/time.h"
#include "runtime/outbox.h"
#include "runtime/scheduler.h"
#include "runtime/state_tiers.h"

namespace packrat {

void AddEngineMetrics(const EngineStats& stats, MetricReadings* to) {
  to->Gauge("packrat_requests_waiting", "Requests in the queue, parked ones included.",
            stats.waiting);
  to->Gauge("packrat_requests_running", "Sequences in the batch.", stats.running);
  to->Gauge("packrat_state_utilization_ratio",
            "How near memory is to being the limit: the used part of the fullest kind of state of "
            "which there is too little for --max_running longest sequences; 0 where there is none.",
            stats.state_utilization);
  const auto blocked = [&](const char* by, Blocked reason) {
    to->Gauge("packrat_queue_blocked", "1 while the first in the queue waits for this.",
              stats.waiting > 0 && stats.blocked == reason ? 1 : 0, {{"by", by}});
  };
  blocked("max_running", Blocked::kMaxRunning);
  blocked("memory", Blocked::kMemory);
  // One tier so far: the memory of the device that runs the model.
  for (const EngineStats::Pool& pool : stats.pools) {
    to->Gauge("packrat_state_used_bytes", "Sequence state in use, by kind and tier.",
              static_cast<double>(pool.used * pool.bytes_each),
              {{"kind", pool.kind}, {"tier", "device"}});
  }
  for (const EngineStats::Pool& pool : stats.pools) {
    to->Gauge("packrat_state_capacity_bytes", "Room for sequence state, by kind and tier.",
              static_cast<double>(pool.total * pool.bytes_each),
              {{"kind", pool.kind}, {"tier", "device"}});
  }
  for (const EngineStats::Pool& pool : stats.pools) {
    to->Gauge(
        "packrat_state_cached_bytes",
        "Room for sequence state that only the prefix cache holds, by kind and tier; it gives "
        "way to sequences and is not counted as used.",
        static_cast<double>(pool.cached * pool.bytes_each),
        {{"kind", pool.kind}, {"tier", "device"}});
  }
  for (int miss = 0; miss < kNumCacheMisses; ++miss) {
    to->Counter("packrat_prefix_cache_lookups_total",
                "Requests admitted, by why the prefix cache had no part of their prompt; none: it "
                "had one.",
                static_cast<double>(stats.cache.lookups[miss]),
                {{"miss", CacheMissName(static_cast<CacheMiss>(miss))}});
  }
  to->Gauge("packrat_prefix_cache_snapshots", "States that the prefix cache keeps.",
            static_cast<double>(stats.cache.snapshots));
  to->Gauge("packrat_prefix_cache_remembered_tokens",
            "Tokens of the texts that the prefix cache remembers, with a state or without.",
            static_cast<double>(stats.cache.remembered_tokens));
  to->Counter("packrat_prefix_cache_dropped_total",
              "States that the prefix cache dropped where room was needed.",
              static_cast<double>(stats.cache.dropped));
  to->Gauge("packrat_parked_sequences",
            "Sequences that have made way for others and wait to go on; they count in the queue.",
            stats.parking.sequences);
  to->Gauge("packrat_parked_bytes", "Memory of the process that parked sequences take.",
            static_cast<double>(stats.parking.bytes));
  to->Counter("packrat_parks_total",
              "Times that a sequence made way for one of higher priority or with a near deadline.",
              static_cast<double>(stats.parking.parks));
  to->Counter("packrat_resumes_total", "Times that a parked sequence went on.",
              static_cast<double>(stats.parking.resumes));
  to->Histogram("packrat_parked_time_seconds",
                "Time that a sequence was parked, until it went on or its request ended.",
                stats.parking.time);
  const auto by_tier = [&](const char* name, const char* help, int64_t StateTiers::Tier::*reading) {
    to->Gauge(name, help, static_cast<double>(stats.tiers.memory.*reading), {{"tier", "host"}});
    to->Gauge(name, help, static_cast<double>(stats.tiers.disk.*reading), {{"tier", "disk"}});
  };
  by_tier("packrat_kept_states", "Kept states beside the pool, by tier.",
          &StateTiers::Tier::states);
  by_tier("packrat_kept_state_bytes",
          "What packrat_kept_states take, with those that are being written or read.",
          &StateTiers::Tier::bytes);
  by_tier("packrat_kept_state_capacity_bytes",
          "What packrat_kept_states may take: --state_host_memory and --state_disk.",
          &StateTiers::Tier::limit);
  const auto moved = [&](const char* from, const char* tier, int64_t count) {
    to->Counter("packrat_kept_state_moves_total",
                "Kept states that moved from one tier to another; device: the pool.",
                static_cast<double>(count), {{"from", from}, {"to", tier}});
  };
  moved("device", "host", stats.tiers.moved_to_memory);
  moved("host", "disk", stats.tiers.moved_to_disk);
  moved("disk", "host", stats.tiers.read_from_disk);
  moved("host", "device", stats.tiers.returned);
  to->Counter(
      "packrat_kept_state_read_failures_total",
      "Kept states that were damaged, gone or late when they were read; they are computed anew.",
      static_cast<double>(stats.tiers.read_failures));
  to->Counter("packrat_kept_state_write_failures_total",
              "Kept states that the disk did not take, as when it is full; they are dropped.",
              static_cast<double>(stats.tiers.write_failures));
  to->Counter("packrat_prompt_tokens_total", "Prompt tokens computed.", stats.prompt_tokens);
  to->Counter("packrat_generated_tokens_total", "Tokens generated, ending tokens included.",
              stats.generated_tokens);
  to->Counter("packrat_scored_tokens_total", "Given tokens scored, of prompts and candidates.",
              stats.scored_tokens);
  to->Histogram("packrat_queue_time_seconds",
                "From the queue to admission to the batch, or to the end of a request that was "
                "never admitted.",
                stats.queue_time);
  to->Counter("packrat_requests_ended_waiting_total",
              "Requests that were over before they were admitted to the batch.",
              stats.ended_waiting);
  to->Histogram("packrat_time_to_first_token_seconds", "From the queue to the first token.",
                stats.time_to_first_token);
  to->Histogram("packrat_inter_token_time_seconds",
                "Between two tokens of a request, each by itself.", stats.inter_token_time);
  to->Counter("packrat_grammar_seconds_total",
              "Time of the engine's steps that went into finding which tokens grammars allow.",
              absl::ToDoubleSeconds(stats.grammar_time));
  to->Counter(
      "packrat_grammar_cut_steps_total",
      "Steps with too much of that to do, so that requests with grammars waited for the next one.",
      static_cast<double>(stats.grammar_waits));
  to->Counter("packrat_engine_steps_total", "Steps of the engine.", stats.steps);
  to->Histogram("packrat_engine_step_duration_seconds", "Time of one step of the engine.",
                stats.step_time);
  to->Histogram(
      "packrat_engine_step_forecast_ratio",
      "Time of a step's model over what was foretold, by which --inter_token_time is kept.",
      stats.step_time_ratio);
  to->Gauge(
      "packrat_step_prompt_tokens_limit",
      "Prompt tokens that a step may have at present: what --max_batch_tokens leaves, or fewer "
      "for --inter_token_time.",
      stats.max_prompt_tokens);
  to->Histogram("packrat_batch_sequences", "Sequences that a step computed together.",
                stats.batch_sequences);
  to->Histogram("packrat_batch_tokens", "Tokens that a step computed, of prompts and generated.",
                stats.batch_tokens);
  const char* const step_help = "Time of the engine's steps, by part.";
  const char* const step_name = "packrat_engine_step_seconds_total";
  to->Counter(step_name, step_help, absl::ToDoubleSeconds(stats.model_time), {{"part", "model"}});
  to->Counter(step_name, step_help, absl::ToDoubleSeconds(stats.sample_time), {{"part", "sample"}});
  to->Counter(step_name, step_help, absl::ToDoubleSeconds(stats.host_time), {{"part", "host"}});
  to->Counter(step_name, step_help, absl::ToDoubleSeconds(stats.readers_time),
              {{"part", "readers"}});
  to->Counter("packrat_solver_solves_total", "Systems that Mesa layers solved.",
              stats.solver.solves);
  to->Counter("packrat_solver_steps_total", "Steps of Mesa's solver over all systems.",
              stats.solver.steps);
  to->Counter("packrat_solver_unconverged_total",
              "Systems that were left at the step limit instead of the tolerance.",
              stats.solver.unconverged);
  to->Gauge("packrat_solver_residual",
            "Largest relative residual at which a system of the last step was left.",
            stats.max_residual);
}

}  // namespace packrat
