// Generate and Score without a network: what a call does with any front, and what it promises one.
#include "server/generation/generation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <random>
#include <thread>
#include <vector>

#include "runtime/retry_after.h"
#include "runtime/steady_clock.h"
#include "server/generation/call_status.h"
#include "tests/server/fake_front.h"

namespace packrat {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

v1::GenerateRequest Ids(const std::vector<int32_t>& ids, int max_tokens) {
  v1::GenerateRequest request;
  request.mutable_tokens()->mutable_ids()->Assign(ids.begin(), ids.end());
  request.mutable_stop()->set_max_tokens(max_tokens);
  request.mutable_stop()->set_ignore_eos(true);
  request.mutable_sampling()->set_temperature(0);
  return request;
}

// More bytes than are worked on where they arrive.
v1::GenerateRequest LongPrompt() { return Ids(std::vector<int32_t>(5000, 7), 1); }

// The one line of the log.
std::string LogOf(const Replica& replica) {
  const std::vector<std::string> lines = replica.access_lines();
  EXPECT_EQ(lines.size(), 1u);
  return lines.empty() ? "" : lines[0];
}

// Nothing of any call is left.
void ExpectAllFree(Replica* replica) {
  EXPECT_TRUE(Eventually([&] { return replica->engine().idle(); }));
  EXPECT_TRUE(Eventually([&] { return replica->environment()->streams.count() == 0; }));
}

TEST(Generation, GoesFromMessageToTokensAndBack) {
  Replica replica;
  FakeCaller caller;
  CallInfo info;
  info.peer = "test:1";
  info.request_id = "mine-1";
  info.caller = "me";
  info.traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
  caller.Start(&replica, Ids({5, 6, 7}, 20), info);
  ASSERT_TRUE(caller.WaitForEnd());
  EXPECT_TRUE(caller.status().ok()) << caller.status();
  EXPECT_EQ(caller.ids(), replica.model().GreedyAfter({5, 6, 7}, 20));
  EXPECT_EQ(caller.finished().reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(caller.finished().usage().prompt_tokens(), 3);
  EXPECT_EQ(caller.finished().request_id(), "mine-1");
  EXPECT_EQ(caller.operations().back(), "WriteAndFinish");
  EXPECT_EQ(caller.labels().request_id, "mine-1");
  EXPECT_THAT(caller.labels().traceresponse, HasSubstr("0af7651916cd43dd8448eb211c80319c"));
  const std::string line = LogOf(replica);
  for (const char* part :
       {"id=mine-1", "caller=me", "peer=test:1", "call=Generate", "status=OK", "finish=length",
        "prompt_tokens=3", "generated_tokens=20", "trace_id=0af7651916cd43dd8448eb211c80319c"}) {
    EXPECT_THAT(line, HasSubstr(part));
  }
  ExpectAllFree(&replica);
}

TEST(Generation, NamesThatTheContractDoesNotAllowAreLeftOut) {
  Replica replica;
  FakeCaller caller;
  CallInfo info;
  info.request_id = "two\nlines";
  info.caller = std::string(65, 'a');
  info.traceparent = "00-nonsense";
  caller.Start(&replica, Ids({5}, 1), info);
  ASSERT_TRUE(caller.WaitForEnd());
  EXPECT_EQ(caller.labels().request_id.size(), 16u);
  EXPECT_EQ(caller.labels().traceresponse, "");
  EXPECT_THAT(LogOf(replica), HasSubstr("caller=\"\" "));
}

TEST(Generation, ScoresAreOfTheSameKind) {
  Replica replica;
  FakeCaller caller;
  v1::ScoreRequest request;
  for (const int id : {5, 6, 7}) request.mutable_tokens()->add_ids(id);
  caller.Start(&replica, request);
  ASSERT_TRUE(caller.WaitForEnd());
  EXPECT_TRUE(caller.status().ok()) << caller.status();
  EXPECT_EQ(caller.finished().score().tokens(), 2);
  EXPECT_THAT(LogOf(replica), HasSubstr("call=Score"));
}

TEST(Generation, TellsOfAllChoicesAndEndsWithTheLast) {
  Replica replica;
  FakeCaller caller;
  v1::GenerateRequest request = Ids({5, 6}, 8);
  request.set_num_choices(3);
  caller.Start(&replica, request);
  ASSERT_TRUE(caller.WaitForEnd());
  for (int choice = 0; choice < 3; ++choice) {
    EXPECT_EQ(caller.ids(choice), replica.model().GreedyAfter({5, 6}, 8)) << choice;
    EXPECT_EQ(caller.finished(choice).reason(), v1::FINISH_REASON_LENGTH) << choice;
  }
  EXPECT_TRUE(caller.messages().back().has_finished());
}

TEST(Generation, SaysThatItTookARequestThatHasNoTokensYet) {
  Replica replica;
  FakeCaller caller(FakeCaller::Reads::kWhenTold);
  replica.gate().Close();
  caller.Start(&replica, Ids({5, 6}, 6));
  ASSERT_TRUE(caller.WaitFor("SendHeaders"));
  replica.gate().Open();
  // Whatever comes meanwhile waits until that is out, and then comes at once.
  ASSERT_TRUE(Eventually([&] { return replica.engine().idle(); }));
  EXPECT_THAT(caller.operations(), ElementsAre("SendHeaders"));
  caller.Answer();
  ASSERT_TRUE(caller.WaitFor("WriteAndFinish"));
  caller.Answer();
  EXPECT_TRUE(caller.WaitForEnd());
  EXPECT_THAT(caller.operations(), ElementsAre("SendHeaders", "WriteAndFinish"));
  EXPECT_EQ(caller.ids(), replica.model().GreedyAfter({5, 6}, 6));
}

TEST(Generation, ATurnIsKeptBeforeTheClientHearsOfItsEnd) {
  Replica replica;
  Sessions& sessions = *replica.environment()->sessions;
  const auto session = sessions.Create({}, std::nullopt, SteadyNow());
  ASSERT_TRUE(session.ok());
  v1::GenerateRequest request = Ids({5, 6}, 4);
  request.set_session(session->handle);
  FakeCaller first(FakeCaller::Reads::kWhenTold), second;
  replica.gate().Close();
  first.Start(&replica, request);
  ASSERT_TRUE(first.WaitFor("SendHeaders"));
  second.Start(&replica, request);
  ASSERT_TRUE(second.WaitForEnd());
  EXPECT_EQ(second.status().code(), absl::StatusCode::kAborted) << second.status();
  replica.gate().Open();
  ASSERT_TRUE(first.AnswerUntil("WriteAndFinish"));
  const auto kept = sessions.Get({}, session->handle, SteadyNow());
  ASSERT_TRUE(kept.ok());
  EXPECT_FALSE(kept->busy);
  EXPECT_EQ(kept->tokens, 6);
  first.Answer();
}

TEST(Refusals, AreTheFirstAndLastOperationInsideOfStart) {
  Replica replica;
  v1::GenerateRequest bad = Ids({5}, 1);
  bad.mutable_sampling()->set_temperature(-1);
  v1::GenerateRequest text;
  text.set_text("no tokenizer");
  const struct {
    v1::GenerateRequest request;
    absl::StatusCode code;
    const char* says;
  } cases[] = {
      {bad, absl::StatusCode::kInvalidArgument, "sampling.temperature is -1"},
      {text, absl::StatusCode::kFailedPrecondition, "tokenizer"},
      {v1::GenerateRequest(), absl::StatusCode::kInvalidArgument, "prompt is missing"},
  };
  for (const auto& c : cases) {
    FakeCaller caller;
    caller.Start(&replica, c.request);
    // Nobody has waited for it.
    EXPECT_THAT(caller.operations(), ElementsAre("Finish"));
    EXPECT_EQ(caller.status().code(), c.code);
    EXPECT_THAT(std::string(caller.status().message()), HasSubstr(c.says));
    EXPECT_EQ(RetryDelay(caller.status()), std::nullopt);
    EXPECT_THAT(replica.access_lines().back(), HasSubstr("finish=refused"));
  }
  ExpectAllFree(&replica);
}

TEST(Refusals, BeforeThereIsAModelAndAfterTheLastCall) {
  Replica::Options options;
  options.serve = false;
  Replica loading(options);
  FakeCaller early, late;
  early.Start(&loading, Ids({5}, 1));
  EXPECT_EQ(early.status().code(), absl::StatusCode::kUnavailable);
  Replica replica;
  replica.environment()->closed.store(true);
  late.Start(&replica, Ids({5}, 1));
  EXPECT_EQ(late.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(late.status().message()), HasSubstr("draining"));
}

TEST(Refusals, KeysAreAskedForAndNameTheCaller) {
  Replica::Options options;
  options.keys = ApiKeyLine("team", "secret") + " priority=-5..5\n";
  Replica replica(options);
  CallInfo info;
  info.caller = "somebody else";
  for (const char* wrong : {"", "Bearer wrong", "secret"}) {
    info.authorization = wrong;
    FakeCaller caller;
    caller.Start(&replica, Ids({5}, 1), info);
    EXPECT_EQ(caller.status().code(), absl::StatusCode::kUnauthenticated) << wrong;
    EXPECT_THAT(replica.access_lines().back(), HasSubstr("caller=\"\" "));
  }
  info.authorization = "Bearer secret";
  v1::GenerateRequest request = Ids({5}, 1);
  request.set_priority(6);
  FakeCaller urgent, good;
  urgent.Start(&replica, request, info);
  EXPECT_EQ(urgent.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(replica.access_lines().back(), HasSubstr("caller=team"));
  good.Start(&replica, Ids({5}, 1), info);
  ASSERT_TRUE(good.WaitForEnd());
  EXPECT_TRUE(good.status().ok()) << good.status();
}

TEST(Refusals, SayWhenToTryAgainWhereThatHelps) {
  Replica::Options options;
  options.server.max_streams = 1;
  Replica replica(options);
  FakeCaller first(FakeCaller::Reads::kWhenTold), second, third;
  replica.gate().Close();
  first.Start(&replica, Ids({5}, 1));
  ASSERT_TRUE(first.WaitFor("SendHeaders"));
  second.Start(&replica, Ids({5}, 1));
  EXPECT_EQ(second.status().code(), absl::StatusCode::kResourceExhausted);
  const auto delay = RetryDelay(second.status());
  ASSERT_TRUE(delay.has_value());
  EXPECT_GE(*delay, kShortestRetryAfter);
  EXPECT_LE(*delay, kLongestRetryAfter);
  // The place is taken until the client has the end.
  replica.gate().Open();
  ASSERT_TRUE(first.AnswerUntil("WriteAndFinish"));
  EXPECT_EQ(replica.environment()->streams.count(), 1);
  first.Answer();
  EXPECT_EQ(replica.environment()->streams.count(), 0);
  third.Start(&replica, Ids({5}, 1));
  ASSERT_TRUE(third.WaitForEnd());
  EXPECT_TRUE(third.status().ok()) << third.status();
}

TEST(Cancellation, BeforeTheRequestIsWithTheEngine) {
  Replica replica;
  for (const bool late : {false, true}) {
    CallInfo info;
    if (late) info.deadline = SteadyNow() - absl::Seconds(1);
    FakeCaller caller;
    auto busy = std::make_unique<Busy>(replica.environment()->prompts);
    caller.Start(&replica, LongPrompt(), info);
    EXPECT_TRUE(caller.operations().empty());
    caller.Cancel();
    EXPECT_TRUE(caller.operations().empty());
    busy.reset();
    ASSERT_TRUE(caller.WaitForEnd());
    EXPECT_EQ(caller.status().code(),
              late ? absl::StatusCode::kDeadlineExceeded : absl::StatusCode::kCancelled);
    EXPECT_THAT(caller.operations(), ElementsAre("Finish"));
    EXPECT_THAT(replica.access_lines().back(), HasSubstr("finish=refused"));
  }
  EXPECT_EQ(replica.engine().stats().steps, 0);
  ExpectAllFree(&replica);
}

TEST(Cancellation, EndsWhatRunsAndKeepsWhatWasSaid) {
  Replica replica;
  FakeCaller caller;
  replica.gate().Close();
  caller.Start(&replica, Ids({5, 6}, 10000));
  replica.gate().Allow(4);
  ASSERT_TRUE(Eventually([&] { return caller.ids().size() >= 3; }));
  caller.Cancel();
  caller.Cancel();
  replica.gate().Open();
  ASSERT_TRUE(caller.WaitForEnd());
  EXPECT_EQ(caller.status().code(), absl::StatusCode::kCancelled) << caller.status();
  EXPECT_EQ(caller.operations().back(), "Finish");
  const std::vector<int32_t> ids = caller.ids();
  EXPECT_LT(ids.size(), 10000u);
  EXPECT_EQ(ids, replica.model().GreedyAfter({5, 6}, static_cast<int>(ids.size())));
  EXPECT_THAT(LogOf(replica), HasSubstr("finish=cancelled"));
  ExpectAllFree(&replica);
  caller.Cancel();  // Of what is over: nothing.
}

TEST(Cancellation, AFailedWriteIsAClientThatHasGone) {
  Replica replica;
  FakeCaller caller(FakeCaller::Reads::kWhenTold);
  replica.gate().Close();
  caller.Start(&replica, Ids({5, 6}, 10000));
  replica.gate().Allow(3);
  ASSERT_TRUE(caller.AnswerUntil("Write"));
  const size_t before = caller.operations().size();
  caller.Answer(false);
  replica.gate().Open();
  ASSERT_TRUE(caller.WaitFor("Finish"));
  EXPECT_EQ(caller.operations().size(), before + 1) << "it went on writing";
  EXPECT_EQ(caller.status().code(), absl::StatusCode::kCancelled) << caller.status();
  caller.Answer(false);
  ExpectAllFree(&replica);
}

TEST(SlowReader, IsDroppedAfterTheIdleTimeout) {
  Replica::Options options;
  options.server.stream_idle_timeout = absl::Milliseconds(100);
  Replica replica(options);
  FakeCaller caller(FakeCaller::Reads::kWhenTold);
  caller.Start(&replica, Ids({5, 6}, 10000));
  ASSERT_TRUE(Eventually([&] { return caller.aborts() > 0; }));
  caller.Leave();
  ASSERT_TRUE(caller.WaitForEnd());
  EXPECT_EQ(caller.aborts(), 1);
  EXPECT_THAT(LogOf(replica), HasSubstr("status=CANCELLED"));
  EXPECT_THAT(LogOf(replica), HasSubstr("stream_idle_timeout"));
  ExpectAllFree(&replica);
}

TEST(SlowReader, SlowsDownNobodyAndGetsTheRestAtOnce) {
  Replica replica;
  FakeCaller slow(FakeCaller::Reads::kWhenTold), quick;
  slow.Start(&replica, Ids({5, 6}, 2000));
  quick.Start(&replica, Ids({8, 9}, 2000));
  ASSERT_TRUE(quick.WaitForEnd());
  EXPECT_EQ(quick.ids(), replica.model().GreedyAfter({8, 9}, 2000));
  ASSERT_TRUE(Eventually([&] { return replica.engine().idle(); }));
  EXPECT_EQ(slow.operations().size(), 1u);
  ASSERT_TRUE(slow.AnswerUntil("WriteAndFinish"));
  slow.Answer();
  EXPECT_LE(slow.operations().size(), 3u);
  EXPECT_EQ(slow.ids(), replica.model().GreedyAfter({5, 6}, 2000));
}

TEST(Draining, RunningCallsMayEndAndOthersAreToldWhy) {
  Replica replica;
  CallEnvironment& environment = *replica.environment();
  FakeCaller shorter, longer(FakeCaller::Reads::kWhenTold), late;
  replica.gate().Close();
  longer.Start(&replica, Ids({5, 6}, 19000));
  shorter.Start(&replica, Ids({8, 9}, 4));
  ASSERT_TRUE(longer.WaitFor("SendHeaders"));
  environment.closed.store(true);
  replica.engine().Drain();
  replica.gate().Allow(50);
  ASSERT_TRUE(shorter.WaitForEnd());
  EXPECT_TRUE(shorter.status().ok()) << shorter.status();
  late.Start(&replica, Ids({5}, 1));
  EXPECT_EQ(late.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_FALSE(environment.streams.WaitForNone(SteadyNow()));
  replica.engine().AbortAll(absl::UnavailableError("the server is shutting down"));
  replica.gate().Open();
  ASSERT_TRUE(longer.AnswerUntil("Finish"));
  EXPECT_EQ(longer.status().code(), absl::StatusCode::kUnavailable) << longer.status();
  // The client has not got it yet.
  EXPECT_FALSE(environment.streams.WaitForNone(SteadyNow()));
  longer.Answer();
  EXPECT_TRUE(environment.streams.WaitForNone(SteadyNow() + absl::Seconds(30)));
}

TEST(Races, ClientsThatLeaveAtAnyTimeLeaveNothingBehind) {
  Replica replica;
  constexpr int kThreads = 4, kCalls = 60;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937 random(t);
      for (int i = 0; i < kCalls; ++i) {
        const auto reads =
            random() % 2 == 0 ? FakeCaller::Reads::kAtOnce : FakeCaller::Reads::kWhenTold;
        FakeCaller caller(reads);
        caller.Start(&replica, random() % 4 == 0 ? LongPrompt() : Ids({5, 6}, 500));
        const size_t patience = random() % 4;
        if (reads == FakeCaller::Reads::kAtOnce) {
          Eventually([&] { return caller.operations().size() >= std::min<size_t>(1, patience); });
        }
        caller.Leave();
        EXPECT_TRUE(caller.WaitForEnd());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(replica.access_lines().size(), size_t{kThreads * kCalls});
  ExpectAllFree(&replica);
}

}  // namespace
}  // namespace packrat
