// Parts of the server by themselves: options, the stream's messages.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "models/text/tokenizer.h"
#include "nlohmann/json.hpp"
#include "proto/packrat/v1/inference.pb.h"
#include "server/generation/call_environment.h"
#include "server/generation/request_rules.h"
#include "server/generation/response_builder.h"
#include "server/options.h"
#include "server/trace_context.h"

namespace packrat {
namespace {

ServerOptions GoodOptions() {
  ServerOptions options;
  options.model_dir = "/some/where/tiny/";
  return options;
}

TEST(RequestRules, WhatARequestLeavesUnsetIsWhatTheModelRecommends) {
  RequestRules rules =
      MakeRequestRules({/*vocab_size=*/100, /*num_ids=*/100, /*max_context=*/64}, nullptr);
  rules.sampling = {0.5f, 40, 0.9f};
  v1::GenerateRequest wire;
  wire.mutable_tokens()->add_ids(7);
  auto request = MakeRequests(wire, rules, /*seed=*/1);
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->at(0).sampling.temperature, 0.5f);
  EXPECT_EQ(request->at(0).sampling.top_k, 40);
  EXPECT_EQ(request->at(0).sampling.top_p, 0.9f);
  // Zero is a value like any other.
  wire.mutable_sampling()->set_temperature(0);
  wire.mutable_sampling()->set_top_k(0);
  request = MakeRequests(wire, rules, /*seed=*/1);
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->at(0).sampling.temperature, 0.0f);
  EXPECT_EQ(request->at(0).sampling.top_k, 0);
  EXPECT_EQ(request->at(0).sampling.top_p, 0.9f);
}

TEST(RequestRules, OtherRecommendationsAreDefaultsToo) {
  RequestRules rules =
      MakeRequestRules({/*vocab_size=*/100, /*num_ids=*/100, /*max_context=*/64}, nullptr);
  rules.sampling.min_p = 0.125f;
  rules.sampling.repetition_penalty = 1.25f;
  rules.sampling.banned_ids = {3, 5};
  rules.stop = {{"END"}, 8, 20};
  v1::GenerateRequest wire;
  wire.mutable_tokens()->add_ids(7);
  auto request = MakeRequests(wire, rules, /*seed=*/1);
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->at(0).sampling.min_p, 0.125f);
  EXPECT_EQ(request->at(0).sampling.repetition_penalty, 1.25f);
  EXPECT_EQ(request->at(0).sampling.banned_ids, (std::vector<int32_t>{3, 5}));
  EXPECT_EQ(request->at(0).stop.min_tokens, 8);
  EXPECT_EQ(request->at(0).stop.max_tokens, 20);
  EXPECT_TRUE(request->at(0).text.stop_strings.empty());  // Without a tokenizer there is no text.
  // What is sent counts, zero included; a default gives way to it.
  wire.mutable_sampling()->set_min_p(0);
  wire.mutable_sampling()->add_banned_token_ids(9);
  wire.mutable_stop()->set_max_tokens(5);
  request = MakeRequests(wire, rules, /*seed=*/1);
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->at(0).sampling.min_p, 0.0f);
  EXPECT_EQ(request->at(0).sampling.banned_ids, (std::vector<int32_t>{9}));
  EXPECT_EQ(request->at(0).stop.min_tokens, 5);
  EXPECT_EQ(request->at(0).stop.max_tokens, 5);
  // What does not fit beside the prompt is cut, as the server's own default is.
  rules.stop.max_tokens = 1000;
  wire.clear_stop();
  request = MakeRequests(wire, rules, /*seed=*/1);
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->at(0).stop.max_tokens, 63);
}

TEST(Options, TheModelIsNamedAfterItsFolder) {
  ServerOptions options = GoodOptions();
  EXPECT_TRUE(ValidateServerOptions(&options).ok());
  EXPECT_EQ(options.model_name, "tiny");
}

TEST(Options, AFolderOfAnyNameGivesTheModelOne) {
  const std::filesystem::path here = std::filesystem::current_path();
  const std::pair<std::string, std::string> cases[] = {
      {"/models/my model", "my-model"},
      {"/models/my \t model/", "my-model"},
      {"/models/\"quoted\\\"", "-quoted-"},
      {"/models/Größe 7B", "Gr-e-7B"},
      {"/models/v1/..", "models"},
      {"/", "model"},
      {".", here.filename().string()},
      {"/models/" + std::string(200, 'x'), std::string(128, 'x')},
  };
  for (const auto& [folder, name] : cases) {
    ServerOptions options;
    options.model_dir = folder;
    EXPECT_TRUE(ValidateServerOptions(&options).ok()) << folder;
    EXPECT_EQ(options.model_name, name) << folder;
  }
}

