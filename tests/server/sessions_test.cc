// Sessions through the whole server: what a turn says is what a fresh text with all tokens says.
#include <gmock/gmock.h>

#include <algorithm>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "runtime/saved_state.h"
#include "tests/server/sessions.h"

namespace packrat {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// With the states of texts kept, and without.
class SessionsTest : public SessionsFixture, public ::testing::WithParamInterface<bool> {
 protected:
  SessionsTest() { options_.server.engine.prefix_cache = GetParam(); }
};

TEST_P(SessionsTest, TurnsSayWhatAFreshTextSays) {
  Start();
  const std::string session = client_->Create();
  Tokens text;
  for (const Tokens& prompt : {Tokens{5, 6, 7}, Tokens{8}, Tokens{}, Tokens(40, 9), Tokens{10}}) {
    text = text + prompt;
    const Tokens reply = Say(session, prompt);
    EXPECT_EQ(reply, Fresh(text));
    text = text + reply;
    EXPECT_EQ(client_->TextOf(session), text);
  }
  const v1::Session told = client_->Show(session);
  EXPECT_EQ(told.num_turns(), 5);
  EXPECT_THAT(told.turn_ends(), ElementsAre(10, 18, 25, 72, 80));
  EXPECT_FALSE(told.busy());
  const StateLayout layout = server_->model().state_layout();
  // Where none is kept it takes nothing.
  EXPECT_EQ(told.state_bytes(), GetParam() ? static_cast<int64_t>(SavedPartBytes(layout, 80)) : 0);
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
  const std::string session = client_->Create();
  first.set_session(session);
  const Turn one = client_->Generate(first);
  v1::GenerateRequest second = first;
  *second.mutable_tokens() = Ids({8, 9}, 1).tokens();
  const Turn two = client_->Generate(second);
  ASSERT_TRUE(two.status.ok()) << two.status;
  EXPECT_EQ(two.finished.usage().prompt_tokens(), 3 + 12 + 2);
  const Tokens all = Tokens{5, 6, 7} + one.ids + Tokens{8, 9};
  request.mutable_tokens()->mutable_ids()->Assign(all.begin(), all.end());
  EXPECT_EQ(client_->Generate(request).ids, two.ids);
}

TEST_P(SessionsTest, RewoundItGoesOnAsIfTheRestHadNeverBeen) {
  Start();
  const std::string session = client_->Create();
  const Tokens first = Tokens{5, 6} + Say(session, {5, 6}, 20);
  Say(session, {7}, 20);
  for (int tokens : {22, 21, 16, 9, 1, 0}) {
    const std::string fork = client_->Fork(session);
    ASSERT_TRUE(client_->Rewind(fork, tokens).ok());
    const Tokens kept(first.begin(), first.begin() + tokens);
    EXPECT_EQ(client_->TextOf(fork), kept);
    EXPECT_EQ(Say(fork, {8, 9}), Fresh(kept + Tokens{8, 9}));
    // Once more what was said before.
    if (tokens == 0) continue;
    ASSERT_TRUE(client_->Rewind(fork, tokens).ok());
    EXPECT_EQ(Say(fork, {}, 20), Fresh(kept, 20));
  }
}

TEST_P(SessionsTest, ForksGoOnAsIfAlone) {
  Start();
  const std::string one = client_->Create();
  const Tokens text = Tokens{5, 6} + Say(one, {5, 6}, 30);
  const std::string other = client_->Fork(one);
  EXPECT_EQ(Say(other, {8}), Fresh(text + Tokens{8}));
  EXPECT_EQ(Say(one, {7}), Fresh(text + Tokens{7}));
  // At the same time.
  const Tokens of_one = client_->TextOf(one), of_other = client_->TextOf(other);
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
      SessionClient client(OptionsOf(""));
      const std::string session = client.Create();
      Tokens text;
      for (int turn = 0; turn < 6; ++turn) {
        const Tokens prompt = {5 + i, 5 + turn};
        v1::GenerateRequest request = Ids(prompt, 5 + i);
        request.set_session(session);
        const Turn done = client.Generate(request);
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
  const std::string session = client_->Create();
  v1::GenerateRequest request;
  request.set_session(session);
  request.mutable_stop()->set_max_tokens(5);
  request.mutable_stop()->set_ignore_eos(true);
  request.mutable_sampling()->set_temperature(0);
  std::string written;
  for (const char* text : {"Once upon", "a time", " there", "\nwas"}) {
    request.set_text(text);
    const Turn turn = client_->Generate(request);
    ASSERT_TRUE(turn.status.ok()) << turn.status;
    absl::StrAppend(&written, text, turn.text);
  }
  const Tokens ids = client_->TextOf(session);
  EXPECT_EQ(ids[0], server_->tokenizer()->bos_id());
  EXPECT_EQ(std::count(ids.begin() + 1, ids.end(), server_->tokenizer()->bos_id()), 0);
  EXPECT_EQ(server_->tokenizer()->Decode(ids, /*skip_special=*/true), written);
}

TEST_P(SessionsTest, OneCallAtATimeAndTheOthersAreTold) {
  Start();
  const std::string session = client_->Create();
  const Tokens text = Tokens{5} + Say(session, {5});
  server_->gate().Close();
  Tokens said;
  std::thread running([&] { said = Say(session, {6}); });
  server_->gate().WaitUntilHeld();
  EXPECT_TRUE(client_->Show(session).busy());
  EXPECT_EQ(server_->Metric("packrat_sessions_busy{"), 1);
  EXPECT_EQ(server_->Metric("packrat_session_tokens{"), 8 + 1 + 7);
  // All but to look, to fork, to score and to save.
  for (const absl::Status& status :
       {client_->Say(session, {5}).status, client_->Rewind(session, 0), client_->Delete(session)}) {
    EXPECT_TRUE(absl::IsAborted(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("session is busy"));
  }
  EXPECT_EQ(client_->TextOf(client_->Fork(session)), text);
  server_->gate().Open();
  running.join();
  EXPECT_EQ(said, Fresh(text + Tokens{6}));
  // Free before the client has heard the end, so that the next turn never comes too early.
  for (int i = 0; i < 50; ++i) Say(session, {7}, 1);
}

TEST_P(SessionsTest, ACallThatIsCancelledKeepsWhatItSaid) {
  Start();
  const std::string session = client_->Create();
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
    EXPECT_TRUE(Eventually([&] { return !client_->Show(session).busy(); }));
    return heard;
  };
  // Nothing was said: as it was.
  cancel_after(0);
  // The call may still have gone on for a moment.
  const Tokens asked = text + Tokens{6, 7};
  const auto said_of = [&](const Tokens& kept) {
    return asked + Fresh(asked, static_cast<int>(kept.size() - asked.size()));
  };
  const Tokens after = client_->TextOf(session);
  EXPECT_EQ(after, after.size() == text.size() ? text : said_of(after));
  ASSERT_TRUE(client_->Rewind(session, static_cast<int>(text.size())).ok());
  const Tokens heard = cancel_after(3);
  ASSERT_GE(heard.size(), 3u);
  const Tokens kept = client_->TextOf(session);
  ASSERT_GE(kept.size(), asked.size() + heard.size());
  EXPECT_EQ(kept, said_of(kept));
  EXPECT_EQ(client_->Show(session).num_turns(), 2);
  EXPECT_EQ(Say(session, {8}), Fresh(kept + Tokens{8}));
}

TEST_P(SessionsTest, ATurnThatFailsLeavesTheSessionAsItWas) {
  Start();
  const std::string session = client_->Create();
  const Tokens text = Tokens{5} + Say(session, {5});
  v1::GenerateRequest request = Ids({FakeModel::kNotFiniteToken}, 3);
  request.set_session(session);
  EXPECT_TRUE(absl::IsInternal(client_->Generate(request).status));
  EXPECT_EQ(client_->TextOf(session), text);
  request = Ids({6}, 0);
  request.set_session(session);
  EXPECT_TRUE(absl::IsInvalidArgument(client_->Generate(request).status));
  EXPECT_EQ(client_->TextOf(session), text);
  EXPECT_EQ(server_->Metric("packrat_session_tokens{"), 8);
  EXPECT_EQ(Say(session, {6}), Fresh(text + Tokens{6}));
}

TEST_P(SessionsTest, WhatEndsATextIsNotPartOfIt) {
  Start();
  const std::string session = client_->Create();
  const Tokens reply = Fresh({5, 6}, 10);
  v1::GenerateRequest request = Ids({5, 6}, 10);
  request.set_session(session);
  request.mutable_stop()->add_token_ids(reply[4]);
  const Turn turn = client_->Generate(request);
  ASSERT_TRUE(turn.status.ok());
  ASSERT_LE(turn.ids.size(), 4u);
  EXPECT_EQ(client_->TextOf(session), (Tokens{5, 6} + turn.ids));
}

TEST_P(SessionsTest, ALongSessionIsRefusedWithTheNumbers) {
  options_.model.max_context = 64;
  Start();
  const std::string session = client_->Create();
  Say(session, Tokens(30, 5), 20);
  v1::GenerateRequest request = Ids(Tokens(14, 6), 1);
  request.set_session(session);
  absl::Status status = client_->Generate(request).status;
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_EQ(status.message(),
            "prompt has 64 tokens; range [1, 63] (max_context 64): 50 of the session and 14 new");
  request = Ids({6, 6}, 13);
  request.set_session(session);
  status = client_->Generate(request).status;
  EXPECT_EQ(status.message(),
            "stop.max_tokens is 13; range [1, 12] (max_context 64 less 52 tokens of prompt): 50 of "
            "the session and 2 new");
  // Where nothing is said the default gives way.
  request.mutable_stop()->clear_max_tokens();
  EXPECT_EQ(client_->Generate(request).ids.size(), 12u);
  EXPECT_EQ(client_->Show(session).tokens(), 64);
  ASSERT_TRUE(client_->Rewind(session, 50).ok());
  EXPECT_EQ(Say(session, {6}).size(), 7u);
}

TEST_P(SessionsTest, AnEmptySessionHasNothingToGoOnFrom) {
  Start();
  v1::GenerateRequest request;
  request.set_session(client_->Create());
  EXPECT_EQ(client_->Generate(request).status.message(),
            "prompt is missing; set text, tokens or chat");
  request.mutable_tokens();
  EXPECT_THAT(std::string(client_->Generate(request).status.message()),
              HasSubstr("prompt has 0 tokens"));
}

TEST_P(SessionsTest, HostileHandlesAreNotFound) {
  Start();
  const std::string session = client_->Create();
  for (const std::string& handle :
       {std::string(), std::string("x"), std::string(22, 'A'), session + "=", session.substr(1),
        std::string("../../etc/passwd"), std::string(22, '\0'), std::string(100000, 'A'),
        std::string("'; DROP TABLE sessions; --"), std::string("\xe2\x80\xae")}) {
    for (const absl::Status& status : client_->AllWith(handle)) {
      EXPECT_TRUE(absl::IsNotFound(status)) << status;
      EXPECT_EQ(status.message(),
                "session is not known to this server: it has expired, was deleted, or never was "
                "here");
    }
  }
  EXPECT_EQ(server_->AccessLines(session), 0);  // No log tells what somebody may use.
  EXPECT_THAT(client_->TextOf(session), IsEmpty());
}

TEST_P(SessionsTest, DeletedExpiredAndOfAnotherServer) {
  options_.server.sessions.ttl = absl::Seconds(1);
  Start();
  const std::string deleted = client_->Create(), expired = client_->Create();
  v1::DeleteSessionRequest request;
  request.set_session(deleted);
  EXPECT_TRUE((*client_)->DeleteSession(request).status.ok());
  for (const absl::Status& status : client_->AllWith(deleted)) {
    EXPECT_TRUE(absl::IsNotFound(status)) << status;
  }
  // Nobody calls: the server's own clock drops it.
  EXPECT_TRUE(Eventually([&] { return server_->Metric("packrat_sessions_expired_total{") == 1; }));
  EXPECT_EQ(server_->Metric("packrat_sessions{"), 0);
  EXPECT_EQ(server_->Metric("packrat_sessions_created_total{"), 2);
  for (const absl::Status& status : client_->AllWith(expired)) {
    EXPECT_TRUE(absl::IsNotFound(status)) << status;
  }
  options_.server.sessions.ttl = absl::Hours(1);
  Start();
  const std::string lost = client_->Create();
  Start();  // Anew.
  for (const absl::Status& status : client_->AllWith(lost)) {
    EXPECT_TRUE(absl::IsNotFound(status)) << status;
  }
}

TEST_P(SessionsTest, FieldsOutOfRangeAreNamed) {
  Start();
  const std::string handle = client_->Create();
  v1::Session session;
  for (double ttl : {0.0, -1.0, 3601.0, std::numeric_limits<double>::infinity(),
                     std::numeric_limits<double>::quiet_NaN(), 1e300}) {
    v1::CreateSessionRequest request;
    request.set_ttl_seconds(ttl);
    const absl::Status status = (*client_)->CreateSession(request, &session).status;
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << ttl << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("range (0, 3600]"));
  }
  v1::CreateSessionRequest brief;
  brief.set_ttl_seconds(0.5);
  EXPECT_TRUE((*client_)->CreateSession(brief, &session).status.ok());
  EXPECT_EQ(session.ttl_seconds(), 0.5);

  v1::RewindSessionRequest rewind;
  rewind.set_session(handle);
  EXPECT_EQ((*client_)->RewindSession(rewind, &session).status.message(),
            "to is missing; set turns or tokens");
  rewind.set_turns(1);
  EXPECT_EQ((*client_)->RewindSession(rewind, &session).status.message(),
            "turns is 1; range [0, 0]");
  EXPECT_EQ(client_->Rewind(handle, -5).message(), "tokens is -5; range [0, 0]");

  v1::ListSessionsResponse list;
  for (int limit : {0, -1, 10001}) {
    v1::ListSessionsRequest request;
    request.set_limit(limit);
    EXPECT_EQ((*client_)->ListSessions(request, &list).status.message(),
              absl::StrCat("limit is ", limit, "; range [1, 10000]"));
  }
}

TEST_P(SessionsTest, TheListHasTheLatestFirst) {
  Start();
  const std::string one = client_->Create(), two = client_->Create(), three = client_->Create();
  Say(two, {5});
  Say(one, {5});
  v1::ListSessionsRequest request;
  request.set_limit(2);
  v1::ListSessionsResponse list;
  ASSERT_TRUE((*client_)->ListSessions(request, &list).status.ok());
  EXPECT_EQ(list.total(), 3);
  ASSERT_EQ(list.sessions_size(), 2);
  EXPECT_EQ(list.sessions(0).session(), one);
  EXPECT_EQ(list.sessions(1).session(), two);
  EXPECT_EQ(list.sessions(1).tokens(), 8);
  EXPECT_EQ(list.sessions(1).num_turns(), 1);
  EXPECT_EQ(list.sessions(1).turn_ends_size(), 0);
}

INSTANTIATE_TEST_SUITE_P(Cache, SessionsTest, ::testing::Bool());

}  // namespace
}  // namespace packrat
