// The ends of a server: draining, engines that stand still, deadlines, and the clock of all that.
#include <dirent.h>
#include <grpc/support/time.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <cstddef>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "runtime/steady_clock.h"
#include "server/generation/call_deadline.h"
#include "server/grpc/call_info.h"
#include "server/watchdog.h"
#include "tests/server/generate.h"

namespace packrat {
namespace {

TEST(Draining, AnAnnouncedServerStillTakesCalls) {
  TestServer server(LongTexts());
  EXPECT_TRUE(absl::StrContains(server.Get("/balancerz"), " 200 "));
  EXPECT_EQ(server.Metric("packrat_draining"), 0);
  server.server().AnnounceDrain();
  const std::string readyz = server.Get("/readyz");
  EXPECT_TRUE(absl::StrContains(readyz, " 503 ")) << readyz;
  EXPECT_TRUE(absl::EndsWith(readyz, "\r\ndraining\n")) << readyz;
  EXPECT_TRUE(absl::StrContains(server.Get("/balancerz"), " 404 "));
  EXPECT_TRUE(absl::StrContains(server.Get("/healthz"), " 200 "));
  EXPECT_EQ(server.Metric("packrat_draining"), 1);
  EXPECT_EQ(server.Metric("packrat_ready"), 0);
  EXPECT_TRUE(Generate(StubFor(server).get(), Ids({5}, 4)).status.ok());
}

TEST(Draining, LoadingIsNotDraining) {
  TestServer::Options options;
  options.serve = false;
  TestServer server(options);
  EXPECT_TRUE(absl::StrContains(server.Get("/balancerz"), " 503 "));
}

// Clients that never let go, up to the last moment and beyond.
TEST(Draining, EveryCallIsAnsweredOrUnavailable) {
  std::atomic<int> good{0}, unavailable{0};
  for (int round = 0; round < 20; ++round) {
    TestServer server(LongTexts());
    std::atomic<bool> stop{false};
    std::vector<std::thread> clients;
    for (int c = 0; c < 4; ++c) {
      clients.emplace_back([&, c] {
        grpc::ChannelArguments own;  // A connection for each.
        own.SetInt("client", 100 * round + c);
        own.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
        auto stub = v1::Inference::NewStub(
            grpc::CreateCustomChannel(server.address(), grpc::InsecureChannelCredentials(), own));
        while (!stop.load()) {
          const Result result = Generate(stub.get(), Ids({5, c}, 3));
          if (result.status.ok()) {
            EXPECT_EQ(result.ids.size(), 3u);
            ++good;
          } else {
            EXPECT_EQ(result.status.error_code(), grpc::StatusCode::UNAVAILABLE)
                << result.status.error_message();
            ++unavailable;
          }
        }
      });
    }
    const int before = good.load();
    ASSERT_TRUE(Eventually([&] { return good.load() >= before + 20; }));
    server.server().Drain();
    stop.store(true);
    for (std::thread& client : clients) client.join();
  }
  EXPECT_GT(unavailable.load(), 0);
}

// Says whether the process has a thread of this name.
bool HasThread(const std::string& name) {
  bool found = false;
  DIR* dir = opendir("/proc/self/task");
  while (const dirent* entry = readdir(dir)) {
    std::string comm;
    std::getline(std::ifstream(absl::StrCat("/proc/self/task/", entry->d_name, "/comm")), comm);
    found = found || comm == name;
  }
  closedir(dir);
  return found;
}

// State whose end is seen.
class WatchedState : public StateBuffer {
 public:
  WatchedState(std::unique_ptr<StateBuffer> state, std::function<void()> on_end)
      : state_(std::move(state)), on_end_(std::move(on_end)) {}
  ~WatchedState() override { on_end_(); }
  std::byte* data() const override { return state_->data(); }
  size_t size() const override { return state_->size(); }
  void Fill(size_t offset, size_t bytes, unsigned char value) override {
    state_->Fill(offset, bytes, value);
  }
  void Copy(size_t from, size_t to, size_t bytes) override { state_->Copy(from, to, bytes); }
  void Write(size_t to, const std::byte* from, size_t bytes) override {
    state_->Write(to, from, bytes);
  }
  absl::Status Read(absl::Span<const Piece> pieces, std::byte* to) override {
    return state_->Read(pieces, to);
  }