TEST(Options, EveryOneIsCheckedWithItsRange) {
  const std::pair<const char*, std::function<void(ServerOptions*)>> cases[] = {
      {"--model is missing", [](ServerOptions* o) { o->model_dir = ""; }},
      {"--model_name", [](ServerOptions* o) { o->model_name = "a b"; }},
      {"--listen: \"nowhere\"", [](ServerOptions* o) { o->listen = "nowhere"; }},
      {"--listen: ", [](ServerOptions* o) { o->listen = "localhost:65536"; }},
      {"--http_listen", [](ServerOptions* o) { o->http_listen = "80"; }},
      {"--threads is -1; range [0, 1024]", [](ServerOptions* o) { o->threads = -1; }},
      {"--cpu_target", [](ServerOptions* o) { o->cpu_target = "neon"; }},
      {"--weights", [](ServerOptions* o) { o->weights = "int5"; }},
      {"--output_weights", [](ServerOptions* o) { o->output_weights = "float32"; }},
      {"--rat_plus_dial is \"16,x\"; must be DILATION",
       [](ServerOptions* o) { o->rat_plus_dial = "16,x"; }},
      {"--rat_plus_dial is \"0\"; must be", [](ServerOptions* o) { o->rat_plus_dial = "0"; }},
      {"--rat_plus_dial is \"4,-1\"; must be", [](ServerOptions* o) { o->rat_plus_dial = "4,-1"; }},
      {"--rat_plus_dial is \"1,2,3,4\"", [](ServerOptions* o) { o->rat_plus_dial = "1,2,3,4"; }},
      {"--rat_plus_dial is \"x\"; must be",
       [](ServerOptions* o) { o->rat_plus_dial = "16/own/x"; }},
      {"--rat_plus_unadapted needs --rat_plus_dial",
       [](ServerOptions* o) { o->rat_plus_unadapted = true; }},
      {"--max_running is 0; range [1, 4096]", [](ServerOptions* o) { o->engine.max_running = 0; }},
      {"--max_queue", [](ServerOptions* o) { o->engine.max_queue = 0; }},
      {"--max_batch_tokens is 8; range", [](ServerOptions* o) { o->engine.max_batch_tokens = 8; }},
      {"at least --max_running", [](ServerOptions* o) { o->engine.max_batch_tokens = 32; }},
      {"--inter_token_time is -1ns; range [0, inf]",
       [](ServerOptions* o) { o->engine.inter_token_time = absl::Nanoseconds(-1); }},
      {"--max_context", [](ServerOptions* o) { o->engine.max_context = -1; }},
      {"--state_bytes", [](ServerOptions* o) { o->engine.state_bytes = -1; }},
      {"--state_host_memory is -2; range [0, ",
       [](ServerOptions* o) { o->engine.state_host_memory = -2; }},
      {"--state_disk is -1; range [0, ", [](ServerOptions* o) { o->engine.state_disk = -1; }},
      {"--state_dir needs --prefix_cache, which is false",
       [](ServerOptions* o) {
         o->engine.state_dir = "/tmp";
         o->engine.prefix_cache = false;
       }},
      {"--state_dir needs --state_host_memory",
       [](ServerOptions* o) {
         o->engine.state_dir = "/some/states";
         o->engine.state_host_memory = 0;
       }},
      {"--cg_tolerance", [](ServerOptions* o) { o->solver.cg_tolerance = 0; }},
      {"--cg_tolerance",
       [](ServerOptions* o) { o->solver.cg_tolerance = std::numeric_limits<float>::quiet_NaN(); }},
      {"--cg_max_steps", [](ServerOptions* o) { o->solver.cg_max_steps = 0; }},
      {"--drain_grace is -1s; range [0, 1h]",
       [](ServerOptions* o) { o->drain_grace = absl::Seconds(-1); }},
      {"--drain_delay is 1h1s; range [0, 1h]",
       [](ServerOptions* o) { o->drain_delay = absl::Seconds(3601); }},
      {"--stall_timeout is 0; range [100ms, 24h]",
       [](ServerOptions* o) { o->stall_timeout = absl::ZeroDuration(); }},
      {"--stream_idle_timeout",
       [](ServerOptions* o) { o->stream_idle_timeout = absl::InfiniteDuration(); }},
      {"--max_message_bytes", [](ServerOptions* o) { o->max_message_bytes = 10; }},
      {"--max_connections is -1; range [0, 1000000]",
       [](ServerOptions* o) { o->max_connections = -1; }},
      {"--max_connection_streams is 0; range [1, 1000000]",
       [](ServerOptions* o) { o->max_connection_streams = 0; }},
      {"--max_connection_age is 999ms; range [1s, 24h]",
       [](ServerOptions* o) { o->max_connection_age = absl::Milliseconds(999); }},
      {"--max_connection_age_grace is -1s; range [0, inf]",
       [](ServerOptions* o) { o->max_connection_age_grace = absl::Seconds(-1); }},
      {"--message_timeout is 99ms; range [100ms, 24h]",
       [](ServerOptions* o) { o->message_timeout = absl::Milliseconds(99); }},
      {"--max_streams", [](ServerOptions* o) { o->max_streams = 0; }},
      {"--metrics_by_caller is 1001; range [0, 1000]",
       [](ServerOptions* o) { o->metrics_by_caller = 1001; }},
      {"--log_format is \"xml\"; one of: text, json",
       [](ServerOptions* o) { o->log_format = "xml"; }},
  };
  for (const auto& [message, spoil] : cases) {
    ServerOptions options = GoodOptions();
    spoil(&options);
    const absl::Status status = ValidateServerOptions(&options);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << message;
    EXPECT_TRUE(absl::StrContains(status.message(), message)) << message << ": " << status;
  }
}

