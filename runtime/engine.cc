#include "runtime/engine.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"
#include "kernels/resources.h"
#include "runtime/engine_impl.h"
#include "runtime/no_memory.h"
#include "runtime/reference_count.h"
#include "runtime/retry_after.h"

namespace packrat {
namespace {

RequestLimits LimitsOf(const LanguageModel& model, const Tokenizer* tokenizer, int max_context) {
  RequestLimits limits;
  limits.vocab_size = model.config().vocab_size;
  limits.num_ids = limits.vocab_size;
  limits.max_context = max_context;
  limits.has_tokenizer = tokenizer != nullptr;
  limits.dials = model.config().dials;
  limits.eos_ids.assign(model.config().eos_ids.begin(), model.config().eos_ids.end());
  if (tokenizer != nullptr) {
    limits.num_ids = std::min(limits.num_ids, tokenizer->num_pieces());
    if (limits.eos_ids.empty() && tokenizer->eos_id() >= 0) {
      limits.eos_ids.push_back(tokenizer->eos_id());
    }
  }
  return limits;
}

// What takes how much of the device's memory, and how long a text would fit.
std::string MemoryPlan(const LanguageModel& model, const EngineOptions& options) {
  const StateLayout& layout = model.state_layout();
  const auto room = static_cast<int64_t>(model.state_memory_limit());
  const int64_t fits = layout.TokensIn(std::min(options.state_bytes, room), options.max_context);
  return absl::StrCat(
      "weights ", MiB(model.weight_bytes()), ", scratch ", MiB(model.scratch_bytes()),
      ", left for state ", MiB(room), ", state_bytes ", MiB(options.state_bytes),
      "; one sequence of ", options.max_context, " tokens takes ",
      MiB(layout.BytesOfAny(options.max_context)), ", and ",
      fits > 0 ? absl::StrCat("one of ", fits, " tokens would fit") : "not even an empty one fits");
}

}  // namespace

int64_t RememberedTokens(const EngineOptions& options) {
  constexpr int64_t kAlways = int64_t{1} << 20;
  if (!options.prefix_cache) return 0;
  // Of what is in memory a token's state takes 64 bytes and more. A folder has many times as much.
  const int64_t bytes_of_token = options.state_dir.empty() ? 64 : 16;
  return std::max<int64_t>(kAlways, int64_t{4} * options.max_context) +
         std::max<int64_t>(options.state_host_memory, 0) / bytes_of_token;
}

int64_t AutoParkMemory(const StateLayout& layout, int64_t state_bytes, int max_context) {
  return std::max(state_bytes / 8, static_cast<int64_t>(layout.BytesOfAny(max_context)));
}

absl::Status ResolveEngineOptions(const ModelConfig& config, const ModelOptions& model_options,
                                  const StateLayout& layout, int64_t state_limit,
                                  EngineOptions* options) {
  if (options->max_context == 0) options->max_context = config.max_context;
  const auto check = [](const Bound& bound, int value, int most) {
    return bound.UpTo(std::min<double>(bound.high, most)).Check(bound.field, value);
  };
  Bound batch_tokens = bounds::kMaxBatchTokens;
  batch_tokens.low = std::max<double>(batch_tokens.low, options->max_running);
  const absl::Status checks[] = {
      check(bounds::kMaxRunning, options->max_running, model_options.max_logit_rows),
      bounds::kMaxQueue.Check("max_queue", options->max_queue),
      check(batch_tokens, options->max_batch_tokens, model_options.max_batch_tokens),
      check(bounds::kMaxContext, options->max_context, config.max_context),
  };
  for (const absl::Status& status : checks) {
    if (!status.ok()) return status;
  }
  if (options->cache_sequences != EngineOptions::kAutoCacheSequences) {
    absl::Status status =
        bounds::kCacheSequences.Check("cache_sequences", options->cache_sequences);
    if (!status.ok()) return status;
  }
  if (options->state_bytes < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("state_bytes is ", options->state_bytes, "; it must be at least 0"));
  }
  if (options->park_memory < EngineOptions::kAutoParkMemory) {
    return absl::InvalidArgumentError(
        absl::StrCat("park_memory is ", options->park_memory, "; it must be at least 0"));
  }
  if (options->priority_step < bounds::kShortestPriorityStep ||
      options->priority_step > bounds::kLongestPriorityStep) {
    return absl::InvalidArgumentError(
        absl::StrCat("priority_step is ", absl::FormatDuration(options->priority_step), "; range [",
                     absl::FormatDuration(bounds::kShortestPriorityStep), ", ",
                     absl::FormatDuration(bounds::kLongestPriorityStep), "]"));
  }
  if (options->inter_token_time < absl::ZeroDuration()) {
    return absl::InvalidArgumentError(absl::StrCat("inter_token_time is ",
                                                   absl::FormatDuration(options->inter_token_time),
                                                   "; range [0, inf]"));
  }
  const auto one = static_cast<double>(layout.BytesOfAny(options->max_context));
  if (options->cache_sequences == EngineOptions::kAutoCacheSequences) {
    const bool given = options->state_bytes > 0;
    const double bytes = static_cast<double>(given ? options->state_bytes : state_limit);
    const double most = given ? bounds::kCacheSequences.high : 3.0 * options->max_running;
    options->cache_sequences =
        options->prefix_cache
            ? static_cast<int>(std::clamp(bytes / one - options->max_running, 0.0, most))
            : 0;
  }
  const double all = (static_cast<double>(options->max_running) + options->cache_sequences) * one;
  if (options->state_bytes == 0) {
    // At least 1, since 0 means this very choice.
    options->state_bytes =
        std::max<int64_t>(1, static_cast<int64_t>(std::min(all, static_cast<double>(state_limit))));
  }
  if (options->park_memory == EngineOptions::kAutoParkMemory) {
    options->park_memory = AutoParkMemory(
        layout, static_cast<int64_t>(std::min(all, static_cast<double>(options->state_bytes))),
        options->max_context);
  }
  return absl::OkStatus();
}

