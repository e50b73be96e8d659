// Sessions with a clock of the test's own.
#ifndef PACKRAT_TESTS_RUNTIME_SESSION_FIXTURE_H_
#define PACKRAT_TESTS_RUNTIME_SESSION_FIXTURE_H_

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "runtime/session.h"

namespace packrat {

using Tokens = std::vector<int32_t>;

class SessionTest : public ::testing::Test {
 protected:
  explicit SessionTest(const SessionOptions& options = {4, 100, absl::Minutes(10)})
      : sessions_(options, [this] { return random_(); }) {}

  std::string Make(const SessionOwner& owner = {}) {
    const auto info = sessions_.Create(owner, std::nullopt, now_);
    EXPECT_TRUE(info.ok()) << info.status();
    return info.ok() ? info->handle : "";
  }
  absl::Status TakeTurn(const std::string& handle, const Tokens& prompt, const Tokens& reply,
                        const SessionOwner& owner = {}) {
    auto turn = sessions_.Begin(owner, handle, now_);
    if (!turn.ok()) return turn.status();
    const absl::Status status = turn->Promise(prompt, static_cast<int>(reply.size()));
    if (!status.ok()) return status;
    turn->Append(reply);
    turn->Keep(now_);
    return absl::OkStatus();
  }
  Tokens TextOf(const std::string& handle, const SessionOwner& owner = {}) {
    Tokens text;
    const auto info = sessions_.Get(owner, handle, now_, &text);
    EXPECT_TRUE(info.ok()) << info.status();
    EXPECT_EQ(info.value_or(SessionInfo()).tokens, static_cast<int32_t>(text.size()));
    return text;
  }
  Tokens TurnsOf(const std::string& handle) {
    return sessions_.Get({}, handle, now_).value().turns;
  }

  std::mt19937_64 random_{7};
  absl::Time now_ = absl::UnixEpoch();
  Sessions sessions_;
};

}  // namespace packrat

#endif  // PACKRAT_TESTS_RUNTIME_SESSION_FIXTURE_H_
