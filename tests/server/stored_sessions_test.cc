// Sessions that change their server between turns, through a folder and through a real
// redis-server: at the other one they say what a fresh text says. And servers whose store is down.
#include <gmock/gmock.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/server/redis_process.h"
#include "tests/server/sessions.h"
#include "tests/server/short_folder.h"

namespace packrat {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// A handle that might be somebody's.
std::string Unknown() { return std::string(21, 'B') + "A"; }

// A server of those that share a store, and a client of it.
struct Replica : SessionClient {
  explicit Replica(const TestServer::Options& options)
      : Replica(std::make_unique<TestServer>(options), "") {}
  // With an API key.
  Replica(std::unique_ptr<TestServer> started, const std::string& key)
      : SessionClient(To(*started, key)), server(std::move(started)) {}
  static Connection::Options To(const TestServer& server, const std::string& key) {
    Connection::Options to;
    to.address = server.address();
    to.api_key = key;
    return to;
  }
  // A turn that ends well, as a fresh text would; it joins *text.
  Turn Continue(const std::string& session, const Tokens& prompt, Tokens* text) {
    Turn turn = Say(session, prompt);
    EXPECT_TRUE(turn.status.ok()) << turn.status;
    *text = *text + prompt;
    EXPECT_EQ(turn.ids, server->model().GreedyAfter(*text, 7));
    *text = *text + turn.ids;
    return turn;
  }

  std::unique_ptr<TestServer> server;
};

// In a folder, and in Redis.
class StoredSessionsTest : public ::testing::TestWithParam<bool> {
 protected:
  StoredSessionsTest() : folder_(ShortFolder()) {
    if (GetParam()) {
      redis_ = std::make_unique<RedisProcess>("secret");
      std::ofstream(folder_ + "/password") << "secret\n";
      options_.server.session_store = "redis+unix:" + redis_->Path();
      options_.server.session_store_password_file = folder_ + "/password";
    } else {
      options_.server.session_store = Store();
    }
  }
  ~StoredSessionsTest() override { std::filesystem::remove_all(folder_); }
  std::unique_ptr<Replica> Start() { return std::make_unique<Replica>(options_); }
  std::string Store() const { return folder_ + "/store"; }
  // Whatever is asked of the store then fails.
  void Break() {
    if (redis_ != nullptr) {
      redis_->Kill();
    } else {
      std::filesystem::rename(Store(), Store() + "-away");
      std::filesystem::create_symlink("store", Store());
    }
  }
  void Mend() {
    if (redis_ != nullptr) {
      redis_->Start();
    } else {
      std::filesystem::remove(Store());
      std::filesystem::rename(Store() + "-away", Store());
    }
  }