Engine::Impl::Impl(LanguageModel* model, const Tokenizer* tokenizer, const EngineOptions& options,
                   const RequestLimits& limits, std::unique_ptr<StatePool> state_pool)
    : model(model),
      tokenizer(tokenizer),
      options(options),
      limits(limits),
      pool(std::move(state_pool)),
      longest(NeedsOfAny(pool->layout(), options.max_context)),
      sampled(model->options().max_logit_rows) {
  const StateLayout& layout = pool->layout();
  const PartCounts& total = pool->total();
  stats.pools.push_back({"slot", total.slots, 0, static_cast<int64_t>(layout.slot_bytes)});
  stats.pools.push_back({"tail", total.tails, 0, static_cast<int64_t>(layout.tail_stride)});
  for (size_t c = 0; c < total.pages.size(); ++c) {
    stats.pools.push_back({layout.ClassName(c), total.pages[c], 0,
                           static_cast<int64_t>(layout.page_classes[c].page_bytes)});
  }
  // Which of them the pool's policy made smaller than max_running sequences could use.
  const auto is_short = [&](int32_t have, int32_t need) {
    return int64_t{have} < int64_t{need} * options.max_running;
  };
  stats.pools[0].short_of_memory = is_short(total.slots, longest.slots);
  stats.pools[1].short_of_memory = is_short(total.tails, longest.tails);
  for (size_t c = 0; c < total.pages.size(); ++c) {
    stats.pools[2 + c].short_of_memory = is_short(total.pages[c], longest.pages[c]);
  }
  published = stats;
  // What a decoding step writes to.
  running.reserve(options.max_running + kMaxParks);
  running_items.reserve(options.max_running);
  frees.resize(options.max_running);
  for (PartCounts& parts : frees) parts.pages.reserve(total.pages.size());
  span_stats.reserve(options.max_running);
  for (Flight& flight : flights) {
    flight.sequences.reserve(options.max_running);
    flight.tokens.reserve(options.max_batch_tokens);
    flight.spans.reserve(options.max_running);
    flight.rows.reserve(model->options().max_logit_rows);
  }
  touched.reserve(2 * options.max_running);
  if (model->max_steps_in_flight() == 1) readers = std::make_shared<WokenReaders>();
  plan.Reserve(options.max_running, static_cast<int>(total.pages.size()));
}

