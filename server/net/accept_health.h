// What to make of accept()'s failures: when to try again, when to tell, when the port counts as
// deaf. Time is passed in.
#ifndef PACKRAT_SERVER_NET_ACCEPT_HEALTH_H_
#define PACKRAT_SERVER_NET_ACCEPT_HEALTH_H_

#include <chrono>
#include <cstdint>

namespace packrat {

class AcceptHealth {
 public:
  using Time = std::chrono::steady_clock::time_point;
  using Duration = std::chrono::milliseconds;

  // Deaf: no success for so long since the first of the failures.
  explicit AcceptHealth(Duration patience) : patience_(patience) {}

  struct Answer {
    Duration wait;  // Before the next attempt: 1 ms, doubled with each failure, at most 1 s.
    bool tell;      // Once in 10 s.
  };
  Answer OnFailure(Time now);
  // A connection came, or there was none to take. True: tell that it works again.
  bool OnSuccess();

  bool failing() const { return in_a_row_ > 0; }
  bool Deaf(Time now) const { return failing() && now - since_ >= patience_; }
  int64_t failures() const { return failures_; }  // Of all times.

 private:
  const Duration patience_;
  int in_a_row_ = 0;
  Time since_;  // The first of those in a row.
  Time last_told_;
  bool told_ = false;
  bool ever_told_ = false;
  int64_t failures_ = 0;
};

}  // namespace packrat

#endif  // PACKRAT_SERVER_NET_ACCEPT_HEALTH_H_
