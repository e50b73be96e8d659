// Decides what to do when accept() fails: when to try again, when to log, and when the port counts
// as deaf. The caller passes the time.
#ifndef PACKRAT_SERVER_NET_ACCEPT_HEALTH_H_
#define PACKRAT_SERVER_NET_ACCEPT_HEALTH_H_

#include <chrono>
#include <cstdint>

namespace packrat {

class AcceptHealth {
 public:
  using Time = std::chrono::steady_clock::time_point;
  using Duration = std::chrono::milliseconds;

  // The port is deaf after failing for so long without a success.
  explicit AcceptHealth(Duration patience) : patience_(patience) {}

  struct Answer {
    Duration wait;  // Before the next attempt: 1 ms, doubled with each failure, at most 1 s.
    bool tell;      // Once in 10 s.
  };
  Answer OnFailure(Time now);
  // A connection came, or none was waiting. True: log that it works again.
  bool OnSuccess();

  bool failing() const { return in_a_row_ > 0; }
  bool Deaf(Time now) const { return failing() && now - since_ >= patience_; }
  int64_t failures() const { return failures_; }  // Since the start.

 private:
  const Duration patience_;
  int in_a_row_ = 0;
  Time since_;  // The first failure since the last success.
  Time last_told_;
  bool told_ = false;
  bool ever_told_ = false;
  int64_t failures_ = 0;
};

}  // namespace packrat

#endif  // PACKRAT_SERVER_NET_ACCEPT_HEALTH_H_
