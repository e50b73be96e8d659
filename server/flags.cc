#include "server/flags.h"

#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "models/bounds.h"
#include "server/byte_size.h"
#include "server/command_line.h"

ABSL_FLAG(std::string, model, "",
          "Folder with config.json, model.safetensors and, for text, tokenizer.model or "
          "tokenizer.json. Required.");
ABSL_FLAG(std::string, model_name, "",
          "Name in answers, metrics and logs: 1 to 128 printable characters without spaces. "
          "Default: the name of the model's folder, with a dash where that has other characters.");
ABSL_FLAG(std::string, listen, "127.0.0.1:50051",
          "Address of gRPC: host:port, [IPv6]:port, :port (every address of the machine) or "
          "unix:/path; port in [0, 65535], 0 takes any free one.");
ABSL_FLAG(
    std::string, http_listen, "127.0.0.1:8080",
    "Address of the API over HTTP, and of /metrics, /healthz, /readyz, /balancerz and /version, "
    "written as for --listen. Empty: no such port.");
ABSL_FLAG(bool, http_page, true,
          "Show a page at / of --http_listen, with which a person tries the model in a browser.");
ABSL_FLAG(std::string, http_cors_origin, "",
          "Sites whose pages may use the API over HTTP from a browser, with commas between them: "
          "https://host or https://host:port; * for every site. Empty: none.");
ABSL_FLAG(std::string, tls_certificate, "",
          "File of PEM: the server's certificate, then those that lead to its authority. With it "
          "both ports speak TLS. Read again when it changes.");
ABSL_FLAG(std::string, tls_key, "",
          "File of PEM: the key of --tls_certificate, without a password. Read again when it "
          "changes.");
ABSL_FLAG(std::string, tls_client_ca, "",
          "File of PEM: authorities, one of which must have signed a client's certificate. Empty: "
          "clients need none. Read again when it changes.");
ABSL_FLAG(bool, http_tls, true,
          "With --tls_certificate: TLS at --http_listen too. Its /healthz, /readyz and /balancerz "
          "are open to "
          "clients without a certificate; its other pages are not, with --tls_client_ca.");
ABSL_FLAG(
    int32_t, max_connections, 0,
    "gRPC connections that are open; more are closed at once; range [0, 1000000]. 0: what the "
    "limit of open files (ulimit -n) allows, at most 4096.");
ABSL_FLAG(int32_t, max_connection_streams, 1024,
          "Calls that are open on one connection; clients keep more to themselves until there is "
          "room; range [1, 1000000].");
ABSL_FLAG(absl::Duration, max_connection_age, absl::Minutes(5),
          "Age, give or take 10 %, at which a gRPC connection is asked to end, so that its client "
          "connects anew and a balancer can choose again; its calls go on. Range [1s, 24h], or 0: "
          "never.");
ABSL_FLAG(absl::Duration, max_connection_age_grace, absl::InfiniteDuration(),
          "Time that the calls of such a connection have to end, e.g. 1h; range [0, inf].");
ABSL_FLAG(absl::Duration, message_timeout, absl::Minutes(1),
          "Time from the beginning of a call in which its message must have come whole, e.g. 1m; "
          "range [100ms, 24h].");
ABSL_FLAG(std::string, api_keys, "",
          "File of the API keys with which calls are let in, and of what each may use; read again "
          "when it changes. Empty: whoever comes may call. See docs/running.md.");
ABSL_FLAG(bool, metrics_need_key, false,
          "Let only those who send a key of --api_keys read /metrics.");
ABSL_FLAG(bool, reflection, true,
          "Answer gRPC's server reflection, by which tools learn the calls; it needs no key.");
ABSL_FLAG(
    std::string, device, "auto",
    "What computes: cpu, cuda (the first device that CUDA_VISIBLE_DEVICES shows), or auto: the "
    "GPU where there is one, else the CPU.");
ABSL_FLAG(bool, deterministic, false,
          "On a GPU: one order of additions for every batch size, so that an answer is the same "
          "alone and in company; costs speed. The CPU always answers so.");
