// Options of Mesa's solver in a session: those of its last turn hold for what comes.
#include <string>
#include <utility>

#include "runtime/mutex.h"
#include "tests/server/sessions.h"

namespace packrat {
namespace {

class SolverOfSessionsTest : public SessionsFixture {
 protected:
  using Seen = std::pair<float, int>;
  void StartSeen() {
    options_.server.solver.cg_tolerance = 0.01f;
    options_.server.solver.cg_max_steps = 17;
    Start();
    server_->model().on_forward = [this](const Batch& batch) {
      MutexLock lock(&mutex_);
      const SolverOptions& solver = batch.spans[0].solver;
      seen_ = {solver.cg_tolerance, solver.cg_max_steps};
    };
  }
  ~SolverOfSessionsTest() override { server_.reset(); }
  // What the model was asked last.
  Seen seen() {
    MutexLock lock(&mutex_);
    return seen_;
  }
  // Of a turn: how much of its prompt was not computed.
  int Cached(const std::string& session, v1::GenerateRequest request) {
    request.set_session(session);
    const Turn turn = client_->Generate(request);
    EXPECT_TRUE(turn.status.ok()) << turn.status;
    return turn.finished.usage().cached_tokens();
  }
  static v1::GenerateRequest With(float tolerance) {
    v1::GenerateRequest request = Ids(Tokens(30, 5), 11);
    request.mutable_solver()->set_cg_tolerance(tolerance);
    return request;
  }
  Seen Told(const std::string& session) {
    v1::Session told;
    EXPECT_TRUE(client_->Get(session, &told).ok());
    return {told.solver().cg_tolerance(), told.solver().cg_max_steps()};
  }

  Mutex mutex_;
  Seen seen_ ABSL_GUARDED_BY(mutex_);
};

TEST_F(SolverOfSessionsTest, TurnsForksAndScoresHaveThoseOfTheTurnBefore) {
  StartSeen();
  const std::string session = client_->Create();
  EXPECT_EQ(Told(session), Seen(0, 0));
  EXPECT_EQ(Cached(session, With(0.05f)), 0);
  EXPECT_EQ(Told(session), Seen(0.05f, 17));
  EXPECT_EQ(Cached(session, Ids({6}, 4)), 40);
  EXPECT_EQ(seen(), Seen(0.05f, 17));
  const std::string fork = client_->Fork(session);
  EXPECT_EQ(Told(fork), Seen(0.05f, 17));
  EXPECT_EQ(Cached(fork, Ids({7}, 4)), 45);
  EXPECT_EQ(seen(), Seen(0.05f, 17));
  v1::ScoreRequest score;
  score.set_session(session);
  score.add_candidates()->mutable_tokens()->add_ids(8);
  const Scores scores = client_->Score(score);
  ASSERT_TRUE(scores.status.ok()) << scores.status;
  EXPECT_EQ(seen(), Seen(0.05f, 17));
  EXPECT_GT(scores.finished[0].usage().cached_tokens(), 30);
  // What a turn says is the session's from then on, and computed anew.
  v1::GenerateRequest other = Ids({9}, 4);
  other.mutable_solver()->set_cg_max_steps(3);
  EXPECT_EQ(Cached(session, other), 0);
  EXPECT_EQ(seen(), Seen(0.05f, 3));
  EXPECT_EQ(Told(session), Seen(0.05f, 3));
  EXPECT_EQ(Cached(session, Ids({9}, 4)), 50);
  EXPECT_EQ(Told(fork), Seen(0.05f, 17));
  ASSERT_TRUE(client_->Rewind(session, 41).ok());
  EXPECT_EQ(Told(session), Seen(0.05f, 3));
  // Of what it is nobody else's affair.
  EXPECT_EQ(Cached(client_->Create(), Ids({5}, 3)), 0);
  EXPECT_EQ(seen(), Seen(0.01f, 17));
  other.mutable_solver()->set_cg_max_steps(0);
  other.set_session(fork);
  EXPECT_TRUE(absl::IsInvalidArgument(client_->Generate(other).status));
}

TEST_F(SolverOfSessionsTest, ItIsSavedAndLoadedWithThem) {
  StartSeen();
  const std::string session = client_->Create();
  Cached(session, With(0.05f));
  const SessionClient::Saved saved = client_->Save(session);
  ASSERT_TRUE(saved.status.ok()) << saved.status;
  EXPECT_EQ(saved.told.state_tokens(), 40);
  const std::string loaded = client_->Load(saved.bytes);
  EXPECT_EQ(Told(loaded), Seen(0.05f, 17));
  EXPECT_EQ(Cached(loaded, Ids({6}, 4)), 40);
  EXPECT_EQ(seen(), Seen(0.05f, 17));
  // Of others no state is kept; the text goes on as it would have here.
  v1::SaveSessionRequest request;
  request.set_session(session);
  request.mutable_solver()->set_cg_tolerance(0.02f);
  const SessionClient::Saved alone = client_->Save(request);
  ASSERT_TRUE(alone.status.ok()) << alone.status;
  EXPECT_EQ(alone.told.state_tokens(), 0);
  v1::LoadSessionResponse response;
  ASSERT_TRUE(client_->Load(alone.bytes, &response).ok());
  EXPECT_EQ(Told(response.session().session()), Seen(0.05f, 17));
  request.mutable_solver()->set_cg_tolerance(1);
  EXPECT_TRUE(absl::IsInvalidArgument(client_->Save(request).status));
}

}  // namespace
}  // namespace packrat
