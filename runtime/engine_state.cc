// States that leave the engine and come to it, between two steps.
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "kernels/check.h"
#include "runtime/engine_impl.h"
#include "runtime/no_memory.h"
#include "runtime/state_transfer.h"

namespace packrat {
namespace {

// Texts that leave take turns together, as one more tenant.
constexpr int kNoTenant = -1;

}  // namespace

void Engine::Impl::Post(Task task) {
  {
    MutexLock lock(&mutex);
    tasks.push_back(std::move(task));
  }
  wake.notify_one();
}

void Engine::SaveState(StateSpace space, std::vector<int32_t> text, int64_t max_bytes,
                       std::function<void(absl::StatusOr<SavedState>)> done) {
  impl_->Post([this, space = std::move(space), text = std::move(text), max_bytes,
               done = std::move(done)](const absl::Status& status) {
    if (status.ok()) {
      impl_->SaveState(space, text, max_bytes, done, /*fetches_left=*/2);
    } else {
      done(status);
    }
  });
}

void Engine::Impl::SaveState(const StateSpace& space, const std::vector<int32_t>& text,
                             int64_t max_bytes, const Saved& done, int fetches_left) {
  absl::StatusOr<SavedState> saved = SavedState();
  bool later = false;
  const absl::Status status = UnlessNoMemory([&] {
    PrefixCache::Found found;
    if (cache != nullptr) {
      std::vector<int32_t> longer = text;
      longer.push_back(0);  // What has a state of all of the text begins a longer one.
      found = cache->Find(space.Key(), longer);
    }
    if (found.on_disk != nullptr && fetches_left > 0) {
      deferred.reserve(deferred.size() + 1);
      deferred.push_back({cache->Fetch(found.on_disk, kNoTenant, /*weight=*/1),
                          [=](const absl::Status& ended) {
                            if (ended.ok()) {
                              SaveState(space, text, max_bytes, done, fetches_left - 1);
                            } else {
                              done(ended);
                            }
                          },
                          step_time});
      later = true;
      return absl::OkStatus();
    }
    const size_t bytes = SavedPartBytes(pool->layout().ForDial(space.dials.last), found.position);
    if (found.node != nullptr && bytes <= static_cast<uint64_t>(max_bytes)) {
      saved = cache->Read(found.node);
    }
    if (!saved.ok()) return saved.status();
    saved->tokens = text;
    saved->solver = space.solver;
    saved->dials = space.dials;
    return absl::OkStatus();
  });
  if (!status.ok()) saved = status;
  if (!later) done(std::move(saved));
}

void Engine::LoadState(StateSpace space, SavedState state, std::function<void(absl::Status)> done) {
  impl_->Post([this, space = std::move(space), state = std::move(state),
               done = std::move(done)](const absl::Status& status) {
    done(status.ok() ? impl_->LoadState(space, state) : status);
  });
}

void Engine::ForgetOrigin(uint64_t origin) {
  // Without memory for the task it ages like others.
  (void)UnlessNoMemory([&] {
    impl_->Post([this, origin](const absl::Status& status) {
      if (!status.ok() || impl_->cache == nullptr) return;
      impl_->cache->ForgetSpaces(
          [origin](const std::string& key) { return StateSpace::OriginOf(key) == origin; });
    });
    return absl::OkStatus();
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
    absl::StatusOr<Snapshot> snapshot = WriteParts(state, pool.get());
    if (!snapshot.ok()) return snapshot.status();
    // Where it was not kept for want of memory.
    const absl::Cleanup give_back = [&] { snapshot->Release(pool.get()); };
    cache->Put(node, &*snapshot, /*writer=*/0, /*importance=*/1);
    return absl::OkStatus();
  });
}

}  // namespace packrat
