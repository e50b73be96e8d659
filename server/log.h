// Lines on standard error, as text or JSON. Never prompt text, never output text.
#ifndef PACKRAT_SERVER_LOG_H_
#define PACKRAT_SERVER_LOG_H_

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "runtime/mutex.h"

namespace packrat {

// One request, when it is over.
struct AccessRecord {
  std::string id;
  std::string caller;  // As told by the client; empty: not told.
  std::string peer;
  std::string call;     // Generate, Tokenize, ...
  std::string status;   // Name of the gRPC status.
  std::string finish;   // length, eos, ..., cancelled, deadline, error; refused where the
                        // engine never had it.
  std::string message;  // Of the status where it is not OK.
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;
  int64_t generated_tokens = 0;  // The ending token included.
  int64_t solver_steps = 0;
  absl::Duration queue, first_token, total;
};

class Logger {
 public:
  enum class Format { kText, kJson };
  using Fields = std::vector<std::pair<std::string, std::string>>;

  // `sink` takes whole lines without the line break; the default is standard error.
  explicit Logger(Format format, std::function<void(const std::string&)> sink = nullptr);

  void Info(const std::string& message, const Fields& fields = {});
  void Error(const std::string& message, const Fields& fields = {});
  void Access(const AccessRecord& record);

 private:
  void Write(const char* level, const std::string& message, const Fields& fields);

  const Format format_;
  Mutex mutex_;  // Lines stay whole.
  const std::function<void(const std::string&)> sink_;
};

}  // namespace packrat

#endif  // PACKRAT_SERVER_LOG_H_
