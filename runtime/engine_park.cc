// Sequences that make way for others, and wait until they can go on.
#include <algorithm>
#include <limits>
#include <utility>

#include "runtime/engine_impl.h"
#include "runtime/no_memory.h"

namespace packrat {

// Tells the scheduler what parking would give back, of those for whom it might come into question.
void Engine::Impl::FindParkable() {
  int highest = std::numeric_limits<int>::min();
  bool urgent = false;
  for (const Queue& queue : waiting) {
    highest = std::max(highest, queue.priority);
    if (earliest_waiting_deadline == absl::InfiniteFuture()) continue;
    urgent = urgent || std::any_of(queue.items.begin(), queue.items.end(),
                                   [&](const auto& item) { return IsUrgent(item, step_time); });
  }
  for (size_t i = 0; i < running.size(); ++i) {
    if (!urgent && running_items[i].rank.priority >= highest) continue;
    running[i]->state().CountOwn(*pool, &frees[i]);
    running_items[i].frees = &frees[i];
  }
}

// Does what the plan says of parking, or makes one that parks nobody.
void Engine::Impl::Park() {
  if (plan.park.empty()) return;
  if (num_flights > 0) {
    // What they bring belongs to the states, and some may end with it: another plan then.
    while (num_flights > 0) FinishStep();
    Plan(/*may_park=*/true);
  }
  absl::Status lost;
  const bool parked = std::all_of(plan.park.begin(), plan.park.end(),
                                  [&](int i) { return ParkOne(running[i].get(), &lost); });
  if (parked) return;
  QueueParked();
  sweep_waiting = true;  // A queue that nobody has joined.
  if (lost.ok()) {
    Sweep();
    Plan(/*may_park=*/false);
  } else {
    Fail(lost);
    plan.Clear();
  }
}

// Its place in the queue, which QueueParked() gives it. Throws std::bad_alloc.
void Engine::Impl::ReserveQueue(const Sequence& sequence) {
  Queue* queue = QueueOf(sequence.tenant(), sequence.request().priority);
  const size_t size = queue->items.size() + std::max<size_t>(kMaxParks, running.size());
  if (queue->items.capacity() < size) queue->items.reserve(2 * size);
  if (queue->sequences.capacity() < size) queue->sequences.reserve(2 * size);
  ReservePlan();
}

// False: there is no memory for it, or the device is lost.
bool Engine::Impl::ParkOne(Sequence* sequence, absl::Status* lost) {
  const int64_t left = sequence->unused();
  const absl::Status status = UnlessNoMemory([&] {
    ReserveQueue(*sequence);
    *lost = sequence->Park(pool.get(), Now());
    return *lost;
  });
  if (!status.ok()) return false;
  CountParked(*sequence, left);
  return true;
}

void Engine::Impl::CountParked(const Sequence& sequence, int64_t unused) {
  tenants.Refund(sequence.tenant(), unused);
  ++stats.parking.parks;
  ++stats.parking.sequences;
  stats.parking.bytes += sequence.state().ParkedBytes();
}

bool Engine::Impl::GoCoarser() {
  const auto due = [](const auto& sequence) {
    return !sequence->finished() && sequence->between_parts();
  };
  if (std::none_of(running.begin(), running.end(), due)) return false;
  while (num_flights > 0) FinishStep();  // What they bring belongs to the states.
  absl::Status lost;
  for (size_t i = 0; i < running.size() && lost.ok(); ++i) {
    if (due(running[i])) GoCoarser(running[i].get(), &lost);
  }
  QueueParked();
  sweep_waiting = true;  // A queue that nobody has joined.
  if (!lost.ok()) Fail(lost);
  Sweep();
  return true;
}

void Engine::Impl::GoCoarser(Sequence* sequence, absl::Status* lost) {
  const int64_t left = sequence->unused();
  const absl::Status status = UnlessNoMemory([&] {
    ReserveQueue(*sequence);
    *lost = sequence->GoCoarser(model->config(), pool.get(), Now());
    return *lost;
  });
  if (!lost->ok()) return;
  if (!status.ok()) {
    Finish(sequence, FinishReason::kError, status);
    return;
  }
  // Its parts are there, unless others share them. Then it waits as one that has made way, also
  // beyond park_memory: what was admitted does not fail for memory, and is no more than what ran.
  if (!sequence->TakeBack(pool.get())) CountParked(*sequence, left);
}

// Whom this step has parked waits from now on; takes no memory. Not before the plan's admissions,
// which name places in the queues.
void Engine::Impl::QueueParked() {
  for (const auto& sequence : running) {
    if (!sequence->parked()) continue;
    Queue* queue = QueueOf(sequence->tenant(), sequence->request().priority);
    const WaitingItem item = sequence->AsWaitingParked();
    const auto place = std::upper_bound(
        queue->items.begin(), queue->items.end(), item,
        [](const WaitingItem& a, const WaitingItem& b) { return a.arrival < b.arrival; });
    queue->sequences.insert(queue->sequences.begin() + (place - queue->items.begin()), sequence);
    queue->items.insert(place, item);
    earliest_waiting_deadline = std::min(earliest_waiting_deadline, item.deadline);
    sweep_running = true;
  }
}

void Engine::Impl::CountUnparked(const Sequence& sequence) {
  --stats.parking.sequences;
  stats.parking.bytes -= sequence.state().ParkedBytes();
  stats.parking.time.Observe(absl::ToDoubleSeconds(Now() - sequence.parked_at()));
}

}  // namespace packrat
