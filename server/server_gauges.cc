// What /metrics tells of a server beside its engine and its calls.
#include "server/server_impl.h"

namespace packrat {

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
               "Calls that the session store did not answer, or not in time for others.",
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

void Server::Impl::AddGrpcGauges(const DescriptorShares& shares) {
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
}

void Server::Impl::AddHttpGauges(const DescriptorShares& shares) {
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
}

}  // namespace packrat