Outbox::Update Tokens(std::vector<int32_t> tokens) {
  Outbox::Update update;
  update.tokens = std::move(tokens);
  return update;
}

TEST(TraceContext, IsWhatTheStandardSays) {
  const std::string trace = "4bf92f3577b34da6a3ce929d0e0e4736", span = "00f067aa0ba902b7";
  const std::string good = "00-" + trace + "-" + span + "-01";
  const auto parsed = ParseTraceparent(good);
  ASSERT_TRUE(parsed.has_value());
  EXPECT_EQ(parsed->trace_id, trace);
  EXPECT_EQ(parsed->parent_id, span);
  EXPECT_EQ(parsed->flags, "01");
  // Versions to come may say more.
  EXPECT_TRUE(ParseTraceparent("cc" + good.substr(2)).has_value());
  EXPECT_TRUE(ParseTraceparent("cc" + good.substr(2) + "-more").has_value());
  for (const std::string& bad :
       {std::string(), good.substr(1), good + "-more", good + "0", "ff" + good.substr(2),
        "cc" + good.substr(2) + "more", "0x" + good.substr(2), "00_" + good.substr(3),
        "00-" + trace + "_" + span + "-01", "00-" + trace + "-" + span + "_01",
        "00-" + std::string(32, '0') + "-" + span + "-01",
        "00-" + trace + "-" + std::string(16, '0') + "-01", "00-" + trace + "-" + span + "-0g",
        "00-4BF92F3577B34DA6A3CE929D0E0E4736-" + span + "-01", std::string(55, '\0')}) {
    EXPECT_FALSE(ParseTraceparent(bad).has_value()) << bad;
  }
}

TEST(ResponseBuilder, AMessageIsAllThatIsNew) {
  ResponseBuilder builder(nullptr, true, true);
  v1::GenerateResponse message;
  EXPECT_FALSE(builder.Build(&message));
  builder.Add(Tokens({1, 2}));
  builder.Add(Tokens({3}));
  EXPECT_TRUE(builder.Build(&message));
  EXPECT_EQ(message.token_ids_size(), 3);
  EXPECT_EQ(message.token_ids(2), 3);
  message.Clear();
  EXPECT_FALSE(builder.Build(&message));
  EXPECT_FALSE(builder.done());
  Outbox::Update last = Tokens({4});
  last.finish = Finish{FinishReason::kLength, absl::OkStatus(), {}};
  builder.Add(std::move(last));
  EXPECT_TRUE(builder.Build(&message));
  EXPECT_EQ(message.token_ids_size(), 1);
  EXPECT_TRUE(builder.done());
}

