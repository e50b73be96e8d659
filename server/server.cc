#include "server/server.h"

#include <algorithm>
#include <chrono>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/cpu_target.h"
#include "nlohmann/json.hpp"
#include "runtime/engine_thread.h"
#include "runtime/memory_plan.h"
#include "runtime/steady_clock.h"
#include "server/generation/call_environment.h"
#include "server/generation/response_builder.h"
#include "server/grpc/grpc_port.h"
#include "server/grpc/inference_service.h"
#include "server/grpc/unread_calls.h"
#include "server/http/api_routes.h"
#include "server/http/http_server.h"
#include "server/http/operator_pages.h"
#include "server/net/descriptors.h"
#include "server/net/tls_store.h"
#include "server/page/page.h"
#include "server/store/open_store.h"
#include "server/stored_sessions.h"
#include "server/version.h"
#include "server/watchdog.h"

namespace packrat {

// Members are destroyed from the last to the first: the ports, the threads that look at the engine
// and step it, the engine, and then what all of them use.
struct Server::Impl {
  Impl(ServerOptions o, Logger* l, std::unique_ptr<ApiKeys> k)
      : options(std::move(o)),
        log(l),
        keys(std::move(k)),
        metrics(options),
        sessions(options.sessions, &RandomNumber),
        unread(UnreadLimits(options)),
        service(&environment, &unread),
        writer(std::min(options.stream_idle_timeout / 4, absl::Seconds(1)),
               [this](absl::Time) {
                 metrics.Sample(std::chrono::steady_clock::now());
                 sessions.Expire(SteadyNow());
                 TellStateTrouble();
                 ReloadKeys();
               }),
        prompts(TextPool(options)),
        texts(TextPool(options)),
        transfer_bytes(TransferBytes(options.message_bytes)),
        transfers(TransferPool(options)) {
    environment.options = &options;
    environment.log = log;
    environment.metrics = &metrics;
    environment.writer = &writer;
    environment.sessions = &sessions;
    environment.keys = keys.get();
    environment.prompts = &prompts;
    environment.texts = &texts;
    environment.transfer_bytes = &transfer_bytes;
    environment.transfers = &transfers;
    AddGauges();
  }

  static WorkPool::Options TextPool(const ServerOptions& options) {
    WorkPool::Options pool;
    pool.max_queue = options.max_text_queue;
    return pool;
  }
  static WorkPool::Options TransferPool(const ServerOptions& options) {
    WorkPool::Options pool;
    pool.threads = 2;  // They wait more than they work.
    pool.max_queue = options.max_streams;
    pool.what = "sessions to save or load";
    pool.limit = "max_streams";
    return pool;
  }
  static UnreadCalls::Options UnreadLimits(const ServerOptions& options) {
    UnreadCalls::Options limits;
    limits.timeout = absl::ToChronoMilliseconds(options.message_timeout);
    // Slow messages may use half of the memory. The other half is for the rest.
    const int64_t messages = options.message_bytes / 2 / options.max_message_bytes;
    limits.most_slow = static_cast<int>(std::clamp<int64_t>(messages, 1, 1024));
    return limits;
  }
  void AddGauges();
  void ReloadKeys() {
    if (keys == nullptr) return;
    const absl::StatusOr<bool> changed = keys->ReloadIfChanged();
    if (!changed.ok()) {
      log->Error("the API keys stay as they were",
                 {{"error", std::string(changed.status().message())}});
    } else if (*changed) {
      log->Info("API keys read again", {{"file", options.api_keys}});
    }
  }
  // Once a minute is enough: it may come with every state.
  void TellStateTrouble() {
    const bool has_engine = environment.served.load() != nullptr;
    if (!has_engine || SteadyNow() < next_trouble) return;
    const absl::Status trouble = engine->TakeStateTrouble();
    if (trouble.ok()) return;
    log->Error("states are not kept in --state_dir", {{"error", std::string(trouble.message())}});
    next_trouble = SteadyNow() + absl::Minutes(1);
  }
  absl::Status OpenTls();
  absl::Status StartGrpc(const DescriptorShares& shares);
  absl::Status StartHttp(const DescriptorShares& shares);
  // Updates health and metrics from the environment.
  void PublishHealth();
  void Fail(const absl::Status& status, const std::function<void()>& on_failure);
  void SetStalled(bool stalled);

