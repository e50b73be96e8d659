// States that leave the engine and come to it, between two steps.
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "kernels/check.h"
#include "runtime/engine_impl.h"
#include "runtime/no_memory.h"
#include "runtime/state_transfer.h"

namespace packrat {

void Engine::Impl::Post(Task task) {
  {
    MutexLock lock(&mutex);
    tasks.push_back(std::move(task));
  }
  wake.notify_one();
}

void Engine::SaveState(StateSpace space, std::vector<int32_t> text, int64_t max_bytes,
                       std::function<void(absl::StatusOr<SavedState>)> done) {
  // The text is moved, since a copy for which there is no memory would end the process here.
  impl_->Post([this, space = std::move(space), text = std::move(text), max_bytes,
               done = std::move(done)](const absl::Status& status) mutable {
    done(status.ok() ? impl_->SaveState(space, std::move(text), max_bytes) : status);
  });
}

absl::StatusOr<SavedState> Engine::Impl::SaveState(const StateSpace& space,
                                                   std::vector<int32_t> text, int64_t max_bytes) {
  SavedState state;
  const absl::Status status = UnlessNoMemory([&] {
    state.solver = space.solver;
    if (cache == nullptr) return absl::OkStatus();
    text.push_back(0);  // What has a snapshot of all of the text begins a longer one.
    const PrefixCache::Found found = cache->Find(space.Key(), text);
    text.pop_back();
    if (found.node == nullptr) return absl::OkStatus();
    const Snapshot& snapshot = PrefixCache::SnapshotAt(found.node);
    const size_t bytes = SavedPartBytes(pool->layout(), snapshot.position);
    if (bytes > static_cast<uint64_t>(max_bytes)) return absl::OkStatus();
    state.position = snapshot.position;
    return ReadParts(snapshot, pool.get(), &state.parts);
  });
  if (!status.ok()) return status;
  state.tokens = std::move(text);
  return state;
}

void Engine::LoadState(StateSpace space, SavedState state, std::function<void(absl::Status)> done) {
  impl_->Post([this, space = std::move(space), state = std::move(state),
               done = std::move(done)](const absl::Status& status) {
    done(status.ok() ? impl_->LoadState(space, state) : status);
  });
}

absl::Status Engine::Impl::LoadState(const StateSpace& space, const SavedState& state) {
  if (state.position == 0) return absl::OkStatus();
  if (cache == nullptr) {
    return absl::FailedPreconditionError("no states are kept: prefix_cache is off");
  }
  return UnlessNoMemory([&]() -> absl::Status {
    const absl::Span<const int32_t> text(state.tokens.data(), state.position);
    PrefixCache::Node* node = cache->Remember(space.Key(), text);
    if (node == nullptr) return absl::OkStatus();  // It is here already.
    absl::StatusOr<Snapshot> snapshot = WriteParts(state.position, state.parts, pool.get());
    if (!snapshot.ok()) return snapshot.status();
    // Where it was not kept for want of memory.
    const absl::Cleanup give_back = [&] { snapshot->Release(pool.get()); };
    cache->Put(node, &*snapshot, /*writer=*/0, /*importance=*/1);
    return absl::OkStatus();
  });
}

}  // namespace packrat
