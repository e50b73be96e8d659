#include "runtime/state_tiers.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/pending_file.h"
#include "tests/runtime/state_tiers_fixture.h"

namespace packrat {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

TEST_F(StateTiersTest, WhatRestsInMemoryIsThere) {
  Start(4, 0, /*with_folder=*/false);
  const uint64_t a = Add(1), b = Add(2);
  ExpectIs(a, State(16, 1));
  ExpectIs(b, State(16, 2));
  EXPECT_EQ(tiers_->stats().memory.states, 2);
  EXPECT_EQ(tiers_->stats().memory.bytes, 2 * one_);
  tiers_->Return(a);
  tiers_->Drop(b);
  tiers_->Drop(b);
  EXPECT_EQ(tiers_->PlaceOf(a), Place::kNowhere);
  EXPECT_EQ(tiers_->stats().memory.bytes, 0);
  EXPECT_EQ(tiers_->stats().returned, 1);
  EXPECT_EQ(tiers_->PlaceOf(0), Place::kNowhere);
  EXPECT_EQ(tiers_->PlaceOf(99), Place::kNowhere);
}

TEST_F(StateTiersTest, WithoutAFolderTheLeastWorthGivesWay) {
  Start(3, 0, /*with_folder=*/false);
  const uint64_t dear = Add(1, 10), cheap = Add(2, 1), middle = Add(3, 5);
  const uint64_t more = Add(4, 5);  // The clock is 1 now.
  EXPECT_EQ(tiers_->PlaceOf(cheap), Place::kNowhere);
  const uint64_t last = Add(5, 2);  // 5 goes: it is older than the other of 5.
  EXPECT_EQ(tiers_->PlaceOf(middle), Place::kNowhere);
  for (uint64_t id : {dear, more, last}) EXPECT_EQ(tiers_->PlaceOf(id), Place::kMemory);
  EXPECT_EQ(tiers_->stats().dropped, 2);
  // Nothing stays for ever.
  for (int i = 0; i < 40; ++i) Add(i, 1);
  EXPECT_EQ(tiers_->PlaceOf(dear), Place::kNowhere);
}

TEST_F(StateTiersTest, WhatIsTooLargeIsNotKept) {
  Start(1, 5);
  EXPECT_EQ(tiers_->Add(State(400, 1), 1), 0u);
  EXPECT_FALSE(tiers_->Fits(tiers_->BytesOf(400, 0)));
  EXPECT_TRUE(tiers_->Fits(tiers_->BytesOf(16, 0)));
  EXPECT_NE(AddSlowly(1), 0u);
  EXPECT_EQ(tiers_->stats().disk.states, 1);  // More than half of the memory.
}

// What is larger than half of the memory finds room there once what rests is on the disk.
TEST_F(StateTiersTest, WhatRestsMakesRoomForALargeOne) {
  Start(4, 100);
  AddSlowly(1);
  AddSlowly(2);
  ASSERT_EQ(tiers_->stats().memory.states, 2);
  int large = 16;
  while (tiers_->BytesOf(large, 0) < 3 * one_) ++large;
  ASSERT_EQ(tiers_->BytesOf(large, 0), 3 * one_);
  EXPECT_EQ(tiers_->Add(State(large, 3), 1), 0u);
  Wait();
  EXPECT_EQ(tiers_->stats().memory.states, 1);
  const uint64_t id = tiers_->Add(State(large, 3), 1);
  EXPECT_NE(id, 0u);
  held_.push_back(id);
  Check();
}

TEST_F(StateTiersTest, BeyondHalfOfTheMemoryItGoesToTheDiskAndComesBack) {
  Start(4, 100);
  std::vector<uint64_t> ids;
  for (int i = 0; i < 20; ++i) ids.push_back(AddSlowly(i));
  EXPECT_EQ(tiers_->stats().memory.states, 2);
  EXPECT_EQ(tiers_->stats().disk.states, 18);
  EXPECT_EQ(tiers_->stats().moved_to_disk, 18);
  EXPECT_EQ(Files().size(), 18u);
  for (const std::string& file : Files()) {
    EXPECT_LE(static_cast<int64_t>(fs::file_size(file)), one_);
    EXPECT_GT(static_cast<int64_t>(fs::file_size(file)), one_ - 4096);
    EXPECT_EQ(fs::status(file).permissions(), fs::perms::owner_read | fs::perms::owner_write);
  }
  EXPECT_EQ(fs::status(folder_).permissions(), fs::perms::owner_all);
  for (int i = 0; i < 20; ++i) {
    if (tiers_->PlaceOf(ids[i]) == Place::kDisk) {
      const int woken = wakes_;
      Fetch(ids[i]);
      while (wakes_ == woken) std::this_thread::yield();
    }
    ExpectIs(ids[i], State(16, i));
    tiers_->Return(ids[i]);
    Wait();
  }
  EXPECT_EQ(tiers_->stats().read_from_disk + 2, tiers_->stats().returned);
  EXPECT_TRUE(Files().empty());
  EXPECT_EQ(tiers_->stats().disk.bytes, 0);
  EXPECT_EQ(tiers_->TakeTrouble(), absl::OkStatus());
}

// To remove a file may take longer than to read it: nobody waits for that.
TEST_F(StateTiersTest, WhatIsReadKeepsItsFileUntilItGoesOn) {
  Start(4, 100);
  std::vector<uint64_t> ids;
  for (int i = 0; i < 6; ++i) ids.push_back(AddSlowly(i));
  ASSERT_EQ(tiers_->PlaceOf(ids[0]), Place::kDisk);
  Fetch(ids[0]);
  EXPECT_TRUE(fs::exists(FileOf(ids[0])));
  EXPECT_EQ(tiers_->stats().disk.states, 4);
  // Where its memory is needed it is on the disk again, and not written once more.
  const auto written = fs::last_write_time(FileOf(ids[0]));
  fs::permissions(FileOf(ids[0]), fs::perms::owner_read);
  for (int i = 6; i < 12; ++i) AddSlowly(i);
  ASSERT_EQ(tiers_->PlaceOf(ids[0]), Place::kDisk);
  EXPECT_EQ(fs::last_write_time(FileOf(ids[0])), written);
  EXPECT_EQ(tiers_->stats().disk.states, 10);
  EXPECT_EQ(tiers_->stats().moved_to_disk, 11);
  Fetch(ids[0]);
  ExpectIs(ids[0], State(16, 0));
  tiers_->Return(ids[0]);
  EXPECT_EQ(tiers_->stats().disk.states, 9);
  Wait();
  EXPECT_FALSE(fs::exists(FileOf(ids[0])));
  EXPECT_EQ(Files().size(), 9u);
}

TEST_F(StateTiersTest, TheLeastWorthOnTheDiskGivesWay) {
  Start(2, 3);
  const uint64_t dear = AddSlowly(1, 10);
  std::vector<uint64_t> ids;
  for (int i = 0; i < 6; ++i) ids.push_back(AddSlowly(2 + i, i == 0 ? 1.0 : 2.0));
  // One rests in memory, three are on the disk.
  EXPECT_EQ(tiers_->stats().disk.states, 3);
  EXPECT_EQ(tiers_->stats().disk.bytes, 3 * one_);
  EXPECT_EQ(Files().size(), 3u);
  EXPECT_EQ(tiers_->PlaceOf(ids[0]), Place::kNowhere);
  EXPECT_NE(tiers_->PlaceOf(dear), Place::kNowhere);
  EXPECT_NE(tiers_->PlaceOf(ids[5]), Place::kNowhere);
  EXPECT_EQ(tiers_->stats().dropped, 3);
}

// However small the memory, whoever asks is served.
TEST_F(StateTiersTest, MoreThanMemoryHoldsIsWantedAtOnce) {
  Start(3, 100);
  std::vector<uint64_t> ids;
  for (int i = 0; i < 12; ++i) ids.push_back(AddSlowly(i));
  for (uint64_t id : ids) tiers_->Fetch(id, 0, 1);
  Check();
  std::vector<bool> seen(ids.size());
  for (int round = 0; round < 1000 && std::count(seen.begin(), seen.end(), false) > 0; ++round) {
    Wait();
    for (size_t i = 0; i < ids.size(); ++i) {
      if (seen[i] || tiers_->PlaceOf(ids[i]) != Place::kMemory) continue;
      ExpectIs(ids[i], State(16, static_cast<int>(i)));
      seen[i] = true;
      tiers_->Return(ids[i]);
    }
    for (size_t i = 0; i < ids.size(); ++i) {
      if (!seen[i]) tiers_->Fetch(ids[i], 0, 1);
    }
  }
  EXPECT_EQ(std::count(seen.begin(), seen.end(), false), 0);
}

// Who asks later does not wait for all that another has asked for: of what the reader does not have
// yet, each tenant gets bytes by its weight.
TEST_F(StateTiersTest, TenantsTakeTurns) {
  Start(120, 200);
  std::vector<uint64_t> ids;
  for (int i = 0; i < 120; ++i) ids.push_back(AddSlowly(i));
  for (int i = 0; i < 60; ++i) {
    ASSERT_EQ(tiers_->PlaceOf(ids[i]), Place::kDisk) << i;
    tiers_->Fetch(ids[i], i < 30 ? 1 : 2, i < 30 ? 1 : 2);
  }
  const auto come = [&](int first) {
    return static_cast<int>(std::count_if(&ids[first], &ids[first] + 30, [&](uint64_t id) {
      return tiers_->PlaceOf(id) == Place::kMemory;
    }));
  };
  for (int first = 0, second = 0; first < 30 || second < 30;) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    tiers_->Poll();
    first = come(0), second = come(30);
    if (second == 30) continue;
    // The reader had eight of the first when the second came; two of the second to one of the first
    // from then on.
    EXPECT_LE(first, 8 + second / 2 + 2);
    if (first > 8) {
      EXPECT_LE(second, 2 * (first - 8) + 4);
    }
  }
  Check();
}

