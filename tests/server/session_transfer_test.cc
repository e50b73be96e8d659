// Sessions as bytes over gRPC: saved by one server, loaded by another, cut, damaged, forged, slow.
#include <gmock/gmock.h>

#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "runtime/saved_state.h"
#include "tests/server/session_transfer.h"

namespace packrat {
namespace {

using ::testing::HasSubstr;

TEST_F(SessionTransferTest, AnotherServerGoesOn) {
  Start();
  StartOther();
  const std::string session = client_->Create();
  Tokens text = Tokens(40, 5) + Say(session, Tokens(40, 5), 20);
  text = text + Tokens{6, 7} + Say(session, {6, 7}, 10);
  const SessionClient::Saved saved = client_->Save(session);
  ASSERT_TRUE(saved.status.ok()) << saved.status;
  EXPECT_EQ(saved.told.bytes(), static_cast<int64_t>(saved.bytes.size()));
  EXPECT_EQ(saved.told.tokens(), 72);
  EXPECT_EQ(saved.told.state_tokens(), 71);
  // Saved again it is the same.
  EXPECT_EQ(client_->Save(session).bytes, saved.bytes);

  v1::LoadSessionResponse loaded;
  ASSERT_TRUE(other_->Load(saved.bytes, &loaded, /*piece=*/1000).ok());
  EXPECT_EQ(loaded.state_tokens(), 71);
  EXPECT_EQ(loaded.session().tokens(), 72);
  EXPECT_EQ(loaded.session().num_turns(), 2);
  EXPECT_NE(loaded.session().session(), session);
  EXPECT_EQ(other_->TextOf(loaded.session().session()), text);
  const Turn turn = other_->Say(loaded.session().session(), {8, 9});
  ASSERT_TRUE(turn.status.ok()) << turn.status;
  EXPECT_EQ(turn.ids, Fresh(text + Tokens{8, 9}));
  EXPECT_EQ(turn.finished.usage().cached_tokens(), 71);
  // What it was loaded from goes on as if nothing had been.
  EXPECT_EQ(client_->Say(session, {8, 9}).ids, turn.ids);
}

TEST_F(SessionTransferTest, LargeSessionsComeInPieces) {
  options_ = LongTexts();
  options_.model.max_context = 500000;
  Start();
  StartOther();
  const std::string session = client_->Create();
  const Tokens prompt(400000, 5);
  const Tokens text = prompt + Say(session, prompt, 20);
  const SessionClient::Saved saved = client_->Save(session);
  ASSERT_TRUE(saved.status.ok()) << saved.status;
  EXPECT_GT(saved.messages, 3);
  EXPECT_EQ(saved.told.state_tokens(), 400019);
  const std::string loaded = other_->Load(saved.bytes);
  const Turn turn = other_->Say(loaded, {6});
  EXPECT_EQ(turn.finished.usage().cached_tokens(), 400019);
  EXPECT_EQ(turn.ids, client_->Say(session, {6}).ids);
  for (const TestServer* server : {server_.get(), other_server_.get()}) {
    EXPECT_TRUE(Eventually([&] { return server->Metric("packrat_session_transfer_bytes{") == 0; }));
  }
}

TEST_F(SessionTransferTest, WithoutAStateTheTextGoesAlone) {
  options_.server.engine.prefix_cache = false;
  Start();
  const std::string empty = client_->Create(), session = client_->Create();
  const Tokens text = Tokens(40, 5) + Say(session, Tokens(40, 5), 20);
  const SessionClient::Saved saved = client_->Save(session);
  EXPECT_EQ(saved.told.state_tokens(), 0);
  EXPECT_EQ(Say(client_->Load(saved.bytes), {6}), Fresh(text + Tokens{6}));
  EXPECT_EQ(client_->TextOf(client_->Load(client_->Save(empty).bytes)), Tokens());
  // Nor does one find a place where none are kept.
  options_.server.engine.prefix_cache = true;
  StartOther();
  const std::string there = other_->Create();
  ASSERT_TRUE(other_->Say(there, Tokens(40, 5), 20).status.ok());
  v1::LoadSessionResponse loaded;
  ASSERT_TRUE(client_->Load(other_->Save(there).bytes, &loaded).ok());
  EXPECT_EQ(loaded.state_tokens(), 0);
  EXPECT_THAT(loaded.state_dropped(), HasSubstr("prefix_cache is off"));
  EXPECT_EQ(Say(loaded.session().session(), {6}), Fresh(text + Tokens{6}));
}

// The state is that of the salt which the turns had, and comes under the one that it is loaded
// with.
TEST_F(SessionTransferTest, SaltsAreNamed) {
  Start();
  const std::string session = client_->Create();
  v1::GenerateRequest request = Ids(Tokens(40, 5), 20);
  request.set_session(session);
  request.set_cache_salt("a");
  ASSERT_TRUE(client_->Generate(request).status.ok());
  EXPECT_EQ(client_->Save(session).told.state_tokens(), 0);
  const SessionClient::Saved saved = client_->Save(session, "a");
  EXPECT_EQ(saved.told.state_tokens(), 59);
  v1::LoadSessionRequest first;
  first.set_cache_salt("b");
  first.set_ttl_seconds(60);
  v1::LoadSessionResponse loaded;
  ASSERT_TRUE(client_->Load(saved.bytes, &loaded, 10000, first).ok());
  EXPECT_EQ(loaded.session().ttl_seconds(), 60);
  request = Ids({6}, 5);
  request.set_session(loaded.session().session());
  request.set_cache_salt("b");
  EXPECT_EQ(client_->Generate(request).finished.usage().cached_tokens(), 59);
  for (const auto& [salt, ttl, message] :
       {std::make_tuple(std::string(257, 'x'), 60.0, "cache_salt has 257 bytes"),
        std::make_tuple(std::string(), 0.0, "range (0, 3600]"),
        std::make_tuple(std::string(), 3601.0, "range (0, 3600]")}) {
    first.set_cache_salt(salt);
    first.set_ttl_seconds(ttl);
    const absl::Status status = client_->Load(saved.bytes, &loaded, 10000, first);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
  }
}

TEST_F(SessionTransferTest, ItsTimeToLiveComesWithIt) {
  Start();
  v1::CreateSessionRequest brief;
  brief.set_ttl_seconds(120);
  v1::Session session;
  ASSERT_TRUE((*client_)->CreateSession(brief, &session).status.ok());
  const std::string bytes = client_->Save(session.session()).bytes;
  EXPECT_EQ(client_->Show(client_->Load(bytes)).ttl_seconds(), 120);
  options_.server.sessions.ttl = absl::Minutes(1);
  StartOther();
  EXPECT_EQ(other_->Show(other_->Load(bytes)).ttl_seconds(), 60);
}

TEST_F(SessionTransferTest, CutOrDamagedItIsRefused) {
  Start();
  const std::string bytes = Saved();
  const int sessions = NumSessions();
  std::mt19937_64 random(5);
  for (int i = 0; i < 60; ++i) {
    // The first hundred bytes, where every field is, more often than the others.
    const size_t most = i % 2 == 0 ? 100 : bytes.size();
    const size_t at = random() % most;
    absl::Status status = Refusal(bytes.substr(0, at), /*piece=*/1 + random() % 5000);
    EXPECT_TRUE(absl::IsDataLoss(status)) << "cut after " << at << ": " << status;
    std::string changed = bytes;
    changed[at] ^= static_cast<char>(1 << random() % 8);
    status = Refusal(changed);
    EXPECT_TRUE(absl::IsDataLoss(status)) << "changed at " << at << ": " << status;
  }
  EXPECT_TRUE(absl::IsDataLoss(Refusal(bytes + "x")));
  EXPECT_TRUE(absl::IsDataLoss(Refusal("")));
  EXPECT_EQ(NumSessions(), sessions);
}

// What a client that forges the hashes too can do.
class ForgedSessionTest : public SessionTransferTest {
 protected:
  // As the server of this test would have saved it.
  std::string Forge(const SavedState& state, std::string numerics_id = "",
                    std::string fingerprint = "") {
    StateOwner owner = OwnerOf(server_->model());
    if (!numerics_id.empty()) owner.numerics_id = std::move(numerics_id);
    if (!fingerprint.empty()) owner.fingerprints = {std::move(fingerprint)};
    return EncodeHeader(state, owner) + state.parts;
  }
  SavedState Read(const std::string& bytes) {
    return DecodeSavedState(bytes, OwnerOf(server_->model())).value();
  }
};

TEST_F(ForgedSessionTest, NoOtherTextGoesOnFromAForgedState) {
  Start();
  const std::string session = client_->Create();
  const Tokens text = Tokens(40, 5) + Say(session, Tokens(40, 5), 20);
  // The state of that text under another one, which begins with what others say too.
  SavedState state = Read(client_->Save(session).bytes);
  const Tokens victim(60, 7);
  state.tokens = victim;
  state.turns = {60};
  v1::LoadSessionResponse loaded;
  ASSERT_TRUE(client_->Load(Forge(state), &loaded).ok());
  EXPECT_EQ(loaded.state_tokens(), 59);
  // Its own session does: the client has what it asked for.
  EXPECT_NE(Say(loaded.session().session(), {8}), Fresh(victim + Tokens{8}));
  // No fresh text, no other session, and none that was loaded from other bytes.
  const Turn fresh = client_->Say("", victim + Tokens{8});
  EXPECT_EQ(fresh.ids, Fresh(victim + Tokens{8}));
  EXPECT_EQ(fresh.finished.usage().cached_tokens(), 0);
  const std::string mine = client_->Create();
  EXPECT_EQ(Say(mine, victim + Tokens{8}), Fresh(victim + Tokens{8}));
  const std::string honest = client_->Load(client_->Save(mine).bytes);
  EXPECT_EQ(Say(honest, {9}), Fresh(victim + Tokens{8} + Fresh(victim + Tokens{8}) + Tokens{9}));
}

TEST_F(ForgedSessionTest, TheBoundsOfTextsHold) {
  options_.model.max_context = 64;
  Start();
  SavedState state;
  const auto refused = [&](const std::string& bytes) {
    v1::LoadSessionResponse response;
    return client_->Load(bytes, &response);
  };
  state.tokens = {5, FakeModel::kVocab};
  EXPECT_TRUE(absl::IsDataLoss(refused(Forge(state))));
  state.tokens = Tokens(65, 5);
  absl::Status status = refused(Forge(state));
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("65 tokens"));
  state.tokens = Tokens(64, 5);
  EXPECT_TRUE(refused(Forge(state)).ok());
  status = refused(Forge(state, "", "other weights"));
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("other weights"));
}

