#include "server/server.h"

#include <algorithm>
#include <chrono>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/cpu_target.h"
#include "nlohmann/json.hpp"
#include "runtime/steady_clock.h"
#include "server/generation/response_builder.h"
#include "server/http/api_routes.h"
#include "server/http/operator_pages.h"
#include "server/page/page.h"
#include "server/server_impl.h"
#include "server/store/open_store.h"
#include "server/version.h"

namespace packrat {

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
  AddGrpcGauges(shares);
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
  AddHttpGauges(shares);
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
    if (OthersMayUseStore(options.session_store)) {
      log->Error(
          "others than the server's user may read or write the folder of --session_store, where "
          "files have the names of sessions' handles; chmod 700",
          {{"folder", options.session_store}});
    }
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
  s.transfer = std::make_unique<SessionTransfer>(
      &s.sessions, s.engine.get(), OwnerOf(*model),
      // Several are under way at once.
      std::clamp<int64_t>(s.transfer_bytes.limit() / 8, 4 << 10, kMostPieceBytes));
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