ABSL_FLAG(
    bool, overlap_kernels, false,
    "On a GPU of compute capability 9.0 or more: while decoding, a kernel begins before the one "
    "before it has ended, and waits for it by itself (CUDA: programmatic dependent launch). The "
    "same answers. It has not run on a device yet: see docs/gpu.md.");
ABSL_FLAG(std::string, state_type, "float32",
          "On a GPU, how the matrices in the state of Mesa and gated delta layers are stored: "
          "float32, or bfloat16, which halves their memory and loses some precision.");
ABSL_FLAG(int32_t, threads, 0,
          "Threads of the model on the CPU; range [0, 1024]. 0: one per CPU that the process may "
          "use, a quota of its cgroup included.");
ABSL_FLAG(
    std::string, cpu_target, "auto",
    "Instruction set: auto (the best that the machine has), sse4, avx2, avx512 or amx (avx512 with "
    "bfloat16 multiplied in tiles).");
ABSL_FLAG(
    std::string, activations, "auto",
    "What products on the CPU multiply in: float32, which loses nothing, bfloat16 (for weights "
    "stored in bfloat16, on processors with AVX512-BF16), or auto: the quicker of the "
    "two here. But for float32, weights in 8 or 4 bits are multiplied in bytes; with bfloat16, "
    "attention and states are rounded to it too.");
ABSL_FLAG(
    std::string, tool_format, "auto",
    "How the model writes calls of tools, which OpenAI's endpoints find in its answers: auto (as "
    "its chat template shows), none (they stay text), or hermes, qwen_xml, llama, mistral, "
    "mistral_args, granite, nemotron, lfm2, olmo (docs/openai.md).");
ABSL_FLAG(
    std::string, weights, "stored",
    "How the layers' matrices are kept: stored (as the model's files have them), or quantised "
    "while they are read: int8 (8.5 bits a weight) or int4 (5 bits). Embedding, "
    "norms, small gates and convolutions stay as stored.");
ABSL_FLAG(std::string, output_weights, "auto",
          "How the output matrix is kept: stored, int8, int4, or auto: int8 where --weights "
          "quantises, or where it is the embedding and the files have other matrices quantised; "
          "else stored.");
ABSL_FLAG(
    std::string, rat_plus_dial, "",
    "What layers of RAT+ see beside the token itself: DILATION,WINDOW,SINKS, as 16,256,4: the "
    "ends of stretches of 16 tokens, the last 256 tokens, and the first 4. A dilation of 1: "
    "everything; of -1: no stretches. Each is one number, or one for each layer with colons "
    "between them. Empty: as the model's config.json says. Several, with slashes between "
    "them, are what requests may choose from, the first if they choose none; "
    "own: what config.json says, where its layers differ. Refused where the weights were not "
    "trained for it.");
ABSL_FLAG(bool, rat_plus_unadapted, false,
          "Take a --rat_plus_dial that the model's weights were not trained for; costs quality.");
ABSL_FLAG(int32_t, max_running, 64,
          absl::StrCat("Sequences that run together; range ", packrat::bounds::kMaxRunning.Range(),
                       "."));
ABSL_FLAG(int32_t, max_queue, 1024,
          absl::StrCat("Requests that wait; more are refused with RESOURCE_EXHAUSTED; range ",
                       packrat::bounds::kMaxQueue.Range(), "."));
ABSL_FLAG(int32_t, max_batch_tokens, 512,
          absl::StrCat("Tokens of one step, decoding first, then prompts; range ",
                       packrat::bounds::kMaxBatchTokens.Range(),
                       " and at least --max_running. Scratch memory grows with it."));
ABSL_FLAG(absl::Duration, inter_token_time, absl::Milliseconds(200),
          "How far apart prompts may put the tokens of texts that are generated beside them, e.g. "
          "50ms or inf; range [0, inf]. A step takes only as many prompt tokens as fit into this "
          "time, by a forecast that follows the machine; but in any case so many that half of the "
          "step is theirs. Shorter: smoother streams. Longer: sooner first tokens, and more tokens "
          "in all. inf: --max_batch_tokens alone bounds a step.");