absl::StatusOr<std::unique_ptr<Engine>> Engine::Create(LanguageModel* model,
                                                       const Tokenizer* tokenizer,
                                                       const EngineOptions& requested) {
  EngineOptions options = requested;
  absl::Status status =
      ResolveEngineOptions(model->config(), model->options(), model->state_layout(),
                           static_cast<int64_t>(model->state_memory_limit()), &options);
  if (!status.ok()) return status;
  if (requested.park_memory == EngineOptions::kAutoParkMemory) {
    options.park_memory = std::min(options.park_memory, ReadResources().memory_limit / 16);
  }
  StatePoolOptions pool_options;
  pool_options.max_running = options.max_running;
  pool_options.max_context = options.max_context;
  pool_options.state_bytes = options.state_bytes;
  pool_options.poison_freed = options.poison_freed_state;
  pool_options.cache_sequences = options.cache_sequences;
  absl::StatusOr<std::unique_ptr<StatePool>> pool =
      StatePool::Create(model->state_layout(), pool_options,
                        [model](size_t bytes) { return model->AllocateState(bytes); });
  if (!pool.ok()) {
    return absl::Status(pool.status().code(),
                        absl::StrCat(pool.status().message(), "; ", MemoryPlan(*model, options)));
  }
  auto impl =
      std::make_unique<Impl>(model, tokenizer, options,
                             LimitsOf(*model, tokenizer, options.max_context), *std::move(pool));
  status = impl->StartCache();
  if (!status.ok()) return status;
  return std::unique_ptr<Engine>(new Engine(std::move(impl)));
}

