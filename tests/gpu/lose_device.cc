// In a server on the emulated device: at SIGUSR1 the device is lost with its next work.
#include <csignal>

#include "tests/emulation/emulation.h"

namespace {

[[maybe_unused]] const auto previous_handler =
    std::signal(SIGUSR1, [](int) { emulation::FailNextWork(cudaErrorIllegalAddress); });

}  // namespace
