// The log: one line for each event, as text or JSON. Never prompt text, never output text.
#ifndef PACKRAT_SERVER_LOG_H_
#define PACKRAT_SERVER_LOG_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "server/log_writer.h"

namespace packrat {

// One request, when it is over.
struct AccessRecord {
  std::string id;
  std::string caller;  // As the client names itself; empty: it does not.
  std::string peer;
  std::string trace_id;  // Of the caller's trace; empty: none.
  std::string span_id;   // This call's span in it.
  std::string parent_span_id;
  absl::Time start;     // By the wall clock; shown with a trace, whose span needs it.
  std::string call;     // Generate, Tokenize, ...
  std::string path;     // Over HTTP, as its route has it; empty: over gRPC.
  std::string status;   // Name of the gRPC status.
  std::string finish;   // length, eos, ..., cancelled, deadline, error; refused if the engine
                        // never had it.
  std::string message;  // Of the status, if that is not OK.
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;
  int64_t generated_tokens = 0;  // The ending token included.
  int64_t solver_steps = 0;
  absl::Duration queue, first_token, total;
  std::string not_stored;  // Why the store does not have the session's change; empty: it has.
};

// Text or a number; a duration is a number of milliseconds (the field's name then ends in _ms). In
// JSON numbers are numbers, and text is text, whatever it looks like.
class LogValue {
 public:
  // NOLINTBEGIN(google-explicit-constructor): a field is written {"name", value}.
  LogValue(std::string text) : value_(std::move(text)) {}
  LogValue(absl::string_view text) : value_(std::string(text)) {}
  LogValue(const char* text) : value_(std::string(text)) {}
  LogValue(int64_t number) : value_(number) {}
  LogValue(int number) : value_(int64_t{number}) {}
  LogValue(absl::Duration duration) : value_(duration) {}
  // NOLINTEND(google-explicit-constructor)

  const std::variant<std::string, int64_t, absl::Duration>& get() const { return value_; }

 private:
  std::variant<std::string, int64_t, absl::Duration> value_;
};

class Logger {
 public:
  enum class Format { kText, kJson };
  using Fields = std::vector<std::pair<std::string, LogValue>>;

  // `sink` takes whole lines without the line break; the default is standard error, by a LogWriter.
  explicit Logger(Format format, std::function<void(std::string)> sink = nullptr);

  // These functions do not wait for a reader of the log.
  void Info(const std::string& message, const Fields& fields = {});
  void Error(const std::string& message, const Fields& fields = {});
  void Access(const AccessRecord& record);

  // Waits until what was logged is written, but no longer than `timeout`.
  void Flush(absl::Duration timeout);
  // Lines that were lost since the start because nobody read them.
  int64_t dropped_lines() const;

 private:
  std::string Line(const char* level, const std::string& message, const Fields& fields) const;

  const Format format_;
  std::unique_ptr<LogWriter> writer_;  // Null if there is a sink.
  const std::function<void(std::string)> sink_;
};

}  // namespace packrat

#endif  // PACKRAT_SERVER_LOG_H_
