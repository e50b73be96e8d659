// Sessions through the whole server: what a turn says is what a fresh text with all tokens says.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <limits>
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

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Tokens = std::vector<int32_t>;

Tokens operator+(Tokens a, const Tokens& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

// With the states of texts kept, and without.
class SessionsTest : public ::testing::TestWithParam<bool> {
 protected:
  SessionsTest() { options_.server.engine.prefix_cache = GetParam(); }
  void Start() {
    server_ = std::make_unique<TestServer>(options_);
    connection_ = std::make_unique<Connection>(OptionsOf(""));
  }
  // NAME's key is key-NAME.
  Connection::Options OptionsOf(const std::string& name) const {
    Connection::Options options;
    options.address = server_->address();
    if (!name.empty()) options.api_key = "key-" + name;
    return options;
  }
  static std::string Create(Connection* connection) {
    v1::Session session;
    const absl::Status status = connection->CreateSession({}, &session).status;
    EXPECT_TRUE(status.ok()) << status;
    return session.session();
  }
  std::string Create() { return Create(connection_.get()); }
  struct Turn {
    absl::Status status;
    Tokens ids;
    std::string text;
    v1::Finished finished;
  };
  static Turn Generate(Connection* connection, const v1::GenerateRequest& request) {
    Turn turn;
    turn.status = connection
                      ->Generate(request,
                                 [&](const v1::GenerateResponse& message) {
                                   turn.ids = turn.ids + Tokens(message.token_ids().begin(),
                                                                message.token_ids().end());
                                   turn.text += message.text();
                                   if (message.has_finished()) turn.finished = message.finished();
                                 })
                      .status;
    return turn;
  }
  // The tokens of a turn that ends well; its session then holds them.
  Tokens Say(const std::string& session, const Tokens& prompt, int max_tokens = 7) {
    v1::GenerateRequest request = Ids(prompt, max_tokens);
    request.set_session(session);
    const Turn turn = Generate(connection_.get(), request);
    EXPECT_TRUE(turn.status.ok()) << turn.status;
    return turn.ids;
  }
  v1::Session Show(const std::string& handle) {
    v1::GetSessionRequest request;
    request.set_session(handle);
    request.set_include_token_ids(true);
    v1::Session session;
    const absl::Status status = connection_->GetSession(request, &session).status;
    EXPECT_TRUE(status.ok()) << status;
    return session;
  }
  Tokens TextOf(const std::string& handle) {
    const v1::Session session = Show(handle);
    EXPECT_EQ(session.tokens(), session.token_ids_size());
    return {session.token_ids().begin(), session.token_ids().end()};
  }
  std::string Fork(const std::string& handle) {
    v1::ForkSessionRequest request;
    request.set_session(handle);
    v1::Session session;
    const absl::Status status = connection_->ForkSession(request, &session).status;
    EXPECT_TRUE(status.ok()) << status;
    return session.session();
  }
  absl::Status Rewind(const std::string& handle, int tokens) {
    v1::RewindSessionRequest request;
    request.set_session(handle);
    request.set_tokens(tokens);
    v1::Session session;
    return connection_->RewindSession(request, &session).status;
  }
  Tokens Fresh(const Tokens& text, int max_tokens = 7) const {
    return server_->model().GreedyAfter(text, max_tokens);
  }
  // The status of each call that takes a handle.
  static std::vector<absl::Status> AllWith(Connection* connection, const std::string& handle) {
    v1::GenerateRequest generate = Ids({5}, 3);
    generate.set_session(handle);
    v1::GetSessionRequest get;
    get.set_session(handle);
    v1::ForkSessionRequest fork;
    fork.set_session(handle);
    v1::RewindSessionRequest rewind;
    rewind.set_session(handle);
    rewind.set_turns(0);
    v1::DeleteSessionRequest remove;
    remove.set_session(handle);
    v1::Session session;
    return {Generate(connection, generate).status, connection->GetSession(get, &session).status,
            connection->ForkSession(fork, &session).status,
            connection->RewindSession(rewind, &session).status,
            connection->DeleteSession(remove).status};
  }

  TestServer::Options options_;
  std::unique_ptr<TestServer> server_;
  std::unique_ptr<Connection> connection_;
};

TEST_P(SessionsTest, TurnsSayWhatAFreshTextSays) {
  Start();
  const std::string session = Create();
  Tokens text;
  for (const Tokens& prompt : {Tokens{5, 6, 7}, Tokens{8}, Tokens{}, Tokens(40, 9), Tokens{10}}) {
    text = text + prompt;
    const Tokens reply = Say(session, prompt);
    EXPECT_EQ(reply, Fresh(text));
    text = text + reply;
    EXPECT_EQ(TextOf(session), text);
  }
  const v1::Session told = Show(session);
  EXPECT_EQ(told.num_turns(), 5);
  EXPECT_THAT(told.turn_ends(), ElementsAre(10, 18, 25, 72, 80));
  EXPECT_FALSE(told.busy());
  EXPECT_EQ(told.ttl_seconds(), 3600);
  EXPECT_GE(told.age_seconds(), told.idle_seconds());
}

TEST_P(SessionsTest, SeedsAndPenaltiesSeeTheWholeText) {
  Start();
  v1::GenerateRequest request = Ids({5, 6, 7}, 12);
  request.mutable_sampling()->set_temperature(1);
  request.mutable_sampling()->set_seed(3);
  request.mutable_sampling()->set_repetition_penalty(2);
  request.mutable_sampling()->set_top_k(20);
  v1::GenerateRequest first = request;
  const std::string session = Create();
  first.set_session(session);
  const Turn one = Generate(connection_.get(), first);
  v1::GenerateRequest second = first;
  *second.mutable_tokens() = Ids({8, 9}, 1).tokens();
  const Turn two = Generate(connection_.get(), second);
  ASSERT_TRUE(two.status.ok()) << two.status;
  EXPECT_EQ(two.finished.usage().prompt_tokens(), 3 + 12 + 2);
  const Tokens all = Tokens{5, 6, 7} + one.ids + Tokens{8, 9};
  request.mutable_tokens()->mutable_ids()->Assign(all.begin(), all.end());
  EXPECT_EQ(Generate(connection_.get(), request).ids, two.ids);
}

TEST_P(SessionsTest, RewoundItGoesOnAsIfTheRestHadNeverBeen) {
  Start();
  const std::string session = Create();
  const Tokens first = Tokens{5, 6} + Say(session, {5, 6}, 20);
  Say(session, {7}, 20);
  for (int tokens : {22, 21, 16, 9, 1, 0}) {
    const std::string fork = Fork(session);
    ASSERT_TRUE(Rewind(fork, tokens).ok());
    const Tokens kept(first.begin(), first.begin() + tokens);
    EXPECT_EQ(TextOf(fork), kept);
    EXPECT_EQ(Say(fork, {8, 9}), Fresh(kept + Tokens{8, 9}));
    // Once more what was said before.
    if (tokens == 0) continue;
    ASSERT_TRUE(Rewind(fork, tokens).ok());
    EXPECT_EQ(Say(fork, {}, 20), Fresh(kept, 20));
  }
}

TEST_P(SessionsTest, ForksGoOnAsIfAlone) {
  Start();
  const std::string one = Create();
  const Tokens text = Tokens{5, 6} + Say(one, {5, 6}, 30);
  const std::string other = Fork(one);
  EXPECT_EQ(Say(other, {8}), Fresh(text + Tokens{8}));
  EXPECT_EQ(Say(one, {7}), Fresh(text + Tokens{7}));
  // At the same time.
  const Tokens of_one = TextOf(one), of_other = TextOf(other);
  Tokens said;
  std::thread thread([&] { said = Say(one, {9}, 40); });
  EXPECT_EQ(Say(other, {9}, 40), Fresh(of_other + Tokens{9}, 40));
  thread.join();
  EXPECT_EQ(said, Fresh(of_one + Tokens{9}, 40));
}

TEST_P(SessionsTest, ManySessionsAtOnce) {
  Start();
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&, i] {
      Connection connection(OptionsOf(""));
      const std::string session = Create(&connection);
      Tokens text;
      for (int turn = 0; turn < 6; ++turn) {
        const Tokens prompt = {5 + i, 5 + turn};
        v1::GenerateRequest request = Ids(prompt, 5 + i);
        request.set_session(session);
        const Turn done = Generate(&connection, request);
        ASSERT_TRUE(done.status.ok()) << done.status;
        text = text + prompt;
        ASSERT_EQ(done.ids, Fresh(text, 5 + i));
        text = text + done.ids;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST_P(SessionsTest, TextTurnsJoinAsTheyAreWritten) {
  options_.tokenizer = true;
  Start();
  const std::string session = Create();
  v1::GenerateRequest request;
  request.set_session(session);
  request.mutable_stop()->set_max_tokens(5);
  request.mutable_stop()->set_ignore_eos(true);
  request.mutable_sampling()->set_temperature(0);
  std::string written;
  for (const char* text : {"Once upon", "a time", " there", "\nwas"}) {
    request.set_text(text);
    const Turn turn = Generate(connection_.get(), request);
    ASSERT_TRUE(turn.status.ok()) << turn.status;
    absl::StrAppend(&written, text, turn.text);
  }
  const Tokens ids = TextOf(session);
  EXPECT_EQ(ids[0], server_->tokenizer()->bos_id());
  EXPECT_EQ(std::count(ids.begin() + 1, ids.end(), server_->tokenizer()->bos_id()), 0);
  EXPECT_EQ(server_->tokenizer()->Decode(ids, /*skip_special=*/true), written);
}

TEST_P(SessionsTest, OneCallAtATimeAndTheOthersAreTold) {
  Start();
  const std::string session = Create();
  const Tokens text = Tokens{5} + Say(session, {5});
  server_->gate().Close();
  Tokens said;
  std::thread running([&] { said = Say(session, {6}); });
  server_->gate().WaitUntilHeld();
  EXPECT_TRUE(Show(session).busy());
  EXPECT_EQ(server_->Metric("packrat_sessions_busy{"), 1);
  EXPECT_EQ(server_->Metric("packrat_session_tokens{"), 8 + 1 + 7);
  const std::vector<absl::Status> statuses = AllWith(connection_.get(), session);
  for (size_t i : {0, 3, 4}) {  // All but to look and to fork.
    EXPECT_TRUE(absl::IsAborted(statuses[i])) << statuses[i];
    EXPECT_THAT(statuses[i].message(), HasSubstr("session is busy"));
  }
  EXPECT_EQ(TextOf(Fork(session)), text);
  server_->gate().Open();
  running.join();
  EXPECT_EQ(said, Fresh(text + Tokens{6}));
  // Free before the client has heard the end, so that the next turn never comes too early.
  for (int i = 0; i < 50; ++i) Say(session, {7}, 1);
}

TEST_P(SessionsTest, ACallThatIsCancelledKeepsWhatItSaid) {
  Start();
  const std::string session = Create();
  const Tokens text = Tokens{5} + Say(session, {5});
  const auto cancel_after = [&](int messages) {
    const auto stub = StubFor(*server_);
    grpc::ClientContext context;
    v1::GenerateRequest request = Ids({6, 7}, 400);
    request.set_session(session);
    server_->gate().Close();
    const auto reader = stub->Generate(&context, request);
    server_->gate().WaitUntilHeld();
    v1::GenerateResponse message;
    Tokens heard;
    for (int i = 0; i < messages; ++i) {
      server_->gate().Allow(1);
      EXPECT_TRUE(reader->Read(&message));
      heard = heard + Tokens(message.token_ids().begin(), message.token_ids().end());
    }
    context.TryCancel();
    server_->gate().Open();
    EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
    EXPECT_TRUE(Eventually([&] { return !Show(session).busy(); }));
    return heard;
  };
  // Nothing was said: as it was.
  cancel_after(0);
  // The call may still have gone on for a moment.
  const Tokens asked = text + Tokens{6, 7};
  const auto said_of = [&](const Tokens& kept) {
    return asked + Fresh(asked, static_cast<int>(kept.size() - asked.size()));
  };
  const Tokens after = TextOf(session);
  EXPECT_EQ(after, after.size() == text.size() ? text : said_of(after));
  ASSERT_TRUE(Rewind(session, static_cast<int>(text.size())).ok());
  const Tokens heard = cancel_after(3);
  ASSERT_GE(heard.size(), 3u);
  const Tokens kept = TextOf(session);
  ASSERT_GE(kept.size(), asked.size() + heard.size());
  EXPECT_EQ(kept, said_of(kept));
  EXPECT_EQ(Show(session).num_turns(), 2);
  EXPECT_EQ(Say(session, {8}), Fresh(kept + Tokens{8}));
}

TEST_P(SessionsTest, ATurnThatFailsLeavesTheSessionAsItWas) {
  Start();
  const std::string session = Create();
  const Tokens text = Tokens{5} + Say(session, {5});
  v1::GenerateRequest request = Ids({FakeModel::kNotFiniteToken}, 3);
  request.set_session(session);
  EXPECT_TRUE(absl::IsInternal(Generate(connection_.get(), request).status));
  EXPECT_EQ(TextOf(session), text);
  request = Ids({6}, 0);
  request.set_session(session);
  EXPECT_TRUE(absl::IsInvalidArgument(Generate(connection_.get(), request).status));
  EXPECT_EQ(TextOf(session), text);
  EXPECT_EQ(server_->Metric("packrat_session_tokens{"), 8);
  EXPECT_EQ(Say(session, {6}), Fresh(text + Tokens{6}));
}

TEST_P(SessionsTest, WhatEndsATextIsNotPartOfIt) {
  Start();
  const std::string session = Create();
  const Tokens reply = Fresh({5, 6}, 10);
  v1::GenerateRequest request = Ids({5, 6}, 10);
  request.set_session(session);
  request.mutable_stop()->add_token_ids(reply[4]);
  const Turn turn = Generate(connection_.get(), request);
  ASSERT_TRUE(turn.status.ok());
  ASSERT_LE(turn.ids.size(), 4u);
  EXPECT_EQ(TextOf(session), (Tokens{5, 6} + turn.ids));
}

TEST_P(SessionsTest, ALongSessionIsRefusedWithTheNumbers) {
  options_.model.max_context = 64;
  Start();
  const std::string session = Create();
  Say(session, Tokens(30, 5), 20);
  v1::GenerateRequest request = Ids(Tokens(14, 6), 1);
  request.set_session(session);
  absl::Status status = Generate(connection_.get(), request).status;
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_EQ(status.message(),
            "prompt has 64 tokens; range [1, 63] (max_context 64): 50 of the session and 14 new");
  request = Ids({6, 6}, 13);
  request.set_session(session);
  status = Generate(connection_.get(), request).status;
  EXPECT_EQ(status.message(),
            "stop.max_tokens is 13; range [1, 12] (max_context 64 less 52 tokens of prompt): 50 of "
            "the session and 2 new");
  // Where nothing is said the default gives way.
  request.mutable_stop()->clear_max_tokens();
  EXPECT_EQ(Generate(connection_.get(), request).ids.size(), 12u);
  EXPECT_EQ(Show(session).tokens(), 64);
  ASSERT_TRUE(Rewind(session, 50).ok());
  EXPECT_EQ(Say(session, {6}).size(), 7u);
}

TEST_P(SessionsTest, AnEmptySessionHasNothingToGoOnFrom) {
  Start();
  v1::GenerateRequest request;
  request.set_session(Create());
  EXPECT_EQ(Generate(connection_.get(), request).status.message(),
            "prompt is missing; set text or tokens");
  request.mutable_tokens();
  EXPECT_THAT(std::string(Generate(connection_.get(), request).status.message()),
              HasSubstr("prompt has 0 tokens"));
}

TEST_P(SessionsTest, HostileHandlesAreNotFound) {
  Start();
  const std::string session = Create();
  for (const std::string& handle :
       {std::string(), std::string("x"), std::string(22, 'A'), session + "=", session.substr(1),
        std::string("../../etc/passwd"), std::string(22, '\0'), std::string(100000, 'A'),
        std::string("'; DROP TABLE sessions; --"), std::string("\xe2\x80\xae")}) {
    for (const absl::Status& status : AllWith(connection_.get(), handle)) {
      EXPECT_TRUE(absl::IsNotFound(status)) << status;
      EXPECT_EQ(status.message(),
                "session is not known to this server: it has expired, was deleted, or never was "
                "here");
    }
  }
  EXPECT_EQ(server_->AccessLines(session), 0);  // No log tells what somebody may use.
  EXPECT_THAT(TextOf(session), IsEmpty());
}

TEST_P(SessionsTest, DeletedExpiredAndOfAnotherServer) {
  options_.server.sessions.ttl = absl::Seconds(1);
  Start();
  const std::string deleted = Create(), expired = Create();
  v1::DeleteSessionRequest request;
  request.set_session(deleted);
  EXPECT_TRUE(connection_->DeleteSession(request).status.ok());
  for (const absl::Status& status : AllWith(connection_.get(), deleted)) {
    EXPECT_TRUE(absl::IsNotFound(status)) << status;
  }
  // Nobody calls: the server's own clock drops it.
  EXPECT_TRUE(Eventually([&] { return server_->Metric("packrat_sessions_expired_total{") == 1; }));
  EXPECT_EQ(server_->Metric("packrat_sessions{"), 0);
  EXPECT_EQ(server_->Metric("packrat_sessions_created_total{"), 2);
  for (const absl::Status& status : AllWith(connection_.get(), expired)) {
    EXPECT_TRUE(absl::IsNotFound(status)) << status;
  }
  options_.server.sessions.ttl = absl::Hours(1);
  Start();
  const std::string lost = Create();
  Start();  // Anew.
  for (const absl::Status& status : AllWith(connection_.get(), lost)) {
    EXPECT_TRUE(absl::IsNotFound(status)) << status;
  }
}

TEST_P(SessionsTest, FieldsOutOfRangeAreNamed) {
  Start();
  const std::string handle = Create();
  v1::Session session;
  for (double ttl : {0.0, -1.0, 3601.0, std::numeric_limits<double>::infinity(),
                     std::numeric_limits<double>::quiet_NaN(), 1e300}) {
    v1::CreateSessionRequest request;
    request.set_ttl_seconds(ttl);
    const absl::Status status = connection_->CreateSession(request, &session).status;
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << ttl << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("range (0, 1h]"));
  }
  v1::CreateSessionRequest brief;
  brief.set_ttl_seconds(0.5);
  EXPECT_TRUE(connection_->CreateSession(brief, &session).status.ok());
  EXPECT_EQ(session.ttl_seconds(), 0.5);

  v1::RewindSessionRequest rewind;
  rewind.set_session(handle);
  EXPECT_EQ(connection_->RewindSession(rewind, &session).status.message(),
            "to is missing; set turns or tokens");
  rewind.set_turns(1);
  EXPECT_EQ(connection_->RewindSession(rewind, &session).status.message(),
            "turns is 1; range [0, 0]");
  EXPECT_EQ(Rewind(handle, -5).message(), "tokens is -5; range [0, 0]");

  v1::ListSessionsResponse list;
  for (int limit : {0, -1, 10001}) {
    v1::ListSessionsRequest request;
    request.set_limit(limit);
    EXPECT_EQ(connection_->ListSessions(request, &list).status.message(),
              absl::StrCat("limit is ", limit, "; range [1, 10000]"));
  }
}

TEST_P(SessionsTest, TheListHasTheLatestFirst) {
  Start();
  const std::string one = Create(), two = Create(), three = Create();
  Say(two, {5});
  Say(one, {5});
  v1::ListSessionsRequest request;
  request.set_limit(2);
  v1::ListSessionsResponse list;
  ASSERT_TRUE(connection_->ListSessions(request, &list).status.ok());
  EXPECT_EQ(list.total(), 3);
  ASSERT_EQ(list.sessions_size(), 2);
  EXPECT_EQ(list.sessions(0).session(), one);
  EXPECT_EQ(list.sessions(1).session(), two);
  EXPECT_EQ(list.sessions(1).tokens(), 8);
  EXPECT_EQ(list.sessions(1).num_turns(), 1);
  EXPECT_EQ(list.sessions(1).turn_ends_size(), 0);
}

class SessionTenantsTest : public SessionsTest {
 protected:
  void StartWith(const std::vector<std::pair<std::string, std::string>>& keys) {
    options_.server.api_keys = testing::TempDir() + "/session-keys";
    std::ofstream file(options_.server.api_keys);
    for (const auto& [name, limits] : keys) {
      file << ApiKeyLine(name, "key-" + name) << " " << limits << "\n";
    }
    file.close();
    Start();
  }
};

TEST_P(SessionTenantsTest, EachHasItsOwn) {
  StartWith({{"a", ""}, {"b", ""}});
  Connection a(OptionsOf("a")), b(OptionsOf("b"));
  const std::string of_a = Create(&a);
  for (const absl::Status& status : AllWith(&b, of_a)) {
    EXPECT_TRUE(absl::IsNotFound(status)) << status;
  }
  // As one that never was, to the last word.
  EXPECT_EQ(AllWith(&b, of_a), AllWith(&b, std::string(22, 'A')));
  for (const absl::Status& status : AllWith(connection_.get(), of_a)) {
    EXPECT_TRUE(absl::IsUnauthenticated(status)) << status;
  }
  v1::ListSessionsResponse list;
  ASSERT_TRUE(b.ListSessions({}, &list).status.ok());
  EXPECT_EQ(list.total(), 0);
  ASSERT_TRUE(a.ListSessions({}, &list).status.ok());
  EXPECT_EQ(list.total(), 1);
  for (const absl::Status& status : AllWith(&a, of_a)) EXPECT_TRUE(status.ok()) << status;
}

TEST_P(SessionTenantsTest, EachHasItsShare) {
  options_.server.sessions.max_sessions = 4;
  options_.server.sessions.max_tokens = 100;
  StartWith({{"a", "session_share=0.25"}, {"b", ""}});
  Connection a(OptionsOf("a")), b(OptionsOf("b"));
  const std::string of_a = Create(&a);
  v1::Session session;
  const absl::Status refused = a.CreateSession({}, &session).status;
  EXPECT_TRUE(absl::IsResourceExhausted(refused)) << refused;
  EXPECT_THAT(std::string(refused.message()), HasSubstr("a has 1 sessions; at most 1"));
  Create(&b);
  v1::GenerateRequest request = Ids({5}, 25);
  request.set_session(of_a);
  absl::Status status = Generate(&a, request).status;
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("this takes 26 more; at most 25"));
  request.mutable_stop()->set_max_tokens(24);
  EXPECT_TRUE(Generate(&a, request).status.ok());
}

INSTANTIATE_TEST_SUITE_P(Cache, SessionsTest, ::testing::Bool());
INSTANTIATE_TEST_SUITE_P(Cache, SessionTenantsTest, ::testing::Bool());

class CachedSessionsTest : public SessionsTest {
 protected:
  // How much of the prompt of a turn was not computed.
  int CachedTokens(const std::string& session, const Tokens& prompt) {
    v1::GenerateRequest request = Ids(prompt, 20);
    request.set_session(session);
    const Turn turn = Generate(connection_.get(), request);
    EXPECT_TRUE(turn.status.ok()) << turn.status;
    return turn.finished.usage().cached_tokens();
  }
};

// But for the last token of the answer before it, which no one has computed yet.
TEST_P(CachedSessionsTest, ATurnComputesWhatIsNewAlone) {
  Start();
  const std::string session = Create();
  EXPECT_EQ(CachedTokens(session, {5, 6, 7}), 0);
  EXPECT_EQ(CachedTokens(session, {8, 9}), 22);
  const std::string fork = Fork(session);
  EXPECT_EQ(CachedTokens(session, {10}), 44);
  EXPECT_EQ(CachedTokens(fork, {11}), 44);
  ASSERT_TRUE(Rewind(session, 45).ok());
  EXPECT_EQ(CachedTokens(session, {12}), 44);
  ASSERT_TRUE(Rewind(session, 23).ok());
  EXPECT_EQ(CachedTokens(session, {13}), 22);
}

TEST_P(CachedSessionsTest, TheStateOfASessionOutlivesThoseOfOtherTexts) {
  options_.server.engine.max_running = 4;
  Start();
  const std::string session = Create();
  CachedTokens(session, {5, 6, 7});
  const auto stub = StubFor(*server_);
  for (int i = 0; i < 10; ++i) {
    ASSERT_TRUE(packrat::Generate(stub.get(), Ids(Tokens(30, 8 + i), 20)).status.ok());
  }
  // The pool is too small for all of them.
  EXPECT_EQ(packrat::Generate(stub.get(), Ids(Tokens(30, 8), 20)).finished.usage().cached_tokens(),
            0);
  EXPECT_EQ(CachedTokens(session, {8, 9}), 22);
}

INSTANTIATE_TEST_SUITE_P(Cache, CachedSessionsTest, ::testing::Values(true));

}  // namespace
}  // namespace packrat
