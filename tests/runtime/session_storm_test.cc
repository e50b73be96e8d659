// Sessions under random operations, against what they are in plain words, and under threads.
#include <atomic>
#include <iterator>
#include <map>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/runtime/session_fixture.h"

namespace packrat {
namespace {

// What a session is, said as plainly as can be.
struct Plain {
  Tokens text, turns;
  absl::Time used;
  bool renew = false;  // A turn was not kept: its time begins when somebody looks.
};

class SessionStormTest : public SessionTest {
 protected:
  SessionStormTest() : SessionTest({12, 200, absl::Minutes(10)}) {}
  int Below(int n) { return static_cast<int>(random_() % n); }
};

TEST_F(SessionStormTest, RandomOperationsKeepTheBooks) {
  std::map<std::string, Plain> plain;
  const auto drop_expired = [&] {
    for (auto it = plain.begin(); it != plain.end();) {
      const bool expired = it->second.used + absl::Minutes(10) <= now_;
      const bool renewed = expired && std::exchange(it->second.renew, false);
      if (renewed) it->second.used = now_;
      it = expired && !renewed ? plain.erase(it) : std::next(it);
    }
  };
  for (int i = 0; i < 100000; ++i) {
    now_ += absl::Seconds(Below(40));
    drop_expired();
    int64_t held = 0;
    for (const auto& [handle, session] : plain) held += session.text.size();
    const std::string handle =
        plain.empty() ? "none" : std::next(plain.begin(), Below(plain.size()))->first;
    Plain* known = plain.empty() ? nullptr : &plain[handle];
    switch (Below(6)) {
      case 0: {
        const auto made = sessions_.Create({}, std::nullopt, now_);
        ASSERT_EQ(made.ok(), plain.size() < 12);
        if (made.ok()) plain[made->handle] = {{}, {}, now_};
        break;
      }
      case 1: {
        const auto made = sessions_.Fork({}, handle, now_);
        const bool fits = known != nullptr && plain.size() < 12 &&
                          held + static_cast<int64_t>(known->text.size()) <= 200;
        ASSERT_EQ(made.ok(), fits);
        if (!fits) break;
        known->used = now_;
        plain[made->handle] = {known->text, known->turns, now_};
        break;
      }
      case 2: {
        if (known == nullptr) break;
        const int tokens = Below(static_cast<int>(known->text.size()) + 1);
        ASSERT_TRUE(sessions_.Rewind({}, handle, tokens, now_).ok());
        known->text.resize(tokens);
        while (!known->turns.empty() && known->turns.back() > tokens) known->turns.pop_back();
        const int end = known->turns.empty() ? 0 : known->turns.back();
        if (end < tokens) known->turns.push_back(tokens);
        known->used = now_;
        break;
      }
      case 3:
        ASSERT_EQ(sessions_.Delete({}, handle, now_).ok(), known != nullptr);
        plain.erase(handle);
        break;
      default: {
        auto turn = sessions_.Begin({}, handle, now_);
        ASSERT_EQ(turn.ok(), known != nullptr);
        if (known == nullptr) break;
        known->used = now_;
        ASSERT_EQ(turn->text(), known->text);
        const Tokens prompt(Below(10), Below(100));
        const int most = Below(20);
        const bool fits = held + static_cast<int64_t>(prompt.size()) + most <= 200;
        ASSERT_EQ(turn->Promise(prompt, most).ok(), fits);
        known->renew = true;
        if (!fits) break;
        const Tokens reply(Below(most + 1), Below(100));
        turn->Append(reply);
        now_ += absl::Seconds(Below(5));
        if (Below(4) == 0) break;
        turn->Keep(now_);
        known->text.insert(known->text.end(), prompt.begin(), prompt.end());
        known->text.insert(known->text.end(), reply.begin(), reply.end());
        if (prompt.size() + reply.size() > 0) known->turns.push_back(known->text.size());
        known->used = now_;
        known->renew = false;
        break;
      }
    }
    drop_expired();
    int64_t tokens = 0;
    for (const auto& [name, session] : plain) {
      Tokens text;
      const auto info = sessions_.Get({}, name, now_, &text);
      ASSERT_TRUE(info.ok());
      ASSERT_EQ(text, session.text);
      ASSERT_EQ(info->turns, session.turns);
      tokens += text.size();
    }
    sessions_.Expire(now_);
    ASSERT_EQ(sessions_.stats().tokens, tokens);
    int total = 0;
    absl::Time before = absl::InfiniteFuture();
    for (const SessionInfo& info : sessions_.List({}, 12, now_, &total)) {
      const absl::Time used = plain.at(info.handle).used;
      ASSERT_LE(used, before);
      before = used;
    }
    ASSERT_EQ(total, sessions_.stats().sessions);
    ASSERT_EQ(sessions_.stats().busy, 0);
  }
}

TEST_F(SessionTest, ThreadsMeetInOneSession) {
  constexpr int kThreads = 4, kTurns = 100;
  const std::string handle = Make();
  std::atomic<int> aborted{0}, running{kThreads};
  const auto take_turn = [&](int t) {
    auto turn = sessions_.Begin({}, handle, now_);
    if (!turn.ok()) return turn.status();
    // Until somebody else has met it, if there is anybody.
    for (const int before = aborted; aborted == before && running > 1;) std::this_thread::yield();
    const absl::Status room = turn->Promise({t}, 1);
    if (!room.ok()) return room;
    turn->Append({t});
    turn->Keep(now_);
    return absl::OkStatus();
  };
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int kept = 0; kept < kTurns;) {
        const absl::Status status = take_turn(t);
        ASSERT_TRUE(status.ok() || absl::IsAborted(status) || absl::IsResourceExhausted(status))
            << status;
        kept += status.ok();
        aborted += absl::IsAborted(status);
        // Room for more.
        if (absl::IsResourceExhausted(status)) {
          sessions_.Rewind({}, handle, 0, now_).status().IgnoreError();
        }
        sessions_.Get({}, handle, now_).status().IgnoreError();
      }
      --running;
    });
  }
  for (std::thread& thread : threads) thread.join();
  // All but those of the last thread that was left.
  EXPECT_GE(aborted, (kThreads - 1) * kTurns);
  // Turns are whole: no other came between its two tokens.
  const Tokens text = TextOf(handle);
  for (size_t i = 0; i < text.size(); i += 2) EXPECT_EQ(text[i], text[i + 1]);
  EXPECT_EQ(sessions_.stats().tokens, static_cast<int64_t>(text.size()));
}

}  // namespace
}  // namespace packrat
