// A client of sessions, and a server for it, for tests.
#ifndef PACKRAT_TESTS_SERVER_SESSIONS_H_
#define PACKRAT_TESTS_SERVER_SESSIONS_H_

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "server/api_keys.h"
#include "server/client/connection.h"
#include "tests/server/generate.h"

namespace packrat {

using Tokens = std::vector<int32_t>;

inline Tokens operator+(Tokens a, const Tokens& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

// What came of a call of Generate.
struct Turn {
  absl::Status status;
  Tokens ids;
  std::string text;
  v1::Finished finished;
};

// What came of a call of Score, for each candidate.
struct Scores {
  absl::Status status;
  std::vector<std::vector<float>> logprobs;
  std::vector<v1::Finished> finished;
};

class SessionClient {
 public:
  explicit SessionClient(const Connection::Options& to) : connection_(to) {}
  Connection* operator->() { return &connection_; }

  Turn Generate(const v1::GenerateRequest& request) {
    Turn turn;
    const auto read = [&](const v1::GenerateResponse& message) {
      turn.ids = turn.ids + Tokens(message.token_ids().begin(), message.token_ids().end());
      turn.text += message.text();
      if (message.has_finished()) turn.finished = message.finished();
    };
    turn.status = connection_.Generate(request, read).status;
    return turn;
  }
  // In no session where `session` is empty.
  Turn Say(const std::string& session, const Tokens& prompt, int max_tokens = 7) {
    v1::GenerateRequest request = Ids(prompt, max_tokens);
    if (!session.empty()) request.set_session(session);
    return Generate(request);
  }
  Scores Score(const v1::ScoreRequest& request) {
    Scores scores;
    const auto read = [&](const v1::GenerateResponse& message) {
      const size_t choice = message.choice();
      scores.logprobs.resize(std::max(scores.logprobs.size(), choice + 1));
      scores.finished.resize(scores.logprobs.size());
      for (const auto& score : message.scores()) scores.logprobs[choice].push_back(score.logprob());
      if (message.has_finished()) scores.finished[choice] = message.finished();
    };
    scores.status = connection_.Score(request, read).status;
    return scores;
  }
  std::string Create() {
    v1::Session session;
    const absl::Status status = connection_.CreateSession({}, &session).status;
    EXPECT_TRUE(status.ok()) << status;
    return session.session();
  }
  absl::Status Get(const std::string& handle, v1::Session* session) {
    v1::GetSessionRequest request;
    request.set_session(handle);
    request.set_include_token_ids(true);
    return connection_.GetSession(request, session).status;
  }
  v1::Session Show(const std::string& handle) {
    v1::Session session;
    const absl::Status status = Get(handle, &session);
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
    const absl::Status status = connection_.ForkSession(request, &session).status;
    EXPECT_TRUE(status.ok()) << status;
    return session.session();
  }
  absl::Status Rewind(const std::string& handle, int tokens) {
    v1::RewindSessionRequest request;
    request.set_session(handle);
    request.set_tokens(tokens);
    v1::Session session;
    return connection_.RewindSession(request, &session).status;
  }
  absl::Status RewindTurns(const std::string& handle, int turns) {
    v1::RewindSessionRequest request;
    request.set_session(handle);
    request.set_turns(turns);
    v1::Session session;
    return connection_.RewindSession(request, &session).status;
  }
  absl::Status Delete(const std::string& handle) {
    v1::DeleteSessionRequest request;
    request.set_session(handle);
    return connection_.DeleteSession(request).status;
  }
  struct Saved {
    absl::Status status;
    std::string bytes;
    v1::SavedSession told;
    int messages = 0;
  };
  Saved Save(const std::string& handle, const std::string& salt = "") {
    v1::SaveSessionRequest request;
    request.set_session(handle);
    request.set_cache_salt(salt);
    return Save(request);
  }
  Saved Save(const v1::SaveSessionRequest& request) {
    Saved saved;
    const auto read = [&](const v1::SaveSessionResponse& message) {
      if (message.has_saved()) saved.told = message.saved();
      saved.bytes += message.data();
      ++saved.messages;
      return true;
    };
    saved.status = connection_.SaveSession(request, read).status;
    return saved;
  }
  // In messages of so many bytes.
  absl::Status Load(const std::string& bytes, v1::LoadSessionResponse* response,
                    size_t piece = 65536, v1::LoadSessionRequest first = {}) {
    size_t sent = 0;
    const auto next = [&](v1::LoadSessionRequest* message) {
      *message = std::exchange(first, {});
      message->set_data(bytes.substr(sent, piece));
      sent += message->data().size();
      return !message->data().empty();
    };
    return connection_.LoadSession(next, response).status;
  }
  // The handle of a session that is loaded well, with its state.
  std::string Load(const std::string& bytes) {
    v1::LoadSessionResponse response;
    const absl::Status status = Load(bytes, &response);
    EXPECT_TRUE(status.ok()) << status;
    EXPECT_EQ(response.state_dropped(), "");
    return response.session().session();
  }
  // The status of each call that takes a handle.
  std::vector<absl::Status> AllWith(const std::string& handle) {
    v1::ScoreRequest score;
    score.set_session(handle);
    score.add_candidates()->mutable_tokens()->add_ids(5);
    v1::Session session;
    v1::ForkSessionRequest fork;
    fork.set_session(handle);
    v1::GenerateRequest generate = Ids({5}, 3);
    generate.set_session(handle);
    return {Generate(generate).status,
            Get(handle, &session),
            connection_.ForkSession(fork, &session).status,
            Score(score).status,
            Save(handle).status,
            RewindTurns(handle, 0),
            Delete(handle)};
  }

 private:
  Connection connection_;
};

class SessionsFixture : public ::testing::Test {
 protected:
  void Start() {
    server_ = std::make_unique<TestServer>(options_);
    client_ = std::make_unique<SessionClient>(OptionsOf(""));
  }
  // Whose key is key-NAME.
  Connection::Options OptionsOf(const std::string& name) const {
    Connection::Options options;
    options.address = server_->address();
    if (!name.empty()) options.api_key = "key-" + name;
    return options;
  }
  // With keys of these names and limits.
  void StartWith(const std::vector<std::pair<std::string, std::string>>& keys) {
    options_.server.api_keys = testing::TempDir() + "/session-keys";
    std::ofstream file(options_.server.api_keys);
    for (const auto& [name, limits] : keys) {
      file << ApiKeyLine(name, "key-" + name) << " " << limits << "\n";
    }
    file.close();
    Start();
  }
  // The tokens of a turn that ends well; its session then holds them.
  Tokens Say(const std::string& session, const Tokens& prompt, int max_tokens = 7) {
    const Turn turn = client_->Say(session, prompt, max_tokens);
    EXPECT_TRUE(turn.status.ok()) << turn.status;
    return turn.ids;
  }
  Tokens Fresh(const Tokens& text, int max_tokens = 7) const {
    return server_->model().GreedyAfter(text, max_tokens);
  }

  TestServer::Options options_;
  std::unique_ptr<TestServer> server_;
  std::unique_ptr<SessionClient> client_;
};

}  // namespace packrat

#endif  // PACKRAT_TESTS_SERVER_SESSIONS_H_
