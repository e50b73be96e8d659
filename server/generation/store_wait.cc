#include "server/generation/store_wait.h"

#include <utility>

#include "absl/status/statusor.h"
#include "runtime/no_memory.h"
#include "runtime/steady_clock.h"
#include "server/generation/call_deadline.h"

namespace packrat {

void StoreWait::Start(size_t bytes, Work work, Done done) {
  {
    MutexLock lock(&mutex_);
    done_ = std::move(done);
  }
  environment_->writer->Watch(weak_from_this());
  WorkPool::Ticket ticket = 0;
  const absl::Status status = environment_->stored.load()->Submit(
      bytes, [self = shared_from_this(), work = std::move(work)] { self->DoWork(work); }, &ticket);
  if (!status.ok()) return End(status);
  {
    MutexLock lock(&mutex_);
    if (done_ != nullptr) ticket_ = ticket;
  }
  if (gone()) Pump();
}

void StoreWait::DoWork(const Work& work) {
  End(gone() ? Left() : UnlessNoMemory([&] { return work(); }));
}

void StoreWait::End(const absl::Status& status) {
  Done done;
  {
    MutexLock lock(&mutex_);
    done = std::exchange(done_, nullptr);
    ticket_.reset();
  }
  if (done != nullptr) done(status);
}

absl::Status StoreWait::Left() const { return CancelledStatus(started_, deadline_, SteadyNow()); }

void StoreWait::Leave() {
  gone_.store(true);
  environment_->writer->Notify(weak_from_this());
}

void StoreWait::Pump() {
  if (!gone()) return;
  std::optional<WorkPool::Ticket> ticket;
  {
    MutexLock lock(&mutex_);
    ticket = std::exchange(ticket_, std::nullopt);
  }
  if (ticket.has_value()) environment_->stored.load()->Withdraw(*ticket);
  End(Left());
}

void StoreWait::CheckReader(absl::Time now) {
  if (now < deadline_) return;
  gone_.store(true);
  Pump();
}

}  // namespace packrat
