// The server's options. flags.cc sets them from the command line, tests set them directly.
#ifndef PACKRAT_SERVER_OPTIONS_H_
#define PACKRAT_SERVER_OPTIONS_H_

#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "runtime/engine.h"
#include "runtime/session.h"

namespace packrat {

struct ServerOptions {
  std::string model_dir;   // config.json, safetensors, tokenizer.
  std::string model_name;  // Label in metrics and answers. Empty: the folder's name.
  // In the form of ParseListenAddress().
  std::string listen = "127.0.0.1:50051";      // gRPC.
  std::string http_listen = "127.0.0.1:8080";  // The API, metrics, health; empty: none.
  bool http_page = true;                       // The page at / of http_listen.
  std::string http_cors_origin;                // In the form of Cors::Read(); empty: none.
  std::string tls_certificate, tls_key;        // PEM files, both or none; none: no TLS.
  std::string tls_client_ca;  // Clients need a certificate of one of these; empty: they need none.
  bool http_tls = true;       // TLS at http_listen too, if there is a certificate.
  int max_connections = 0;    // Of gRPC; 0: as the limit of open files allows, at most 4096.
  int max_connection_streams = 1024;  // Open calls on one connection. Range [1, 1000000].
  // The age at which a connection is asked to end, within 10 %; 0: never. Range [1 s, 24 h].
  absl::Duration max_connection_age = absl::Minutes(5);
  // Time for its calls to end after that. Range [0, inf].
  absl::Duration max_connection_age_grace = absl::InfiniteDuration();
  // From the beginning of a call until its message is complete. Range [100 ms, 24 h].
  absl::Duration message_timeout = absl::Minutes(1);
  std::string api_keys;                 // File of keys, see api_keys.h; empty: anybody may call.
  bool metrics_need_key = false;        // Also for /metrics; needs api_keys.
  bool reflection = true;               // gRPC's server reflection, which needs no key.
  int threads = 0;                      // Of the model; 0: one per CPU it may use. Range [0, 1024].
  std::string device = "auto";          // auto, cpu, cuda.
  bool deterministic = false;           // On a GPU: equal bits alone and in company.
  bool overlap_kernels = false;         // On a GPU, while decoding.
  std::string state_type = "float32";   // Of matrices, on a GPU: float32, bfloat16.
  std::string cpu_target = "auto";      // auto, sse4, avx2, avx512, amx.
  std::string activations = "auto";     // On the CPU: auto, float32, bfloat16.
  std::string weights = "stored";       // stored, int8, int4.
  std::string output_weights = "auto";  // Of the output matrix: auto, stored, int8, int4.
  // How the model writes calls of tools: auto (as its chat template shows), none, or a name of
  // ToolFormats().
  std::string tool_format = "auto";
  std::string rat_plus_dial;        // See ParseRatPlusDials(). Empty: as the model says.
  bool rat_plus_unadapted = false;  // Also a dial that the weights were not trained for.
  int64_t memory_limit = 0;         // Bytes for the whole process; 0: as machine and cgroup allow.
  std::string plan;                 // text, json: print the plan and serve nothing. Empty: serve.
  EngineOptions engine;
  SolverOptions solver;  // Default of requests, with the same bounds.
  // Ranges: sessions [1, 1000000], tokens [0, 2^36], ttl [1 s, 720 h]. Tokens 0: SessionsOf().
  SessionOptions sessions;
  std::string session_store;                // In the form of OpenSessionStore(); empty: none.
  std::string session_store_password_file;  // Empty: none.
  // After the signal to stop, the server is not ready for drain_delay, so that balancers notice.
  // Then it takes no new calls, and after drain_grace it ends all calls. With a few seconds for the
  // end, this fits into the 30 s of Kubernetes.
  absl::Duration drain_delay = absl::Seconds(5);           // Range [0, 1 h].
  absl::Duration drain_grace = absl::Seconds(20);          // Range [0, 1 h].
  absl::Duration stall_timeout = absl::Seconds(30);        // Without a step. Range [100 ms, 24 h].
  absl::Duration stream_idle_timeout = absl::Seconds(60);  // Range [10 ms, 24 h].
  int max_message_bytes = 4 << 20;                         // Of a request. Range [1024, 1 GiB].
  // Memory for all incomplete messages together. There is no flag: it is MessageBytes() of the
  // memory that the process may use.
  int64_t message_bytes = int64_t{512} << 20;
  int max_streams = 4096;           // Generate calls that are open, finished ones that are still
                                    // being read included. Range [1, 1000000].
  int metrics_by_caller = 0;        // Callers with metrics of their own. Range [0, 1000].
  int max_text_queue = 256;         // Calls with long texts that wait to be tokenized, and as many
                                    // that wait for Tokenize or Detokenize. Range [1, 100000].
  std::string log_format = "text";  // text, json.
};

// Generate calls that may wait or run at the same time.
int OpenCalls(const ServerOptions& options);

// What bodies of HTTP requests may take of message_bytes; the rest is gRPC's.
int64_t HttpBodyBytes(const ServerOptions& options);

// INVALID_ARGUMENT names the flag, its value and its range. Fills in model_name.
absl::Status ValidateServerOptions(ServerOptions* options);

}  // namespace packrat

#endif  // PACKRAT_SERVER_OPTIONS_H_