ABSL_FLAG(absl::Duration, priority_step, absl::Milliseconds(200),
          absl::StrCat("Waiting time that is worth one level of a request's priority, so that none "
                       "waits for ever behind those of higher priority; range [",
                       absl::FormatDuration(packrat::bounds::kShortestPriorityStep), ", ",
                       absl::FormatDuration(packrat::bounds::kLongestPriorityStep), "]."));
ABSL_FLAG(int32_t, max_sessions, 4096,
          "Sessions that are kept; more are refused with RESOURCE_EXHAUSTED; range [1, 1000000].");
ABSL_FLAG(int64_t, max_session_tokens, 0,
          "Tokens of all their texts together, at 4 to 8 bytes of the process's memory each; range "
          "[0, 68719476736]. 0: as many as a 64th of the process's memory holds, at most 4194304.");
ABSL_FLAG(absl::Duration, session_ttl, absl::Hours(1),
          "Time after its last use at which a session expires, and the longest that a client may "
          "ask for, e.g. 1h; range [1s, 720h].");
ABSL_FLAG(std::string, session_store, "",
          "Where sessions are kept so that another replica goes on with them: the absolute path of "
          "a folder that all of them have, or redis://[USER@]HOST[:PORT][/DATABASE]. Empty: each "
          "ends with its process. See docs/sessions.md.");
ABSL_FLAG(std::string, session_store_password_file, "",
          "File whose first line is the password of that Redis. Empty: it asks for none.");
ABSL_FLAG(
    int32_t, max_context, 0,
    "Tokens of prompt and output together, per request; range [2, the model's own limit], or 0 "
    "for that limit.");
ABSL_FLAG(packrat::ByteSize, state_bytes, {},
          "Bytes for the state of all sequences, e.g. 2GiB; range [0, 70368744177664]. 0: enough "
          "for --max_running and --cache_sequences sequences of --max_context tokens, but at most "
          "what there is. On the "
          "CPU that is what the limit of the process's memory leaves, or a quarter of the "
          "machine's memory where there is no limit; on a GPU, what the device has left.");
ABSL_FLAG(bool, prefix_cache, true,
          "Keep the states of texts for later requests that begin alike, of the same tenant; they "
          "give way where running sequences need their memory.");
ABSL_FLAG(packrat::AutoCount, cache_sequences, {},
          absl::StrCat("Room in the state's memory for so many kept states beside --max_running "
                       "sequences; range ",
                       packrat::bounds::kCacheSequences.Range(),
                       ". auto: what these leave of --state_bytes, or without it of what there is, "
                       "then at most three times as much as they take. 0: kept states have what "
                       "running sequences do not use."));
ABSL_FLAG(packrat::AutoByteSize, park_memory, {},
          "Bytes of the process's memory for the states of requests that make way for others of "
          "higher priority or with a near deadline, and go on later, e.g. 512MiB; range [0, "
          "70368744177664]. auto: an eighth of what state takes and one longest request at least, "
          "as far as there is room. 0: nobody makes way.");
ABSL_FLAG(packrat::AutoByteSize, state_host_memory, {},
          "Bytes of the process's memory for kept states that the state's own memory has no room "
          "for, e.g. 4GiB: the last ones of sessions, and those that several requests began with; "
          "range [0, 70368744177664]. auto: with a GPU an eighth of what the process may take, at "
          "most 4 GiB; on the CPU, where both are the same memory, nothing, or with --state_dir a "
          "sixteenth, at most 256 MiB. 0: none, and no --state_dir either.");
ABSL_FLAG(std::string, state_dir, "",
          "Folder on a local disk, of this process alone, where kept states go that "
          "--state_host_memory has no room for; what an earlier process left in it is removed. "
          "Empty: none.");
ABSL_FLAG(
    packrat::ByteSize, state_disk, {packrat::EngineOptions().state_disk},
    "Bytes of the files in --state_dir, e.g. 100GiB; range [0, 1125899906842624]. Beyond, and "
    "where the disk is full before, the states that are worth least are dropped.");
ABSL_FLAG(packrat::ByteSize, memory_limit, {},
          "Bytes that the process may take, e.g. 8GiB; range [0, 70368744177664]. 0: what its "
          "cgroup, its resource limits and the machine allow. What does not fit is refused at the "
          "start.");