TEST(ResponseBuilder, AMessageEndsBeforeClientsRefuseIt) {
  ResponseBuilder builder(nullptr, true, true);
  Outbox::Update update = Tokens(std::vector<int32_t>(100000, 7));
  update.logprobs.assign(100000, TokenLogprobs{-1, std::vector<std::pair<int32_t, float>>(20)});
  update.finish = Finish{FinishReason::kLength, absl::OkStatus(), {}};
  builder.Add(std::move(update));
  int tokens = 0, messages = 0;
  while (!builder.done()) {
    v1::GenerateResponse message;
    ASSERT_TRUE(builder.Build(&message));
    EXPECT_LT(message.ByteSizeLong(), 4u << 20);
    EXPECT_EQ(message.logprobs_size(), message.token_ids_size());
    tokens += message.token_ids_size();
    ++messages;
  }
  EXPECT_EQ(tokens, 100000);
  EXPECT_GT(messages, 1);
}

// A tokenizer whose last ids are pieces of `bytes` bytes.
std::unique_ptr<Tokenizer> WithLongPieces(size_t bytes) {
  std::ifstream file("tests/data/tokenizer_json/gpt2.json");
  auto json = nlohmann::json::parse(file);
  for (int i = 0; i < kMaxLogprobs; ++i) {
    const std::string piece = std::string(bytes - 1, 'x') + static_cast<char>('a' + i);
    json["model"]["vocab"][piece] = 4096 + i;
  }
  const std::string folder = testing::TempDir() + "/long_pieces";
  std::filesystem::create_directories(folder);
  std::ofstream(folder + "/tokenizer.json") << json;
  auto tokenizer = Tokenizer::Load(folder, 4096 + kMaxLogprobs);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *std::move(tokenizer);
}

TEST(ResponseBuilder, LongPiecesFitToo) {
  constexpr size_t kBytes = ResponseBuilder::kMaxPieceBytes;
  const auto tokenizer = WithLongPieces(kBytes);
  EXPECT_EQ(MakeRequestRules({4096 + kMaxLogprobs, 4096 + kMaxLogprobs, 64, true}, tokenizer.get())
                .max_piece_bytes,
            kBytes);
  TokenLogprobs logprobs;
  for (int i = 0; i < kMaxLogprobs; ++i) logprobs.top.emplace_back(4096 + i, -1.0f);
  ResponseBuilder builder(tokenizer.get(), true, true);
  // The worst token after a message that is nearly full.
  Outbox::Update update = Tokens(std::vector<int32_t>(60, 4096));
  update.logprobs.assign(15, TokenLogprobs());
  update.logprobs.resize(60, logprobs);
  update.finish = Finish{FinishReason::kLength, absl::OkStatus(), {}};
  builder.Add(std::move(update));
  size_t text = 0;
  while (!builder.done()) {
    v1::GenerateResponse message;
    builder.Build(&message);
    EXPECT_LT(message.ByteSizeLong(), 3u << 20);
    text += message.text().size();
  }
  EXPECT_EQ(text, 60 * kBytes);
}

// The counter behind SplitMix64's `z`.
uint64_t UndoSplitMix(uint64_t z) {
  const auto undo_shift = [](uint64_t y, int shift) {
    uint64_t x = y;
    for (int known = shift; known < 64; known += shift) x = y ^ (x >> shift);
    return x;
  };
  z = undo_shift(z, 31) * 0x319642b2d24d8ec3u;
  z = undo_shift(z, 27) * 0x96de1b173f119089u;
  return undo_shift(z, 30);
}

TEST(RandomNumber, IsNoFunctionOfTheOneBefore) {
  std::set<uint64_t> seen;
  uint64_t before = 0;
  for (int i = 0; i < 10000; ++i) {
    const uint64_t number = RandomNumber();
    EXPECT_TRUE(seen.insert(number).second);
    // A mixed counter would be found out by undoing the mix.
    EXPECT_NE(UndoSplitMix(number) - UndoSplitMix(before), 0x9e3779b97f4a7c15u);
    before = number;
  }
}

}  // namespace
}  // namespace packrat