  ServerOptions options;
  Logger* const log;
  const std::unique_ptr<ApiKeys> keys;  // Null: none are asked for.
  Metrics metrics;
  Sessions sessions;
  CallEnvironment environment;
  UnreadCalls unread;
  InferenceService service;
  ServedModel served;
  Mutex health_mutex;
  std::unique_ptr<SessionStore> store;  // Kept here until there is a model. Null: none.
  std::unique_ptr<Engine> engine;
  absl::Time next_trouble = absl::InfinitePast();  // TellStateTrouble()'s.
  std::unique_ptr<SessionTransfer> transfer;
  // They use the engine.
  StreamWriter writer;
  WorkPool prompts, texts;
  std::unique_ptr<StoredSessions> stored;  // Null: none.
  ByteBudget transfer_bytes;
  WorkPool transfers;
  std::unique_ptr<Watchdog> watchdog;
  std::unique_ptr<EngineThread> engine_thread;
  std::unique_ptr<TlsStore> tls;  // Null: none.
  std::unique_ptr<GrpcPort> grpc;
  std::unique_ptr<HttpServer> http;
};

void Server::Impl::AddGauges() {
  metrics.AddGauge(
      "packrat_streams_open",
      "Generate calls that are open, finished ones that are still being read included.",
      [this] { return environment.streams.count(); });
  metrics.AddGauge("packrat_calls_unread",
                   "Calls that have begun and whose message is not there yet.",
                   [this] { return unread.count(); });
  metrics.AddCounter("packrat_calls_unread_ended_total",
                     "Such calls that were ended: too old, or too many.",
                     [this] { return static_cast<double>(unread.ended()); });
  metrics.AddGauge("packrat_prompts_waiting", "Long prompts that wait to be tokenized.",
                   [this] { return prompts.waiting(); });
  metrics.AddGauge("packrat_texts_waiting",
                   "Long texts of Tokenize and Detokenize that wait to be worked on.",
                   [this] { return texts.waiting(); });
  const auto grammars = [this](int64_t (GrammarMemory::*read)() const) -> double {
    const ServedModel* const served = environment.served.load();
    if (served == nullptr || served->rules.grammars == nullptr) return 0;
    return static_cast<double>((served->rules.grammars->memory().*read)());
  };
  metrics.AddGauge("packrat_grammars",
                   "Grammars of structured output that requests have or that are kept.",
                   [grammars] { return grammars(&GrammarMemory::grammars); });
  metrics.AddGauge("packrat_grammar_bytes",
                   "Memory that grammars take, with the tokenizer's pieces as they need them.",
                   [grammars] { return grammars(&GrammarMemory::used); });
  metrics.AddGauge("packrat_grammar_limit_bytes", "Most memory that grammars may take.",
                   [grammars] { return grammars(&GrammarMemory::limit); });
  metrics.AddGauge("packrat_sessions", "Sessions that are kept.",
                   [this] { return sessions.stats().sessions; });
  metrics.AddGauge("packrat_sessions_busy", "Sessions in which a call generates.",
                   [this] { return sessions.stats().busy; });
  metrics.AddGauge("packrat_session_tokens",
                   "Tokens of all sessions, with what running calls may add.",
                   [this] { return static_cast<double>(sessions.stats().tokens); });
  metrics.AddCounter("packrat_sessions_created_total", "Sessions that were made, by forks too.",
                     [this] { return static_cast<double>(sessions.stats().created); });
  metrics.AddCounter("packrat_sessions_expired_total",
                     "Sessions that were dropped since nobody used them for so long.",
                     [this] { return static_cast<double>(sessions.stats().expired); });
  metrics.AddGauge("packrat_session_transfer_bytes",
                   "Bytes that sessions which are being saved and loaded hold.",
                   [this] { return static_cast<double>(transfer_bytes.used()); });
  metrics.AddCounter(
      "packrat_session_states_dropped_total",
      "Sessions that came without their state, which another kind of processor had "
      "computed: their next turn computes the text anew.",
      [this] {
        const ServedModel* model = environment.served.load();
        return model == nullptr ? 0 : static_cast<double>(model->transfer->states_dropped());
      });
  const auto add_of_store = [this](const char* name, const char* help,
                                   double (*value)(const StoredSessions&)) {
    metrics.AddCounter(name, help, [this, value] {
      const StoredSessions* stored = environment.stored.load();
      return stored == nullptr ? 0 : value(*stored);
    });
  };
  add_of_store("packrat_sessions_fetched_total", "Sessions that came from the session store.",
               [](const StoredSessions& s) -> double { return s.stats().fetched.load(); });
  add_of_store("packrat_sessions_stored_total",
               "Sessions that were put into the session store, once for each change.",
               [](const StoredSessions& s) -> double { return s.stats().stored.load(); });
  add_of_store("packrat_sessions_not_stored_total",
               "Changes of sessions that the session store did not take.",
               [](const StoredSessions& s) -> double { return s.not_stored(); });
  add_of_store("packrat_session_store_failures_total",
               "Calls that the session store did not answer.",
               [](const StoredSessions& s) -> double { return s.stats().failures.load(); });
  add_of_store("packrat_session_store_calls_total",
               "Calls to the session store, those that it did not answer included.",
               [](const StoredSessions& s) -> double { return s.stats().calls.load(); });
  add_of_store("packrat_session_store_seconds_total", "Time that these calls took.",
               [](const StoredSessions& s) { return 1e-9 * s.stats().nanoseconds.load(); });
  metrics.AddGauge("packrat_draining", "1 from the signal to stop on.",
                   [this] { return environment.draining.load() ? 1 : 0; });
  metrics.AddGauge("packrat_engine_stalled",
                   "1 while the engine has work and takes no steps: not alive.",
                   [this] { return environment.stalled.load() ? 1 : 0; });
  metrics.AddCounter("packrat_log_lines_dropped_total",
                     "Lines of the log that were lost since nobody read them.",
                     [this] { return static_cast<double>(log->dropped_lines()); });
}

absl::Status Server::Impl::OpenTls() {
  if (options.tls_certificate.empty()) return absl::OkStatus();
  auto opened =
      TlsStore::Open({options.tls_certificate, options.tls_key, options.tls_client_ca}, log);
  if (!opened.ok()) return opened.status();
  tls = *std::move(opened);
  return absl::OkStatus();
}

absl::Status Server::Impl::StartGrpc(const DescriptorShares& shares) {
  auto started = GrpcPort::Start(options, shares.grpc, tls.get(), &service, &unread, log);
  if (!started.ok()) return started.status();
  grpc = *std::move(started);
  metrics.AddGauge("packrat_connections_open", "gRPC connections that are open.",
                   [this] { return grpc->open_connections(); });
  metrics.AddGauge("packrat_max_connections", "Most open gRPC connections: --max_connections.",
                   [limit = shares.grpc] { return limit; });
  metrics.AddCounter("packrat_connections_refused_total",
                     "gRPC connections beyond that limit, closed at once.",
                     [this] { return grpc->refused_connections(); });
  metrics.AddCounter("packrat_accept_failures_total",
                     "Failed attempts to accept a gRPC connection.",
                     [this] { return grpc->accept_failures(); });
  PublishHealth();
  return absl::OkStatus();
}

absl::Status Server::Impl::StartHttp(const DescriptorShares& shares) {
  if (options.http_listen.empty()) return absl::OkStatus();
  OperatorPages pages;
  pages.metrics = [this] { return metrics.Render(std::chrono::steady_clock::now()); };
  if (options.metrics_need_key) {
    pages.may_read_metrics = [this](const std::string& authorization) {
      return keys->Authenticate(authorization).status();
    };
  }
  pages.not_alive = [this] {
    return environment.stalled.load() ? std::string(environment.TakesCalls().message()) : "";
  };
  pages.draining = [this] { return environment.draining.load(); };
  pages.not_ready = [this] {
    if (grpc->deaf()) return std::string("connections to --listen cannot be accepted");
    return std::string(environment.Ready().message());
  };
  pages.version = [this] {
    nlohmann::ordered_json json = {{"version", kVersion}, {"model", options.model_name}};
    const ServedModel* model = environment.served.load();
    if (model != nullptr) {
      json["cpu_target"] = CpuTargetName();
      json["device"] = model->model->device();
      json["numerics_id"] = model->model->numerics_id();
      json["fingerprint"] = model->model->fingerprint();
    }
    return json.dump();
  };
  HttpServer::Options http_options;
  http_options.address = options.http_listen;
  if (options.http_tls) http_options.tls = tls.get();
  http_options.max_connections = shares.http;
  http_options.body = absl::ToChronoMilliseconds(options.message_timeout);
  http_options.body_bytes = HttpBodyBytes(options);
  http_options.refusal = &ApiRefusal;
  http_options.cors = *Cors::Read(options.http_cors_origin);  // It has been checked.
  http_options.on_answer = [this](const std::string& path, int status) {
    metrics.OnHttpAnswer(path, status);
  };
  std::vector<HttpRoute> routes = OperatorRoutes(pages);
  if (options.http_page) {
    for (HttpRoute& route : PageRoutes()) routes.push_back(std::move(route));
  }
  for (HttpRoute& route : ApiRoutes(&environment)) routes.push_back(std::move(route));
  auto started = HttpServer::Start(http_options, std::move(routes), log);
  if (!started.ok()) return started.status();
  http = *std::move(started);
  metrics.AddGauge("packrat_http_connections_open", "HTTP connections that are open.",
                   [this] { return http->open_connections(); });
  metrics.AddGauge("packrat_max_http_connections", "Most open HTTP connections.",
                   [limit = shares.http] { return limit; });
  metrics.AddCounter("packrat_http_connections_total", "HTTP connections that were opened.",
                     [this] { return static_cast<double>(http->taken_connections()); });
  metrics.AddCounter("packrat_http_connections_refused_total",
                     "HTTP connections beyond that limit, closed at once.",
                     [this] { return static_cast<double>(http->refused_connections()); });
  metrics.AddCounter("packrat_http_accept_failures_total",
                     "Failed attempts to accept an HTTP connection.",
                     [this] { return static_cast<double>(http->accept_failures()); });
  metrics.AddGauge("packrat_http_body_bytes",
                   "Bytes of requests' bodies that have come over HTTP and are still needed.",
                   [this] { return static_cast<double>(http->body_bytes()); });
  return absl::OkStatus();
}

void Server::Impl::PublishHealth() {
  MutexLock lock(&health_mutex);
  const bool ready = environment.Ready().ok();
  metrics.SetReady(ready);
  grpc->SetReady(ready);
  grpc->SetAlive(!environment.stalled.load());
}

void Server::Impl::Fail(const absl::Status& status, const std::function<void()>& on_failure) {
  PublishHealth();
  log->Error("failed", {{"error", std::string(status.message())}});
  if (on_failure != nullptr) on_failure();
}

void Server::Impl::SetStalled(bool stalled) {
  environment.stalled.store(stalled);
  PublishHealth();
  const Logger::Fields fields = {{"stall_timeout_ms", options.stall_timeout},
                                 {"steps", engine->progress().steps}};
  if (stalled) {
    log->Error("the engine stands still", fields);
  } else {
    log->Info("the engine goes on", fields);
  }
}

absl::StatusOr<std::unique_ptr<Server>> Server::Start(ServerOptions options, Logger* log) {
  absl::Status status = ValidateServerOptions(&options);
  if (!status.ok()) return status;
  std::unique_ptr<ApiKeys> keys;
  if (!options.api_keys.empty()) {
    auto loaded = ApiKeys::Load(options.api_keys);
    if (!loaded.ok()) return loaded.status();
    keys = *std::move(loaded);
  }
  std::unique_ptr<SessionStore> store;
  if (!options.session_store.empty()) {
    auto opened = OpenSessionStore(options.session_store, options.session_store_password_file);
    if (!opened.ok()) return opened.status();
    store = *std::move(opened);
  }
  auto impl = std::make_unique<Impl>(std::move(options), log, std::move(keys));
  impl->store = std::move(store);
  const auto shares = ShareDescriptors(RaiseDescriptorLimit(), impl->options.max_connections);
  if (!shares.ok()) return shares.status();
  status = impl->OpenTls();
  if (status.ok()) status = impl->StartGrpc(*shares);
  if (status.ok()) status = impl->StartHttp(*shares);
  if (!status.ok()) return status;
  Logger::Fields fields = {{"grpc", impl->options.listen}, {"grpc_port", impl->grpc->port()}};
  if (impl->http != nullptr) {
    fields.insert(fields.end(),
                  {{"http", impl->options.http_listen}, {"http_port", impl->http->port()}});
  }
  log->Info("listening", fields);
  return std::unique_ptr<Server>(new Server(std::move(impl)));
}

Server::Server(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Server::~Server() { Drain(); }

absl::Status Server::Serve(LanguageModel* model, const Tokenizer* tokenizer,
                           std::function<void()> on_failure) {
  Impl& s = *impl_;
  auto engine = Engine::Create(model, tokenizer, s.options.engine);
  if (!engine.ok()) return engine.status();
  s.engine = *std::move(engine);
  s.engine_thread = std::make_unique<EngineThread>(
      s.engine.get(), [&s, on_failure = std::move(on_failure)](const absl::Status& status) {
        s.Fail(status, on_failure);
      });
  s.served.model = model;
  s.served.tokenizer = tokenizer;
  s.served.engine = s.engine.get();
  s.transfer = std::make_unique<SessionTransfer>(&s.sessions, s.engine.get(), OwnerOf(*model));
  s.served.transfer = s.transfer.get();
  s.served.rules = MakeRequestRules(s.engine->limits(), tokenizer);
  if (s.served.rules.max_piece_bytes > ResponseBuilder::kMaxPieceBytes) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the tokenizer has a piece of ", s.served.rules.max_piece_bytes, " bytes; at most ",
        ResponseBuilder::kMaxPieceBytes, ", so that answers fit into what clients accept"));
  }
  s.served.rules.sampling = model->config().sampling;
  s.served.rules.stop = model->config().stop;
  s.served.rules.solver = s.options.solver;
  s.metrics.SetSource({[&s] { return s.engine->stats(); },
                       [model] { return static_cast<int64_t>(model->weight_bytes()); },
                       [model] { return static_cast<int64_t>(model->scratch_bytes()); },
                       model->fingerprint(), model->numerics_id(), model->device(),
                       CpuTargetName()});
  if (s.store != nullptr) {
    s.stored = std::make_unique<StoredSessions>(std::move(s.store), &s.sessions, s.transfer.get(),
                                                s.options.max_streams, s.log);
    s.environment.stored.store(s.stored.get());
  }
  s.environment.served.store(&s.served);
  s.watchdog = std::make_unique<Watchdog>(
      s.options.stall_timeout, [&s] { return s.engine->progress(); },
      [&s](bool stalled) { s.SetStalled(stalled); });
  s.PublishHealth();
  s.log->Info("ready", {{"model", s.options.model_name},
                        {"max_context", s.engine->options().max_context},
                        {"max_running", s.engine->options().max_running},
                        {"device", model->device()}});
  return absl::OkStatus();
}