ABSL_FLAG(std::string, plan, "",
          "text or json: says what a server with these flags takes of memory and CPU and how many "
          "sequences of what length it holds at once, and serves nothing; of a model on the CPU. "
          "With --memory_limit, for a machine that has so much.");
ABSL_FLAG(double, cg_tolerance, 1e-4,
          absl::StrCat("Relative residual at which Mesa layers stop solving, where a request does "
                       "not say; range ",
                       packrat::bounds::kCgTolerance.Range(), "."));
ABSL_FLAG(int32_t, cg_max_steps, 64,
          absl::StrCat("Most steps of that solver, where a request does not say; range ",
                       packrat::bounds::kCgMaxSteps.Range(), "."));
ABSL_FLAG(absl::Duration, drain_delay, absl::Seconds(5),
          "Time after SIGTERM in which the server is not ready, but still takes calls, until all "
          "balancers have noticed, e.g. 5s; range [0, 1h]. SIGINT (Ctrl-C) leaves it out.");
ABSL_FLAG(absl::Duration, drain_grace, absl::Seconds(20),
          "Time that running requests have to end once no more are taken, e.g. 20s; range [0, 1h]. "
          "A second signal ends the process at once.");
ABSL_FLAG(absl::Duration, stall_timeout, absl::Seconds(30),
          "Time without a step of the engine, although there is work, after which the server is "
          "neither alive nor ready, e.g. 30s; range [100ms, 24h]. No step should take as long.");
ABSL_FLAG(absl::Duration, stream_idle_timeout, absl::Seconds(60),
          "Time after which a stream whose client does not read is ended, e.g. 60s; range [10ms, "
          "24h].");
ABSL_FLAG(int32_t, max_message_bytes, 4 << 20,
          "Bytes of a request message; range [1024, 1073741824].");
ABSL_FLAG(int32_t, max_streams, 4096,
          "Generate calls that are open, finished ones that are still being read included; range "
          "[1, 1000000].");
ABSL_FLAG(
    int32_t, metrics_by_caller, 0,
    "Callers (x-caller, or who the key belongs to) whose calls and tokens are counted apart in "
    "/metrics: the first so many, the rest as \"other\"; range [0, 1000]. 0: none.");
ABSL_FLAG(int32_t, max_text_queue, 256,
          "Calls with long texts that wait to be tokenized, and as many that wait for Tokenize or "
          "Detokenize; more are refused with RESOURCE_EXHAUSTED; range [1, 100000].");
ABSL_FLAG(std::string, log_format, "text", "Lines of the log, on standard error: text or json.");

