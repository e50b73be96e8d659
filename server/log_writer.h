// Writes lines to a file descriptor on its own thread, so that logging never waits for a reader.
#ifndef PACKRAT_SERVER_LOG_WRITER_H_
#define PACKRAT_SERVER_LOG_WRITER_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/time/time.h"

namespace packrat {

class LogWriter {
 public:
  // Some ten thousand lines: enough for a burst, and little memory if nobody reads them.
  static constexpr size_t kMaxBytes = 4 << 20;

  // `fd` must stay open; the caller closes it. `dropped_line` makes the line that says how many
  // were dropped; the writer's thread calls it.
  LogWriter(int fd, std::function<std::string(int64_t)> dropped_line, size_t max_bytes = kMaxBytes);
  // Waits for at most a second. What is not written by then is lost.
  ~LogWriter();
  LogWriter(const LogWriter&) = delete;
  LogWriter& operator=(const LogWriter&) = delete;

  // `line` has no line break. Once `max_bytes` wait, lines are dropped until all that waits is
  // written.
  void Write(std::string line);
  // Returns when all that came before is written, or after `timeout`. False in the second case.
  bool Flush(absl::Duration timeout);
  // Dropped or refused by the descriptor, ever.
  int64_t dropped() const;

 private:
  struct State;
  // Shared with the thread, which never ends if the descriptor blocks for ever.
  const std::shared_ptr<State> state_;
};

}  // namespace packrat

#endif  // PACKRAT_SERVER_LOG_WRITER_H_