Engine::Engine(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Engine::~Engine() {
  // So that nobody waits for an outbox that nobody serves.
  AbortAll(absl::UnavailableError("the server is shutting down"));
  impl_->Step(impl_->Now());
}

absl::Status Engine::Impl::TakesMore(size_t requests, absl::Time now) const {
  if (!failure.ok()) return failure;
  if (draining) return absl::UnavailableError("the server is draining");
  if (requests > static_cast<size_t>(options.max_queue)) {
    return absl::InvalidArgumentError(
        absl::StrCat(requests, " requests at once, and max_queue is ", options.max_queue));
  }
  if (waiting_count + requests <= static_cast<size_t>(options.max_queue)) return absl::OkStatus();
  // The time in which a tenth of the queue moves on, at its present rate.
  const absl::Duration wait = std::max(last_wait, now - oldest_arrival);
  return WithRetryAfter(absl::ResourceExhaustedError(
                            absl::StrCat("the queue is full: ", waiting_count,
                                         " requests wait (max_queue ", options.max_queue, ")")),
                        wait / 10);
}

absl::Status Engine::Submit(std::vector<Request> requests, absl::Time now) {
  for (const Request& request : requests) PACKRAT_CHECK(request.outbox != nullptr);
  return UnlessNoMemory([&] { return impl_->Submit(std::move(requests), now); });
}

absl::Status Engine::Submit(Request request, absl::Time now) {
  return UnlessNoMemory([&] {
    std::vector<Request> one;
    one.push_back(std::move(request));
    return Submit(std::move(one), now);
  });
}

absl::Status Engine::HasRoom(int requests, absl::Time now) const {
  MutexLock lock(&impl_->mutex);
  return impl_->TakesMore(static_cast<size_t>(requests), now);
}

absl::Status Engine::Impl::Submit(std::vector<Request> requests, absl::Time now) {
  for (const Request& request : requests) {
    absl::Status status = ValidateRequest(request, limits);
    const TextDials& dials = request.dials;
    for (int part = 1; part < dials.num_parts() && status.ok(); ++part) {
      status = CheckCoarser(model->config(), dials.Of(part - 1), dials.Of(part));
    }
    if (!status.ok()) return status;
  }
  {
    MutexLock lock(&mutex);
    const absl::Status status = TakesMore(requests.size(), now);
    if (!status.ok()) return status;  // Before any work for them; and again once that is done.
  }
  std::vector<std::shared_ptr<Sequence>> sequences;
  for (Request& request : requests) {
    sequences.push_back(
        std::make_shared<Sequence>(std::move(request), limits, tokenizer, pool->layout(), now));
    const Sequence& first = *sequences.front();
    const bool shares = cache != nullptr && first.request().cache.use;
    if (shares && sequences.size() > 1 && first.request().cache.snapshot_at > 0) {
      sequences.back()->Follow(sequences.front());
    }
  }
  {
    MutexLock lock(&mutex);
    const absl::Status status = TakesMore(sequences.size(), now);
    if (!status.ok()) return status;
    // So that all of them come in, or none.
    const size_t size = inbox.size() + sequences.size();
    if (size > inbox.capacity()) inbox.reserve(2 * size);
    for (auto& sequence : sequences) inbox.push_back(std::move(sequence));
    waiting_count += static_cast<int>(sequences.size());
    has_work.store(true);
  }
  wake.notify_one();
  return absl::OkStatus();
}

absl::Status Engine::Impl::CheckIntegrity() const {
  absl::Status status = pool->CheckIntegrity();
  if (!status.ok()) return status;
  ReferenceCount counted(*pool);
  size_t lists = 0;
  for (const auto& sequence : running) {
    lists += sequence->list_bytes();
    counted.Add(sequence->state(), StatePool::Holder::kSequence);
  }
  if (tiers != nullptr) {
    status = tiers->CheckIntegrity(cache->Moved());
    if (!status.ok()) return status;
  }
  if (cache != nullptr) {
    cache->ForEachSnapshot(
        [&](const Snapshot& snapshot) { counted.Add(snapshot, StatePool::Holder::kCache); });
  }
  int64_t parked_bytes = 0, most = options.park_memory;
  for (const Queue& queue : waiting) {
    for (const auto& sequence : queue.sequences) {
      if (sequence->state().holds_parts()) return absl::InternalError("who waits holds parts");
      if (!sequence->parked()) continue;
      lists += sequence->list_bytes();
      parked_bytes += sequence->state().ParkedBytes();
      // Who goes coarser without room waits also beyond park_memory.
      if (sequence->went_coarser()) most += sequence->state().ParkedBytes();
    }
  }
  if (parked_bytes != stats.parking.bytes || parked_bytes > most) {
    return absl::InternalError(absl::StrCat(parked_bytes, " bytes are parked; counted are ",
                                            stats.parking.bytes, " of at most ", most));
  }
  if (lists != list_bytes) {
    return absl::InternalError(absl::StrCat("lists for sampling take ", lists,
                                            " bytes at most; reserved are ", list_bytes));
  }
  return counted.Check();
}

void Engine::Cancel(uint64_t id) {
  {
    MutexLock lock(&impl_->mutex);
    impl_->cancels.push_back(id);
  }
  impl_->wake.notify_one();
}

void Engine::Drain() {
  MutexLock lock(&impl_->mutex);
  impl_->draining = true;
}

void Engine::AbortAll(absl::Status status) {
  PACKRAT_CHECK(!status.ok());
  {
    MutexLock lock(&impl_->mutex);
    impl_->abort = std::move(status);
  }
  impl_->wake.notify_one();
}

bool Engine::Step(absl::Time now) { return impl_->Step(now); }

void Engine::WaitForWork(absl::Duration timeout) {
  const auto end = std::chrono::steady_clock::now() +
                   absl::ToChronoNanoseconds(std::min(timeout, absl::Hours(24)));
  MutexLock lock(&impl_->mutex);
  // While a disk is waited for, time is looked at.
  const auto soon = std::chrono::steady_clock::now() + std::chrono::milliseconds(100);
  while (!impl_->woken && !impl_->busy && impl_->inbox.empty() && impl_->cancels.empty() &&
         impl_->tasks.empty() && !impl_->abort.has_value() &&
         std::chrono::steady_clock::now() < (impl_->reading ? std::min(soon, end) : end)) {
    lock.WaitUntil(&impl_->wake, impl_->reading ? std::min(soon, end) : end);
  }
  impl_->woken = false;
}

void Engine::Wake() {
  {
    MutexLock lock(&impl_->mutex);
    impl_->woken = true;
  }
  impl_->wake.notify_one();
}

bool Engine::idle() const {
  MutexLock lock(&impl_->mutex);
  return !impl_->busy && !impl_->reading && impl_->inbox.empty();
}

absl::Status Engine::TakeStateTrouble() {
  return impl_->tiers == nullptr ? absl::OkStatus() : impl_->tiers->TakeTrouble();
}

absl::Status Engine::failure() const {
  MutexLock lock(&impl_->mutex);
  return impl_->failure;
}

EngineStats Engine::stats() const {
  MutexLock lock(&impl_->mutex);
  EngineStats stats = impl_->published;
  stats.waiting = impl_->waiting_count;
  return stats;
}

EngineProgress Engine::progress() const {
  return {impl_->has_work.load(), impl_->steps_taken.load()};
}

const EngineOptions& Engine::options() const { return impl_->options; }

const RequestLimits& Engine::limits() const { return impl_->limits; }

const PartCounts& Engine::state_parts() const { return impl_->pool->total(); }

absl::Status Engine::CheckIntegrity() const { return impl_->CheckIntegrity(); }

}  // namespace packrat