TEST_F(StateTiersTest, AFileIsTheOneThatWasWrittenOrNone) {
  fs::create_directories(folder_);
  const auto folder = *StateFolder::Open(folder_, owner_);
  const SavedState state = State(17, 3);
  const auto seal = folder->Write(1, state);
  ASSERT_TRUE(seal.ok()) << seal.status();
  const size_t most = fs::file_size(folder->PathOf(1)) + 1;
  const auto read = [&](uint64_t name) { return folder->Read(name, *seal, most, [] {}); };
  ASSERT_EQ(read(1)->parts, state.parts);
  const std::string whole = *ReadWholeFile(folder->PathOf(1), 1 << 20);
  const int fd = open(folder->PathOf(1).c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_GE(fd, 0);
  for (size_t bit = 0; bit < whole.size() * 8; bit += 7) {  // saved_state_test.cc has all.
    const auto at = static_cast<off_t>(bit / 8);
    const char changed = static_cast<char>(whole[bit / 8] ^ 1 << bit % 8);
    ASSERT_EQ(pwrite(fd, &changed, 1, at), 1);
    const absl::Status status = read(1).status();
    ASSERT_TRUE(absl::IsDataLoss(status)) << "bit " << bit << ": " << status;
    ASSERT_EQ(pwrite(fd, &whole[bit / 8], 1, at), 1);
  }
  ASSERT_EQ(read(1)->parts, state.parts);
  ASSERT_EQ(ftruncate(fd, static_cast<off_t>(whole.size() + 1)), 0);
  EXPECT_TRUE(absl::IsDataLoss(read(1).status()));
  for (size_t size = whole.size(); size-- > 0;) {
    ASSERT_EQ(ftruncate(fd, static_cast<off_t>(size)), 0);
    const absl::Status status = read(1).status();
    ASSERT_TRUE(absl::IsDataLoss(status)) << "cut after " << size << ": " << status;
  }
  close(fd);
  // Whole, but another's.
  ASSERT_TRUE(folder->Write(2, State(17, 4)).ok());
  EXPECT_TRUE(absl::IsDataLoss(read(2).status()));
  folder->Remove(2);
  EXPECT_TRUE(absl::IsNotFound(read(2).status()));
}

TEST_F(StateTiersTest, WhatIsDamagedIsGone) {
  Start(2, 10);
  for (const bool remove : {false, true}) {
    const uint64_t id = AddSlowly(1, 1);
    AddSlowly(2, 2);
    ASSERT_EQ(tiers_->PlaceOf(id), Place::kDisk);
    if (remove) {
      fs::remove(FileOf(id));
    } else {
      fs::resize_file(FileOf(id), 100);
    }
    Fetch(id);
    EXPECT_EQ(tiers_->PlaceOf(id), Place::kNowhere);
    EXPECT_EQ(tiers_->stats().read_failures, remove ? 2 : 1);
    EXPECT_THAT(std::string(tiers_->TakeTrouble().message()),
                HasSubstr(remove ? "No such file" : "not the file that was written"));
    EXPECT_EQ(tiers_->TakeTrouble(), absl::OkStatus());
    EXPECT_FALSE(fs::exists(FileOf(id)));
  }
}

TEST_F(StateTiersTest, WhatAFullDiskDoesNotTakeIsGone) {
  Start(2, 10);
  signal(SIGXFSZ, SIG_IGN);
  rlimit before, small;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  small = before;
  small.rlim_cur = static_cast<rlim_t>(one_ / 2);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  for (int i = 0; i < 5; ++i) AddSlowly(i);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  EXPECT_EQ(tiers_->stats().write_failures, 4);
  EXPECT_EQ(tiers_->stats().disk.bytes, 0);
  EXPECT_TRUE(absl::IsResourceExhausted(tiers_->TakeTrouble()));
  EXPECT_TRUE(Files().empty());
  EXPECT_EQ(tiers_->stats().memory.states, 1);
  // It goes on once there is room.
  AddSlowly(6);
  EXPECT_EQ(tiers_->stats().disk.states, 1);
  fs::remove_all(folder_);
  AddSlowly(7);
  EXPECT_EQ(tiers_->stats().write_failures, 5);
}

TEST_F(StateTiersTest, AFolderIsOneProcesssAndHasNothingOfAnEarlierOne) {
  Start(1, 10);
  AddSlowly(1);
  EXPECT_EQ(Files().size(), 1u);
  const absl::Status second = StateFolder::Open(folder_, owner_).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(second)) << second;
  EXPECT_EQ(Files().size(), 1u);
  tiers_.reset();
  EXPECT_TRUE(Files().empty());
  // As a crash leaves it.
  std::ofstream(folder_ + "/state-7") << "x";
  std::ofstream(folder_ + "/letter") << "x";
  std::ofstream(folder_ + "/state-of-run") << "x";
  std::ofstream(folder_ + "/state-07") << "x";
  held_.clear();
  Start(1, 10);
  EXPECT_THAT(Files(),
              ElementsAre(folder_ + "/letter", folder_ + "/state-07", folder_ + "/state-of-run"));
  EXPECT_FALSE(StateFolder::Open("/dev/null/states", owner_).ok());
}