  const std::string folder_;
  std::unique_ptr<RedisProcess> redis_;
  TestServer::Options options_;
};

TEST_P(StoredSessionsTest, ASessionGoesOnWhereItsHomeIsGone) {
  auto home = Start();
  const auto other = Start();
  const std::string session = home->Create();
  Tokens text;
  home->Continue(session, Tokens(40, 5), &text);
  home->Continue(session, {6, 7}, &text);
  home.reset();
  const int before = static_cast<int>(text.size());
  EXPECT_EQ(other->TextOf(session), text);  // Which leaves it, with its state, to the turn.
  const Turn turn = other->Continue(session, {8, 9}, &text);
  // All but the last token, which nobody had computed.
  EXPECT_EQ(turn.finished.usage().cached_tokens(), before - 1);
  v1::Session told;
  ASSERT_TRUE(other->Get(session, &told).ok());
  EXPECT_EQ(told.num_turns(), 3);
  EXPECT_EQ(other->server->Metric("packrat_sessions_fetched_total"), 2);
  EXPECT_EQ(other->server->Metric("packrat_sessions_stored_total"), 1);
  EXPECT_EQ(other->server->Metric("packrat_sessions_not_stored_total"), 0);
  EXPECT_GE(other->server->Metric("packrat_session_store_calls_total"), 2);
  EXPECT_GT(other->server->Metric("packrat_session_store_seconds_total"), 0);
}

// A server may be killed as soon as the client has the answer: the store has the turn then.
TEST_P(StoredSessionsTest, WhatTheClientHasHeardIsStored) {
  const std::unique_ptr<Replica> replicas[] = {Start(), Start()};
  const std::string session = replicas[0]->Create();
  Tokens text;
  for (int i = 0; i < 20; ++i) replicas[(i + 1) % 2]->Continue(session, {5 + i, 6}, &text);
}

TEST_P(StoredSessionsTest, AllCallsFindIt) {
  const auto home = Start();
  std::vector<std::string> sessions;
  Tokens first, text;
  for (int i = 0; i < 4; ++i) {
    sessions.push_back(home->Create());
    text.clear();
    home->Continue(sessions[i], {5, 6, 7}, &text);
    first = text;
    home->Continue(sessions[i], {8}, &text);
  }
  const auto other = Start(), third = Start();
  EXPECT_EQ(other->TextOf(sessions[0]), text);
  const std::string fork = other->Fork(sessions[1]);
  ASSERT_TRUE(other->RewindTurns(sessions[2], 1).ok());
  EXPECT_TRUE(other->Delete(sessions[3]).ok());
  // And what they make of it is stored.
  Tokens of_fork = text;
  third->Continue(fork, {9}, &of_fork);
  EXPECT_EQ(third->TextOf(sessions[2]), first);
  v1::Session none;
  EXPECT_TRUE(absl::IsNotFound(third->Get(sessions[3], &none)));
  EXPECT_TRUE(absl::IsNotFound(third->Delete(sessions[3])));
  EXPECT_TRUE(absl::IsNotFound(third->Say(Unknown(), {5}).status));
}

// What is there already is stored, whoever put it there.
TEST_P(StoredSessionsTest, WhatChangesNothingIsStored) {
  const auto home = Start();
  const std::string session = home->Create();
  Tokens text;
  home->Continue(session, {5, 6, 7}, &text);
  EXPECT_EQ(home->RewindTurns(session, 1), absl::OkStatus());
  EXPECT_EQ(home->TextOf(session), text);
  EXPECT_EQ(home->RewindTurns(session, 0), absl::OkStatus());
  EXPECT_EQ(home->RewindTurns(session, 0), absl::OkStatus());
  EXPECT_EQ(Start()->TextOf(session), Tokens());
}

TEST_P(StoredSessionsTest, WithoutItsStoreAServerGoesOnAlone) {
  const auto home = Start(), other = Start();
  const std::string session = home->Create();
  Tokens text;
  home->Continue(session, {5, 6, 7}, &text);
  Break();
  home->Continue(session, {8}, &text);
  EXPECT_EQ(home->server->Metric("packrat_sessions_not_stored_total"), 1);
  const double failures = home->server->Metric("packrat_session_store_failures_total");
  EXPECT_GT(failures, 0);
  EXPECT_GT(home->server->Metric("packrat_session_store_calls_total"), failures);
  EXPECT_TRUE(
      Eventually([&] { return home->server->AccessLines("not_stored=\"the session store") == 1; }));
  const absl::Status status = other->Say(session, {8}).status;
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("not at this replica, and the session store does not answer"));
  // Whoever has the handle may use the session: no log shows it.
  for (const Replica* replica : {home.get(), other.get()}) {
    for (const std::string& line : replica->server->log_lines()) {
      EXPECT_THAT(line, Not(HasSubstr(session)));
    }
  }
  Tokens fresh;
  other->Continue("", {5, 6}, &fresh);  // Without a session.
  Mend();
  // For a moment nobody asks it.
  for (Replica* replica : {home.get(), other.get()}) {
    v1::Session none;
    EXPECT_TRUE(Eventually([&] { return absl::IsNotFound(replica->Get(Unknown(), &none)); }));
  }
  home->Continue(session, {9}, &text);
  other->Continue(session, {10}, &text);
}

TEST_P(StoredSessionsTest, OfTwoTurnsAtOnceOneIsToldThatItIsLost) {
  const auto home = Start(), other = Start();
  const std::string session = home->Create();
  Tokens text;
  home->Continue(session, {5, 6, 7}, &text);
  home->server->gate().Close();
  Turn late;
  std::thread running([&] { late = home->Say(session, {8}); });
  home->server->gate().WaitUntilHeld();
  other->Continue(session, {9}, &text);
  home->server->gate().Open();
  running.join();
  EXPECT_TRUE(absl::IsAborted(late.status)) << late.status;
  EXPECT_FALSE(late.finished.has_usage());
  home->Continue(session, {10}, &text);
}

