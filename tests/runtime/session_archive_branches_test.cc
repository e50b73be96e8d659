// Replicas that went on with one session apart, through a store: which text stays, and who is told.
#include "runtime/session_archive.h"

#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "gtest/gtest.h"
#include "tests/runtime/session_archive_fixture.h"
#include "tests/runtime/stores_in_front.h"

namespace packrat {
namespace {

TEST_F(SessionArchiveTest, WhoWasCutOffDoesNotPutAnOldSessionOverANewOne) {
  const auto first = Start(), second = Start();
  const std::string handle = first->sessions.Create(owner_, {}, now_)->handle;
  ASSERT_EQ(Say(first.get(), handle, {5, 6}).status, absl::OkStatus());
  ASSERT_EQ(Say(second.get(), handle, {7}).status, absl::OkStatus());
  ASSERT_EQ(Say(second.get(), handle, {8}).status, absl::OkStatus());
  const Text newest = TextAt(second.get(), handle);
  // It is asked for its old one, to put it there: in vain, and then it catches up.
  EXPECT_TRUE(absl::IsAborted(first->archive->Put(owner_, handle, space_, now_)));
  ASSERT_EQ(Say(first.get(), handle, {9}).status, absl::OkStatus());
  const Text text = TextAt(first.get(), handle);
  EXPECT_EQ(Text(text.begin(), text.begin() + newest.size()), newest);
}

TEST_F(SessionArchiveTest, OfTwoTurnsAtOnceOneStays) {
  const auto first = Start(), second = Start();
  const std::string handle = first->sessions.Create(owner_, {}, now_)->handle;
  ASSERT_EQ(Say(first.get(), handle, {5, 6}).status, absl::OkStatus());
  ASSERT_EQ(Say(second.get(), handle, {7}, /*put=*/false).status, absl::OkStatus());
  ASSERT_EQ(Say(first.get(), handle, {8}, /*put=*/false).status, absl::OkStatus());
  const Text text = TextAt(first.get(), handle);
  ASSERT_NE(TextAt(second.get(), handle), text);
  EXPECT_EQ(first->archive->Put(owner_, handle, space_, now_), absl::OkStatus());
  EXPECT_TRUE(absl::IsAborted(second->archive->Put(owner_, handle, space_, now_)));
  EXPECT_EQ(TextAt(second.get(), handle), text);
  EXPECT_EQ(second->archive->Fetch(owner_, handle, space_, now_), absl::OkStatus());
  EXPECT_EQ(TextAt(second.get(), handle), text);
  EXPECT_EQ(Say(second.get(), handle, {9}).status, absl::OkStatus());
}

// A replica that went on without the store, and another one meanwhile: the first to reach the store
// stays, however often the other text was changed, and who lost something is told.
TEST_F(SessionArchiveTest, OfTwoBranchesTheStoredOneStays) {
  for (const int turns : {1, 2, 9}) {
    SCOPED_TRACE(turns);
    const auto first = Start(), second = Start();
    const std::string handle = first->sessions.Create(owner_, {}, now_)->handle;
    ASSERT_EQ(Say(first.get(), handle, {5, 6}).status, absl::OkStatus());
    ASSERT_EQ(second->archive->Fetch(owner_, handle, space_, now_), absl::OkStatus());
    for (int i = 0; i < turns; ++i) {
      ASSERT_EQ(Say(first.get(), handle, {7}, /*put=*/false).status, absl::OkStatus());
    }
    ASSERT_EQ(Say(second.get(), handle, {8}).status, absl::OkStatus());
    const Text stored = TextAt(second.get(), handle), mine = TextAt(first.get(), handle);
    Text seen;
    ASSERT_TRUE(first->archive->Look(owner_, handle, now_, &seen).ok());
    EXPECT_EQ(seen, stored);
    const absl::Status told = Say(first.get(), handle, {9}).status;
    EXPECT_TRUE(absl::IsAborted(told)) << told;
    EXPECT_NE(told.message().find("what this one could not store is lost"), std::string::npos);
    EXPECT_EQ(TextAt(first.get(), handle), stored);
    ASSERT_EQ(Say(first.get(), handle, {9}).status, absl::OkStatus());
    ASSERT_EQ(Say(second.get(), handle, {10}).status, absl::OkStatus());
    EXPECT_EQ(TextAt(second.get(), handle).size(), stored.size() + 12);
  }
}

// The same where it does not ask before it stores.
TEST_F(SessionArchiveTest, OfTwoBranchesTheSecondIsNotStored) {
  const auto first = Start(), second = Start();
  const std::string handle = first->sessions.Create(owner_, {}, now_)->handle;
  ASSERT_EQ(Say(first.get(), handle, {5, 6}).status, absl::OkStatus());
  ASSERT_EQ(second->archive->Fetch(owner_, handle, space_, now_), absl::OkStatus());
  for (int i = 0; i < 3; ++i) {
    ASSERT_EQ(Say(first.get(), handle, {7}, /*put=*/false).status, absl::OkStatus());
  }
  ASSERT_EQ(Say(second.get(), handle, {8}).status, absl::OkStatus());
  const Text stored = TextAt(second.get(), handle);
  EXPECT_TRUE(absl::IsAborted(first->archive->Put(owner_, handle, space_, now_)));
  EXPECT_EQ(TextAt(first.get(), handle), stored);
}

// What the store took without saying so came from here all the same.
TEST_F(SessionArchiveTest, AnAnswerThatIsLostLosesNothing) {
  const auto first = Start();
  const std::string handle = first->sessions.Create(owner_, {}, now_)->handle;
  ASSERT_EQ(Say(first.get(), handle, {5, 6}).status, absl::OkStatus());
  struct : StoreInFront {
    using StoreInFront::StoreInFront;
    absl::Status Put(const StoreKey& key, const SessionPast& past, const Source& next,
                     absl::Duration ttl) override {
      const absl::Status put = StoreInFront::Put(key, past, next, ttl);
      EXPECT_EQ(put, absl::OkStatus());
      return absl::UnavailableError("no answer");
    }
  } mute(first->store.get());
  SessionArchive lost(&first->sessions, first->transfer.get(), &mute);
  for (int i = 0; i < 3; ++i) {
    ASSERT_EQ(Say(first.get(), handle, {7}, /*put=*/false).status, absl::OkStatus());
    EXPECT_TRUE(absl::IsUnavailable(lost.Put(owner_, handle, space_, now_)));
    ASSERT_EQ(Say(first.get(), handle, {8}, /*put=*/false).status, absl::OkStatus());
    EXPECT_EQ(first->archive->Put(owner_, handle, space_, now_), absl::OkStatus());
  }
  EXPECT_EQ(TextAt(first.get(), handle).size(), 7u + 6 * 6);
}

// What is on its way to the store is nobody's yet, and comes there with its turn.
TEST_F(SessionArchiveTest, ATurnThatIsBeingStoredIsSeenByTheStoreAlone) {
  const auto first = Start(), second = Start();
  const std::string handle = first->sessions.Create(owner_, {}, now_)->handle;
  ASSERT_EQ(Say(first.get(), handle, {5, 6}).status, absl::OkStatus());
  const Text before = TextAt(first.get(), handle);
  Text with = before;
  with.insert(with.end(), {7, 8});
  auto turn = first->sessions.Begin(owner_, handle, now_);
  ASSERT_TRUE(turn.ok()) << turn.status();
  EXPECT_EQ(turn->Promise({7}, 5), absl::OkStatus());
  turn->Append({8});
  turn->Keep(now_);
  EXPECT_EQ(TextAt(first.get(), handle), before);
  EXPECT_EQ(first->transfer->Pack(owner_, handle, space_, now_)->info.tokens, 7);
  EXPECT_EQ(first->archive->Put(owner_, handle, space_, now_), absl::OkStatus());
  EXPECT_EQ(TextAt(first.get(), handle), before);
  { const Sessions::Turn over = *std::move(turn); }
  EXPECT_EQ(TextAt(first.get(), handle), with);
  EXPECT_EQ(first->sessions.stats().tokens, 9);
  EXPECT_FALSE(first->sessions.Get(owner_, handle, now_)->past.unstored());
  EXPECT_EQ(second->archive->Fetch(owner_, handle, space_, now_), absl::OkStatus());
  EXPECT_EQ(TextAt(second.get(), handle), with);
}

// It is busy until then, and the other replica's from then on: nobody is told that it never was.
TEST_F(SessionArchiveTest, ATurnThatLosesMakesPlaceForTheOther) {
  const auto first = Start(), second = Start();
  const std::string handle = first->sessions.Create(owner_, {}, now_)->handle;
  ASSERT_EQ(Say(first.get(), handle, {5, 6}).status, absl::OkStatus());
  ASSERT_EQ(second->archive->Fetch(owner_, handle, space_, now_), absl::OkStatus());
  ASSERT_EQ(Say(first.get(), handle, {8}).status, absl::OkStatus());
  const Text text = TextAt(first.get(), handle);
  auto turn = second->sessions.Begin(owner_, handle, now_);
  ASSERT_TRUE(turn.ok()) << turn.status();
  EXPECT_EQ(turn->Promise({7}, 5), absl::OkStatus());
  turn->Append({8});
  turn->Keep(now_);
  std::optional<StoredText> newer;
  EXPECT_TRUE(absl::IsAborted(second->archive->Put(owner_, handle, space_, now_, &newer)));
  ASSERT_TRUE(newer.has_value());
  EXPECT_TRUE(absl::IsAborted(second->sessions.Begin(owner_, handle, now_).status()));
  turn->Replace(newer->version, newer->content, now_);
  EXPECT_EQ(TextAt(second.get(), handle), text);
  EXPECT_EQ(second->sessions.stats().busy, 0);
  EXPECT_EQ(second->sessions.stats().tokens, static_cast<int64_t>(text.size()));
  EXPECT_EQ(Say(second.get(), handle, {9}).status, absl::OkStatus());
}

// A turn that lost takes its session along in one go: nobody begins in between, with a text whose
// revision another replica has used for another one.
TEST_F(SessionArchiveTest, ATurnThatIsDroppedTakesItsSessionAlong) {
  const auto replica = Start();
  const std::string handle = replica->sessions.Create(owner_, {}, now_)->handle;
  ASSERT_EQ(Say(replica.get(), handle, {5, 6}).status, absl::OkStatus());
  auto turn = replica->sessions.Begin(owner_, handle, now_);
  ASSERT_TRUE(turn.ok()) << turn.status();
  EXPECT_EQ(turn->Promise({7}, 5), absl::OkStatus());
  turn->Append({8});
  turn->Keep(now_);
  turn->Drop();
  EXPECT_TRUE(absl::IsNotFound(replica->sessions.Get(owner_, handle, now_).status()));
  const Sessions::Stats stats = replica->sessions.stats();
  EXPECT_EQ(stats.sessions + stats.busy, 0);
  EXPECT_EQ(stats.tokens, 0);
}

// Who only looks sees what was here before a turn that is being generated. Nor does it matter when
// that began.
TEST_F(SessionArchiveTest, ASessionThatGeneratesIsSeenAsItWas) {
  const auto first = Start(), second = Start();
  const std::string handle = first->sessions.Create(owner_, {}, now_)->handle;
  ASSERT_EQ(Say(first.get(), handle, {5, 6}).status, absl::OkStatus());
  ASSERT_EQ(Say(second.get(), handle, {7}).status, absl::OkStatus());
  const Text before = TextAt(first.get(), handle), newest = TextAt(second.get(), handle);
  std::optional<Sessions::Turn> turn;
  WatchedStore watched(first->store.get(),
                       [&] { turn.emplace(*first->sessions.Begin(owner_, handle, now_)); });
  first->archive =
      std::make_unique<SessionArchive>(&first->sessions, first->transfer.get(), &watched);
  for (const std::optional<StateSpace>& space : {std::optional<StateSpace>(space_), {}, {}}) {
    EXPECT_EQ(first->archive->Fetch(owner_, handle, space, now_), absl::OkStatus());
    ASSERT_TRUE(turn.has_value());
    EXPECT_EQ(TextAt(first.get(), handle), before);
  }
  EXPECT_EQ(watched.gets, 1);  // What cannot be taken is not read.
  turn.reset();
  first->archive =
      std::make_unique<SessionArchive>(&first->sessions, first->transfer.get(), first->store.get());
  EXPECT_EQ(first->archive->Fetch(owner_, handle, space_, now_), absl::OkStatus());
  EXPECT_EQ(TextAt(first.get(), handle), newest);
}

TEST_F(SessionArchiveTest, ATextThatWasCutIsNewer) {
  const auto first = Start(), second = Start();
  const std::string handle = first->sessions.Create(owner_, {}, now_)->handle;
  ASSERT_EQ(Say(first.get(), handle, {5, 6}).status, absl::OkStatus());
  ASSERT_EQ(Say(second.get(), handle, {7}).status, absl::OkStatus());
  ASSERT_TRUE(second->sessions.Rewind(owner_, handle, 3, now_).ok());
  ASSERT_EQ(second->archive->Put(owner_, handle, space_, now_), absl::OkStatus());
  ASSERT_EQ(first->archive->Fetch(owner_, handle, space_, now_), absl::OkStatus());
  EXPECT_EQ(TextAt(first.get(), handle).size(), 3u);
}

// Another replica's turn that was taken back is a change, though the text is what it was.
TEST_F(SessionArchiveTest, TheSameTextAtALaterRevisionIsNotThisOne) {
  const auto first = Start(), second = Start();
  const std::string handle = first->sessions.Create(owner_, {}, now_)->handle;
  ASSERT_EQ(Say(first.get(), handle, {5, 6}).status, absl::OkStatus());
  ASSERT_EQ(Say(second.get(), handle, {7}).status, absl::OkStatus());
  ASSERT_TRUE(second->sessions.RewindTurns(owner_, handle, 1, now_).ok());
  ASSERT_EQ(second->archive->Put(owner_, handle, space_, now_), absl::OkStatus());
  ASSERT_EQ(TextAt(second.get(), handle), TextAt(first.get(), handle));
  EXPECT_TRUE(absl::IsAborted(first->archive->Put(owner_, handle, space_, now_)));
}

TEST_F(SessionArchiveTest, TheSameTextInOtherTurnsIsNotThisOne) {
  const auto first = Start(), second = Start();
  const std::string handle = first->sessions.Create(owner_, {}, now_)->handle;
  ASSERT_EQ(Say(first.get(), handle, {5, 6}).status, absl::OkStatus());
  ASSERT_EQ(second->archive->Fetch(owner_, handle, space_, now_), absl::OkStatus());
  ASSERT_EQ(Say(first.get(), handle, {7}, /*put=*/false).status, absl::OkStatus());
  const Text text = TextAt(first.get(), handle);
  ASSERT_TRUE(first->sessions.Rewind(owner_, handle, static_cast<int>(text.size()), now_).ok());
  ASSERT_TRUE(second->sessions.Rewind(owner_, handle, 0, now_).ok());
  const Text whole(text.begin(), text.end() - 5);  // All but the answer.
  ASSERT_EQ(Say(second.get(), handle, whole, /*put=*/false).status, absl::OkStatus());
  ASSERT_EQ(TextAt(second.get(), handle), text);
  ASSERT_EQ(first->sessions.Get(owner_, handle, now_)->past.now().revision,
            second->sessions.Get(owner_, handle, now_)->past.now().revision);
  EXPECT_EQ(second->archive->Put(owner_, handle, space_, now_), absl::OkStatus());
  EXPECT_TRUE(absl::IsAborted(first->archive->Put(owner_, handle, space_, now_)));
}

}  // namespace
}  // namespace packrat
