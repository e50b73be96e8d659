#include "server/server.h"

#include <algorithm>
#include <chrono>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "kernels/cpu_target.h"
#include "nlohmann/json.hpp"
#include "runtime/engine_thread.h"
#include "server/call_environment.h"
#include "server/grpc/grpc_port.h"
#include "server/http/http_server.h"
#include "server/http/operator_pages.h"
#include "server/inference_service.h"
#include "server/net/descriptors.h"
#include "server/version.h"

namespace packrat {

// Members are destroyed from the last to the first: ports, then the engine's thread, then what both
// use.
struct Server::Impl {
  Impl(ServerOptions o, Logger* l)
      : options(std::move(o)),
        log(l),
        metrics(options),
        writer(std::min(options.stream_idle_timeout / 4, absl::Seconds(1)),
               [this](absl::Time) { metrics.Sample(std::chrono::steady_clock::now()); }),
        prompts(TextPool(options)),
        texts(TextPool(options)),
        service(&environment) {
    environment.options = &options;
    environment.log = log;
    environment.metrics = &metrics;
    environment.writer = &writer;
    environment.prompts = &prompts;
    environment.texts = &texts;
    AddGauges();
  }

  static WorkPool::Options TextPool(const ServerOptions& options) {
    WorkPool::Options pool;
    pool.max_queue = options.max_text_queue;
    return pool;
  }
  void AddGauges();
  absl::Status StartGrpc(const DescriptorShares& shares);
  absl::Status StartHttp(const DescriptorShares& shares);
  // Ready for good is only who has not failed.
  void SetReady(bool ready);
  void Fail(const absl::Status& status, const std::function<void()>& on_failure);

  ServerOptions options;
  Logger* const log;
  Metrics metrics;
  CallEnvironment environment;
  StreamWriter writer;
  WorkPool prompts, texts;
  InferenceService service;
  ServedModel served;
  Mutex ready_mutex;
  bool failed ABSL_GUARDED_BY(ready_mutex) = false;
  std::unique_ptr<Engine> engine;
  std::unique_ptr<EngineThread> engine_thread;
  std::unique_ptr<GrpcPort> grpc;
  std::unique_ptr<HttpServer> http;
};

void Server::Impl::AddGauges() {
  metrics.AddGauge(
      "packrat_streams_open",
      "Generate calls that are open, finished ones that are still being read included.",
      [this] { return environment.streams.count(); });
  metrics.AddGauge("packrat_prompts_waiting", "Long prompts that wait to be tokenized.",
                   [this] { return prompts.waiting(); });
  metrics.AddGauge("packrat_texts_waiting",
                   "Long texts of Tokenize and Detokenize that wait to be worked on.",
                   [this] { return texts.waiting(); });
  metrics.AddGauge("packrat_draining", "1 from the signal to stop on.",
                   [this] { return environment.draining.load() ? 1 : 0; });
}

absl::Status Server::Impl::StartGrpc(const DescriptorShares& shares) {
  auto started = GrpcPort::Start(options, shares.grpc, &service, log);
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
  SetReady(false);
  return absl::OkStatus();
}

absl::Status Server::Impl::StartHttp(const DescriptorShares& shares) {
  if (options.http_listen.empty()) return absl::OkStatus();
  OperatorPages pages;
  pages.metrics = [this] { return metrics.Render(std::chrono::steady_clock::now()); };
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
  http_options.max_connections = shares.http;
  auto started = HttpServer::Start(std::move(http_options), OperatorRoutes(pages), log);
  if (!started.ok()) return started.status();
  http = *std::move(started);
  return absl::OkStatus();
}

void Server::Impl::SetReady(bool ready) {
  MutexLock lock(&ready_mutex);
  ready = ready && !failed;
  metrics.SetReady(ready);
  grpc->SetReady(ready);
}

void Server::Impl::Fail(const absl::Status& status, const std::function<void()>& on_failure) {
  {
    MutexLock lock(&ready_mutex);
    failed = true;
  }
  SetReady(false);
  log->Error("failed", {{"error", std::string(status.message())}});
  if (on_failure != nullptr) on_failure();
}

absl::StatusOr<std::unique_ptr<Server>> Server::Start(ServerOptions options, Logger* log) {
  absl::Status status = ValidateServerOptions(&options);
  if (!status.ok()) return status;
  auto impl = std::make_unique<Impl>(std::move(options), log);
  const auto shares = ShareDescriptors(RaiseDescriptorLimit(), impl->options.max_connections);
  if (!shares.ok()) return shares.status();
  status = impl->StartGrpc(*shares);
  if (status.ok()) status = impl->StartHttp(*shares);
  if (!status.ok()) return status;
  const std::string http_port = impl->http == nullptr ? "" : absl::StrCat(impl->http->port());
  log->Info("listening", {{"grpc", impl->options.listen},
                          {"grpc_port", absl::StrCat(impl->grpc->port())},
                          {"http", impl->options.http_listen},
                          {"http_port", http_port}});
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
  s.served.rules =
      MakeRequestRules(model->config().vocab_size, s.engine->options().max_context, tokenizer);
  s.served.rules.sampling = model->config().sampling;
  s.served.rules.cg_tolerance = s.options.cg_tolerance;
  s.served.rules.cg_max_steps = s.options.cg_max_steps;
  s.metrics.SetSource({[&s] { return s.engine->stats(); },
                       [model] { return static_cast<int64_t>(model->weight_bytes()); },
                       [model] { return static_cast<int64_t>(model->scratch_bytes()); },
                       model->fingerprint(), model->numerics_id(), model->device(),
                       CpuTargetName()});
  s.environment.served.store(&s.served);
  s.SetReady(true);
  s.log->Info("ready", {{"model", s.options.model_name},
                        {"max_context", absl::StrCat(s.engine->options().max_context)},
                        {"max_running", absl::StrCat(s.engine->options().max_running)},
                        {"device", model->device()}});
  return absl::OkStatus();
}

absl::Status Server::failure() const {
  return impl_->engine == nullptr ? absl::OkStatus() : impl_->engine->failure();
}

void Server::Drain() {
  Impl& s = *impl_;
  if (s.grpc == nullptr || s.environment.draining.exchange(true)) return;
  s.SetReady(false);
  if (s.engine != nullptr) {
    s.log->Info("draining", {{"grace", absl::FormatDuration(s.options.drain_grace)}});
    s.engine->Drain();
    if (!s.environment.streams.WaitForNone(absl::Now() + s.options.drain_grace)) {
      s.engine->AbortAll(absl::UnavailableError("the server is shutting down"));
      // Time for the last words; a client that does not read is not waited for.
      s.environment.streams.WaitForNone(absl::Now() + absl::Seconds(1));
    }
  }
  s.grpc->Shutdown(absl::Milliseconds(200));
  s.http.reset();
  if (s.engine_thread != nullptr) s.engine_thread->Stop();
  s.log->Info("stopped");
}

int Server::grpc_port() const { return impl_->grpc->port(); }

int Server::http_port() const { return impl_->http == nullptr ? 0 : impl_->http->port(); }

}  // namespace packrat