TEST_F(ForgedSessionTest, TheLimitsOfSessionsHold) {
  options_.server.sessions.max_tokens = 100;
  options_.server.sessions.max_sessions = 2;
  Start();
  SavedState state;
  state.tokens = Tokens(60, 5);
  EXPECT_TRUE(Refusal(Forge(state)).ok());
  absl::Status status = Refusal(Forge(state));
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("tokens in sessions"));
  state.tokens.clear();
  EXPECT_TRUE(Refusal(Forge(state)).ok());
  status = Refusal(Forge(state));
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("at most 2"));
}

TEST_F(ForgedSessionTest, OfAnotherNumericsIdTheTextComesAlone) {
  Start();
  const std::string session = client_->Create();
  const Tokens text = Tokens(40, 5) + Say(session, Tokens(40, 5), 20);
  const SavedState state = Read(client_->Save(session).bytes);
  v1::LoadSessionResponse loaded;
  ASSERT_TRUE(client_->Load(Forge(state, "another processor"), &loaded).ok());
  EXPECT_EQ(loaded.state_tokens(), 0);
  EXPECT_THAT(loaded.state_dropped(), HasSubstr("numerics 'another processor'"));
  EXPECT_EQ(loaded.session().tokens(), 60);
  EXPECT_EQ(server_->Metric("packrat_session_states_dropped_total{"), 1);
  // Its states are the server's own, so others may begin with them.
  const Turn turn = client_->Say(loaded.session().session(), {6});
  EXPECT_EQ(turn.ids, Fresh(text + Tokens{6}));
  EXPECT_EQ(turn.finished.usage().cached_tokens(), 59);
}