absl::Status Server::failure() const {
  return impl_->engine == nullptr ? absl::OkStatus() : impl_->engine->failure();
}

void Server::AnnounceDrain() {
  Impl& s = *impl_;
  if (s.environment.draining.exchange(true)) return;
  s.PublishHealth();
  s.log->Info("draining");
}

void Server::DismissClients() {
  AnnounceDrain();
  impl_->grpc->Dismiss();
  if (impl_->http != nullptr) impl_->http->Dismiss();
}

void Server::Drain() {
  Impl& s = *impl_;
  if (s.grpc == nullptr || s.environment.closed.exchange(true)) return;
  DismissClients();
  if (s.engine != nullptr) {
    s.log->Info("no more calls are taken", {{"grace_ms", s.options.drain_grace}});
    s.engine->Drain();
    if (!s.environment.streams.WaitForNone(SteadyNow() + s.options.drain_grace)) {
      s.engine->AbortAll(absl::UnavailableError("the server is shutting down"));
      // Time for the last messages. A client that does not read is not waited for.
      s.environment.streams.WaitForNone(SteadyNow() + absl::Seconds(1));
    }
    s.environment.answers.WaitForNone(SteadyNow() + absl::Seconds(1));
  }
  s.grpc->Shutdown(absl::Milliseconds(200));
  s.http.reset();
  // What its clients have not taken ends with it, by the writer's thread.
  s.environment.streams.WaitForNone(SteadyNow() + absl::Seconds(1));
  if (s.engine_thread != nullptr) s.engine_thread->Stop();
  s.log->Info("stopped");
}

int Server::grpc_port() const { return impl_->grpc->port(); }

int Server::http_port() const { return impl_->http == nullptr ? 0 : impl_->http->port(); }

}  // namespace packrat
