#include "server/log.h"

#include <cstdio>
#include <string>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "nlohmann/json.hpp"

namespace packrat {
namespace {

void ToStderr(const std::string& line) { std::fprintf(stderr, "%s\n", line.c_str()); }

// A value with a space, a quote or a control character is quoted, so that a line has one reading
// whatever a client sends.
std::string TextValue(const std::string& value) {
  bool plain = !value.empty();
  for (unsigned char c : value) plain = plain && c > 0x20 && c < 0x7f && c != '"' && c != '=';
  return plain ? value : absl::StrCat("\"", absl::CHexEscape(value), "\"");
}

std::string Millis(absl::Duration duration) {
  return absl::StrFormat("%.3f", absl::ToDoubleMilliseconds(duration));
}

}  // namespace

Logger::Logger(Format format, std::function<void(const std::string&)> sink)
    : format_(format), sink_(sink ? std::move(sink) : ToStderr) {}

void Logger::Info(const std::string& message, const Fields& fields) {
  Write("info", message, fields);
}

void Logger::Error(const std::string& message, const Fields& fields) {
  Write("error", message, fields);
}

void Logger::Access(const AccessRecord& record) {
  Fields fields = {{"id", record.id},
                   {"caller", record.caller},
                   {"peer", record.peer},
                   {"call", record.call},
                   {"status", record.status}};
  if (!record.finish.empty()) {
    fields.insert(fields.end(), {{"finish", record.finish},
                                 {"prompt_tokens", absl::StrCat(record.prompt_tokens)},
                                 {"cached_tokens", absl::StrCat(record.cached_tokens)},
                                 {"generated_tokens", absl::StrCat(record.generated_tokens)},
                                 {"solver_steps", absl::StrCat(record.solver_steps)},
                                 {"queue_ms", Millis(record.queue)},
                                 {"first_token_ms", Millis(record.first_token)}});
  }
  fields.emplace_back("total_ms", Millis(record.total));
  if (!record.message.empty()) fields.emplace_back("error", record.message);
  Write("info", "access", fields);
}

void Logger::Write(const char* level, const std::string& message, const Fields& fields) {
  const std::string time =
      absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", absl::Now(), absl::UTCTimeZone());
  std::string line;
  if (format_ == Format::kJson) {
    nlohmann::ordered_json json = {{"time", time}, {"level", level}, {"message", message}};
    for (const auto& [name, value] : fields) {
      // Counts and times are written by us as plain decimal numbers; ids may look like numbers too.
      const bool number = absl::EndsWith(name, "_tokens") || absl::EndsWith(name, "_ms") ||
                          absl::EndsWith(name, "_steps");
      json[name] = number
                       ? nlohmann::ordered_json::parse(value, nullptr, /*allow_exceptions=*/false)
                       : nlohmann::ordered_json(value);
    }
    line = json.dump(-1, ' ', /*ensure_ascii=*/true, nlohmann::json::error_handler_t::replace);
  } else {
    line = absl::StrCat(time, " ", level, " ", message);
    for (const auto& [name, value] : fields) {
      absl::StrAppend(&line, " ", name, "=", TextValue(value));
    }
  }
  MutexLock lock(&mutex_);
  sink_(line);
}

}  // namespace packrat
