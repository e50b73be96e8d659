#include "server/options.h"

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "models/bounds.h"
#include "models/config.h"
#include "models/text/tool_calls/tool_format.h"
#include "server/http/cors.h"
#include "server/net/listen_address.h"
#include "server/store/open_store.h"

namespace packrat {
namespace {

absl::Status Check(const char* flag, const Bound& bound, double value) {
  return bound.Check(absl::StrCat("--", flag), value);
}

absl::Status CheckInt(const char* flag, int64_t value, int64_t low, int64_t high) {
  return Check(flag, {flag, static_cast<double>(low), static_cast<double>(high)},
               static_cast<double>(value));
}

absl::Status CheckDuration(const char* flag, absl::Duration value, absl::Duration low,
                           absl::Duration high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("--", flag, " is ", absl::FormatDuration(value),
                                                 "; range [", absl::FormatDuration(low), ", ",
                                                 absl::FormatDuration(high), "]"));
}

absl::Status CheckChoice(const char* flag, const std::string& value,
                         const std::vector<const char*>& choices) {
  std::string all;
  for (const char* choice : choices) {
    if (value == choice) return absl::OkStatus();
    absl::StrAppend(&all, all.empty() ? "" : ", ", choice);
  }
  return absl::InvalidArgumentError(absl::StrCat("--", flag, " is \"", value, "\"; one of: ", all));
}

absl::Status CheckAddress(const char* flag, const std::string& value) {
  const absl::Status status = ParseListenAddress(value).status();
  if (status.ok()) return status;
  return absl::InvalidArgumentError(absl::StrCat("--", flag, ": ", status.message()));
}

absl::Status CheckOrigins(const std::string& list) {
  const absl::Status status = Cors::Read(list).status();
  if (status.ok()) return status;
  return absl::InvalidArgumentError(absl::StrCat("--http_cors_origin: ", status.message()));
}

constexpr size_t kMaxModelName = 128;

// The name becomes a label of metrics and part of log lines.
bool FitsModelName(unsigned char c) { return c > 0x20 && c < 0x7f && c != '"' && c != '\\'; }

// A name for the model in this folder: the folder's name, with dashes in place of characters that a
// name cannot have.
std::string NameAfter(const std::string& folder) {
  std::filesystem::path path = std::filesystem::absolute(folder).lexically_normal();
  if (path.filename().empty()) path = path.parent_path();  // It ended with a slash.
  std::string name;
  for (unsigned char c : path.filename().string()) {
    if (FitsModelName(c)) {
      name.push_back(static_cast<char>(c));
    } else if (name.empty() || name.back() != '-') {
      name.push_back('-');
    }
  }
  return name.empty() ? "model" : name.substr(0, kMaxModelName);
}

absl::Status CheckModelName(const std::string& name) {
  const bool good = !name.empty() && name.size() <= kMaxModelName &&
                    std::all_of(name.begin(), name.end(), FitsModelName);
  if (good) return absl::OkStatus();
  return absl::InvalidArgumentError(
      "--model_name must be 1 to 128 printable ASCII characters without spaces, quotes or "
      "backslashes (default: the name of the model's folder)");
}

std::vector<const char*> ToolFormatChoices() {
  std::vector<const char*> names = {"auto", "none"};
  for (const ToolFormat& format : ToolFormats()) names.push_back(format.name);
  return names;
}

absl::Status CheckDial(const ServerOptions& options) {
  if (!options.rat_plus_dial.empty()) {
    const absl::Status dial = ParseRatPlusDials(options.rat_plus_dial).status();
    return dial.ok() ? dial
                     : absl::InvalidArgumentError(absl::StrCat("--rat_plus_dial ", dial.message()));
  }
  if (!options.rat_plus_unadapted) return absl::OkStatus();
  return absl::InvalidArgumentError("--rat_plus_unadapted needs --rat_plus_dial");
}

}  // namespace

int OpenCalls(const ServerOptions& options) {
  return std::min(options.max_streams, options.engine.max_running + options.engine.max_queue);
}

int64_t HttpBodyBytes(const ServerOptions& options) {
  if (options.http_listen.empty()) return 0;
  const int64_t wanted = std::max<int64_t>(options.message_bytes / 4, options.max_message_bytes);
  return std::min(wanted, options.message_bytes / 2);
}

