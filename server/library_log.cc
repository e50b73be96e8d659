#include "server/library_log.h"

#include <google/protobuf/stubs/logging.h>
#include <grpc/support/log.h>

#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace packrat {
namespace {

// The libraries accept only plain functions.
Logger* g_log = nullptr;

void Write(bool error, const char* library, absl::string_view text, absl::string_view file,
           int line) {
  const Logger::Fields fields = {
      {"library", library},
      {"text", text},
      {"source", absl::StrCat(file.substr(file.rfind('/') + 1), ":", line)}};
  error ? g_log->Error("library", fields) : g_log->Info("library", fields);
}

// After a fatal message, both libraries end the process by themselves.
void FlushLastWords() { g_log->Flush(absl::Milliseconds(200)); }

void FromGrpc(gpr_log_func_args* args) {
  Write(args->severity == GPR_LOG_SEVERITY_ERROR, "grpc", args->message, args->file, args->line);
  if (absl::StartsWith(args->message, "assertion failed")) FlushLastWords();
}

void FromProtobuf(google::protobuf::LogLevel level, const char* file, int line,
                  const std::string& message) {
  Write(level >= google::protobuf::LOGLEVEL_ERROR, "protobuf", message, file, line);
  if (level == google::protobuf::LOGLEVEL_FATAL) FlushLastWords();
}

}  // namespace

void LogForLibraries(Logger* log) {
  g_log = log;
  gpr_set_log_function(FromGrpc);
  google::protobuf::SetLogHandler(FromProtobuf);
}

}  // namespace packrat
