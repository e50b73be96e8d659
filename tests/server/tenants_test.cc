// API keys and what each may use, through the whole server.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdio>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "server/api_keys.h"
#include "server/client/connection.h"
#include "tests/server/generate.h"

namespace packrat {
namespace {

class TenantsTest : public ::testing::Test {
 protected:
  TenantsTest() : options_(LongTexts()) { options_.server.api_keys = testing::TempDir() + "/keys"; }
  // NAME's key is key-NAME.
  static std::string Line(const std::string& name, const std::string& limits = "") {
    return absl::StrCat(ApiKeyLine(name, "key-" + name), " ", limits, "\n");
  }
  void WriteKeys(const std::string& text) {
    const std::string next = options_.server.api_keys + ".next";
    std::ofstream(next) << text;
    ASSERT_EQ(std::rename(next.c_str(), options_.server.api_keys.c_str()), 0);
  }
  void Start(const std::string& keys) {
    WriteKeys(keys);
    server_ = std::make_unique<TestServer>(options_);
  }
  Connection::Options OptionsOf(const std::string& name) {
    Connection::Options options;
    options.address = server_->address();
    if (!name.empty()) options.api_key = "key-" + name;
    return options;
  }
  Connection::Outcome Call(const std::string& name, const v1::GenerateRequest& request) {
    Connection connection(OptionsOf(name));
    return connection.Generate(request, [](const auto&) {});
  }
  // A call that holds the engine at the gate until it is opened.
  class Running {
   public:
    Running(TenantsTest* test, const std::string& name, int tokens = 40) {
      thread_ = std::thread([test, name, tokens, this] {
        Connection connection(test->OptionsOf(name));
        status_ =
            connection.Generate(Ids({5, 6}, tokens), [this](const auto&) { heard_ = true; }).status;
        done_ = true;
      });
    }
    ~Running() {
      if (thread_.joinable()) thread_.join();
    }
    absl::Status Join() {
      thread_.join();
      return status_;
    }
    bool done() const { return done_; }
    bool heard() const { return heard_; }  // A message has come.

   private:
    absl::Status status_;
    std::atomic<bool> done_{false}, heard_{false};
    std::thread thread_;
  };
  bool WaitsFor(int running, int waiting) {
    return Eventually([&] {
      return server_->Metric("packrat_requests_running{") == running &&
             server_->Metric("packrat_requests_waiting{") == waiting;
    });
  }

