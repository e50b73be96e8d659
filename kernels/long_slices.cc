#include "kernels/long_slices.h"

#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>

namespace packrat {
namespace {

// Of sched_setattr(2), which libraries of C have had only lately, in its first form.
struct Attributes {
  uint32_t size = sizeof(Attributes);
  uint32_t policy = 0;
  uint64_t flags = 0;
  int32_t nice = 0;
  uint32_t priority = 0;
  uint64_t runtime = 0, deadline = 0, period = 0;  // ns; of ordinary policies: a slice.
};

}  // namespace

void AskForLongSlices() {
  Attributes attributes;
  if (syscall(SYS_sched_getattr, 0, &attributes, sizeof(attributes), 0) != 0) return;
  if (attributes.policy != SCHED_OTHER && attributes.policy != SCHED_BATCH) return;
  attributes.size = sizeof(attributes);
  attributes.runtime = 100'000'000;  // As long as Linux allows.
  syscall(SYS_sched_setattr, 0, &attributes, 0);
}

}  // namespace packrat
