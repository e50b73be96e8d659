// One step of the engine, phase by phase, but for its results (engine_results.cc).
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"
#include "runtime/engine_impl.h"
#include "runtime/no_memory.h"

namespace packrat {
namespace {

// Of finding what grammars allow (TokenGrammar::work()), about two milliseconds: beyond it the
// other sequences wait for the next step. One of them may take as much again
// (TokenGrammar::Limits::mask_work).
constexpr int64_t kGrammarWorkOfStep = 200000;

}  // namespace

bool Engine::Impl::Step(absl::Time now) {
  step_time = now;
  step_start = Clock::now();
  copied_bytes = 0;
  const bool finishes = num_flights > 0;
  bool acted = TakeInbox() || finishes;
  if (num_flights > 0 && NextStepNeedsResults()) FinishStep();
  bool started = false;
  if (!waiting.empty() || !running.empty()) {
    acted = GoCoarser() || acted;
    Plan(/*may_park=*/true);
    Park();
    Expire();
    Admit();
    QueueParked();
    FindMasks();
    started = BuildBatch();
    if (started) StartStep();
    acted = acted || started || sweep_waiting || sweep_running;
    PACKRAT_CHECK(acted, "requests wait, nothing runs and nothing can be admitted");
    Sweep();
  }
  const int stay = started ? model->max_steps_in_flight() - 1 : 0;
  while (num_flights > stay) FinishStep();
  acted = MovePieces() || acted;
  if (started || finishes) stats.step_time.Observe(absl::ToDoubleSeconds(Now() - step_time));
  PublishStats();
  // Where sequences still run on a device of its own, the next step notifies the consumers while it
  // works: waking them takes longer than all else that the host does. Their tokens are already in
  // the outboxes, and statistics are published at the end of every step, so a reader sees this step
  // whole. Where the host computes, all its processors are busy then, and a consumer that wakes up
  // waits for one; between two steps they are not.
  if (running.empty() || !started || model->max_steps_in_flight() == 1) NotifyAll();
  const absl::Duration took = Now() - step_time;
  time_in_steps += took;
  if (readers != nullptr && started && !running.empty()) GiveWay(took);
  return acted;
}

void Engine::Impl::Plan(bool may_park) {
  running_items.clear();
  for (const auto& sequence : running) running_items.push_back(sequence->AsRunning());
  const int64_t park_room = may_park ? options.park_memory - stats.parking.bytes : 0;
  if (park_room > 0) FindParkable();
  flows.clear();
  for (const Queue& queue : waiting) {
    flows.push_back({queue.tenant, queue.priority, queue.last_admission, queue.items});
  }
  pool->CountAvailable(&free_parts);
  ScheduleInput input;
  input.flows = flows;
  input.tenants = tenants.shares();
  input.running = running_items;
  input.free = &free_parts;
  input.max_running = options.max_running;
  input.max_batch_tokens = options.max_batch_tokens;
  input.max_logit_rows = model->options().max_logit_rows;
  input.max_prompt_tokens = stats.max_prompt_tokens = MaxPromptTokens();
  input.priority_step = options.priority_step;
  input.park_room = park_room;
  input.now = step_time;
  input.earliest_waiting_deadline = earliest_waiting_deadline;
  PlanStep(input, &plan);
}

int Engine::Impl::MaxPromptTokens() const {
  StepContents decoding;
  int deepest = 0;  // Of the prompts: what is beyond is dearer.
  for (const RunningItem& item : running_items) {
    if (item.complete) continue;
    if (item.prompt_left > 0) {
      deepest = std::max(deepest, item.position);
    } else {
      decoding.Add(1, item.position, 1);
    }
  }
  const int most = options.max_batch_tokens - decoding.tokens;
  if (decoding.tokens == 0 || most == 0) return options.max_batch_tokens;
  return step_model.PromptTokens(decoding, deepest, absl::ToDoubleSeconds(options.inter_token_time),
                                 most);
}

void Engine::Impl::Expire() {
  const auto expire = [this](Sequence* sequence) {
    Finish(sequence, FinishReason::kDeadline, late);
  };
  for (WaitingIndex index : plan.expire_waiting) expire(At(index));
  for (int i : plan.expire_running) expire(running[i].get());
}

absl::Status Engine::Impl::AdmitNew(Sequence* sequence) {
  return UnlessNoMemory([&] {
    const size_t lists = list_bytes + sequence->list_bytes();
    absl::Status status;
    if (sequence->list_bytes() > 0) status = model->ReserveSampling(lists);
    if (!status.ok()) return status;
    sequence->Admit(pool.get(), cache.get(), /*places=*/FreePlaces() - 1, Now());
    list_bytes = lists;
    return absl::OkStatus();
  });
}

void Engine::Impl::Admit() {
  first_admitted = running.size();
  diverted = 0;
  for (size_t i = 0; i < plan.admit.size(); ++i) {
    const WaitingIndex index = plan.admit[i];
    Queue& queue = waiting[index.flow];
    Sequence* sequence = At(index);
    if (MustFetch(queue.sequences[index.item], queue.items[index.item])) {
      // It has its place among the plan's pieces, until the sweep.
      running.push_back(std::move(queue.sequences[index.item]));
      sweep_waiting = sweep_running = true;
      ++diverted;
      continue;
    }
    if (sequence->LosesPart(cache.get())) {
      // It stays where it waits, and needs other parts.
      queue.items[index.item].prompt_left = sequence->prompt_left();
      queue.items[index.item].need = &sequence->need();
      running.push_back(queue.sequences[index.item]);
      sweep_running = true;
      ++diverted;
      continue;
    }
    queue.last_admission = step_time;
    const bool resumes = sequence->parked();
    const auto go_on = [&] {
      CountUnparked(*sequence);
      ++stats.parking.resumes;
      sequence->Unpark(pool.get(), Now());
      return absl::OkStatus();
    };
    const absl::Status status = resumes ? UnlessNoMemory(go_on) : AdmitNew(sequence);
    if (!status.ok() && !absl::IsResourceExhausted(status)) {
      Fail(status);
      plan.Clear();
      return;
    }
    if (status.ok()) {
      tenants.Charge(queue.tenant, queue.items[index.item].cost);
      sequence->SetLevel(plan.levels[i]);
    }
    if (status.ok() && !resumes) {
      admitted_after = sequence->usage().queue_time;
      stats.queue_time.Observe(absl::ToDoubleSeconds(admitted_after));
      ++stats.cache.lookups[static_cast<int>(sequence->usage().cache_miss)];
      stats.cache.cached_tokens += sequence->usage().cached_tokens;
      Touch(sequence);
    }
    if (!status.ok()) Finish(sequence, FinishReason::kError, status);
    // Finished ones too, until the sweep: the plan's pieces count all that were admitted.
    running.push_back(std::move(queue.sequences[index.item]));
    sweep_waiting = true;
  }
  const int admitted = static_cast<int>(plan.admit.size());
  for (const StepPlan::Overtaken& entry : plan.overtaken) {
    waiting[entry.index.flow].items[entry.index.item].overtaken += admitted - entry.admitted_before;
  }
}

// Those that waited in the step before come first.
void Engine::Impl::FindMasks() {
  const Clock::time_point start = Clock::now();
  int64_t work = 0;
  const size_t first = next_mask < running.size() ? next_mask : 0;
  for (size_t i = 0; i < running.size(); ++i) {
    const size_t at = (first + i) % running.size();
    Sequence* const sequence = running[at].get();
    if (sequence->finished() || !sequence->needs_mask()) continue;
    if (work >= kGrammarWorkOfStep) {
      next_mask = at;
      ++stats.grammar_waits;
      break;
    }
    const absl::Status status = UnlessNoMemory([&] { return sequence->FindMask(&work); });
    if (!status.ok()) Finish(sequence, FinishReason::kError, status);
  }
  stats.grammar_time += absl::FromChrono(Clock::now() - start);
}

bool Engine::Impl::BuildBatch() {
  Flight& flight = flights[(first_flight + num_flights) % kMaxFlights];
  PACKRAT_CHECK(num_flights < kMaxFlights && flight.sequences.empty());
  flight.tokens.clear();
  flight.spans.clear();
  flight.rows.clear();
  for (const Piece& piece : plan.pieces) {
    const auto& sequence = running[piece.index + (piece.admitted ? first_admitted : 0)];
    // There was no memory to admit it, or it waits for its state.
    if (sequence->finished() || !sequence->admitted() || sequence->needs_mask()) continue;
    const int tokens = piece.admitted ? sequence->PieceTokens(piece.num_tokens) : piece.num_tokens;
    SnapIfDue(sequence.get(), tokens);
    if (tokens == 0) continue;  // Its rows of logits come in the next step.
    if (!sequence->decoding()) stats.prompt_tokens += tokens;
    flight.sequences.push_back(sequence);
    flight.spans.push_back(sequence->StartSpan(tokens, pool.get(), &flight.tokens, &flight.rows));
  }
  PACKRAT_CHECK(static_cast<int>(flight.tokens.size()) <= options.max_batch_tokens);
  PACKRAT_CHECK(flight.rows.size() <= sampled.size());
  return !flight.spans.empty();
}

// Where the sequence stands, all that was admitted has its parts, and what is left is the cache's:
// but for the slots that its admission may still need.
void Engine::Impl::SnapIfDue(Sequence* sequence, int num_tokens) {
  if (cache == nullptr) return;
  const bool share_slot = pool->available(kSlotParts) > FreePlaces();
  if (sequence->SnapshotDue(num_tokens, share_slot)) {
    sequence->Snap(share_slot, pool.get(), cache.get());
  }
}

bool Engine::Impl::NextStepNeedsResults() const {
  return std::any_of(running.begin(), running.end(),
                     [](const auto& sequence) { return sequence->needs_last_token(); });
}

void Engine::Impl::StartStep() {
  Flight& flight = flights[(first_flight + num_flights) % kMaxFlights];
  ++num_flights;
  ++stats.steps;
  stats.batch_sequences.Observe(static_cast<double>(flight.spans.size()));
  stats.batch_tokens.Observe(static_cast<double>(flight.tokens.size()));
  Batch batch;
  batch.tokens = flight.tokens.data();
  batch.num_tokens = static_cast<int32_t>(flight.tokens.size());
  batch.spans = flight.spans.data();
  batch.num_spans = static_cast<int32_t>(flight.spans.size());
  flight.contents = {};
  for (const Span& span : flight.spans) {
    flight.contents.Add(span.num_tokens, span.position, span.num_logits);
  }
  flight.foretold = step_model.Seconds(flight.contents);
  flight.started = Clock::now();
  const absl::Status status = model->Start(batch, pool->memory(), flight.rows);
  stats.model_time += absl::FromChrono(Clock::now() - flight.started);
  if (!status.ok()) Fail(status);
}

// The device is lost, and with it all state and what was in flight.
void Engine::Impl::Fail(const absl::Status& status) {
  for (Flight& flight : flights) flight.sequences.clear();
  num_flights = 0;
  if (cache != nullptr) cache->Clear();
  const absl::Status unavailable =
      absl::UnavailableError(absl::StrCat("the model's device is lost: ", status.message()));
  {
    MutexLock lock(&mutex);
    failure = unavailable;
  }
  Sweep();  // What was admitted in this step has left holes in the queues.
  FinishAll(unavailable);
}

void Engine::Impl::PublishStats() {
  stats.running = static_cast<int>(running.size());
  stats.blocked = waiting.empty() ? Blocked::kNothing : plan.blocked;
  stats.host_time = time_in_steps + (Now() - step_time) - stats.model_time - stats.sample_time;
  stats.state_utilization = 0;
  for (int kind = 0; kind < pool->kinds(); ++kind) {
    EngineStats::Pool& entry = stats.pools[kind];
    entry.used = entry.total - pool->available(kind);
    entry.cached = pool->reclaimable(kind);
    if (entry.total > 0 && entry.short_of_memory) {
      const double share = static_cast<double>(entry.used) / static_cast<double>(entry.total);
      stats.state_utilization = std::max(stats.state_utilization, share);
    }
  }
  if (cache != nullptr) {
    stats.cache.snapshots = cache->num_snapshots();
    stats.cache.remembered_tokens = cache->num_tokens();
    stats.cache.dropped = cache->num_dropped();
  }
  if (tiers != nullptr) {
    stats.tiers = tiers->stats();
    stats.cache.dropped += stats.tiers.dropped + stats.tiers.write_failures;
  }

  MutexLock lock(&mutex);
  reading = !fetching.empty() || !deferred.empty();
  busy = !waiting.empty() || !followers.empty() || !running.empty() || num_flights > 0;
  waiting_count = static_cast<int>(inbox.size() + followers.size() + fetching.size());
  last_wait = admitted_after;
  oldest_arrival = absl::InfiniteFuture();
  for (const Queue& queue : waiting) {
    waiting_count += static_cast<int>(queue.items.size());
    oldest_arrival = std::min(oldest_arrival, queue.items.front().arrived);
  }
  published = stats;
  has_work.store(busy || !inbox.empty());
  steps_taken.store(stats.steps);
}

void Engine::Impl::NotifyAll() {
  if (readers != nullptr) readers->NextStep();
  readers_are_late = false;
  for (const auto& outbox : touched) readers_are_late |= outbox->Notify(readers);
  touched.clear();
}

void Engine::Impl::GiveWay(absl::Duration step) {
  const absl::Duration most = time_for_readers.After(step, readers_are_late);
  if (most == absl::ZeroDuration()) return;
  const absl::Duration waited = readers->Wait(most);
  time_for_readers.Spend(waited);
  stats.readers_time += waited;
}

absl::Time Engine::Impl::Now() const {
  return step_time + absl::FromChrono(Clock::now() - step_start);
}

}  // namespace packrat