  TestServer::Options options_;
  std::unique_ptr<TestServer> server_;
};

TEST_F(TenantsTest, EveryCallWantsAKeyThatIsKnown) {
  Start(Line("team-a"));
  const auto statuses = [&](const std::string& name) {
    Connection connection(OptionsOf(name));
    v1::TokenizeResponse tokens;
    v1::DetokenizeResponse text;
    v1::GetModelInfoResponse info;
    return std::vector<absl::Status>{connection.Generate(Ids({5}, 3), [](const auto&) {}).status,
                                     connection.Tokenize({}, &tokens).status,
                                     connection.Detokenize({}, &text).status,
                                     connection.GetModelInfo(&info).status};
  };
  for (const absl::Status& status : statuses("")) {
    EXPECT_TRUE(absl::IsUnauthenticated(status)) << status;
    EXPECT_TRUE(absl::StrContains(status.message(), "wants an API key")) << status;
  }
  for (const absl::Status& status : statuses("team-b")) {
    EXPECT_TRUE(absl::IsUnauthenticated(status)) << status;
    EXPECT_EQ(status.message(), "this server does not know the API key");
  }
  for (const absl::Status& status : statuses("team-a")) {
    EXPECT_FALSE(absl::IsUnauthenticated(status)) << status;
  }
  // Who is let in is called by the key's name, whatever it calls itself; who is not, is nobody.
  Connection::Options named = OptionsOf("team-a");
  named.caller = "somebody-else";
  EXPECT_TRUE(Connection(named).Generate(Ids({5}, 3), [](const auto&) {}).status.ok());
  named.api_key = "wrong";
  EXPECT_FALSE(Connection(named).Generate(Ids({5}, 3), [](const auto&) {}).status.ok());
  ASSERT_TRUE(Eventually([&] { return server_->AccessLines("call=") == 14; }));
  EXPECT_EQ(server_->AccessLines("caller=team-a"), 5);
  EXPECT_EQ(server_->AccessLines("somebody-else"), 0);
  EXPECT_EQ(server_->AccessLines("status=UNAUTHENTICATED"), 9);
  // Probes and scrapes need no key.
  EXPECT_TRUE(absl::StrContains(server_->Get("/readyz"), " 200 "));
  EXPECT_TRUE(absl::StrContains(server_->Get("/metrics"), " 200 "));
}

// What one key's requests leave is not found by another's, not even that it is there.
TEST_F(TenantsTest, KeysShareNoStates) {
  Start(Line("team-a") + Line("team-b"));
  const std::vector<int32_t> prompt(70, 8);
  const auto usage = [&](const std::string& name, int32_t last) {
    std::vector<int32_t> text = prompt;
    text.push_back(last);
    Connection connection(OptionsOf(name));
    v1::Usage seen;
    const absl::Status status = connection
                                    .Generate(Ids(text, 2),
                                              [&](const auto& message) {
                                                if (message.has_finished())
                                                  seen = message.finished().usage();
                                              })
                                    .status;
    EXPECT_TRUE(status.ok()) << status;
    return seen;
  };
  EXPECT_EQ(usage("team-a", 5).cache_miss(), v1::CACHE_MISS_FIRST_USE);
  EXPECT_EQ(usage("team-a", 6).cache_miss(), v1::CACHE_MISS_NO_SNAPSHOT);
  EXPECT_EQ(usage("team-a", 7).cached_tokens(), 64);
  const v1::Usage other = usage("team-b", 7);
  EXPECT_EQ(other.cached_tokens(), 0);
  EXPECT_EQ(other.cache_miss(), v1::CACHE_MISS_FIRST_USE);
}

TEST_F(TenantsTest, MetricsNeedAKeyWhereThatIsAskedFor) {
  options_.server.metrics_need_key = true;
  Start(Line("prometheus"));
  EXPECT_TRUE(absl::StrContains(server_->Get("/metrics"), " 401 "));
  EXPECT_TRUE(absl::StrContains(server_->Get("/metrics"), "WWW-Authenticate: Bearer"));
  EXPECT_TRUE(absl::StrContains(server_->Get("/metrics", "Authorization: Bearer x\r\n"), " 401 "));
  const std::string answer = server_->Get("/metrics", "Authorization: Bearer key-prometheus\r\n");
  EXPECT_TRUE(absl::StrContains(answer, " 200 ")) << answer;
  EXPECT_TRUE(absl::StrContains(answer, "packrat_requests_running{"));
  EXPECT_TRUE(absl::StrContains(server_->Get("/readyz"), " 200 "));
  EXPECT_TRUE(absl::StrContains(server_->Get("/healthz"), " 200 "));

  options_.server.api_keys.clear();
  Logger log(Logger::Format::kText, [](const std::string&) {});
  EXPECT_TRUE(absl::StrContains(Server::Start(options_.server, &log).status().message(),
                                "--metrics_need_key needs --api_keys"));
}

TEST_F(TenantsTest, ABrokenFileIsRefusedAtTheStart) {
  WriteKeys("nonsense");
  Logger log(Logger::Format::kText, [](const std::string&) {});
  const absl::Status status = Server::Start(options_.server, &log).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_TRUE(absl::StrContains(status.message(), "line 1: ")) << status;
}

TEST_F(TenantsTest, KeysAreReadAgainWhenTheyChange) {
  Start(Line("a"));
  EXPECT_TRUE(Call("a", Ids({5}, 3)).status.ok());
  WriteKeys("nonsense");
  ASSERT_TRUE(Eventually([&] {
    for (const std::string& line : server_->log_lines()) {
      if (absl::StrContains(line, "the API keys stay as they were")) return true;
    }
    return false;
  }));
  EXPECT_TRUE(Call("a", Ids({5}, 3)).status.ok());
  WriteKeys(Line("b"));
  ASSERT_TRUE(Eventually([&] { return Call("b", Ids({5}, 3)).status.ok(); }));
  EXPECT_TRUE(absl::IsUnauthenticated(Call("a", Ids({5}, 3)).status));
}

TEST_F(TenantsTest, StreamsOfOneAreLimitedAndComeBack) {
  Start(Line("a", "streams=1") + Line("b"));
  server_->gate().Close();
  Running first(this, "a");
  server_->gate().WaitUntilHeld();
  const Connection::Outcome refused = Call("a", Ids({5}, 3));
  EXPECT_TRUE(absl::IsResourceExhausted(refused.status)) << refused.status;
  EXPECT_EQ(refused.status.message(), "all 1 streams of a are in use");
  EXPECT_GT(refused.retry_after, absl::ZeroDuration());
  Running other(this, "b", 3);
  server_->gate().Open();
  EXPECT_TRUE(first.Join().ok());
  EXPECT_TRUE(other.Join().ok());
  // Free as soon as the call is over on the server's side; refused calls keep none.
  EXPECT_TRUE(Eventually([&] { return Call("a", Ids({5}, 3)).status.ok(); }));
}

TEST_F(TenantsTest, TokensOfAMinuteAreLimited) {
  Start(Line("a", "tokens_per_minute=100"));
  // 2 + 40: what is asked for is taken, and what was used of it is kept.
  EXPECT_TRUE(Call("a", Ids({5, 6}, 40)).status.ok());
  ASSERT_TRUE(Eventually([&] { return Call("a", Ids({5, 6}, 40)).status.ok(); }));
  const Connection::Outcome refused = Call("a", Ids({5, 6}, 98));
  EXPECT_TRUE(absl::IsResourceExhausted(refused.status)) << refused.status;
  EXPECT_TRUE(absl::StrContains(refused.status.message(), "100 tokens a minute")) << refused.status;
  // For the 80 or so that lack, some 50 s.
  EXPECT_GT(refused.retry_after, absl::Seconds(10));
  EXPECT_LE(refused.retry_after, absl::Minutes(1));
}

TEST_F(TenantsTest, TheShareOfTheQueueLeavesRoomForOthers) {
  options_.server.engine.max_running = 1;
  options_.server.engine.max_queue = 4;
  Start(Line("a") + Line("b"));  // Half by default.
  server_->gate().Close();
  Running running(this, "a");
  server_->gate().WaitUntilHeld();
  server_->gate().Allow(1);
  ASSERT_TRUE(Eventually([&] { return running.heard(); }));  // It no longer waits.
  Running one(this, "a"), two(this, "a");
  ASSERT_TRUE(WaitsFor(1, 2));
  const absl::Status refused = Call("a", Ids({5}, 3)).status;
  EXPECT_TRUE(absl::IsResourceExhausted(refused)) << refused;
  EXPECT_TRUE(absl::StrContains(refused.message(), "its share of the queue")) << refused;
  Running other(this, "b");
  ASSERT_TRUE(WaitsFor(1, 3));
  server_->gate().Open();
  for (Running* call : {&running, &one, &two, &other}) EXPECT_TRUE(call->Join().ok());
  EXPECT_TRUE(Eventually([&] { return Call("a", Ids({5}, 3)).status.ok(); }));
}

TEST_F(TenantsTest, PrioritiesHaveARange) {
  Start(Line("a", "priority=-20..-10"));
  v1::GenerateRequest request = Ids({5}, 3);
  EXPECT_TRUE(Call("a", request).status.ok());  // Not said: the nearest to 0.
  request.set_priority(-15);
  EXPECT_TRUE(Call("a", request).status.ok());
  for (int priority : {-9, 0, -21}) {
    request.set_priority(priority);
    const absl::Status status = Call("a", request).status;
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << priority;
    EXPECT_TRUE(absl::StrContains(status.message(), "[-20, -10]")) << status;
  }
}

TEST_F(TenantsTest, AFloodOfOneDoesNotStarveAnother) {
  options_.server.engine.max_running = 1;
  Start(Line("flood") + Line("other"));
  server_->gate().Close();
  std::vector<std::unique_ptr<Running>> flood;
  for (int i = 0; i < 30; ++i) flood.push_back(std::make_unique<Running>(this, "flood"));
  ASSERT_TRUE(Eventually([&] { return server_->Metric("packrat_streams_open{") == 30; }));
  server_->gate().WaitUntilHeld();
  // All of the flood was there before.
  Running other(this, "other");
  ASSERT_TRUE(Eventually([&] { return server_->Metric("packrat_streams_open{") == 31; }));
  server_->gate().Allow(40 * 5);  // Time for five of them at most.
  ASSERT_TRUE(Eventually([&] { return other.done(); }));
  int done = 0;
  for (const auto& call : flood) done += call->done();
  EXPECT_LE(done, 5);
  EXPECT_TRUE(other.Join().ok());
  server_->gate().Open();
  for (const auto& call : flood) EXPECT_TRUE(call->Join().ok());
}

}  // namespace
}  // namespace packrat