 private:
  const std::unique_ptr<StateBuffer> state_;
  const std::function<void()> on_end_;
};

class WatchedModel : public FakeModel {
 public:
  using FakeModel::FakeModel;
  absl::StatusOr<std::unique_ptr<StateBuffer>> AllocateState(size_t bytes) override {
    auto state = FakeModel::AllocateState(bytes);
    if (!state.ok()) return state;
    return std::make_unique<WatchedState>(*std::move(state), on_state_end);
  }
  std::function<void()> on_state_end;
};

TEST(Stopping, NobodyLooksAtAnEngineThatIsBeingDestroyed) {
  int ends = 0;
  WatchedModel model;
  model.on_state_end = [&] {
    ++ends;
    // Whoever reads its statistics.
    for (const char* name : {"packrat-engine", "packrat-writer", "packrat-watch"}) {
      EXPECT_FALSE(HasThread(name)) << name;
    }
  };
  Logger log(Logger::Format::kText, [](const std::string&) {});
  auto server = Server::Start(TestServer::Options().server, &log);
  ASSERT_TRUE(server.ok()) << server.status();
  ASSERT_TRUE((*server)->Serve(&model, nullptr).ok());
  // The names are those that the test looks for.
  for (const char* name : {"packrat-engine", "packrat-writer", "packrat-watch"}) {
    EXPECT_TRUE(Eventually([&] { return HasThread(name); })) << name;
  }
  server->reset();
  EXPECT_EQ(ends, 1);
}

TEST(Watchdog, OnlyWorkWithoutStepsIsAStall) {
  const absl::Time start = absl::UnixEpoch();
  StallDetector detector(absl::Seconds(30), /*interval=*/absl::Seconds(1));
  int now = 0;
  const auto after = [&](int seconds, EngineProgress progress) {
    bool stalled = false;
    for (int end = now + seconds; now < end;) {
      stalled = detector.Update(start + absl::Seconds(++now), progress);
    }
    return stalled;
  };
  EXPECT_FALSE(after(100, {false, 7}));  // Nothing to do.
  EXPECT_FALSE(after(29, {true, 7}));    // From the first work on, not from the last step.
  EXPECT_TRUE(after(1, {true, 7}));
  EXPECT_TRUE(after(100, {true, 7}));
  EXPECT_FALSE(after(1, {true, 8}));  // It goes on.
  EXPECT_FALSE(after(29, {true, 8}));
  EXPECT_FALSE(after(1, {true, 9}));
  EXPECT_FALSE(after(29, {true, 9}));
  EXPECT_FALSE(after(1, {false, 9}));  // All was cancelled, for instance.
  EXPECT_FALSE(after(29, {true, 9}));
  EXPECT_TRUE(after(1, {true, 9}));
  // The process was stopped for an hour, and its engine with it.
  EXPECT_FALSE(after(1, {true, 10}));
  now += 3600;
  EXPECT_FALSE(after(1, {true, 10}));
  EXPECT_FALSE(after(27, {true, 10}));
  EXPECT_TRUE(after(1, {true, 10}));
}

TEST(Watchdog, AnEngineThatStandsStillIsNeitherAliveNorReadyUntilItGoesOn) {
  TestServer::Options options = LongTexts();
  options.server.stall_timeout = absl::Milliseconds(100);
  TestServer server(options);
  auto stub = StubFor(server);
  const auto alive = [&] { return absl::StrContains(server.Get("/healthz"), " 200 "); };
  EXPECT_EQ(server.Metric("packrat_engine_stalled"), 0);
  server.gate().Close();
  grpc::ClientContext context;
  auto reader = stub->Generate(&context, Ids({5, 6}, 40));
  server.gate().WaitUntilHeld();
  ASSERT_TRUE(Eventually([&] { return !alive(); }));
  EXPECT_TRUE(absl::StrContains(server.Get("/healthz"), " 503 "));
  EXPECT_TRUE(absl::StrContains(server.Get("/healthz"), "no step for 100ms"));
  EXPECT_TRUE(absl::StrContains(server.Get("/readyz"), " 503 "));
  EXPECT_TRUE(absl::StrContains(server.Get("/balancerz"), " 503 "));
  EXPECT_EQ(server.Metric("packrat_engine_stalled"), 1);
  // The log and the health service are told after the flag is set.
  const auto logged = [&](const std::string& text) {
    for (const std::string& line : server.log_lines()) {
      if (absl::StrContains(line, text)) return true;
    }
    return false;
  };
  EXPECT_TRUE(Eventually([&] { return logged(" error the engine stands still "); }));
  EXPECT_FALSE(logged(" the engine goes on "));
  const Result refused = Generate(stub.get(), Ids({5}, 4));
  EXPECT_EQ(refused.status.error_code(), grpc::StatusCode::UNAVAILABLE);
  server.gate().Open();
  EXPECT_TRUE(ReadAll(reader.get()).status.ok());
  EXPECT_TRUE(Eventually([&] { return alive() && logged(" the engine goes on "); }));
  EXPECT_TRUE(Eventually([&] { return Generate(stub.get(), Ids({5}, 4)).status.ok(); }));
}

TEST(Deadlines, AreThoseOfTheSteadyClock) {
  EXPECT_EQ(SteadyDeadline(gpr_inf_future(GPR_CLOCK_MONOTONIC)), absl::InfiniteFuture());
  EXPECT_EQ(SteadyDeadline(gpr_inf_future(GPR_CLOCK_REALTIME)), absl::InfiniteFuture());
  // What gRPC gives: exact.
  gpr_timespec exact = gpr_now(GPR_CLOCK_MONOTONIC);
  exact.tv_sec = 12345;
  exact.tv_nsec = 67;
  EXPECT_EQ(SteadyDeadline(exact),
            absl::UnixEpoch() + absl::Seconds(12345) + absl::Nanoseconds(67));
  const absl::Time before = SteadyNow();
  const absl::Time now = SteadyDeadline(gpr_now(GPR_CLOCK_MONOTONIC));
  EXPECT_LE(before - absl::Microseconds(1), now);
  EXPECT_LE(now, SteadyNow() + absl::Microseconds(1));
}

TEST(Deadlines, AClientThatHangsUpAtItsOwnIsLateWhateverGrpcRounds) {
  // A timeout goes over the network with three digits, rounded up.
  for (double seconds = 0.001; seconds < 80000; seconds *= 1.0137) {
    const double unit = std::pow(10, std::floor(std::log10(seconds)) - 2);
    const double sent = std::ceil(seconds / unit) * unit;
    const absl::Time arrival = absl::UnixEpoch() + absl::Hours(1);
    const absl::Time deadline = arrival + absl::Seconds(sent);
    const auto late = [&](absl::Duration after) {
      return CancelledByDeadline(arrival, deadline, arrival + after);
    };
    EXPECT_TRUE(late(absl::Seconds(seconds))) << seconds;
    EXPECT_TRUE(late(absl::Seconds(seconds) - absl::Milliseconds(19))) << seconds;
    EXPECT_FALSE(late(absl::Seconds(sent * 0.99) - absl::Milliseconds(21))) << seconds;
  }
  // Where there is no deadline, nothing is late.
  const absl::Time now = SteadyNow();
  EXPECT_FALSE(CancelledByDeadline(now, absl::InfiniteFuture(), now + absl::Hours(10000)));
}

}  // namespace
}  // namespace packrat
