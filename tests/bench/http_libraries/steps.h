// What every server of this folder has: an engine of a thread, whose steps make one event for each
// stream, and the text of an event as ours are. The loop's thread hears of a step by a descriptor,
// as ours does, and the engine makes the next when the loop has handed on the last.
#ifndef PACKRAT_TESTS_BENCH_HTTP_LIBRARIES_STEPS_H_
#define PACKRAT_TESTS_BENCH_HTTP_LIBRARIES_STEPS_H_

#include <sys/eventfd.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <thread>

// 201 bytes, as an event of /v1/completions has.
inline constexpr char kEvent[] =
    "data: {\"id\":\"cmpl-0123456789abcdef0123456789abcdef\",\"object\":\"text_completion\","
    "\"created\":1764300000,\"model\":\"demo\",\"choices\":[{\"index\":0,\"text\":\" word\","
    "\"logprobs\":null,\"finish_reason\":null}]}\n\n";
inline constexpr size_t kEventSize = sizeof kEvent - 1;

// The number behind "max_tokens": in a body.
inline int MaxTokens(const char* body, size_t size) {
  static constexpr char kKey[] = "\"max_tokens\":";
  const void* const at = memmem(body, size, kKey, sizeof kKey - 1);
  return at == nullptr ? 1 : std::atoi(static_cast<const char*>(at) + sizeof kKey - 1);
}

class Engine {
 public:
  // A step each so many microseconds at most; 0: as fast as the loop takes them.
  explicit Engine(int pace_us) : pace_(pace_us) {
    std::thread([this] {
      for (;;) {
        const auto next = std::chrono::steady_clock::now() + pace_;
        Add(step_);
        Take(taken_);
        std::this_thread::sleep_until(next);
      }
    }).detach();
  }
  int fd() const { return step_; }
  // Of the loop: before and after it has gone through its streams. Without any it rests.
  void Begin() const { Take(step_); }
  void End(bool streams) const {
    if (!streams) usleep(1000);
    Add(taken_);
  }

 private:
  static void Add(int fd) {
    const uint64_t one = 1;
    if (write(fd, &one, sizeof one) != sizeof one) std::abort();
  }
  static void Take(int fd) {
    uint64_t number = 0;
    if (read(fd, &number, sizeof number) != sizeof number) std::abort();
  }

  const std::chrono::microseconds pace_;
  const int step_ = eventfd(0, EFD_CLOEXEC);
  const int taken_ = eventfd(0, EFD_CLOEXEC);
};

#endif  // PACKRAT_TESTS_BENCH_HTTP_LIBRARIES_STEPS_H_
