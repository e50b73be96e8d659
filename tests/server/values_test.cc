// The numbers that the server tells: each is what it says, and not its neighbour.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "nlohmann/json.hpp"
#include "server/client/connection.h"
#include "server/generation/call_environment.h"
#include "server/generation/model_info.h"
#include "server/generation/response_builder.h"
#include "server/log.h"
#include "server/options.h"
#include "tests/server/generate.h"
#include "tests/server/test_server.h"

namespace packrat {
namespace {

// The value of `name` in a line of the log.
std::string Field(const std::string& line, const std::string& name) {
  for (absl::string_view word : absl::StrSplit(line, ' ')) {
    if (absl::ConsumePrefix(&word, name + "=")) return std::string(word);
  }
  return "none";
}

std::string AccessLine(const TestServer& server, const std::string& text) {
  std::string found;
  EXPECT_TRUE(Eventually([&] { return server.AccessLines(text) == 1; })) << text;
  for (const std::string& line : server.log_lines()) {
    if (absl::StrContains(line, " access ") && absl::StrContains(line, text)) found = line;
  }
  return found;
}

TEST(Values, TheLastMessageAndTheLogTellWhatTheEngineCounted) {
  TestServer server;
  v1::GenerateRequest request = Ids({5, FakeModel::kUnconvergedToken, 7}, 4);
  request.mutable_sampling()->set_seed(77);
  const Result result = Generate(StubFor(server).get(), request);
  ASSERT_TRUE(result.status.ok()) << result.status.error_message();
  EXPECT_EQ(result.finished.seed(), 77u);
  EXPECT_EQ(result.finished.reason(), v1::FINISH_REASON_LENGTH);
  // Six tokens went through the model, each of which solves once in two steps.
  const v1::Usage& usage = result.finished.usage();
  EXPECT_EQ(usage.prompt_tokens(), 3);
  EXPECT_EQ(usage.cached_tokens(), 0);
  EXPECT_EQ(usage.cache_miss(), v1::CACHE_MISS_FIRST_USE);
  EXPECT_EQ(usage.completion_tokens(), 4);
  EXPECT_EQ(usage.solver_solves(), 6);
  EXPECT_EQ(usage.solver_steps(), 12);
  EXPECT_EQ(usage.solver_unconverged(), 1);
  const v1::Timings& timings = result.finished.timings();
  EXPECT_GE(timings.queue_seconds(), 0);
  EXPECT_LT(timings.queue_seconds(), timings.time_to_first_token_seconds());
  EXPECT_LT(timings.time_to_first_token_seconds(), timings.total_seconds());

  const std::string line = AccessLine(server, "call=Generate");
  EXPECT_EQ(Field(line, "id"), result.finished.request_id());
  EXPECT_EQ(Field(line, "status"), "OK");
  EXPECT_EQ(Field(line, "finish"), "length");
  EXPECT_EQ(Field(line, "prompt_tokens"), "3");
  EXPECT_EQ(Field(line, "cached_tokens"), "0");
  EXPECT_EQ(Field(line, "generated_tokens"), "4");
  EXPECT_EQ(Field(line, "solver_steps"), "12");
  const auto millis = [&](const char* name) {
    double value = -1;
    EXPECT_TRUE(absl::SimpleAtod(Field(line, name), &value)) << line;
    return value;
  };
  EXPECT_NEAR(millis("queue_ms"), 1e3 * timings.queue_seconds(), 0.001);
  EXPECT_NEAR(millis("first_token_ms"), 1e3 * timings.time_to_first_token_seconds(), 0.001);
  EXPECT_GE(millis("total_ms"), 1e3 * timings.total_seconds() - 0.001);
}

TEST(Values, EveryFieldOfAnAccessLineIsItsOwnInBothFormats) {
  AccessRecord record;
  record.id = "17";
  record.caller = "who";
  record.peer = "ipv4:1.2.3.4:5";
  record.call = "Generate";
  record.status = "OK";
  record.finish = "eos";
  record.message = "word";
  record.prompt_tokens = 12;
  record.cached_tokens = 3;
  record.generated_tokens = 45;
  record.solver_steps = 678;
  record.queue = absl::Microseconds(1500);
  record.first_token = absl::Microseconds(2250);
  record.total = absl::Microseconds(9125);
  std::string text, json;
  Logger(Logger::Format::kText, [&](const std::string& line) { text = line; }).Access(record);
  Logger(Logger::Format::kJson, [&](const std::string& line) { json = line; }).Access(record);
  const auto parsed = nlohmann::json::parse(json);
  const std::pair<const char*, const char*> words[] = {
      {"id", "17"},     {"caller", "who"}, {"peer", "ipv4:1.2.3.4:5"}, {"call", "Generate"},
      {"status", "OK"}, {"finish", "eos"}, {"error", "word"}};
  for (const auto& [name, value] : words) {
    EXPECT_EQ(Field(text, name), value);
    EXPECT_EQ(parsed[name], value) << json;
  }
  const std::pair<const char*, double> numbers[] = {
      {"prompt_tokens", 12}, {"cached_tokens", 3}, {"generated_tokens", 45},
      {"solver_steps", 678}, {"queue_ms", 1.5},    {"first_token_ms", 2.25},
      {"total_ms", 9.125}};
  for (const auto& [name, value] : numbers) {
    double read = -1;
    EXPECT_TRUE(absl::SimpleAtod(Field(text, name), &read)) << text;
    EXPECT_EQ(read, value) << name;
    EXPECT_TRUE(parsed[name].is_number()) << name << " in " << json;
    EXPECT_EQ(parsed[name], value) << name;
  }
}

// FakeModel's state under a description in which no two numbers are the same.
class DescribedModel : public FakeModel {
 public:
  const ModelConfig& config() const override { return described; }
  size_t weight_bytes() const override { return 31337; }
  ModelConfig described;
};

TEST(Values, ModelInfoTellsEveryNumberOfTheConfiguration) {
  DescribedModel model;
  model.described = FakeModel().config();
  auto engine = Engine::Create(&model, nullptr, [] {
    EngineOptions options;
    options.max_running = 7;
    options.max_queue = 9;
    options.max_batch_tokens = 48;
    options.max_context = 300;
    return options;
  }());
  ASSERT_TRUE(engine.ok()) << engine.status();
  ModelConfig& config = model.described;
  config.hidden_size = 1280;
  config.bos_id = 1;
  config.eos_ids = {2, 19};
  config.sampling = {0.5f, 40, 0.75f, 0.125f, 1.25f, {3, 5}};
  config.stop = {{"END"}, 8, 20};
  config.mixers = {RatSpec{12, 4, 64, 16}, AttentionSpec{20, 5, 128, 257},
                   AttentionSpec{24, 6, 96, 0}, MesaSpec{10, 112, 4, 0.25f, true}};
  ServerOptions options;
  options.model_name = "a-name";
  options.max_message_bytes = 123456;
  options.solver.cg_tolerance = 0.01f;
  options.solver.cg_max_steps = 17;
  ServedModel served;
  served.model = &model;
  served.engine = engine->get();
  v1::GetModelInfoResponse info;
  FillModelInfo(served, options, &info);

  EXPECT_EQ(info.name(), "a-name");
  EXPECT_EQ(info.vocab_size(), FakeModel::kVocab);
  EXPECT_EQ(info.hidden_size(), 1280);
  EXPECT_EQ(info.weight_bytes(), 31337);
  EXPECT_EQ(info.bos_token_id(), 1);
  EXPECT_EQ(std::vector<int>(info.eos_token_ids().begin(), info.eos_token_ids().end()),
            (std::vector<int>{2, 19}));
  EXPECT_EQ(info.sampling_defaults().temperature(), 0.5f);
  EXPECT_EQ(info.sampling_defaults().top_k(), 40);
  EXPECT_EQ(info.sampling_defaults().top_p(), 0.75f);
  EXPECT_EQ(info.sampling_defaults().min_p(), 0.125f);
  EXPECT_EQ(info.sampling_defaults().repetition_penalty(), 1.25f);
  EXPECT_EQ(info.sampling_defaults().banned_token_ids_size(), 2);
  EXPECT_EQ(info.stop_defaults().ShortDebugString(),
            R"(strings: "END" min_tokens: 8 max_tokens: 20)");
  EXPECT_EQ(info.solver_defaults().cg_tolerance(), 0.01f);
  EXPECT_EQ(info.solver_defaults().cg_max_steps(), 17);
  EXPECT_EQ(info.limits().max_context(), 300);
  EXPECT_EQ(info.limits().max_running(), 7);
  EXPECT_EQ(info.limits().max_queue(), 9);
  EXPECT_EQ(info.limits().max_batch_tokens(), 48);
  EXPECT_EQ(info.limits().max_message_bytes(), 123456);
  const char* wanted[] = {
      R"(type: "rat" num_heads: 12 head_dim: 64 num_kv_heads: 4 chunk_size: 16)",
      R"(type: "local_attention" num_heads: 20 head_dim: 128 num_kv_heads: 5 window: 257)",
      R"(type: "attention" num_heads: 24 head_dim: 96 num_kv_heads: 6)",
      R"(type: "mesa" num_heads: 10 head_dim: 112)"};
  ASSERT_EQ(info.layers_size(), 4);
  for (int i = 0; i < 4; ++i) EXPECT_EQ(info.layers(i).ShortDebugString(), wanted[i]);
}

// The end id of the tokenizer (2) counts only where the configuration has none.
TEST(Values, EndIdsAreTheConfigurationsOrElseTheTokenizers) {
  TestServer::Options with_tokenizer;
  with_tokenizer.tokenizer = true;
  TestServer server(with_tokenizer);
  for (const std::vector<int>& configured : {std::vector<int>{7}, std::vector<int>{}}) {
    DescribedModel model;
    model.described = FakeModel().config();
    model.described.eos_ids = configured;
    EngineOptions options;
    options.max_batch_tokens = 64;
    auto engine = Engine::Create(&model, server.tokenizer(), options);
    ASSERT_TRUE(engine.ok()) << engine.status();
    for (const int32_t id : {2, 7}) {
      Request request;
      request.prompt = {5};
      request.sampling.allowed_ids = {id};
      request.stop.max_tokens = 3;
      request.outbox = std::make_shared<Outbox>(nullptr);
      ASSERT_TRUE((*engine)->Submit(request, absl::UnixEpoch()).ok());
      while ((*engine)->Step(absl::UnixEpoch())) {
      }
      Outbox::Update update;
      ASSERT_TRUE(request.outbox->Take(&update) && update.finish.has_value());
      const bool ends = id == (configured.empty() ? 2 : 7);
      EXPECT_EQ(update.finish->reason, ends ? FinishReason::kEos : FinishReason::kLength) << id;
      EXPECT_EQ(update.tokens.size(), ends ? 0u : 3u);
    }
  }
}

TEST(Values, SolverDefaultsOfTheServerReachTheModel) {
  TestServer::Options options;
  options.server.solver.cg_tolerance = 0.01f;
  options.server.solver.cg_max_steps = 17;
  TestServer server(options);
  Mutex mutex;
  std::vector<std::pair<float, int>> seen;
  server.model().on_forward = [&](const Batch& batch) {
    MutexLock lock(&mutex);
    seen.emplace_back(batch.spans[0].solver.cg_tolerance, batch.spans[0].solver.cg_max_steps);
  };
  const auto stub = StubFor(server);
  v1::GenerateRequest request = Ids({5}, 1);
  ASSERT_TRUE(Generate(stub.get(), request).status.ok());
  request.mutable_solver()->set_cg_tolerance(0.05f);
  request.mutable_solver()->set_cg_max_steps(3);
  ASSERT_TRUE(Generate(stub.get(), request).status.ok());
  MutexLock lock(&mutex);
  EXPECT_EQ(seen, (std::vector<std::pair<float, int>>{{0.01f, 17}, {0.05f, 3}}));
}

TEST(Values, NamesThatACallGivesItselfHaveALongestLength) {
  TestServer server;
  v1::GetModelInfoResponse info;
  const std::string longest_caller(64, 'c'), longest_id(128, 'i');
  Connection::Options options{server.address()};
  options.caller = longest_caller;
  options.request_id = longest_id;
  EXPECT_EQ(Connection(options).GetModelInfo(&info).request_id, longest_id);
  EXPECT_EQ(Field(AccessLine(server, absl::StrCat(" id=", longest_id, " ")), "caller"),
            longest_caller);
  options.caller += "c";
  options.request_id += "i";
  const std::string made = Connection(options).GetModelInfo(&info).request_id;
  EXPECT_EQ(made.size(), 16u);
  EXPECT_EQ(made.find_first_not_of("0123456789abcdef"), std::string::npos) << made;
  EXPECT_EQ(Field(AccessLine(server, absl::StrCat(" id=", made, " ")), "caller"), "\"\"");
}

TEST(Values, EveryPageOfHttpSaysWhatItIs) {
  TestServer server;
  const std::pair<const char*, const char*> types[] = {
      {"/metrics", "text/plain; version=0.0.4; charset=utf-8"},
      {"/healthz", "text/plain"},
      {"/readyz", "text/plain"},
      {"/version", "application/json"}};
  for (const auto& [path, type] : types) {
    const std::string answer = server.Get(path);
    EXPECT_TRUE(absl::StrContains(answer, absl::StrCat("Content-Type: ", type, "\r\n"))) << answer;
    EXPECT_EQ(answer.back(), '\n') << path;
  }
  const std::string version = server.Get("/version");
  const auto json = nlohmann::json::parse(version.substr(version.find("\r\n\r\n")));
  EXPECT_EQ(json["model"], "fake");
  EXPECT_EQ(json["fingerprint"], server.model().fingerprint());
  EXPECT_EQ(json["numerics_id"], server.model().numerics_id());
}

TEST(Values, TheEndsOfEveryRangePassAndNoMore) {
  using O = ServerOptions*;
  const auto days = [](double n) { return absl::Hours(24 * n); };
  // What sets an option `steps` (-1, 0, 1) beyond an end.
  const std::pair<const char*, std::function<void(O, int)>> ends[] = {
      {"threads low", [](O o, int by) { o->threads = 0 - by; }},
      {"threads", [](O o, int by) { o->threads = 1024 + by; }},
      {"max_running low", [](O o, int by) { o->engine.max_running = 1 - by; }},
      {"max_running",
       [](O o, int by) {
         o->engine.max_running = 4096 + by;
         o->engine.max_batch_tokens = 5000;
       }},
      {"max_queue low", [](O o, int by) { o->engine.max_queue = 1 - by; }},
      {"max_queue", [](O o, int by) { o->engine.max_queue = 1000000 + by; }},
      {"max_batch_tokens low",
       [](O o, int by) {
         o->engine.max_batch_tokens = 16 - by;
         o->engine.max_running = 1;
       }},
      {"max_batch_tokens", [](O o, int by) { o->engine.max_batch_tokens = 65536 + by; }},
      {"at least --max_running", [](O o, int by) { o->engine.max_batch_tokens = 64 - by; }},
      {"max_context low", [](O o, int by) { o->engine.max_context = 0 - by; }},
      {"state_bytes low", [](O o, int by) { o->engine.state_bytes = 0 - by; }},
      {"state_bytes", [](O o, int by) { o->engine.state_bytes = (int64_t{1} << 46) + by; }},
      {"park_memory low", [](O o, int by) { o->engine.park_memory = 0 - 2 * by; }},  // -1: auto.
      {"park_memory", [](O o, int by) { o->engine.park_memory = (int64_t{1} << 46) + by; }},
      {"state_host_memory low", [](O o, int by) { o->engine.state_host_memory = -2 * by; }},
      {"state_host_memory",
       [](O o, int by) { o->engine.state_host_memory = (int64_t{1} << 46) + by; }},
      {"state_disk low", [](O o, int by) { o->engine.state_disk = 0 - by; }},
      {"state_disk", [](O o, int by) { o->engine.state_disk = (int64_t{1} << 50) + by; }},
      {"cg_max_steps low", [](O o, int by) { o->solver.cg_max_steps = 1 - by; }},
      {"cg_max_steps", [](O o, int by) { o->solver.cg_max_steps = 1024 + by; }},
      {"cg_tolerance low",
       [](O o, int by) { o->solver.cg_tolerance = by > 0 ? std::nextafter(1e-7f, 0.0f) : 1e-7f; }},
      {"cg_tolerance",
       [](O o, int by) { o->solver.cg_tolerance = by > 0 ? std::nextafter(0.1f, 1.0f) : 0.1f; }},
      {"drain_grace low", [](O o, int by) { o->drain_grace = -absl::Nanoseconds(by); }},
      {"drain_grace", [](O o, int by) { o->drain_grace = absl::Hours(1) + absl::Nanoseconds(by); }},
      {"stream_idle_timeout low",
       [](O o, int by) {
         o->stream_idle_timeout = absl::Milliseconds(10) - absl::Nanoseconds(by);
       }},
      {"stream_idle_timeout",
       [&](O o, int by) { o->stream_idle_timeout = days(1) + absl::Nanoseconds(by); }},
      {"max_message_bytes low", [](O o, int by) { o->max_message_bytes = 1024 - by; }},
      {"max_message_bytes", [](O o, int by) { o->max_message_bytes = (1 << 30) + by; }},
      {"max_streams low", [](O o, int by) { o->max_streams = 1 - by; }},
      {"max_streams", [](O o, int by) { o->max_streams = 1000000 + by; }},
      {"max_text_queue low", [](O o, int by) { o->max_text_queue = 1 - by; }},
      {"max_text_queue", [](O o, int by) { o->max_text_queue = 100000 + by; }},
      {"max_sessions low", [](O o, int by) { o->sessions.max_sessions = 1 - by; }},
      {"max_sessions", [](O o, int by) { o->sessions.max_sessions = 1000000 + by; }},
      {"max_session_tokens low", [](O o, int by) { o->sessions.max_tokens = 0 - by; }},
      {"max_session_tokens", [](O o, int by) { o->sessions.max_tokens = (int64_t{1} << 36) + by; }},
      {"session_ttl low",
       [](O o, int by) { o->sessions.ttl = absl::Seconds(1) - absl::Nanoseconds(by); }},
      {"session_ttl",
       [](O o, int by) { o->sessions.ttl = absl::Hours(720) + absl::Nanoseconds(by); }},
      {"priority_step low",
       [](O o,
          int by) { o->engine.priority_step = absl::Milliseconds(1) - absl::Nanoseconds(by); }},
      {"priority_step",
       [](O o, int by) { o->engine.priority_step = absl::Hours(1) + absl::Nanoseconds(by); }},
      {"model_name low", [](O o, int by) { o->model_name = std::string(by > 0 ? 129 : 128, 'n'); }},
      {"listen", [](O o, int by) { o->listen = absl::StrCat("localhost:", 65535 + by); }},
      {"http_listen low", [](O o, int by) { o->http_listen = absl::StrCat("localhost:", 0 - by); }},
  };
  for (const auto& [name, set] : ends) {
    for (const int by : {-1, 0, 1}) {
      ServerOptions options;
      options.model_dir = "folder";
      set(&options, by);
      const absl::Status status = ValidateServerOptions(&options);
      EXPECT_EQ(status.ok(), by <= 0) << name << " " << by << ": " << status;
      if (by <= 0) continue;
      const std::string flag(absl::StripSuffix(name, " low"));
      EXPECT_TRUE(absl::StrContains(status.message(), flag)) << name << ": " << status;
    }
  }
}

TEST(Values, ATokenGoesOutWhenAllItsTextIsSafe) {
  TestServer::Options options;
  options.tokenizer = true;
  TestServer server(options);
  const std::string text = " Hello world";
  const auto ids = server.tokenizer()->Encode("Hello world", {/*add_bos=*/false});
  ASSERT_TRUE(ids.ok()) << ids.status();
  ASSERT_EQ(ids->size(), 2u);
  for (const size_t safe : {5, 6, 11, 12}) {
    ResponseBuilder builder(server.tokenizer(), true, /*continues_text=*/true);
    Outbox::Update update;
    update.tokens = *ids;
    update.safe_text_bytes = safe;
    builder.Add(std::move(update));
    v1::GenerateResponse message;
    EXPECT_TRUE(builder.Build(&message));
    EXPECT_EQ(message.text(), text.substr(0, safe));
    EXPECT_EQ(message.token_ids_size(), safe == 12 ? 2 : safe >= 6 ? 1 : 0) << safe;
  }
}

}  // namespace
}  // namespace packrat
