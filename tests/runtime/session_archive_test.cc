// Conversations that change their replica between turns, through a store: killed, cut off and come
// back, with the tokens of one that never moved.
#include "runtime/session_archive.h"

#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/state_folder.h"
#include "tests/runtime/session_archive_fixture.h"
#include "tests/runtime/stores_in_front.h"

namespace packrat {
namespace {

using testing::HasSubstr;

TEST_F(SessionArchiveTest, AConversationGoesOnWhereverItComes) {
  std::unique_ptr<ArchiveReplica> replicas[] = {Start(), Start(), Start()};
  const std::string handle = replicas[0]->sessions.Create(owner_, {}, now_)->handle;
  Text all;
  int home = 0;
  for (int i = 0; i < 12; ++i) {
    SCOPED_TRACE(i);
    const Text prompt = RandomPrompt(&random_, 1 + static_cast<int>(random_() % 40));
    const Turn turn = Say(replicas[home].get(), handle, prompt);
    ASSERT_EQ(turn.status, absl::OkStatus());
    // All but what is new, and the last token, which was never computed.
    EXPECT_EQ(turn.cached, all.size() <= kMinSnapshotTokens ? 0 : static_cast<int>(all.size()) - 1);
    all.insert(all.end(), prompt.begin(), prompt.end());
    all.insert(all.end(), turn.tokens.begin(), turn.tokens.end());
    EXPECT_EQ(TextAt(replicas[home].get(), handle), all);
    EXPECT_EQ(replicas[home]->sessions.Get(owner_, handle, now_)->num_turns, i + 1);
    if (random_() % 2) replicas[home] = Start();  // It is killed, and begins anew.
    home = static_cast<int>(random_() % 3);
  }
  for (const auto& replica : replicas) EXPECT_EQ(replica->transfer->states_dropped(), 0);
}

// What comes without a state has none that others must not see.
// Each has a lock of its own there, and the first is held for as long as a server runs.
TEST_F(SessionArchiveTest, AFolderOfStatesMayBeTheStores) {
  const auto first = Start();
  const auto states = StateFolder::Open(folder_ + "/store", OwnerOf(first->model));
  ASSERT_TRUE(states.ok()) << states.status();
  const std::string handle = first->sessions.Create(owner_, {}, now_)->handle;
  EXPECT_EQ(Say(first.get(), handle, {5, 6}).status, absl::OkStatus());
}

TEST_F(SessionArchiveTest, ATextAloneHasNoOrigin) {
  const auto replica = Start();
  const std::string mine = replica->sessions.Create(owner_, {}, now_)->handle;
  ASSERT_EQ(Say(replica.get(), mine, RandomPrompt(&random_, 50)).status, absl::OkStatus());
  const auto packed = replica->transfer->Pack(owner_, mine, std::nullopt, now_);
  ASSERT_TRUE(packed.ok()) << packed.status();
  const auto loaded = Load(replica.get(), packed->header, /*origin=*/77);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(loaded->info.origin, 0u);
}

TEST_F(SessionArchiveTest, WithoutRoomForStatesTextsGoAlone) {
  const auto first = Start(), second = Start();
  NarrowStore narrow(first->store.get(), 2000);
  first->archive =
      std::make_unique<SessionArchive>(&first->sessions, first->transfer.get(), &narrow);
  const std::string handle = first->sessions.Create(owner_, {}, now_)->handle;
  ASSERT_EQ(Say(first.get(), handle, RandomPrompt(&random_, 50)).status, absl::OkStatus());
  const Turn turn = Say(second.get(), handle, RandomPrompt(&random_, 3));
  EXPECT_EQ(turn.status, absl::OkStatus());
  EXPECT_EQ(turn.cached, 0);
}

// It is slow, and not down.
TEST_F(SessionArchiveTest, WhereAStateDoesNotGetThroughTheTextIsStored) {
  const auto first = Start(), second = Start();
  const std::string handle = first->sessions.Create(owner_, {}, now_)->handle;
  ASSERT_EQ(Say(first.get(), handle, RandomPrompt(&random_, 200), /*put=*/false).status,
            absl::OkStatus());
  for (const int pieces : {0, 1, 2}) {
    BreakingStore slow(first->store.get(), pieces);
    SessionArchive archive(&first->sessions, first->transfer.get(), &slow);
    const absl::Status status = archive.Put(owner_, handle, space_, now_);
    EXPECT_EQ(status.code(), pieces == 0 ? absl::StatusCode::kUnavailable : absl::StatusCode::kOk);
  }
  const Turn turn = Say(second.get(), handle, {7});
  EXPECT_EQ(turn.status, absl::OkStatus());
  EXPECT_EQ(turn.cached, 0);
}

TEST_F(SessionArchiveTest, OfAStateThatGivesWayOnItsWayOutTheTextIsStored) {
  const auto first = Start(), second = Start();
  const std::string handle = first->sessions.Create(owner_, {}, now_)->handle;
  ASSERT_EQ(Say(first.get(), handle, RandomPrompt(&random_, 200), /*put=*/false).status,
            absl::OkStatus());
  SlowStore slow(first->store.get(), [&] { EndBadly(first.get(), TextAt(first.get(), handle)); });
  first->archive = std::make_unique<SessionArchive>(&first->sessions, first->transfer.get(), &slow);
  EXPECT_EQ(first->archive->Put(owner_, handle, space_, now_), absl::OkStatus());
  const Turn turn = Say(second.get(), handle, {7});
  EXPECT_EQ(turn.status, absl::OkStatus());
  EXPECT_EQ(turn.cached, 0);
}

// What comes of a session that does not come to its end is gone with the call.
TEST_F(SessionArchiveTest, HalfASessionLeavesNothing) {
  const auto first = Start(), second = Start();
  const std::string handle = first->sessions.Create(owner_, {}, now_)->handle;
  ASSERT_EQ(Say(first.get(), handle, RandomPrompt(&random_, 200)).status, absl::OkStatus());
  const std::string bytes = BytesOf(first.get(), handle);
  ASSERT_GT(bytes.size(), 20000u);
  const auto cached = [&] {
    int64_t parts = 0;
    for (const auto& pool : second->engine->stats().pools) parts += pool.cached;
    return parts;
  };
  std::string damaged = bytes;
  damaged.back() ^= 1;
  for (const std::string& wrong :
       {bytes.substr(0, 12000), bytes.substr(0, bytes.size() - 1), damaged, bytes + "x"}) {
    EXPECT_TRUE(absl::IsDataLoss(Load(second.get(), wrong, 77).status()));
    while (cached() != 0) absl::SleepFor(absl::Milliseconds(1));
    EXPECT_EQ(second->sessions.stats().sessions, 0);
  }
  EXPECT_EQ(Load(second.get(), bytes, 77)->state_tokens, 204);
  EXPECT_GT(cached(), 0);
}

TEST_F(SessionArchiveTest, OfAnotherNumericsIdTheTextComesAlone) {
  const auto first = Start(), second = Start("another processor");
  const std::string handle = first->sessions.Create(owner_, {}, now_)->handle;
  ASSERT_EQ(Say(first.get(), handle, RandomPrompt(&random_, 50)).status, absl::OkStatus());
  const Turn turn = Say(second.get(), handle, {7});
  EXPECT_EQ(turn.status, absl::OkStatus());
  EXPECT_EQ(turn.cached, 0);
  EXPECT_EQ(second->transfer->states_dropped(), 1);
  // And back, with what that one computed.
  EXPECT_EQ(Say(first.get(), handle, {8}).status, absl::OkStatus());
  EXPECT_EQ(first->transfer->states_dropped(), 1);
}

TEST_F(SessionArchiveTest, ItsTimeToLiveGoesWithIt) {
  const auto first = Start(), second = Start();
  const std::string handle = first->sessions.Create(owner_, absl::Minutes(5), now_)->handle;
  ASSERT_EQ(Say(first.get(), handle, {5, 6}).status, absl::OkStatus());
  ASSERT_EQ(second->archive->Fetch(owner_, handle, space_, now_), absl::OkStatus());
  EXPECT_EQ(second->sessions.Get(owner_, handle, now_)->ttl, absl::Minutes(5));
}

// A state that a client has brought is the session's own, wherever it goes.
TEST_F(SessionArchiveTest, TheOriginOfItsStatesGoesWithIt) {
  const auto first = Start(), second = Start();
  const std::string mine = first->sessions.Create(owner_, {}, now_)->handle;
  const Text prompt = RandomPrompt(&random_, 50);
  ASSERT_EQ(Say(first.get(), mine, prompt).status, absl::OkStatus());
  const auto loaded = Load(first.get(), BytesOf(first.get(), mine), /*origin=*/77);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  const std::string handle = loaded->info.handle;
  EXPECT_EQ(loaded->info.origin, 77u);
  EXPECT_EQ(loaded->state_tokens, 54);
  ASSERT_EQ(first->archive->Put(owner_, handle, space_, now_), absl::OkStatus());
  ASSERT_EQ(second->archive->Fetch(owner_, handle, space_, now_), absl::OkStatus());
  EXPECT_EQ(second->sessions.Get(owner_, handle, now_)->origin, 77u);
  EXPECT_EQ(second->sessions.Fork(owner_, handle, now_)->origin, 77u);
  // It is there, and the text of another session does not begin with it.
  EXPECT_EQ(second->transfer->Pack(owner_, handle, space_, now_)->state.position(), 54);
  const std::string other = second->sessions.Create(owner_, {}, now_)->handle;
  EXPECT_EQ(Say(second.get(), other, prompt).cached, 0);
}

// Nobody else can begin with it: it goes with its session.
TEST_F(SessionArchiveTest, AStateOfAnOriginGoesWithItsSession) {
  const auto replica = Start();
  const std::string mine = replica->sessions.Create(owner_, {}, now_)->handle;
  ASSERT_EQ(Say(replica.get(), mine, RandomPrompt(&random_, 50)).status, absl::OkStatus());
  const std::string bytes = BytesOf(replica.get(), mine);
  const auto kept = [&] { return replica->engine->stats().cache.snapshots; };
  const int64_t before = kept();
  const auto load = [&](uint64_t origin) {
    return Load(replica.get(), bytes, origin)->info.handle;
  };
  const std::string first = load(77), second = load(78);
  EXPECT_EQ(replica->transfer->Pack(owner_, first, space_, now_)->state.position(), 54);
  EXPECT_EQ(kept(), before + 2);
  EXPECT_EQ(replica->sessions.Delete(owner_, first, now_), absl::OkStatus());
  EXPECT_EQ(replica->sessions.Delete(owner_, mine, now_), absl::OkStatus());
  while (kept() != before + 1) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_EQ(replica->transfer->Pack(owner_, second, space_, now_)->state.position(), 54);
}

TEST_F(SessionArchiveTest, WithoutItsStoreAReplicaGoesOnAlone) {
  const auto first = Start(), second = Start();
  const std::string handle = first->sessions.Create(owner_, {}, now_)->handle;
  ASSERT_EQ(Say(first.get(), handle, {5, 6}).status, absl::OkStatus());
  // A file where the tenant's folder was: whatever is asked fails.
  std::filesystem::remove_all(folder_ + "/store/tenant-tenant");
  std::filesystem::create_symlink("tenant-tenant", folder_ + "/store/tenant-tenant");
  EXPECT_EQ(Say(first.get(), handle, {7}, /*put=*/false).status, absl::OkStatus());
  EXPECT_TRUE(absl::IsUnavailable(first->archive->Put(owner_, handle, space_, now_)));
  EXPECT_TRUE(absl::IsUnavailable(Say(second.get(), handle, {7}).status));
  EXPECT_TRUE(absl::IsUnavailable(second->archive->Look(owner_, handle, now_).status()));
  EXPECT_TRUE(first->archive->Look(owner_, handle, now_).ok());
  for (int i = 0; i < 2; ++i) {  // Where it is here, and where it is no longer.
    EXPECT_TRUE(absl::IsUnavailable(first->archive->Delete(owner_, handle, now_)));
  }
  // What is no handle never reaches it.
  EXPECT_TRUE(absl::IsNotFound(first->archive->Delete(owner_, "../x", now_)));
  EXPECT_TRUE(absl::IsNotFound(first->archive->Look(owner_, "../x", now_).status()));
}

// Another replica may have gone on with it: what is here may be old, and so it is said, once.
TEST_F(SessionArchiveTest, AStoreThatLostASessionIsTold) {
  const auto first = Start(), second = Start();
  const std::string handle = first->sessions.Create(owner_, {}, now_)->handle;
  ASSERT_EQ(Say(first.get(), handle, {5, 6}).status, absl::OkStatus());
  const Text old = TextAt(first.get(), handle);
  ASSERT_EQ(Say(second.get(), handle, {7}).status, absl::OkStatus());
  const auto lose = [&] { std::filesystem::remove_all(folder_ + "/store/tenant-tenant"); };
  lose();
  EXPECT_TRUE(first->archive->Look(owner_, handle, now_).ok());
  const absl::Status told = Say(first.get(), handle, {8}).status;
  EXPECT_TRUE(absl::IsAborted(told)) << told;
  EXPECT_THAT(std::string(told.message()), HasSubstr("has lost the session"));
  EXPECT_EQ(TextAt(first.get(), handle), old);
  ASSERT_EQ(Say(first.get(), handle, {8}).status, absl::OkStatus());
  ASSERT_EQ(Say(first.get(), handle, {9}).status, absl::OkStatus());
  // One that its forks alone have kept alive here was over there.
  now_ += absl::Minutes(40);
  ASSERT_TRUE(first->sessions.Fork(owner_, handle, now_).ok());
  now_ += absl::Minutes(40);
  lose();
  EXPECT_EQ(Say(first.get(), handle, {8}).status, absl::OkStatus());
}

TEST_F(SessionArchiveTest, WhatChangesWhileItIsReadIsReadAnew) {
  const auto first = Start();
  const std::string handle = first->sessions.Create(owner_, {}, now_)->handle;
  ASSERT_EQ(Say(first.get(), handle, RandomPrompt(&random_, 50)).status, absl::OkStatus());
  for (const int times : {1, 2, 3}) {
    const auto second = Start();
    ChangingStore changing(second->store.get(), times);
    second->archive =
        std::make_unique<SessionArchive>(&second->sessions, second->transfer.get(), &changing);
    const absl::Status status = second->archive->Fetch(owner_, handle, space_, now_);
    if (times == 3) {  // For ever.
      EXPECT_TRUE(absl::IsUnavailable(status)) << status;
      continue;
    }
    EXPECT_EQ(status, absl::OkStatus());
    EXPECT_EQ(Say(second.get(), handle, {7}, /*put=*/false).cached, 54);
  }
}

TEST_F(SessionArchiveTest, WhatIsThereAlreadyIsStored) {
  const auto first = Start(), second = Start();
  const std::string handle = first->sessions.Create(owner_, {}, now_)->handle;
  ASSERT_EQ(Say(first.get(), handle, {5, 6}).status, absl::OkStatus());
  EXPECT_EQ(first->archive->Put(owner_, handle, space_, now_), absl::OkStatus());
  // And comes without its state where nobody goes on from that.
  WatchedStore watched(second->store.get(), [] {});
  second->archive =
      std::make_unique<SessionArchive>(&second->sessions, second->transfer.get(), &watched);
  EXPECT_EQ(second->archive->Fetch(owner_, handle, std::nullopt, now_), absl::OkStatus());
  EXPECT_FALSE(watched.wants_more);
  EXPECT_EQ(TextAt(second.get(), handle), TextAt(first.get(), handle));
}

// What a replica has is not read from the store again.
TEST_F(SessionArchiveTest, OnlyWhatIsNewerIsFetched) {
  const auto first = Start(), second = Start();
  const std::string handle = first->sessions.Create(owner_, {}, now_)->handle;
  ASSERT_EQ(Say(first.get(), handle, {5, 6}).status, absl::OkStatus());
  for (const auto& file : std::filesystem::recursive_directory_iterator(folder_ + "/store")) {
    if (!file.is_regular_file() || file.file_size() == 0) continue;
    std::fstream bytes(file.path(), std::ios::in | std::ios::out | std::ios::binary);
    bytes.seekp(static_cast<std::streamoff>(file.file_size()) - 1);
    bytes.put('\x55');
  }
  EXPECT_EQ(first->archive->Fetch(owner_, handle, space_, now_), absl::OkStatus());
  EXPECT_TRUE(absl::IsDataLoss(second->archive->Fetch(owner_, handle, space_, now_)));
}

TEST_F(SessionArchiveTest, NobodyElseFindsIt) {
  const auto first = Start(), second = Start();
  const std::string handle = first->sessions.Create(owner_, {}, now_)->handle;
  ASSERT_EQ(Say(first.get(), handle, {5, 6}).status, absl::OkStatus());
  const absl::Status theirs =
      second->archive->Fetch({"other"}, handle, StateSpace{"other", "", {}}, now_);
  EXPECT_TRUE(absl::IsNotFound(theirs)) << theirs;
  EXPECT_EQ(theirs, second->archive->Fetch(owner_, "../../etc/passwd", space_, now_));
  EXPECT_EQ(theirs, second->archive->Look({"other"}, handle, now_).status());
  EXPECT_EQ(theirs, first->archive->Delete({"other"}, handle, now_));
  EXPECT_EQ(first->archive->Delete(owner_, handle, now_), absl::OkStatus());
  EXPECT_EQ(theirs, second->archive->Fetch(owner_, handle, space_, now_));
  EXPECT_EQ(theirs, second->archive->Look(owner_, handle, now_).status());
  EXPECT_EQ(theirs, second->archive->Delete(owner_, handle, now_));
}

}  // namespace
}  // namespace packrat
