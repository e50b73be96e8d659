// What a server is made of. Private to server.
#ifndef PACKRAT_SERVER_SERVER_IMPL_H_
#define PACKRAT_SERVER_SERVER_IMPL_H_

#include <algorithm>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "runtime/engine_thread.h"
#include "runtime/memory_plan.h"
#include "runtime/steady_clock.h"
#include "server/generation/call_environment.h"
#include "server/grpc/grpc_port.h"
#include "server/grpc/inference_service.h"
#include "server/grpc/unread_calls.h"
#include "server/http/http_server.h"
#include "server/net/descriptors.h"
#include "server/net/tls_store.h"
#include "server/server.h"
#include "server/stored_sessions.h"
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
  // In server_gauges.cc, what /metrics tells of it: at once, and of the ports that are open.
  void AddGauges();
  void AddGrpcGauges(const DescriptorShares& shares);
  void AddHttpGauges(const DescriptorShares& shares);
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

}  // namespace packrat

#endif  // PACKRAT_SERVER_SERVER_IMPL_H_
