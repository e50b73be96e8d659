// Sessions as bytes, by a front that is a test.
#include "server/generation/transfer_call.h"

#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <vector>

#include "runtime/steady_clock.h"
#include "server/generation/byte_budget.h"
#include "tests/server/fake_front.h"

namespace packrat {
namespace {

class Save final : public TransferCall {
 public:
  explicit Save(CallEnvironment* environment) : TransferCall("SaveSession", environment, {}) {}
  using TransferCall::End, TransferCall::Enter, TransferCall::Fill, TransferCall::NextBytes,
      TransferCall::Pack;
  // What there is without Fill().
  std::string Rest() {
    std::string rest;
    for (;;) {
      const std::optional<std::string> bytes = NextBytes();
      if (!bytes.has_value() || bytes->empty()) return rest;
      rest += *bytes;
    }
  }
  mutable bool gone = false;
  mutable int looks_left = 0;  // It is gone with the last.

 private:
  bool cancelled() const override {
    if (looks_left > 0) gone = --looks_left == 0;
    return gone;
  }
  void Drop() override {}
};

class TransferCallTest : public ::testing::Test {
 protected:
  TransferCallTest() : replica_(InSmallPieces()) {
    replica_.environment()->transfer_bytes = &budget_;
    const auto session = replica_.environment()->sessions->Create({}, std::nullopt, SteadyNow());
    EXPECT_TRUE(session.ok()) << session.status();
    request_.set_session(session->handle);
    v1::GenerateRequest turn;
    for (int i = 0; i < 1000; ++i) turn.mutable_tokens()->add_ids(5);
    turn.mutable_stop()->set_max_tokens(5);
    turn.set_session(session->handle);
    FakeCaller caller;
    caller.Start(&replica_, turn);
    EXPECT_TRUE(caller.WaitForEnd());
    EXPECT_EQ(caller.status(), absl::OkStatus());
  }
  static Replica::Options InSmallPieces() {
    Replica::Options options;
    options.model.full = true;
    options.piece_bytes = 5000;
    return options;
  }

  ByteBudget budget_{1 << 20};
  Replica replica_;
  v1::SaveSessionRequest request_;
};

TEST_F(TransferCallTest, AStateGoesPieceByPiece) {
  Save save(replica_.environment());
  ASSERT_EQ(save.Enter(), absl::OkStatus());
  const auto saved = save.Pack(request_);
  ASSERT_TRUE(saved.ok()) << saved.status();
  EXPECT_EQ(saved->state_tokens(), 1004);
  std::string bytes = save.Rest();
  int pieces = 1;
  for (; static_cast<int64_t>(bytes.size()) < saved->bytes(); ++pieces) {
    ASSERT_EQ(save.Fill(), absl::OkStatus());
    bytes += save.Rest();
  }
  EXPECT_EQ(static_cast<int64_t>(bytes.size()), saved->bytes());
  EXPECT_GT(pieces, 3);
  save.End();
  EXPECT_EQ(budget_.used(), 0);
}

// Neither before its first piece nor before a later one, nor for the hash before them.
TEST_F(TransferCallTest, ForAClientThatHasGoneNothingIsRead) {
  Save save(replica_.environment());
  ASSERT_EQ(save.Enter(), absl::OkStatus());
  ASSERT_TRUE(save.Pack(request_).ok());
  save.Rest();
  ASSERT_EQ(save.Fill(), absl::OkStatus());
  save.Rest();
  save.gone = true;
  EXPECT_TRUE(absl::IsCancelled(save.Fill()));
  EXPECT_EQ(save.Rest(), "");
  save.End();
  Save late(replica_.environment());
  ASSERT_EQ(late.Enter(), absl::OkStatus());
  late.gone = true;
  EXPECT_TRUE(absl::IsCancelled(late.Pack(request_).status()));
  late.End();
  Save impatient(replica_.environment());
  ASSERT_EQ(impatient.Enter(), absl::OkStatus());
  impatient.looks_left = 3;
  EXPECT_TRUE(absl::IsCancelled(impatient.Pack(request_).status()));
  EXPECT_EQ(impatient.Rest(), "");
  impatient.End();
}

}  // namespace
}  // namespace packrat
