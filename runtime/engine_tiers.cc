// Requests whose state is on the disk: they wait until it has been read, and the others go on.
#include <algorithm>
#include <cstddef>
#include <utility>

#include "runtime/engine_impl.h"
#include "runtime/no_memory.h"

namespace packrat {
namespace {

// A disk from which nothing comes for longer than this may never answer: then the text is computed.
constexpr absl::Duration kFetchTimeout = absl::Seconds(2);
// For so long nobody else asks it then, unless it answers meanwhile.
constexpr absl::Duration kSilence = absl::Seconds(30);

}  // namespace

absl::Status Engine::Impl::StartCache() {
  if (!options.prefix_cache) return absl::OkStatus();
  if (options.state_host_memory > 0) {
    auto opened =
        StateTiers::Open({options.state_host_memory, options.state_dir, options.state_disk},
                         OwnerOf(*model), [this] {
                           {
                             MutexLock lock(&mutex);
                             woken = true;
                           }
                           wake.notify_one();
                         });
    if (!opened.ok()) return opened.status();
    tiers = *std::move(opened);
    stats.tiers = tiers->stats();  // How much there is room for is known before the first step.
    {
      MutexLock lock(&mutex);
      published.tiers = stats.tiers;
    }
    for (int dial = 0; dial < pool->layout().num_dials(); ++dial) {
      writes_ahead = writes_ahead || !tiers->Fits(tiers->BytesOf(options.max_context, dial));
    }
  }
  cache = std::make_unique<PrefixCache>(pool.get(), RememberedTokens(options), tiers.get());
  pool->SetReclaim([this] { return cache->DropOne(); });
  return absl::OkStatus();
}

bool Engine::Impl::MustFetch(const std::shared_ptr<Sequence>& sequence, const WaitingItem& item) {
  if (tiers == nullptr || tiers->stats().disk.states == 0 || sequence->admitted()) return false;
  if (step_time < fetch_from) return false;
  PrefixCache::Node* const node = sequence->StateToFetch(cache.get());
  if (node == nullptr) return false;
  const absl::Status status = UnlessNoMemory([&] {
    fetching.reserve(fetching.size() + 1);
    const uint64_t state =
        cache->Fetch(node, sequence->tenant(), sequence->request().tenant_weight);
    fetching.push_back({sequence, item, state, step_time});
    return absl::OkStatus();
  });
  return status.ok();
}

bool Engine::Impl::MovePieces() {
  if (tiers == nullptr) return false;
  bool any = false, lost = false;
  const absl::Status status = UnlessNoMemory([&] {
    const absl::StatusOr<bool> moved = cache->MovePieces(writes_ahead ? &longest : nullptr);
    any = moved.ok() && *moved;
    lost = !moved.ok();
    return moved.status();
  });
  if (lost) Fail(status);
  return any;
}

bool Engine::Impl::TakeFetched(const absl::Status& status) {
  if (tiers == nullptr) return false;
  tiers->Poll();
  // Who waits behind others waits for a disk that answers.
  const int64_t answers = tiers->answers();
  if (std::exchange(disk_answers, answers) != answers) {
    disk_answered = step_time;
    fetch_from = absl::InfinitePast();
  }
  const auto is_late = [this](absl::Time since) {
    return step_time - std::max(since, disk_answered) >= kFetchTimeout;
  };
  bool any = false;
  size_t kept = 0;
  for (Fetching& entry : fetching) {
    Sequence* const sequence = entry.sequence.get();
    const bool late = is_late(entry.since);
    if (sequence->finished()) {
      any = true;
    } else if (entry.item.deadline <= step_time) {
      Finish(sequence, FinishReason::kDeadline, this->late);
      any = true;
    } else if (late || !cache->IsFetching(entry.state)) {
      if (late) {
        sequence->FetchNoMore();
        fetch_from = step_time + kSilence;
        tiers->HasNotAnswered(kFetchTimeout);
      }
      Requeue(entry);
      any = true;
    } else {
      std::swap(fetching[kept++], entry);
    }
  }
  fetching.erase(fetching.begin() + static_cast<std::ptrdiff_t>(kept), fetching.end());
  if (deferred.empty()) return any;
  // What is run may be put off again, for which there is room. Without memory for it all wait on.
  std::vector<DeferredTask> tasks_to_try;
  const absl::Status room = UnlessNoMemory([&] {
    tasks_to_try.reserve(deferred.size());
    return absl::OkStatus();
  });
  if (!room.ok()) return any;
  std::swap(tasks_to_try, deferred);
  for (DeferredTask& entry : tasks_to_try) {
    const bool late = is_late(entry.since);
    const bool full = copied_bytes >= kMostPieceBytes;  // The step, as in RunTasks().
    if (status.ok() && (full || (!late && cache->IsFetching(entry.state)))) {
      deferred.push_back(std::move(entry));
    } else {
      entry.task(status);
      any = true;
    }
  }
  return any;
}

// Back to where it was in its queue.
void Engine::Impl::Requeue(const Fetching& from) {
  Sequence* const sequence = from.sequence.get();
  const absl::Status status = UnlessNoMemory([&] {
    Queue* const queue = QueueOf(sequence->tenant(), sequence->request().priority);
    queue->sequences.reserve(queue->items.size() + 1);
    const auto place =
        std::upper_bound(queue->items.begin(), queue->items.end(), from.item,
                         [](const auto& a, const auto& b) { return a.arrival < b.arrival; });
    const auto at = place - queue->items.begin();
    queue->items.insert(place, from.item);
    queue->sequences.insert(queue->sequences.begin() + at, from.sequence);
    return absl::OkStatus();
  });
  if (status.ok()) {
    earliest_waiting_deadline = std::min(earliest_waiting_deadline, from.item.deadline);
  } else {
    Finish(sequence, FinishReason::kError, status);  // Sweep() drops a queue that is empty.
  }
}

}  // namespace packrat
