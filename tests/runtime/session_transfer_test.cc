// What of a session's state goes on its way, and what is left where it is.
#include "runtime/session_transfer.h"

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "tests/runtime/session_archive_fixture.h"
#include "tests/runtime/stores_in_front.h"

namespace packrat {
namespace {

class SessionTransferTest : public SessionArchiveTest {
 protected:
  // A session whose state has many pieces, and which the store has.
  std::string Long(ArchiveReplica* replica) {
    const std::string handle = replica->sessions.Create(owner_, {}, now_)->handle;
    EXPECT_EQ(Say(replica, handle, RandomPrompt(&random_, 200)).status, absl::OkStatus());
    return handle;
  }
};

// Of a state that cannot be used here the text is read alone.
TEST_F(SessionTransferTest, OfAnotherNumericsIdTheStateStaysInTheStore) {
  const auto first = Start(), second = Start("another processor");
  const std::string handle = Long(first.get());
  WatchedStore watched(second->store.get(), [] {});
  second->archive =
      std::make_unique<SessionArchive>(&second->sessions, second->transfer.get(), &watched);
  EXPECT_EQ(second->archive->Fetch(owner_, handle, space_, now_), absl::OkStatus());
  EXPECT_FALSE(watched.wants_more);
  EXPECT_EQ(second->transfer->states_dropped(), 1);
  EXPECT_EQ(TextAt(second.get(), handle), TextAt(first.get(), handle));
}

TEST_F(SessionTransferTest, AStateWithoutAPlaceStaysInTheStore) {
  const auto first = Start(), second = Start();
  const std::string handle = Long(first.get());
  FakeModel model;
  EngineOptions options;
  options.max_running = 4;
  options.max_batch_tokens = 32;
  options.prefix_cache = false;
  const auto engine = *Engine::Create(&model, nullptr, options);
  const EngineThread thread(engine.get());
  SessionTransfer transfer(&second->sessions, engine.get(), OwnerOf(model), 5000);
  WatchedStore watched(second->store.get(), [] {});
  SessionArchive archive(&second->sessions, &transfer, &watched);
  EXPECT_EQ(archive.Fetch(owner_, handle, space_, now_), absl::OkStatus());
  EXPECT_FALSE(watched.wants_more);
  EXPECT_EQ(TextAt(second.get(), handle), TextAt(first.get(), handle));
}

// A state is read once before it goes, for its hash: that ends where it is gone, or its client.
TEST_F(SessionTransferTest, WhatIsNotReadToItsEndGoesAsATextAlone) {
  const auto replica = Start();
  const std::string handle = Long(replica.get());
  const Text text = TextAt(replica.get(), handle);
  int asked = 0;
  const auto pack = [&](const std::function<bool()>& gone) {
    asked = 0;
    const auto packed = replica->transfer->Pack(owner_, handle, space_, now_, gone);
    EXPECT_TRUE(packed.ok()) << packed.status();
    EXPECT_EQ(packed->info.tokens, static_cast<int32_t>(text.size()));
    return packed->state.position();
  };
  EXPECT_EQ(pack([&] { return ++asked == 0; }), 204);
  EXPECT_GT(asked, 3);
  EXPECT_EQ(pack([&] { return ++asked == 3; }), 0);
  EXPECT_EQ(asked, 3);
  EXPECT_EQ(pack([&] {
              // A bad token behind it drops all states of its way.
              if (++asked == 2) EndBadly(replica.get(), text);
              return false;
            }),
            0);
  EXPECT_EQ(asked, 2);
}

// A store that takes or gives each piece in time, and all of them too slowly.
TEST_F(SessionTransferTest, OfAStateThatTakesTooLongTheTextGoesAlone) {
  const auto first = Start(), second = Start(), third = Start();
  const std::string handle = Long(first.get());
  const auto no_time_for_states = [](ArchiveReplica* replica) {
    replica->archive = std::make_unique<SessionArchive>(&replica->sessions, replica->transfer.get(),
                                                        replica->store.get(), absl::ZeroDuration());
  };
  no_time_for_states(second.get());
  const Turn fetched = Say(second.get(), handle, {7});  // Both ways.
  EXPECT_EQ(fetched.status, absl::OkStatus());
  EXPECT_EQ(fetched.cached, 0);
  const Turn stored = Say(third.get(), handle, {8});
  EXPECT_EQ(stored.status, absl::OkStatus());
  EXPECT_EQ(stored.cached, 0);
}

// What the store has a later version of is not sent there to be refused.
TEST_F(SessionTransferTest, AnOldVersionIsNotSent) {
  const auto first = Start(), second = Start();
  const std::string handle = Long(first.get());
  ASSERT_EQ(Say(second.get(), handle, {7}).status, absl::OkStatus());
  bool sent = false;
  const auto told = [&sent] { sent = true; };
  SlowStore slow(first->store.get(), told);
  SessionArchive archive(&first->sessions, first->transfer.get(), &slow);
  EXPECT_TRUE(absl::IsAborted(archive.Put(owner_, handle, space_, now_)));
  EXPECT_FALSE(sent);
}

// A session may be gone before its state has come: then nobody goes on from that, and nobody is
// told any more that its origin has gone.
TEST_F(SessionTransferTest, AStateWhoseSessionHasGoneIsNotKept) {
  const auto first = Start(), second = Start();
  const std::string bytes = BytesOf(first.get(), Long(first.get()));
  for (const bool gone : {true, false}) {
    SessionInput input(second->transfer.get());
    ASSERT_EQ(input.Take(bytes), absl::OkStatus());
    ASSERT_EQ(input.End(), absl::OkStatus());
    SessionContent content = SessionTransfer::ContentOf(input.state());
    content.origin = 77;
    const auto info = second->sessions.Restore(owner_, content, now_);
    ASSERT_TRUE(info.ok()) << info.status();
    if (gone) {
      ASSERT_TRUE(second->sessions.Delete(owner_, info->handle, now_).ok());
    }
    const absl::Status kept = input.Keep({"tenant", "", {}, {}, 77}, info->end);
    EXPECT_EQ(absl::IsAborted(kept), gone) << kept;
    EXPECT_EQ(kept.ok(), !gone);
    const auto parts = [&] {
      int64_t cached = 0;
      for (const auto& pool : second->engine->stats().pools) cached += pool.cached;
      return cached;
    };
    // The step that has answered ends.
    for (int i = 0; i < 5000 && (parts() == 0) != gone; ++i) absl::SleepFor(absl::Milliseconds(1));
    EXPECT_EQ(parts() == 0, gone);
  }
}

// A message may have more than a piece: a step of the engine copies no more for that.
TEST_F(SessionTransferTest, WhatComesAtOnceGoesInPieces) {
  const auto first = Start();
  const std::string handle = Long(first.get());
  const std::string bytes = BytesOf(first.get(), handle);
  const size_t text = first->transfer->Pack(owner_, handle, std::nullopt, now_)->header.size();
  ASSERT_GT(bytes.size(), text + 15000);
  // Parts that the first step of an engine takes for so many bytes of it.
  const auto parts_of = [&](size_t taken) {
    FakeModel model;
    EngineOptions options;
    options.max_running = 4;
    options.max_batch_tokens = 32;
    const auto engine = *Engine::Create(&model, nullptr, options);
    Sessions sessions({8, 100000, absl::Hours(1)}, [this] { return random_(); });
    // Nobody steps it meanwhile.
    SessionTransfer transfer(&sessions, engine.get(), OwnerOf(model), 5000, absl::Milliseconds(1));
    SessionInput input(&transfer);
    EXPECT_EQ(input.Take(bytes.substr(0, taken)), absl::OkStatus());
    EXPECT_TRUE(input.full());
    input.Place();
    engine->Step(SteadyNow());
    int64_t parts = 0;
    for (const auto& pool : engine->stats().pools) parts += pool.cached;
    return parts;
  };
  EXPECT_GT(parts_of(text + 5000), 0);
  EXPECT_EQ(parts_of(text + 15000), parts_of(text + 5000));
}

}  // namespace
}  // namespace packrat