// While a call generates in it the others see it as it was before, though another replica may have
// gone on; only those that would change it are refused.
TEST_P(StoredSessionsTest, WhoLooksAtASessionMeanwhileSeesIt) {
  const auto home = Start(), other = Start();
  const std::string session = home->Create();
  Tokens text, theirs;
  home->Continue(session, {5, 6, 7}, &text);
  theirs = text;
  home->server->gate().Close();
  Turn late;
  std::thread running([&] { late = home->Say(session, {8}); });
  home->server->gate().WaitUntilHeld();
  other->Continue(session, {9}, &theirs);
  v1::Session told;
  EXPECT_EQ(home->Get(session, &told), absl::OkStatus());
  EXPECT_TRUE(told.busy());
  EXPECT_EQ(home->TextOf(session), text);
  EXPECT_EQ(home->TextOf(home->Fork(session)), text);
  for (const absl::Status& status :
       {home->RewindTurns(session, 0), home->Say(session, {8}).status, home->Delete(session)}) {
    EXPECT_TRUE(absl::IsAborted(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("session is busy"));
  }
  Scores scores;
  std::thread scoring([&] {
    v1::ScoreRequest request;
    request.set_session(session);
    request.add_candidates()->mutable_tokens()->add_ids(6);
    scores = home->Score(request);
  });
  EXPECT_TRUE(Eventually([&] { return home->server->Metric("packrat_requests_waiting") > 1; }));
  home->server->gate().Open();
  scoring.join();
  running.join();
  ASSERT_TRUE(scores.status.ok()) << scores.status;
  EXPECT_EQ(scores.finished[0].usage().prompt_tokens(), text.size() + 1);
  EXPECT_TRUE(absl::IsAborted(late.status)) << late.status;
  EXPECT_EQ(home->TextOf(session), theirs);
}

TEST_P(StoredSessionsTest, ATenantsSessionIsNobodyElses) {
  options_.server.api_keys = folder_ + "/keys";
  std::ofstream(options_.server.api_keys) << ApiKeyLine("a", "key-a") << "\n"
                                          << ApiKeyLine("b", "key-b") << "\n";
  Replica home(std::make_unique<TestServer>(options_), "key-a");
  const std::string session = home.Create();
  Tokens text;
  home.Continue(session, {5, 6, 7}, &text);
  // At another replica, where only the store knows it.
  Replica other(std::make_unique<TestServer>(options_), "key-b");
  SessionClient of_a(Replica::To(*other.server, "key-a"));
  const std::vector<absl::Status> theirs = other.AllWith(session);
  for (const absl::Status& status : theirs) EXPECT_TRUE(absl::IsNotFound(status)) << status;
  EXPECT_EQ(theirs, other.AllWith(Unknown()));
  EXPECT_EQ(of_a.TextOf(session), text);
  of_a.Fork(session);
  EXPECT_EQ(other.AllWith(session), theirs);  // Now that it is here as well.
  EXPECT_EQ(home.TextOf(session), text);
}

// What takes a place says what is full; what takes none goes on.
TEST_P(StoredSessionsTest, AReplicaWithoutRoomShowsAndDeletes) {
  const auto home = Start();
  const std::string session = home->Create();
  Tokens text;
  home->Continue(session, {5, 6, 7}, &text);
  options_.server.sessions.max_sessions = 1;
  const auto full = Start();
  const std::string own = full->Create();
  EXPECT_EQ(full->TextOf(session), text);
  const std::vector<absl::Status> told = full->AllWith(session);
  ASSERT_EQ(told.size(), 7);
  for (const int i : {0, 2, 3, 4, 5}) {
    EXPECT_TRUE(absl::IsResourceExhausted(told[i])) << i << told[i];
    EXPECT_THAT(std::string(told[i].message()),
                HasSubstr("this replica has no room for the session, which the session store has"));
  }
  EXPECT_EQ(told[1], absl::OkStatus());
  EXPECT_EQ(told[6], absl::OkStatus());
  v1::Session none;
  EXPECT_TRUE(absl::IsNotFound(Start()->Get(session, &none)));
  EXPECT_TRUE(absl::IsNotFound(full->Delete(session)));
  EXPECT_EQ(full->TextOf(own), Tokens());
}

TEST_P(StoredSessionsTest, ItsTimeToLiveGoesWithIt) {
  const auto home = Start(), other = Start();
  v1::CreateSessionRequest brief;
  brief.set_ttl_seconds(120);
  v1::Session session, told;
  ASSERT_TRUE((*home)->CreateSession(brief, &session).status.ok());
  ASSERT_TRUE(other->Get(session.session(), &told).ok());
  EXPECT_EQ(told.ttl_seconds(), 120);
}

TEST_P(StoredSessionsTest, WhatIsScoredSavedAndLoadedGoesThroughTheStoreToo) {
  const auto home = Start(), other = Start();
  const std::string session = home->Create();
  Tokens text;
  home->Continue(session, Tokens(40, 5), &text);
  v1::ScoreRequest request;
  request.set_session(session);
  request.add_candidates()->mutable_tokens()->add_ids(6);
  const Scores scores = other->Score(request);
  ASSERT_TRUE(scores.status.ok()) << scores.status;
  EXPECT_EQ(scores.finished[0].usage().cached_tokens(), 46);
  const SessionClient::Saved saved = Start()->Save(session);
  EXPECT_EQ(saved.told.state_tokens(), 46);
  // A session that is loaded at one goes on at the other with its state.
  const std::string loaded = other->Load(saved.bytes);
  const Turn turn = home->Continue(loaded, {8}, &text);
  EXPECT_EQ(turn.finished.usage().cached_tokens(), 46);
}

INSTANTIATE_TEST_SUITE_P(Store, StoredSessionsTest, ::testing::Bool());

// The server is told to stop while a turn is on its way into the store, which is slow.
TEST(StoppingWithAStore, ATurnThatIsBeingStoredIsStored) {
  RedisProcess redis;
  TestServer::Options options;
  options.server.session_store = "redis+unix:" + redis.Path();
  Replica home(options), other(options);
  const std::string session = home.Create();
  Tokens text;
  home.Continue(session, {5, 6, 7}, &text);
  home.server->gate().Close();
  Turn last;
  std::thread running([&] { last = home.Say(session, {8}); });
  home.server->gate().WaitUntilHeld();
  redis.Signal(SIGSTOP);
  home.server->gate().Open();
  // The engine is done, and the session is still busy.
  EXPECT_TRUE(Eventually([&] { return home.server->Metric("packrat_requests_running{") == 0; }));
  EXPECT_EQ(home.server->Metric("packrat_sessions_busy{"), 1);
  std::thread stopping([&] { home.server->server().Drain(); });
  EXPECT_TRUE(Eventually([&] {
    const std::vector<std::string> lines = home.server->log_lines();
    return std::any_of(lines.begin(), lines.end(), [](const std::string& line) {
      return line.find("no more calls are taken") != std::string::npos;
    });
  }));
  redis.Signal(SIGCONT);
  running.join();
  stopping.join();
  ASSERT_TRUE(last.status.ok()) << last.status;
  text = text + Tokens{8};
  EXPECT_EQ(other.TextOf(session), text + last.ids);
}

TEST(SessionStoreFolder, TheLogTellsIfOthersMayReadIt) {
  const std::string folder = ShortFolder(), store = folder + "/store";
  TestServer::Options options;
  options.server.session_store = store;
  const auto told = [&] {
    TestServer server(options);
    const std::vector<std::string> lines = server.log_lines();
    return std::count_if(lines.begin(), lines.end(), [&](const std::string& line) {
      return line.find("others than the server's user may read") != std::string::npos &&
             line.find(store) != std::string::npos;
    });
  };
  EXPECT_EQ(told(), 0);
  std::filesystem::permissions(store, std::filesystem::perms(0755));
  EXPECT_EQ(told(), 1);
  std::filesystem::remove_all(folder);
}

TEST(SessionStoreFlags, WrongOnesAreNamed) {
  Logger log(Logger::Format::kText, [](const std::string&) {});
  const struct {
    std::string store, password_file, message;
  } kCases[] = {
      {"some/folder", "", "--session_store is \"some/folder\"; the absolute path"},
      {"/dev/null/folder", "", "--session_store: "},
      {"redis://", "", "--session_store: 'redis://' is not an address"},
      {"/tmp", "/dev/null", "--session_store_password_file is for Redis"},
      {"redis://localhost", "/dev/null", "no password can be read from \"/dev/null\""},
      {"", "/dev/null", "--session_store_password_file needs --session_store"},
  };
  for (const auto& wrong : kCases) {
    ServerOptions options = TestServer::Options().server;
    options.session_store = wrong.store;
    options.session_store_password_file = wrong.password_file;
    const absl::Status status = Server::Start(options, &log).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << wrong.store << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(wrong.message));
  }
}

}  // namespace
}  // namespace packrat