namespace packrat {

ServerOptions OptionsFromCommandLine(int argc, char** argv, const std::string& program,
                                     const std::string& usage) {
  const std::vector<std::string> rest = ParseCommandLine(
      argc, argv, program, [&] { return absl::StrCat(usage, "\n\nFlags:\n", FlagsHelp()); });
  ServerOptions options;
  options.model_dir = absl::GetFlag(FLAGS_model);
  options.model_name = absl::GetFlag(FLAGS_model_name);
  options.listen = absl::GetFlag(FLAGS_listen);
  options.http_listen = absl::GetFlag(FLAGS_http_listen);
  options.http_page = absl::GetFlag(FLAGS_http_page);
  options.http_cors_origin = absl::GetFlag(FLAGS_http_cors_origin);
  options.tls_certificate = absl::GetFlag(FLAGS_tls_certificate);
  options.tls_key = absl::GetFlag(FLAGS_tls_key);
  options.tls_client_ca = absl::GetFlag(FLAGS_tls_client_ca);
  options.http_tls = absl::GetFlag(FLAGS_http_tls);
  options.max_connections = absl::GetFlag(FLAGS_max_connections);
  options.max_connection_streams = absl::GetFlag(FLAGS_max_connection_streams);
  options.max_connection_age = absl::GetFlag(FLAGS_max_connection_age);
  options.max_connection_age_grace = absl::GetFlag(FLAGS_max_connection_age_grace);
  options.message_timeout = absl::GetFlag(FLAGS_message_timeout);
  options.api_keys = absl::GetFlag(FLAGS_api_keys);
  options.metrics_need_key = absl::GetFlag(FLAGS_metrics_need_key);
  options.reflection = absl::GetFlag(FLAGS_reflection);
  options.threads = absl::GetFlag(FLAGS_threads);
  options.device = absl::GetFlag(FLAGS_device);
  options.deterministic = absl::GetFlag(FLAGS_deterministic);
  options.overlap_kernels = absl::GetFlag(FLAGS_overlap_kernels);
  options.state_type = absl::GetFlag(FLAGS_state_type);
  options.cpu_target = absl::GetFlag(FLAGS_cpu_target);
  options.activations = absl::GetFlag(FLAGS_activations);
  options.tool_format = absl::GetFlag(FLAGS_tool_format);
  options.weights = absl::GetFlag(FLAGS_weights);
  options.output_weights = absl::GetFlag(FLAGS_output_weights);
  options.rat_plus_dial = absl::GetFlag(FLAGS_rat_plus_dial);
  options.rat_plus_unadapted = absl::GetFlag(FLAGS_rat_plus_unadapted);
  options.engine.max_running = absl::GetFlag(FLAGS_max_running);
  options.engine.max_queue = absl::GetFlag(FLAGS_max_queue);
  options.engine.max_batch_tokens = absl::GetFlag(FLAGS_max_batch_tokens);
  options.engine.inter_token_time = absl::GetFlag(FLAGS_inter_token_time);
  options.engine.priority_step = absl::GetFlag(FLAGS_priority_step);
  options.engine.max_context = absl::GetFlag(FLAGS_max_context);
  options.engine.state_bytes = absl::GetFlag(FLAGS_state_bytes).bytes;
  options.sessions.max_sessions = absl::GetFlag(FLAGS_max_sessions);
  options.sessions.max_tokens = absl::GetFlag(FLAGS_max_session_tokens);
  options.sessions.ttl = absl::GetFlag(FLAGS_session_ttl);
  options.session_store = absl::GetFlag(FLAGS_session_store);
  options.session_store_password_file = absl::GetFlag(FLAGS_session_store_password_file);
  options.engine.prefix_cache = absl::GetFlag(FLAGS_prefix_cache);
  options.engine.cache_sequences = absl::GetFlag(FLAGS_cache_sequences).count;
  options.engine.park_memory = absl::GetFlag(FLAGS_park_memory).bytes;
  options.engine.state_host_memory = absl::GetFlag(FLAGS_state_host_memory).bytes;
  options.engine.state_dir = absl::GetFlag(FLAGS_state_dir);
  options.engine.state_disk = absl::GetFlag(FLAGS_state_disk).bytes;
  options.memory_limit = absl::GetFlag(FLAGS_memory_limit).bytes;
  options.plan = absl::GetFlag(FLAGS_plan);
  options.solver.cg_tolerance = static_cast<float>(absl::GetFlag(FLAGS_cg_tolerance));
  options.solver.cg_max_steps = absl::GetFlag(FLAGS_cg_max_steps);
  options.drain_delay = absl::GetFlag(FLAGS_drain_delay);
  options.drain_grace = absl::GetFlag(FLAGS_drain_grace);
  options.stall_timeout = absl::GetFlag(FLAGS_stall_timeout);
  options.stream_idle_timeout = absl::GetFlag(FLAGS_stream_idle_timeout);
  options.max_message_bytes = absl::GetFlag(FLAGS_max_message_bytes);
  options.max_streams = absl::GetFlag(FLAGS_max_streams);
  options.metrics_by_caller = absl::GetFlag(FLAGS_metrics_by_caller);
  options.max_text_queue = absl::GetFlag(FLAGS_max_text_queue);
  options.log_format = absl::GetFlag(FLAGS_log_format);
  absl::Status status = ValidateServerOptions(&options);
  if (status.ok() && !rest.empty()) {
    status = absl::InvalidArgumentError(
        absl::StrCat("unexpected argument \"", rest[0], "\"; flags are written --name=value"));
  }
  if (!status.ok()) {
    std::fprintf(stderr, "%s: %s\nSee %s --help.\n", program.c_str(),
                 std::string(status.message()).c_str(), program.c_str());
    std::exit(2);
  }
  return options;
}

}  // namespace packrat
