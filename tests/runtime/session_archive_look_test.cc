// Sessions that are looked at and deleted where they are, in the store, and not fetched.
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <string>

#include "gtest/gtest.h"
#include "runtime/session_archive.h"
#include "tests/runtime/session_archive_fixture.h"
#include "tests/runtime/stores_in_front.h"

namespace packrat {
namespace {

// To look at a session and to delete it takes no room.
TEST_F(SessionArchiveTest, AFullReplicaShowsAndDeletes) {
  const auto first = Start(), full = Start(), third = Start();
  for (int i = 0; i < 8; ++i) ASSERT_TRUE(full->sessions.Create(owner_, {}, now_).ok());
  const std::string handle = first->sessions.Create(owner_, absl::Minutes(2), now_)->handle;
  ASSERT_EQ(Say(first.get(), handle, {5, 6}).status, absl::OkStatus());
  ASSERT_EQ(Say(first.get(), handle, {7}).status, absl::OkStatus());
  const absl::Status refused = full->archive->Fetch(owner_, handle, space_, now_);
  EXPECT_TRUE(absl::IsResourceExhausted(refused)) << refused;
  EXPECT_NE(refused.message().find("this replica has no room for the session"), std::string::npos);
  EXPECT_NE(refused.message().find("8 sessions; at most 8"), std::string::npos) << refused;
  Text text;
  const auto shown = full->archive->Look(owner_, handle, now_, &text);
  ASSERT_TRUE(shown.ok()) << shown.status();
  const SessionInfo own = *first->sessions.Get(owner_, handle, now_);
  EXPECT_EQ(text, TextAt(first.get(), handle));
  EXPECT_EQ(shown->handle, handle);
  EXPECT_EQ(shown->tokens, own.tokens);
  EXPECT_EQ(shown->turns, own.turns);
  EXPECT_EQ(shown->past.now(), own.past.now());
  EXPECT_EQ(shown->ttl, absl::Minutes(2));
  EXPECT_EQ(full->sessions.stats().sessions, 8);
  EXPECT_EQ(full->archive->Delete(owner_, handle, now_), absl::OkStatus());
  EXPECT_TRUE(absl::IsNotFound(third->archive->Fetch(owner_, handle, space_, now_)));
}

// Who has it in an older state sees what the store has, and keeps what it has.
TEST_F(SessionArchiveTest, ALookShowsTheNewer) {
  const auto first = Start(), second = Start();
  const std::string handle = first->sessions.Create(owner_, {}, now_)->handle;
  ASSERT_EQ(Say(first.get(), handle, RandomPrompt(&random_, 50)).status, absl::OkStatus());
  const Text before = TextAt(first.get(), handle);
  ASSERT_EQ(Say(second.get(), handle, {7}).status, absl::OkStatus());
  Text text;
  ASSERT_TRUE(first->archive->Look(owner_, handle, now_, &text).ok());
  EXPECT_EQ(text, TextAt(second.get(), handle));
  EXPECT_EQ(TextAt(first.get(), handle), before);
  ASSERT_EQ(Say(second.get(), handle, {8}, /*put=*/false).status, absl::OkStatus());
  ASSERT_TRUE(second->archive->Look(owner_, handle, now_, &text).ok());
  EXPECT_EQ(text, TextAt(second.get(), handle));
  // With its state still there for a turn.
  const Turn turn = Say(first.get(), handle, {9});
  EXPECT_GT(turn.cached, static_cast<int>(before.size()));
}

TEST_F(SessionArchiveTest, WhatIsDamagedIsDeleted) {
  const auto first = Start(), second = Start();
  const std::string handle = first->sessions.Create(owner_, {}, now_)->handle;
  ASSERT_EQ(Say(first.get(), handle, {5, 6}).status, absl::OkStatus());
  const std::string path = folder_ + "/store/tenant-tenant/" + handle;
  std::ofstream(path, std::ios::binary) << "no session";
  EXPECT_TRUE(absl::IsDataLoss(second->archive->Look(owner_, handle, now_).status()));
  EXPECT_EQ(second->archive->Delete(owner_, handle, now_), absl::OkStatus());
  EXPECT_TRUE(absl::IsNotFound(second->archive->Look(owner_, handle, now_).status()));
  EXPECT_TRUE(absl::IsNotFound(second->archive->Delete(owner_, handle, now_)));
}

// While a turn runs here it is nobody's to delete, nor in the store.
TEST_F(SessionArchiveTest, ASessionThatGeneratesIsNotDeleted) {
  const auto first = Start(), second = Start();
  const std::string handle = first->sessions.Create(owner_, {}, now_)->handle;
  ASSERT_EQ(Say(first.get(), handle, {5, 6}).status, absl::OkStatus());
  {
    const auto turn = first->sessions.Begin(owner_, handle, now_);
    EXPECT_TRUE(absl::IsAborted(first->archive->Delete(owner_, handle, now_)));
    EXPECT_TRUE(second->archive->Look(owner_, handle, now_).ok());
  }
  EXPECT_EQ(first->archive->Delete(owner_, handle, now_), absl::OkStatus());
  EXPECT_TRUE(absl::IsNotFound(second->archive->Look(owner_, handle, now_).status()));
}

// One that another replica still holds is gone there as well, and does not come back: neither by a
// turn, nor by one that ran when it was deleted.
TEST_F(SessionArchiveTest, WhatWasDeletedStaysSo) {
  const auto first = Start(), second = Start(), third = Start();
  const auto gone = [&](ArchiveReplica* replica, const std::string& handle) {
    return absl::IsNotFound(replica->sessions.Get(owner_, handle, now_).status());
  };
  for (const bool look : {false, true}) {
    const std::string handle = first->sessions.Create(owner_, {}, now_)->handle;
    ASSERT_EQ(Say(first.get(), handle, {5, 6}).status, absl::OkStatus());
    ASSERT_EQ(second->archive->Fetch(owner_, handle, space_, now_), absl::OkStatus());
    ASSERT_EQ(first->archive->Delete(owner_, handle, now_), absl::OkStatus());
    const absl::Status told = look ? second->archive->Look(owner_, handle, now_).status()
                                   : Say(second.get(), handle, {7}).status;
    EXPECT_EQ(told, first->archive->Fetch(owner_, handle, space_, now_));
    EXPECT_TRUE(absl::IsNotFound(told)) << told;
    EXPECT_TRUE(gone(second.get(), handle));
  }
  const std::string handle = first->sessions.Create(owner_, {}, now_)->handle;
  ASSERT_EQ(Say(first.get(), handle, {5, 6}).status, absl::OkStatus());
  ASSERT_EQ(Say(second.get(), handle, {7}, /*put=*/false).status, absl::OkStatus());
  ASSERT_EQ(first->archive->Delete(owner_, handle, now_), absl::OkStatus());
  EXPECT_TRUE(absl::IsAborted(second->archive->Put(owner_, handle, space_, now_)));
  EXPECT_TRUE(gone(second.get(), handle));
  EXPECT_TRUE(absl::IsNotFound(Say(third.get(), handle, {8}).status));
}

// While it is on its way to the store it is deleted.
TEST_F(SessionArchiveTest, APutThatComesAfterTheEndPutsNothing) {
  const auto first = Start(), second = Start();
  const std::string handle = first->sessions.Create(owner_, {}, now_)->handle;
  SlowStore slow(first->store.get(), [&] {
    EXPECT_EQ(first->archive->Delete(owner_, handle, now_), absl::OkStatus());
  });
  first->archive = std::make_unique<SessionArchive>(&first->sessions, first->transfer.get(), &slow);
  EXPECT_TRUE(absl::IsAborted(first->archive->Put(owner_, handle, std::nullopt, now_)));
  EXPECT_TRUE(absl::IsNotFound(first->archive->Fetch(owner_, handle, space_, now_)));
  EXPECT_TRUE(absl::IsNotFound(second->archive->Fetch(owner_, handle, space_, now_)));
}

}  // namespace
}  // namespace packrat
