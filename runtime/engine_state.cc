// States that leave the engine and come to it, between two steps.
#include <algorithm>
#include <atomic>
#include <utility>

#include "runtime/engine_impl.h"
#include "runtime/no_memory.h"
#include "runtime/saved_state.h"

namespace packrat {
namespace {

// Texts that leave take turns together, as one more tenant.
constexpr int kNoTenant = -1;

// `status`: of the engine.
absl::Status TakesStates(const absl::Status& status, const Engine::Impl& engine) {
  if (!status.ok() || engine.cache != nullptr) return status;
  return absl::FailedPreconditionError("no states are kept: prefix_cache is off");
}

}  // namespace

void Engine::Impl::Post(Task task) {
  {
    MutexLock lock(&mutex);
    tasks.push_back(std::move(task));
  }
  wake.notify_one();
}

void Engine::ReadState(StateSpace space, SharedText text, KeptState which, int64_t at, int64_t size,
                       std::function<void(absl::StatusOr<StatePiece>)> done) {
  Impl::StateRead read = {std::move(space), std::move(text), which, at, size, std::move(done)};
  impl_->Post([this, read = std::move(read)](const absl::Status& status) {
    status.ok() ? impl_->ReadState(read, /*fetches_left=*/2) : read.done(status);
  });
}

void Engine::Impl::ReadState(const StateRead& read, int fetches_left) {
  StatePiece piece;
  bool later = false;
  const absl::Status status = UnlessNoMemory([&]() -> absl::Status {
    absl::Span<const int32_t> text = *read.text;
    const KeptState& which = read.which;
    if (which.state != 0) text = text.subspan(0, which.position);
    PrefixCache::Found found;
    if (cache != nullptr) found = cache->Find(read.space.Key(), text, /*whole=*/true);
    if (found.on_disk != nullptr && fetches_left > 0) {
      deferred.reserve(deferred.size() + 1);
      deferred.push_back({cache->Fetch(found.on_disk, kNoTenant, /*weight=*/1),
                          [=](const absl::Status& ended) {
                            ended.ok() ? ReadState(read, fetches_left - 1) : read.done(ended);
                          },
                          step_time});
      later = true;
      return absl::OkStatus();
    }
    if (found.node != nullptr) piece.from = {found.position, PrefixCache::StateOf(found.node)};
    if (which.state != 0 && which.state != piece.from.state) {
      return absl::AbortedError("the state that was leaving has had to give way");
    }
    if (found.node == nullptr) return absl::OkStatus();
    const auto all = static_cast<int64_t>(
        SavedPartBytes(pool->layout().ForDial(read.space.dials.last), found.position));
    const int64_t size = std::clamp<int64_t>(all - read.at, 0, read.size);
    copied_bytes += size;
    return cache->Read(found.node, read.at, size, &piece.bytes);
  });
  if (later) return;
  status.ok() ? read.done(std::move(piece)) : read.done(status);
}

uint64_t Engine::NewStateNumber() {
  static std::atomic<uint64_t> last{0};
  return ++last;
}

void Engine::WriteState(uint64_t number, int32_t position, int32_t dial, int64_t at,
                        std::string bytes, std::function<void(absl::Status)> done) {
  impl_->Post([this, number, position, dial, at, bytes = std::move(bytes),
               done = std::move(done)](const absl::Status& status) {
    const absl::Status able = TakesStates(status, *impl_);
    if (!able.ok()) return done(able);
    impl_->copied_bytes += static_cast<int64_t>(bytes.size());
    done(UnlessNoMemory([&] { return impl_->cache->Write(number, position, dial, at, bytes); }));
  });
}

void Engine::KeepState(uint64_t number, StateSpace space, SharedText text,
                       std::function<void(absl::Status)> done, SeenTextEnd end) {
  impl_->Post([this, number, space = std::move(space), text = std::move(text),
               done = std::move(done), end = std::move(end)](const absl::Status& status) {
    const absl::Status able = TakesStates(status, *impl_);
    if (!able.ok()) return done(able);
    done(
        UnlessNoMemory([&] { return impl_->cache->PutIncoming(number, space.Key(), *text, end); }));
  });
}

void Engine::DropState(uint64_t number) {
  // Without memory for the task it gives way where its parts are needed.
  (void)UnlessNoMemory([&] {
    impl_->Post([this, number](const absl::Status&) {
      if (impl_->cache != nullptr) impl_->cache->DropIncoming(number);
    });
    return absl::OkStatus();
  });
}

void Engine::ForgetOrigin(uint64_t origin) {
  // Without memory for it, it ages like others.
  (void)UnlessNoMemory([&] {
    bool first;
    {
      MutexLock lock(&impl_->mutex);
      first = impl_->forgotten.empty();
      impl_->forgotten.insert(origin);
    }
    if (first) {
      impl_->Post([this](const absl::Status& status) { impl_->ForgetOrigins(status); });
    }
    return absl::OkStatus();
  });
}

// All at once: each takes a look at every space.
void Engine::Impl::ForgetOrigins(const absl::Status& status) {
  std::set<uint64_t> gone;
  {
    MutexLock lock(&mutex);
    gone.swap(forgotten);
  }
  if (!status.ok() || cache == nullptr) return;
  cache->ForgetSpaces(
      [&](const std::string& key) { return gone.count(StateSpace::OriginOf(key)) > 0; });
}

}  // namespace packrat