// Every operation, at any moment, with what may happen to files; the books agree after each of
// them, no budget is exceeded, and what is there is what was put there. How often states come back,
// and which files are cut, depends on how far the threads have come: it goes on until they have.
TEST_F(StateTiersTest, Storm) {
  std::mt19937_64 random(3);
  int64_t read = 0, dropped = 0, failed = 0;
  const auto enough = [&] { return read > 1000 && dropped > 1000 && failed > 5; };
  for (int round = 0; (round < 40 || (round < 400 && !enough())) && !HasFailure(); ++round) {
    Start(2 + static_cast<int>(random() % 12), 3 + static_cast<int>(random() % 30), round % 5 != 0);
    held_.clear();
    std::map<uint64_t, std::pair<int, int>> states;  // Position and number.
    for (int step = 0; step < 5000 && !HasFailure(); ++step) {
      const uint64_t any = held_.empty() ? 0 : held_[random() % held_.size()];
      switch (random() % 8) {
        case 0:
        case 1: {
          const int position = 16 + static_cast<int>(random() % 60);
          const uint64_t id =
              tiers_->Add(State(position, step), static_cast<double>(random() % 100));
          if (id == 0) break;
          held_.push_back(id);
          states[id] = {position, step};
          break;
        }
        case 2:
        case 3:
          if (tiers_->PlaceOf(any) == Place::kDisk) tiers_->Fetch(any, 0, 1);
          break;
        case 4:
          if (tiers_->PlaceOf(any) != Place::kMemory) break;
          ExpectIs(any, State(states[any].first, states[any].second));
          tiers_->Return(any);
          break;
        case 5:
          if (random() % 4 == 0) tiers_->Drop(any);
          break;
        case 6:
          tiers_->Poll();
          if (random() % 20 == 0) std::this_thread::yield();
          break;
        default:
          if (random() % 20 != 0) break;
          tiers_->WaitForThreads();
          int64_t bytes = 0;
          for (const std::string& file : round % 5 != 0 ? Files() : std::vector<std::string>()) {
            bytes += static_cast<int64_t>(fs::file_size(file));
            if (random() % 20 == 0) fs::resize_file(file, random() % fs::file_size(file));
          }
          EXPECT_LE(bytes, tiers_->stats().disk.bytes);
      }
      Check();
      held_.erase(std::remove_if(held_.begin(), held_.end(),
                                 [&](uint64_t id) {
                                   return random() % 16 == 0 &&
                                          tiers_->PlaceOf(id) == Place::kNowhere;
                                 }),
                  held_.end());
    }
    Wait();
    for (uint64_t id : held_) tiers_->Drop(id);
    Wait();
    EXPECT_EQ(tiers_->stats().memory.bytes, 0);
    EXPECT_EQ(tiers_->stats().disk.bytes, 0);
    read += tiers_->stats().read_from_disk;
    dropped += tiers_->stats().dropped;
    failed += tiers_->stats().read_failures;
  }
  EXPECT_GT(read, 1000);
  EXPECT_GT(dropped, 1000);
  EXPECT_GT(failed, 5);
}

// So that a large one shows that the disk answers.
TEST_F(StateTiersTest, AFileIsReadInPieces) {
  const auto folder = *StateFolder::Open(folder_, owner_);
  const auto seal = folder->Write(7, State(16, 1));
  ASSERT_TRUE(seal.ok()) << seal.status();
  int answers = 0;
  EXPECT_TRUE(folder->Read(7, *seal, fs::file_size(FileOf(7)), [&] { ++answers; }).ok());
  EXPECT_EQ(answers, 1);
  const auto size = static_cast<size_t>(2 * kMostPieceBytes + 5);
  fs::resize_file(FileOf(7), size);
  // That it is too long shows once all of it was read.
  EXPECT_TRUE(absl::IsDataLoss(folder->Read(7, *seal, size, [&] { ++answers; }).status()));
  EXPECT_EQ(answers, 4);
}

}  // namespace
}  // namespace packrat
