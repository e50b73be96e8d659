#include "server/log.h"

#include <unistd.h>

#include <chrono>
#include <cmath>
#include <string>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "nlohmann/json.hpp"

namespace packrat {
namespace {

// A value with a space, a quote or a control character is quoted, so that every line has one
// meaning, whatever a client sends.
std::string Quoted(const std::string& value) {
  bool plain = !value.empty();
  for (unsigned char c : value) plain = plain && c > 0x20 && c < 0x7f && c != '"' && c != '=';
  return plain ? value : absl::StrCat("\"", absl::CHexEscape(value), "\"");
}

std::string TextValue(const LogValue& value) {
  if (const auto* text = std::get_if<std::string>(&value.get())) return Quoted(*text);
  if (const auto* number = std::get_if<int64_t>(&value.get())) return absl::StrCat(*number);
  return absl::StrFormat("%.3f", absl::ToDoubleMilliseconds(std::get<absl::Duration>(value.get())));
}

nlohmann::ordered_json JsonValue(const LogValue& value) {
  if (const auto* text = std::get_if<std::string>(&value.get())) return *text;
  if (const auto* number = std::get_if<int64_t>(&value.get())) return *number;
  // To the microsecond.
  return std::round(absl::ToDoubleMicroseconds(std::get<absl::Duration>(value.get()))) / 1000;
}

}  // namespace

Logger::Logger(Format format, std::function<void(std::string)> sink)
    : format_(format),
      writer_(sink ? nullptr
                   : std::make_unique<LogWriter>(
                         STDERR_FILENO,
                         [this](int64_t count) {
                           return Line("error", "log lines dropped", {{"count", count}});
                         })),
      sink_(sink ? std::move(sink)
                 : [writer = writer_.get()](std::string line) { writer->Write(std::move(line)); }) {
}

void Logger::Info(const std::string& message, const Fields& fields) {
  sink_(Line("info", message, fields));
}

void Logger::Error(const std::string& message, const Fields& fields) {
  sink_(Line("error", message, fields));
}

void Logger::Access(const AccessRecord& record) {
  Fields fields = {
      {"id", record.id}, {"caller", record.caller}, {"peer", record.peer}, {"call", record.call}};
  if (!record.path.empty()) fields.emplace_back("path", record.path);
  fields.emplace_back("status", record.status);
  if (!record.trace_id.empty()) {
    fields.insert(
        fields.end(),
        {{"trace_id", record.trace_id},
         {"span_id", record.span_id},
         {"parent_span_id", record.parent_span_id},
         {"start", absl::FormatTime("%Y-%m-%dT%H:%M:%E6SZ", record.start, absl::UTCTimeZone())}});
  }
  if (!record.finish.empty()) {
    fields.insert(fields.end(), {{"finish", record.finish},
                                 {"prompt_tokens", record.prompt_tokens},
                                 {"cached_tokens", record.cached_tokens},
                                 {"generated_tokens", record.generated_tokens},
                                 {"solver_steps", record.solver_steps},
                                 {"queue_ms", record.queue},
                                 {"first_token_ms", record.first_token}});
  }
  fields.emplace_back("total_ms", record.total);
  if (!record.not_stored.empty()) fields.emplace_back("not_stored", record.not_stored);
  if (!record.message.empty()) fields.emplace_back("error", record.message);
  Info("access", fields);
}

void Logger::Flush(absl::Duration timeout) {
  if (writer_ != nullptr) writer_->Flush(timeout);
}

int64_t Logger::dropped_lines() const { return writer_ == nullptr ? 0 : writer_->dropped(); }

std::string Logger::Line(const char* level, const std::string& message,
                         const Fields& fields) const {
  // absl::Now() may ignore for seconds that the clock was set.
  const absl::Time now = absl::FromChrono(std::chrono::system_clock::now());
  const std::string time = absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", now, absl::UTCTimeZone());
  if (format_ == Format::kJson) {
    nlohmann::ordered_json json = {{"time", time}, {"level", level}, {"message", message}};
    for (const auto& [name, value] : fields) json[name] = JsonValue(value);
    return json.dump(-1, ' ', /*ensure_ascii=*/true, nlohmann::json::error_handler_t::replace);
  }
  std::string line = absl::StrCat(time, " ", level, " ", message);
  for (const auto& [name, value] : fields) absl::StrAppend(&line, " ", name, "=", TextValue(value));
  return line;
}

}  // namespace packrat
