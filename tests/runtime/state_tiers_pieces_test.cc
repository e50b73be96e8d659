// States that are larger than all of the memory below the pool: to the disk and back in pieces.
#include <sys/resource.h>

#include <csignal>
#include <fstream>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "tests/runtime/state_tiers_fixture.h"

namespace packrat {
namespace {

constexpr int kLong = 400;

class StateTiersPiecesTest : public StateTiersTest {
 protected:
  // Memory that a state of kLong tokens does not fit into, and a disk for so many of them.
  void StartSmall(int on_disk) {
    Start(2, 0);
    const int64_t size = tiers_->BytesOf(kLong, 0);
    Start(2, static_cast<int>((on_disk * size + one_ - 1) / one_));
    ASSERT_TRUE(tiers_->FitsInPieces(size));
    ASSERT_FALSE(tiers_->FitsInPieces(tiers_->BytesOf(16, 0)));
  }
  static std::string PartsOf(size_t size, int number) {
    std::string parts(size, '\0');
    for (size_t i = 0; i < size; ++i) parts[i] = static_cast<char>(i / 7 * 13 + i + number);
    return parts;
  }
  size_t size() const { return SavedPartBytes(owner_.layout, kLong); }
  uint64_t AddLong(double worth = 1) {
    const uint64_t id = tiers_->AddInPieces(kLong, 0, static_cast<int64_t>(size()), worth);
    if (id != 0) held_.push_back(id);
    Check();
    return id;
  }
  // Gives it one more piece; false: it takes none now.
  bool AppendOne(uint64_t id, const std::string& parts, size_t* at) {
    const int64_t wants = tiers_->Wants(id);
    if (wants == 0) return false;
    tiers_->Append(id, parts.substr(*at, static_cast<size_t>(wants)));
    *at += static_cast<size_t>(wants);
    Check();
    return true;
  }
  uint64_t WriteLong(int number, double worth = 1) {
    const uint64_t id = AddLong(worth);
    const std::string parts = PartsOf(size(), number);
    for (size_t at = 0; AppendOne(id, parts, &at);) Wait();
    return id;
  }
  // What comes back, as far as it does.
  std::string ReadBack(uint64_t id, bool* good) {
    std::string all;
    *good = false;
    tiers_->Fetch(id, 0, 1);
    while (tiers_->IsFetching(id)) {
      Wait();
      if (tiers_->Piece(id) == nullptr) continue;
      all += *tiers_->Piece(id);
      *good = tiers_->TakePiece(id);
      Check();
    }
    return all;
  }
};

TEST_F(StateTiersPiecesTest, ToTheDiskAndBack) {
  StartSmall(3);
  EXPECT_EQ(tiers_->Add(State(kLong, 1), 1), 0u);
  const std::string parts = PartsOf(size(), 1);
  const uint64_t id = AddLong();
  ASSERT_NE(id, 0u);
  EXPECT_TRUE(tiers_->IsInPieces(id));
  int pieces = 0;
  for (size_t at = 0; AppendOne(id, parts, &at); ++pieces) {
    EXPECT_EQ(tiers_->PlaceOf(id), Place::kNowhere);
    EXPECT_EQ(tiers_->Wants(id), 0);  // One at a time.
    EXPECT_LE(tiers_->stats().memory.bytes, tiers_->stats().memory.limit / 4);
    Wait();
  }
  EXPECT_GT(pieces, 3);
  EXPECT_EQ(tiers_->PlaceOf(id), Place::kDisk);
  EXPECT_EQ(tiers_->stats().moved_to_disk, 1);
  EXPECT_EQ(tiers_->stats().memory.bytes, 0);
  EXPECT_EQ(fs::file_size(FileOf(id)), size());
  for (int round = 0; round < 2; ++round) {  // Its file stays.
    bool good = false;
    EXPECT_EQ(ReadBack(id, &good), parts);
    EXPECT_TRUE(good);
    EXPECT_EQ(tiers_->PlaceOf(id), Place::kDisk);
    EXPECT_EQ(tiers_->stats().returned, round + 1);
  }
  tiers_->Drop(id);
  Wait();
  EXPECT_TRUE(Files().empty());
  EXPECT_EQ(tiers_->stats().disk.bytes, 0);
  EXPECT_EQ(tiers_->TakeTrouble(), absl::OkStatus());
}

TEST_F(StateTiersPiecesTest, WithoutAFolderOrWithASmallOneThereIsNone) {
  Start(2, 0, /*with_folder=*/false);
  EXPECT_FALSE(tiers_->FitsInPieces(tiers_->BytesOf(kLong, 0)));
  EXPECT_EQ(AddLong(), 0u);
  Start(2, static_cast<int>(tiers_->BytesOf(kLong, 0) / one_) - 1);
  EXPECT_FALSE(tiers_->FitsInPieces(tiers_->BytesOf(kLong, 0)));
  EXPECT_EQ(AddLong(), 0u);
  Check();
}

TEST_F(StateTiersPiecesTest, DamageShows) {
  StartSmall(3);
  for (const size_t at : {size_t{0}, size() / 2, size() - 1}) {
    const uint64_t id = WriteLong(1);
    ASSERT_EQ(tiers_->PlaceOf(id), Place::kDisk);
    {
      std::fstream file(FileOf(id), std::ios::in | std::ios::out | std::ios::binary);
      file.seekg(static_cast<std::streamoff>(at));
      const auto byte = static_cast<char>(file.get() ^ 4);
      file.seekp(static_cast<std::streamoff>(at));
      file.put(byte);
    }
    bool good = true;
    EXPECT_EQ(ReadBack(id, &good).size(), size());
    EXPECT_FALSE(good);
    EXPECT_EQ(tiers_->PlaceOf(id), Place::kNowhere);
    Wait();
    EXPECT_TRUE(Files().empty());
  }
  EXPECT_EQ(tiers_->stats().read_failures, 3);
  const uint64_t cut = WriteLong(2);
  fs::resize_file(FileOf(cut), size() - 1);
  bool good = true;
  EXPECT_LT(ReadBack(cut, &good).size(), size());
  EXPECT_FALSE(good);
  EXPECT_EQ(tiers_->PlaceOf(cut), Place::kNowhere);
  EXPECT_TRUE(absl::IsDataLoss(tiers_->TakeTrouble()));
  EXPECT_EQ(tiers_->stats().read_failures, 4);
}

TEST_F(StateTiersPiecesTest, WhatTheDiskDoesNotTakeIsGone) {
  StartSmall(3);
  signal(SIGXFSZ, SIG_IGN);
  rlimit before, small;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  small = before;
  small.rlim_cur = static_cast<rlim_t>(size() / 2);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const uint64_t id = WriteLong(1);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  EXPECT_EQ(tiers_->PlaceOf(id), Place::kNowhere);
  EXPECT_FALSE(tiers_->IsInPieces(id));
  EXPECT_TRUE(absl::IsResourceExhausted(tiers_->TakeTrouble()));
  Wait();
  EXPECT_TRUE(Files().empty());
  EXPECT_EQ(tiers_->stats().write_failures, 1);
  EXPECT_EQ(tiers_->stats().disk.bytes, 0);
  EXPECT_EQ(tiers_->PlaceOf(WriteLong(2)), Place::kDisk);
}

// What is on the disk gives way to it, and it to others, all of it at once.
TEST_F(StateTiersPiecesTest, TheLeastWorthGivesWay) {
  StartSmall(2);
  const uint64_t dear = WriteLong(1, 10), cheap = WriteLong(2, 1);
  const uint64_t middle = WriteLong(3, 5);
  EXPECT_EQ(tiers_->PlaceOf(cheap), Place::kNowhere);
  EXPECT_FALSE(fs::exists(FileOf(cheap)));
  EXPECT_EQ(tiers_->PlaceOf(dear), Place::kDisk);
  EXPECT_EQ(tiers_->PlaceOf(middle), Place::kDisk);
  EXPECT_EQ(tiers_->stats().dropped, 1);
  // What is being written gives way to nobody.
  const uint64_t begun = AddLong(1);
  ASSERT_NE(begun, 0u);
  const uint64_t other = AddLong(1);
  ASSERT_NE(other, 0u);
  EXPECT_EQ(AddLong(1), 0u);
}

// Operations on some of them and on small ones at any moment, until enough have come to their end,
// which depends on how fast the threads are.
TEST_F(StateTiersPiecesTest, Storm) {
  std::mt19937_64 random(7);
  int64_t read = 0, gone = 0;
  const auto enough = [&] { return read > 30 && gone > 100; };
  for (int round = 0; (round < 12 || (round < 120 && !enough())) && !HasFailure(); ++round) {
    StartSmall(2 + static_cast<int>(random() % 4));
    held_.clear();
    std::map<uint64_t, size_t> written;  // How far; the number of its bytes is its own.
    std::map<uint64_t, std::string> read_back;
    for (int step = 0; step < 4000 && !HasFailure(); ++step) {
      // The oldest ones, so that some come to their end.
      const size_t few = std::min<size_t>(held_.size(), 4);
      const uint64_t any = few == 0 ? 0 : held_[random() % few];
      const bool is_long = written.count(any) > 0;
      switch (random() % 9) {
        case 0:
          if (const uint64_t id = AddLong(static_cast<double>(random() % 20)); id != 0) {
            written[id] = 0;
          }
          break;
        case 1:
          if (random() % 8 == 0) Add(step);
          break;
        case 2:
        case 3:
          if (is_long) {
            AppendOne(any, PartsOf(size(), static_cast<int>(any)), &written[any]);
          }
          break;
        case 4:
          if (tiers_->PlaceOf(any) == Place::kDisk && !tiers_->IsFetching(any)) {
            read_back[any].clear();
            tiers_->Fetch(any, static_cast<int>(random() % 2), 1);
          }
          break;
        case 5:
          if (random() % 32 == 0) tiers_->StopFetching(any);
          break;
        case 6:
          if (random() % 64 == 0) tiers_->Drop(any);
          break;
        default:
          tiers_->Poll();
          if (tiers_->Piece(any) == nullptr) break;
          read_back[any] += *tiers_->Piece(any);
          if (tiers_->TakePiece(any)) {
            ASSERT_EQ(read_back[any], PartsOf(size(), static_cast<int>(any)));
            ++read;
          }
      }
      Check();
      if (random() % 64 == 0) Wait();
      held_.erase(std::remove_if(held_.begin(), held_.end(),
                                 [&](uint64_t id) {
                                   const bool lost = tiers_->PlaceOf(id) == Place::kNowhere &&
                                                     !tiers_->IsInPieces(id);
                                   gone += lost;
                                   return lost;
                                 }),
                  held_.end());
    }
    for (uint64_t id : held_) tiers_->Drop(id);
    Wait();
    EXPECT_EQ(tiers_->stats().memory.bytes, 0);
    EXPECT_EQ(tiers_->stats().disk.bytes, 0);
    EXPECT_TRUE(Files().empty());
    EXPECT_EQ(tiers_->TakeTrouble(), absl::OkStatus());
  }
  EXPECT_GT(read, 30);
  EXPECT_GT(gone, 100);
}

}  // namespace
}  // namespace packrat