class SlowTransferTest : public SessionTransferTest {
 protected:
  // A call of LoadSession that has sent `bytes` and then stands still.
  struct HalfOpen {
    HalfOpen(const TestServer& server, const std::string& bytes, absl::Duration deadline,
             v1::LoadSessionRequest message = {})
        : stub(StubFor(server)) {
      if (deadline < absl::InfiniteDuration()) {
        context.set_deadline(absl::ToChronoTime(absl::Now() + deadline));
      }
      writer = stub->LoadSession(&context, &response);
      message.set_data(bytes);
      writer->Write(message);
    }
    std::unique_ptr<v1::Inference::Stub> stub;
    grpc::ClientContext context;
    v1::LoadSessionResponse response;
    std::unique_ptr<grpc::ClientWriter<v1::LoadSessionRequest>> writer;
  };
  double Held() { return server_->Metric("packrat_session_transfer_bytes{"); }
};

TEST_F(SlowTransferTest, ItsDeadlineEndsAHalfOpenCall) {
  Start();
  const std::string bytes = Saved();
  HalfOpen call(*server_, bytes.substr(0, 2000), absl::Seconds(2));
  // What it has said that there is.
  EXPECT_TRUE(Eventually([&] { return Held() == static_cast<double>(bytes.size()); }));
  EXPECT_EQ(call.writer->Finish().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_TRUE(Eventually([&] { return Held() == 0; }));
  EXPECT_TRUE(Eventually([&] { return server_->Metric("packrat_streams_open{") == 0; }));
}

TEST_F(SlowTransferTest, AClientThatStandsStillIsCancelled) {
  options_.server.stream_idle_timeout = absl::Milliseconds(100);
  Start();
  HalfOpen call(*server_, "PACKRAT", absl::InfiniteDuration());
  EXPECT_EQ(call.writer->Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(Eventually(
      [&] { return server_->AccessLines("the client stood still for stream_idle_timeout") == 1; }));
  EXPECT_EQ(Held(), 0);
}

TEST_F(SlowTransferTest, MessagesWithNothingInThemAreNoNews) {
  options_.server.stream_idle_timeout = absl::Milliseconds(200);
  Start();
  HalfOpen call(*server_, "PACKRAT", absl::InfiniteDuration());
  const v1::LoadSessionRequest nothing;
  int sent = 0;
  while (sent < 2000 && call.writer->Write(nothing)) {
    ++sent;
    absl::SleepFor(absl::Milliseconds(10));
  }
  EXPECT_LT(sent, 2000);
  EXPECT_EQ(call.writer->Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(Eventually(
      [&] { return server_->AccessLines("the client stood still for stream_idle_timeout") == 1; }));
}

TEST_F(SlowTransferTest, AllTogetherHoldABoundedAmount) {
  Start();
  const std::string bytes = Saved();
  options_.server.message_bytes = 4 * static_cast<int64_t>(bytes.size());  // A quarter is theirs.
  Start();
  HalfOpen first(*server_, bytes.substr(0, bytes.size() - 1), absl::InfiniteDuration());
  EXPECT_TRUE(Eventually([&] { return Held() == static_cast<double>(bytes.size() - 1); }));
  absl::Status status = Refusal(bytes);
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_THAT(std::string(status.message()),
              HasSubstr(absl::StrCat("may hold ", bytes.size(), " together")));
  first.context.TryCancel();
  first.writer->Finish();
  EXPECT_TRUE(Eventually([&] { return Held() == 0; }));
  EXPECT_TRUE(Refusal(bytes).ok());
}

// What cannot be loaded is not read to its end.
TEST_F(SlowTransferTest, BytesThatAreWrongAreRefusedAtOnce) {
  Start();
  HalfOpen junk(*server_, "what is this", absl::InfiniteDuration());
  EXPECT_EQ(junk.writer->Finish().error_code(), grpc::StatusCode::DATA_LOSS);
  std::string bytes = Saved();
  bytes[15] = 1;  // A header of 16 MiB and more.
  HalfOpen large(*server_, bytes, absl::InfiniteDuration());
  const grpc::Status status = large.writer->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::DATA_LOSS) << status.error_message();
  v1::LoadSessionRequest first;
  first.set_ttl_seconds(1e9);
  HalfOpen late(*server_, Saved(), absl::InfiniteDuration(), first);
  EXPECT_EQ(late.writer->Finish().error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_TRUE(Eventually([&] { return Held() == 0; }));
}

TEST_F(SlowTransferTest, AClientThatDoesNotReadIsCancelled) {
  options_ = LongTexts();
  options_.server.stream_idle_timeout = absl::Milliseconds(200);
  Start();
  const std::string session = client_->Create();
  Say(session, Tokens(60000, 5), 20);
  const auto stub = NarrowStubFor(*server_);
  grpc::ClientContext context;
  v1::SaveSessionRequest request;
  request.set_session(session);
  const auto reader = stub->SaveSession(&context, request);
  EXPECT_TRUE(Eventually(
      [&] { return server_->AccessLines("the client stood still for stream_idle_timeout") == 1; }));
  EXPECT_EQ(Held(), 0);
}

}  // namespace
}  // namespace packrat
