// Sessions whose states are larger than all that calls may hold of them: they are saved and loaded
// in pieces.
#include <gtest/gtest.h>

#include <cstdint>
#include <random>
#include <string>

#include "tests/server/session_transfer.h"

namespace packrat {
namespace {

// With so little for all such calls that each holds a small piece of a state.
class PiecesTest : public SessionTransferTest {
 protected:
  static constexpr int64_t kLimit = 32 << 10;
  PiecesTest() {
    options_.server.message_bytes = 4 * kLimit;  // A quarter is theirs.
    options_.model.max_context = 4000;
    Start();
    session_ = client_->Create();
    text_ = Tokens(1500, 5) + Say(session_, Tokens(1500, 5), 20);
  }
  // Parts of the pool that hold states.
  double Kept() const { return server_->Metric("packrat_state_cached_bytes"); }
  double Held() const { return server_->Metric("packrat_session_transfer_bytes{"); }
  // Once there is room: a call gives back what it held just after the client has its end.
  SessionClient::Saved Save() {
    EXPECT_TRUE(Eventually([&] { return Held() == 0; }));
    return client_->Save(session_);
  }

  std::string session_;
  Tokens text_;
};

TEST_F(PiecesTest, AStateOfAnySizeGoesAndComes) {
  StartOther();
  const SessionClient::Saved saved = Save();
  ASSERT_TRUE(saved.status.ok()) << saved.status;
  ASSERT_GT(static_cast<int64_t>(saved.bytes.size()), 4 * kLimit);
  EXPECT_EQ(saved.told.bytes(), static_cast<int64_t>(saved.bytes.size()));
  EXPECT_EQ(saved.told.state_tokens(), 1519);
  EXPECT_EQ(Save().bytes, saved.bytes);
  const Turn here = client_->Say(session_, {8, 9});
  for (const size_t piece : {700u, 5000u, 20000u}) {
    EXPECT_TRUE(
        Eventually([&] { return other_server_->Metric("packrat_session_transfer_bytes{") == 0; }));
    v1::LoadSessionResponse loaded;
    const absl::Status status = other_->Load(saved.bytes, &loaded, piece);
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_EQ(loaded.state_dropped(), "");
    EXPECT_EQ(loaded.state_tokens(), 1519);
    const Turn turn = other_->Say(loaded.session().session(), {8, 9});
    EXPECT_EQ(turn.finished.usage().cached_tokens(), 1519);
    EXPECT_EQ(turn.ids, here.ids);
    EXPECT_TRUE(other_->Delete(loaded.session().session()).ok());
  }
  EXPECT_EQ(here.ids, Fresh(text_ + Tokens{8, 9}));
  EXPECT_TRUE(Eventually([&] { return Held() == 0; }));
}

// Whatever ends it, what has come of it is gone.
TEST_F(PiecesTest, CutOrDamagedItLeavesNothing) {
  const std::string bytes = Save().bytes;
  const double kept = Kept();
  const int sessions = NumSessions();
  std::mt19937_64 random(7);
  for (int i = 0; i < 10; ++i) {
    const size_t at = random() % bytes.size();
    std::string changed = bytes;
    changed[at] ^= static_cast<char>(1 << random() % 8);
    for (const std::string& wrong : {bytes.substr(0, at), changed, bytes + "x"}) {
      const absl::Status status = Refusal(wrong, 1 + random() % 20000);
      EXPECT_TRUE(absl::IsDataLoss(status)) << "at " << at << ": " << status;
      EXPECT_TRUE(Eventually([&] { return Kept() == kept && Held() == 0; }));
    }
  }
  EXPECT_EQ(NumSessions(), sessions);
  // Nor does a client that goes away.
  const auto stub = StubFor(*server_);
  grpc::ClientContext context;
  v1::LoadSessionResponse response;
  const auto writer = stub->LoadSession(&context, &response);
  v1::LoadSessionRequest message;
  message.set_data(bytes.substr(0, 3 * kLimit));
  for (int at = 0; at < 3 * kLimit; at += 4096) {
    message.set_data(bytes.substr(at, 4096));
    writer->Write(message);
  }
  EXPECT_TRUE(Eventually([&] { return Kept() > kept; }));
  context.TryCancel();
  writer->Finish();
  EXPECT_TRUE(Eventually([&] { return Kept() == kept && Held() == 0; }));
}

// A text is held as a whole, and may leave no room for a piece, or be too long itself.
TEST_F(PiecesTest, OfALongTextTheStateStays) {
  client_->Say(session_, Tokens(3300 - text_.size() - 20, 6), 20);
  const SessionClient::Saved alone = Save();
  ASSERT_TRUE(alone.status.ok()) << alone.status;
  EXPECT_EQ(alone.told.tokens(), 3300);
  EXPECT_EQ(alone.told.state_tokens(), 0);
  client_->Say(session_, Tokens(400, 6), 20);
  const absl::Status status = Save().status;
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
}

// Its state has had to give way between two pieces.
TEST_F(PiecesTest, AStateThatIsGoneEndsTheCall) {
  const auto stub = NarrowStubFor(*server_);
  grpc::ClientContext context;
  v1::SaveSessionRequest request;
  request.set_session(session_);
  const auto reader = stub->SaveSession(&context, request);
  v1::SaveSessionResponse message;
  ASSERT_TRUE(reader->Read(&message));
  EXPECT_EQ(message.saved().state_tokens(), 1519);
  // A bad token behind it drops all states of its way.
  EXPECT_FALSE(client_->Say(session_, {FakeModel::kNotFiniteToken}).status.ok());
  while (reader->Read(&message)) {
  }
  const grpc::Status status = reader->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::ABORTED) << status.error_message();
  // The text can be saved.
  const SessionClient::Saved saved = Save();
  EXPECT_TRUE(saved.status.ok()) << saved.status;
  EXPECT_EQ(saved.told.tokens(), 1520);
  EXPECT_EQ(saved.told.state_tokens(), 0);
}

}  // namespace
}  // namespace packrat
