// How requests come into the engine and leave it: the inbox, the queues of what waits, the end.
#include <algorithm>
#include <cstddef>
#include <utility>

#include "kernels/check.h"
#include "runtime/engine_impl.h"
#include "runtime/no_memory.h"

namespace packrat {

bool Engine::Impl::TakeInbox() {
  std::optional<absl::Status> abort_status;
  {
    MutexLock lock(&mutex);
    taken.swap(inbox);
    taken_cancels.swap(cancels);
    // Those that had to wait come first, and the others after them.
    if (taken_tasks.empty()) taken_tasks.swap(tasks);
    abort_status.swap(abort);
    if (!failure.ok()) abort_status = failure;
    busy = busy || !taken.empty();
  }
  const bool any = !taken.empty() || !taken_tasks.empty();
  EnqueueAll();
  for (uint64_t id : taken_cancels) Cancel(id);
  taken_cancels.clear();
  if (abort_status.has_value()) FinishAll(*abort_status);
  // First what has waited for the disk, so that what others ask in each step does not keep it out.
  const bool fetched = TakeFetched(abort_status.value_or(absl::OkStatus()));
  RunTasks(abort_status.value_or(absl::OkStatus()));
  const bool ended = sweep_waiting || sweep_running;
  Sweep();
  return any || fetched || ended;
}

void Engine::Impl::RunTasks(const absl::Status& status) {
  size_t run = 0;
  while (run < taken_tasks.size() && (copied_bytes < kMostPieceBytes || !status.ok())) {
    taken_tasks[run++](status);
  }
  taken_tasks.erase(taken_tasks.begin(), taken_tasks.begin() + static_cast<std::ptrdiff_t>(run));
  if (status.ok()) return;
  // Those too that came behind the ones that had to wait.
  {
    MutexLock lock(&mutex);
    taken_tasks.swap(tasks);
  }
  if (!taken_tasks.empty()) RunTasks(status);
}

void Engine::Impl::EnqueueAll() {
  for (auto& sequence : taken) {
    // Without memory to wait in it does not wait.
    const auto follow = [&] {
      followers.push_back(sequence);
      return absl::OkStatus();
    };
    if (!sequence->follows() || !UnlessNoMemory(follow).ok()) Enqueue(std::move(sequence));
  }
  taken.clear();
  if (followers.empty()) return;
  // One place is left free for the state that they begin with.
  const int most = std::max(1, options.max_running - 1);
  int at_work = 0;
  ForEach([&](Sequence* sequence) {
    at_work += sequence->in_group() && !sequence->follows() && !sequence->finished();
  });
  size_t kept = 0;
  for (auto& sequence : followers) {
    if (sequence->MustWait() || at_work >= most) {
      followers[kept++] = std::move(sequence);
    } else {
      ++at_work;
      Enqueue(std::move(sequence));
    }
  }
  followers.resize(kept);
}

void Engine::Impl::Enqueue(std::shared_ptr<Sequence> sequence) {
  const Request& request = sequence->request();
  Queue* queue = nullptr;
  const absl::Status status = UnlessNoMemory([&] {
    PACKRAT_CHECK(by_id.emplace(request.id, sequence.get()).second, "two requests of one id")
        << request.id;
    sequence->ChoosePart(cache.get());
    const int tenant = tenants.Join(request.tenant, request.tenant_weight);
    const WaitingItem item = sequence->AsWaiting(next_arrival++, Now(), tenant);
    queue = QueueOf(tenant, request.priority);
    ReservePlan();
    queue->items.push_back(item);
    queue->sequences.push_back(std::move(sequence));
    return absl::OkStatus();
  });
  if (status.ok()) {
    earliest_waiting_deadline = std::min(earliest_waiting_deadline, request.deadline);
    return;
  }
  if (queue != nullptr) queue->items.resize(queue->sequences.size());
  Finish(sequence.get(), FinishReason::kError, status);  // Sweep() drops a queue that is empty.
}

// For those that wait, and those that run and may be parked. Throws std::bad_alloc.
void Engine::Impl::ReservePlan() {
  if (flows.capacity() < waiting.size()) flows.reserve(2 * waiting.size());
  plan.ReserveWaiting(by_id.size(), waiting.size(), tenants.shares().size());
}

Engine::Impl::Queue* Engine::Impl::QueueOf(int tenant, int priority) {
  for (Queue& queue : waiting) {
    if (queue.tenant == tenant && queue.priority == priority) return &queue;
  }
  waiting.push_back({tenant, priority});
  return &waiting.back();
}

void Engine::Impl::Cancel(uint64_t id) {
  const auto found = by_id.find(id);
  if (found == by_id.end()) {
    for (const auto& sequence : followers) {
      if (sequence->id() != id || sequence->finished()) continue;
      Finish(sequence.get(), FinishReason::kCancelled, cancelled);
    }
    return;
  }
  Finish(found->second, FinishReason::kCancelled, cancelled);
}

void Engine::Impl::FinishAll(const absl::Status& status) {
  ForEach([&](Sequence* sequence) {
    if (!sequence->finished()) Finish(sequence, FinishReason::kError, status);
  });
}

void Engine::Impl::Finish(Sequence* sequence, FinishReason reason, absl::Status status) {
  by_id.erase(sequence->id());
  if (sequence->tenant() >= 0) tenants.Leave(sequence->tenant(), sequence->unused());
  if (sequence->parked()) CountUnparked(*sequence);
  if (sequence->admitted()) list_bytes -= sequence->list_bytes();
  sequence->Release(/*keep=*/reason != FinishReason::kError, pool.get(), cache.get());
  sequence->Finish(reason, std::move(status), Now());
  if (!sequence->admitted()) {
    ++stats.ended_waiting;
    stats.queue_time.Observe(absl::ToDoubleSeconds(sequence->usage().queue_time));
  }
  Touch(sequence);
  sweep_waiting = sweep_running = true;
}

// Drops what has finished, and what has moved from `waiting` to `running` or back.
void Engine::Impl::Sweep() {
  if (sweep_waiting) SweepWaiting();
  if (sweep_running) {
    // What is not admitted waits for its state somewhere else.
    const auto gone = [](const auto& sequence) {
      return sequence->finished() || sequence->parked() || !sequence->admitted();
    };
    running.erase(std::remove_if(running.begin(), running.end(), gone), running.end());
  }
  sweep_waiting = sweep_running = false;
}

void Engine::Impl::SweepWaiting() {
  followers.erase(std::remove_if(followers.begin(), followers.end(),
                                 [](const auto& sequence) { return sequence->finished(); }),
                  followers.end());
  fetching.erase(std::remove_if(fetching.begin(), fetching.end(),
                                [](const auto& entry) { return entry.sequence->finished(); }),
                 fetching.end());
  earliest_waiting_deadline = absl::InfiniteFuture();
  for (Queue& queue : waiting) {
    size_t kept = 0;
    for (size_t i = 0; i < queue.items.size(); ++i) {
      std::shared_ptr<Sequence>& sequence = queue.sequences[i];
      if (sequence == nullptr || sequence->finished()) continue;
      earliest_waiting_deadline = std::min(earliest_waiting_deadline, queue.items[i].deadline);
      if (kept != i) {
        queue.sequences[kept] = std::move(sequence);
        queue.items[kept] = queue.items[i];
      }
      ++kept;
    }
    queue.sequences.resize(kept);
    queue.items.resize(kept);
  }
  waiting.erase(std::remove_if(waiting.begin(), waiting.end(),
                               [](const Queue& queue) { return queue.items.empty(); }),
                waiting.end());
}

}  // namespace packrat