absl::Status ValidateServerOptions(ServerOptions* options) {
  if (options->model_dir.empty()) {
    return absl::InvalidArgumentError(
        "--model is missing; a folder with config.json and model.safetensors");
  }
  if (options->model_name.empty()) options->model_name = NameAfter(options->model_dir);
  const EngineOptions& engine = options->engine;
  const int64_t max_int = INT32_MAX;
  for (const absl::Status& status : {
           CheckModelName(options->model_name),
           CheckAddress("listen", options->listen),
           options->http_listen.empty() ? absl::OkStatus()
                                        : CheckAddress("http_listen", options->http_listen),
           CheckOrigins(options->http_cors_origin),
           CheckInt("max_connections", options->max_connections, 0, 1000000),
           CheckInt("max_connection_streams", options->max_connection_streams, 1, 1000000),
           options->max_connection_age == absl::ZeroDuration()
               ? absl::OkStatus()
               : CheckDuration("max_connection_age", options->max_connection_age, absl::Seconds(1),
                               absl::Hours(24)),
           CheckDuration("max_connection_age_grace", options->max_connection_age_grace,
                         absl::ZeroDuration(), absl::InfiniteDuration()),
           CheckDuration("message_timeout", options->message_timeout, absl::Milliseconds(100),
                         absl::Hours(24)),
           CheckInt("threads", options->threads, 0, 1024),
           CheckChoice("device", options->device, {"auto", "cpu", "cuda"}),
           CheckChoice("state_type", options->state_type, {"float32", "bfloat16"}),
           CheckChoice("cpu_target", options->cpu_target,
                       {"auto", "sse4", "avx2", "avx512", "amx"}),
           CheckChoice("activations", options->activations, {"auto", "float32", "bfloat16"}),
           CheckChoice("weights", options->weights, {"stored", "int8", "int4"}),
           CheckChoice("output_weights", options->output_weights,
                       {"auto", "stored", "int8", "int4"}),
           CheckChoice("tool_format", options->tool_format, ToolFormatChoices()),
           CheckDial(*options),
           Check("max_running", bounds::kMaxRunning, engine.max_running),
           Check("max_queue", bounds::kMaxQueue, engine.max_queue),
           Check("max_batch_tokens", bounds::kMaxBatchTokens, engine.max_batch_tokens),
           CheckDuration("inter_token_time", engine.inter_token_time, absl::ZeroDuration(),
                         absl::InfiniteDuration()),
           CheckInt("max_sessions", options->sessions.max_sessions, 1, 1000000),
           CheckInt("max_session_tokens", options->sessions.max_tokens, 0, int64_t{1} << 36),
           CheckDuration("session_ttl", options->sessions.ttl, absl::Seconds(1), absl::Hours(720)),
           CheckStoreFlags(options->session_store, options->session_store_password_file),
           CheckDuration("priority_step", engine.priority_step, bounds::kShortestPriorityStep,
                         bounds::kLongestPriorityStep),
           CheckInt("max_context", engine.max_context, 0, max_int),
           CheckInt("state_bytes", engine.state_bytes, 0, int64_t{1} << 46),
           engine.cache_sequences == EngineOptions::kAutoCacheSequences
               ? absl::OkStatus()
               : Check("cache_sequences", bounds::kCacheSequences, engine.cache_sequences),
           engine.park_memory == EngineOptions::kAutoParkMemory
               ? absl::OkStatus()
               : CheckInt("park_memory", engine.park_memory, 0, int64_t{1} << 46),
           engine.state_host_memory == EngineOptions::kAutoHostMemory
               ? absl::OkStatus()
               : CheckInt("state_host_memory", engine.state_host_memory, 0, int64_t{1} << 46),
           CheckInt("state_disk", engine.state_disk, 0, int64_t{1} << 50),
           CheckInt("memory_limit", options->memory_limit, 0, int64_t{1} << 46),
           options->plan.empty() ? absl::OkStatus()
                                 : CheckChoice("plan", options->plan, {"text", "json"}),
           Check("cg_tolerance", bounds::kCgTolerance, options->solver.cg_tolerance),
           Check("cg_max_steps", bounds::kCgMaxSteps, options->solver.cg_max_steps),
           CheckDuration("drain_delay", options->drain_delay, absl::ZeroDuration(), absl::Hours(1)),
           CheckDuration("stall_timeout", options->stall_timeout, absl::Milliseconds(100),
                         absl::Hours(24)),
           CheckDuration("drain_grace", options->drain_grace, absl::ZeroDuration(), absl::Hours(1)),
           CheckDuration("stream_idle_timeout", options->stream_idle_timeout,
                         absl::Milliseconds(10), absl::Hours(24)),
           CheckInt("max_message_bytes", options->max_message_bytes, 1024, 1 << 30),
           CheckInt("max_streams", options->max_streams, 1, 1000000),
           CheckInt("metrics_by_caller", options->metrics_by_caller, 0, 1000),
           CheckInt("max_text_queue", options->max_text_queue, 1, 100000),
           CheckChoice("log_format", options->log_format, {"text", "json"}),
       }) {
    if (!status.ok()) return status;
  }
  if (options->tls_certificate.empty() != options->tls_key.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(options->tls_key.empty() ? "--tls_key" : "--tls_certificate",
                     " is missing; a certificate and its key come together"));
  }
  // Then automatic memory for states is none.
  if (!engine.state_dir.empty() && !engine.prefix_cache && engine.state_host_memory <= 0) {
    return absl::InvalidArgumentError("--state_dir needs --prefix_cache, which is false");
  }
  if (!engine.state_dir.empty() && engine.state_host_memory == 0) {
    return absl::InvalidArgumentError(
        "--state_dir needs --state_host_memory, which is 0: what is written and read is there");
  }
  if (!options->tls_client_ca.empty() && options->tls_certificate.empty()) {
    return absl::InvalidArgumentError("--tls_client_ca needs --tls_certificate and --tls_key");
  }
  if (options->metrics_need_key && options->api_keys.empty()) {
    return absl::InvalidArgumentError("--metrics_need_key needs --api_keys, which is not given");
  }
  if (engine.max_batch_tokens < engine.max_running) {
    return absl::InvalidArgumentError(
        absl::StrCat("--max_batch_tokens is ", engine.max_batch_tokens,
                     "; it must be at least --max_running, ", engine.max_running));
  }
  return absl::OkStatus();
}

}  // namespace packrat
