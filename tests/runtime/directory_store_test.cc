#include "runtime/directory_store.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "absl/time/clock.h"
#include "runtime/pending_file.h"
#include "tests/runtime/session_store_contract.h"

namespace packrat {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class DirectoryStoreTest : public testing::Test {
 protected:
  DirectoryStoreTest() {
    std::string name = testing::TempDir() + "/storeXXXXXX";
    folder_ = mkdtemp(name.data());
    store_ = Open();
  }
  ~DirectoryStoreTest() override { fs::remove_all(folder_); }
  std::unique_ptr<DirectoryStore> Open(absl::Duration lock_timeout = absl::Milliseconds(50)) {
    DirectoryStoreOptions options;
    options.folder = folder_ + "/sessions";
    options.now = [this] { return now_; };
    options.lock_timeout = lock_timeout;
    options.sweep_interval = sweep_interval_;
    auto store = DirectoryStore::Open(options);
    EXPECT_TRUE(store.ok()) << store.status();
    return *std::move(store);
  }
  absl::Status Put(const std::string& handle, absl::Duration ttl, int64_t version = 1) {
    return PutAll(store_.get(), {"t", handle}, version, {"bytes"}, ttl);
  }
  std::string Path(const std::string& handle) { return folder_ + "/sessions/tenant-t/" + handle; }

  absl::Time now_ = absl::Now();  // As files get it.
  absl::Duration sweep_interval_ = absl::ZeroDuration();
  std::string folder_;
  std::unique_ptr<DirectoryStore> store_;
};

TEST_F(DirectoryStoreTest, KeepsSessions) { CheckStoreKeepsSessions(store_.get()); }

TEST_F(DirectoryStoreTest, TakesAllOrNothing) {
  CheckStoreTakesAllOrNothing(store_.get());
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_ + "/sessions/tenant-tenant"), {}), 1);
}

TEST_F(DirectoryStoreTest, KeepsBranchesApart) { CheckStoreKeepsBranchesApart(store_.get()); }

TEST_F(DirectoryStoreTest, RemembersWhatWasDeletedForItsTime) {
  CheckStoreRemembersWhatWasDeleted(store_.get());
  const StoreKey key{"tenant", "gone"};
  EXPECT_EQ(fs::file_size(folder_ + "/sessions/tenant-tenant/gone"), 48u);
  now_ += absl::Hours(1);
  EXPECT_TRUE(absl::IsNotFound(store_->Version(key).status()));
  EXPECT_EQ(store_->Sweep(100), 2);
  EXPECT_EQ(PutAll(store_.get(), key, 1, {"bytes"}), absl::OkStatus());
}

TEST_F(DirectoryStoreTest, AFullDiskDeletesToo) {
  EXPECT_EQ(Put("h", absl::Hours(1)), absl::OkStatus());
  signal(SIGXFSZ, SIG_IGN);
  rlimit before, small;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  small = before;
  small.rlim_cur = 10;
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const absl::Status status = store_->Delete({"t", "h"}, absl::Hours(1));
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  EXPECT_EQ(status, absl::OkStatus());
  EXPECT_TRUE(fs::is_empty(folder_ + "/sessions/tenant-t"));
}

// As versions before this one wrote them.
TEST_F(DirectoryStoreTest, AFileOfAnEarlierVersionIsNamed) {
  EXPECT_EQ(Put("other", absl::Hours(1)), absl::OkStatus());
  std::ofstream(Path("h"), std::ios::binary) << "PRSTORE1" << std::string(60, 'x');
  for (const absl::Status& status :
       {GetAll(store_.get(), {"t", "h"}).status(), store_->Version({"t", "h"}).status()}) {
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("an earlier version of the server"));
  }
  EXPECT_EQ(store_->Sweep(100), 0);
  fs::last_write_time(Path("h"), fs::file_time_type::clock::now() - std::chrono::hours(25));
  EXPECT_EQ(store_->Sweep(100), 1);
}

TEST_F(DirectoryStoreTest, KeepsTenantsApart) { CheckStoreKeepsTenantsApart(store_.get()); }

TEST_F(DirectoryStoreTest, TheNewestVersionWins) {
  const auto first = Open(absl::Minutes(1)), second = Open(absl::Minutes(1));
  CheckNewestVersionWins({first.get(), first.get(), second.get()});
}

TEST_F(DirectoryStoreTest, AnotherProcessGoesOn) {
  EXPECT_EQ(Put("h", absl::Hours(1)), absl::OkStatus());
  store_ = Open();
  EXPECT_EQ(GetAll(store_.get(), {"t", "h"})->bytes, "bytes");
  struct stat stat;
  ASSERT_EQ(::stat(Path("h").c_str(), &stat), 0);
  EXPECT_EQ(stat.st_mode & 0777, 0600u);  // A conversation is nobody else's.
}

TEST_F(DirectoryStoreTest, WhatHasExpiredIsGoneAndSweptAway) {
  EXPECT_EQ(Put("short", absl::Seconds(10)), absl::OkStatus());
  EXPECT_EQ(Put("long", absl::Seconds(100), 5), absl::OkStatus());
  now_ += absl::Seconds(10);
  EXPECT_TRUE(absl::IsNotFound(GetAll(store_.get(), {"t", "short"}).status()));
  EXPECT_TRUE(absl::IsNotFound(store_->Version({"t", "short"}).status()));
  EXPECT_TRUE(GetAll(store_.get(), {"t", "long"}).ok());
  EXPECT_TRUE(fs::exists(Path("short")));
  EXPECT_EQ(store_->Sweep(100), 1);
  EXPECT_FALSE(fs::exists(Path("short")));
  EXPECT_TRUE(GetAll(store_.get(), {"t", "long"}).ok());
  // Its version no longer counts; the sweep comes with a Put().
  now_ += absl::Minutes(5);
  EXPECT_EQ(Put("other", absl::Hours(1)), absl::OkStatus());
  EXPECT_FALSE(fs::exists(Path("long")));
  EXPECT_EQ(Put("long", absl::Seconds(100), 1), absl::OkStatus());
}

TEST_F(DirectoryStoreTest, DamageIsFoundAndCanBeReplaced) {
  EXPECT_EQ(Put("h", absl::Hours(1)), absl::OkStatus());
  const std::string whole = *ReadWholeFile(Path("h"), 1000);
  for (size_t bit = 0; bit < whole.size() * 8; ++bit) {
    std::string bytes = whole;
    bytes[bit / 8] ^= static_cast<char>(1 << bit % 8);
    std::ofstream(Path("h"), std::ios::binary) << bytes;
    const absl::Status status = GetAll(store_.get(), {"t", "h"}).status();
    ASSERT_TRUE(absl::IsDataLoss(status)) << "bit " << bit << ": " << status;
  }
  for (size_t size = 0; size < whole.size(); ++size) {
    std::ofstream(Path("h"), std::ios::binary) << whole.substr(0, size);
    const absl::Status status = GetAll(store_.get(), {"t", "h"}).status();
    ASSERT_TRUE(absl::IsDataLoss(status)) << "cut after " << size << ": " << status;
  }
  EXPECT_EQ(store_->Sweep(100), 0);  // Somebody may want to look at it.
  EXPECT_EQ(Put("h", absl::Hours(1), 2), absl::OkStatus());
  EXPECT_EQ(GetAll(store_.get(), {"t", "h"})->bytes, "bytes");
}

TEST_F(DirectoryStoreTest, WhatIsDamagedGoesAfterADay) {
  const auto make = [&](const std::string& path, int hours) {
    std::ofstream(path, std::ios::binary) << "no session";
    fs::last_write_time(path, fs::file_time_type::clock::now() - std::chrono::hours(hours));
  };
  EXPECT_EQ(Put("whole", absl::Hours(100)), absl::OkStatus());
  fs::last_write_time(Path("whole"), fs::file_time_type::clock::now() - std::chrono::hours(99));
  make(Path("new"), 23);
  make(Path("old"), 25);
  // Not by this store.
  make(Path("notes.txt"), 1000);
  fs::create_directory(folder_ + "/sessions/other");
  make(folder_ + "/sessions/other/old", 1000);
  make(folder_ + "/sessions/old", 1000);
  EXPECT_EQ(store_->Sweep(100), 1);
  EXPECT_FALSE(fs::exists(Path("old")));
  for (const std::string& path : {Path("whole"), Path("new"), Path("notes.txt"),
                                  folder_ + "/sessions/other/old", folder_ + "/sessions/old"}) {
    EXPECT_TRUE(fs::exists(path)) << path;
  }
}

// However many sessions others have left, a Put() looks at a few of them, and the next ones go on
// from there.
TEST_F(DirectoryStoreTest, ASweepIsSpreadOverManyPuts) {
  constexpr int kOver = 300;
  sweep_interval_ = absl::Minutes(1);
  store_ = Open();
  const auto left = [&] {
    int files = 0;
    for (int i = 0; i < kOver; ++i) {
      files += static_cast<int>(fs::exists(Path("h" + std::to_string(i))));
    }
    return files;
  };
  for (int i = 0; i < kOver; ++i) {
    EXPECT_EQ(Put("h" + std::to_string(i), absl::Seconds(10)), absl::OkStatus());
  }
  EXPECT_EQ(left(), kOver);
  now_ += absl::Minutes(1);
  for (int i = 0, before = kOver; before > 0; ++i) {
    ASSERT_LT(i, kOver / 4);
    const StoreKey key = {"other" + std::to_string(i), "new"};
    EXPECT_EQ(PutAll(store_.get(), key, 1, {"bytes"}), absl::OkStatus());
    const int now = left();
    ASSERT_GE(now, before - DirectoryStore::kEntriesAPut);
    before = now;
  }
  // The next one waits for its time.
  for (int i = 0; i < 100; ++i) EXPECT_EQ(Put("last", absl::Hours(1), 1 + i), absl::OkStatus());
  EXPECT_EQ(Put("short", absl::Seconds(10)), absl::OkStatus());
  now_ += absl::Seconds(59);
  EXPECT_EQ(store_->Sweep(1000), 0);
  now_ += absl::Seconds(1);
  EXPECT_EQ(store_->Sweep(1000), 1);
}

// While others write a sweep does not wait; it goes on with the same file.
TEST_F(DirectoryStoreTest, ASweepDoesNotWaitForTheLock) {
  sweep_interval_ = absl::Minutes(1);
  store_ = Open(/*lock_timeout=*/absl::Hours(1));
  EXPECT_EQ(Put("h", absl::Seconds(10)), absl::OkStatus());
  now_ += absl::Minutes(1);
  const int fd = open((folder_ + "/sessions/lock").c_str(), O_RDWR);
  ASSERT_GE(fd, 0);
  ASSERT_EQ(flock(fd, LOCK_EX), 0);
  EXPECT_EQ(store_->Sweep(100), 0);
  EXPECT_TRUE(fs::exists(Path("h")));
  close(fd);
  EXPECT_EQ(store_->Sweep(100), 1);
}

TEST_F(DirectoryStoreTest, WhoCannotHaveTheLockSaysSo) {
  EXPECT_EQ(Put("h", absl::Hours(1)), absl::OkStatus());
  const int fd = open((folder_ + "/sessions/lock").c_str(), O_RDWR);
  ASSERT_GE(fd, 0);
  ASSERT_EQ(flock(fd, LOCK_EX), 0);
  EXPECT_TRUE(absl::IsUnavailable(Put("h", absl::Hours(1), 2)));
  EXPECT_TRUE(absl::IsUnavailable(store_->Delete({"t", "h"}, absl::Hours(1))));
  EXPECT_EQ(GetAll(store_.get(), {"t", "h"})->version, 1);
  close(fd);
  EXPECT_EQ(Put("h", absl::Hours(1), 2), absl::OkStatus());
  // Nothing half done was left.
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_ + "/sessions/tenant-t"), {}), 1);
}

// Between two pieces, or for the first.
TEST_F(DirectoryStoreTest, WhatAFullDiskDoesNotTakeLeavesNothing) {
  EXPECT_EQ(Put("h", absl::Hours(1)), absl::OkStatus());
  signal(SIGXFSZ, SIG_IGN);
  rlimit before, small;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  for (const rlim_t bytes : {10, 6000}) {
    small = before;
    small.rlim_cur = bytes;
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
    const std::string piece(5000, 'x');
    const absl::Status status = PutAll(store_.get(), {"t", "h"}, 2, {piece, piece});
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
    EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
    EXPECT_EQ(std::distance(fs::directory_iterator(folder_ + "/sessions/tenant-t"), {}), 1);
  }
  EXPECT_EQ(GetAll(store_.get(), {"t", "h"})->bytes, "bytes");
}

TEST_F(DirectoryStoreTest, AFolderThatIsGoneIsUnavailable) {
  EXPECT_EQ(Put("h", absl::Hours(1)), absl::OkStatus());
  fs::remove_all(folder_ + "/sessions");
  EXPECT_TRUE(absl::IsUnavailable(Put("h", absl::Hours(1))));
  EXPECT_TRUE(absl::IsNotFound(GetAll(store_.get(), {"t", "h"}).status()));
}

TEST_F(DirectoryStoreTest, WhatCannotBeReadIsNoDamage) {
  EXPECT_EQ(Put("other", absl::Hours(1)), absl::OkStatus());
  fs::create_directory(Path("h"));
  EXPECT_TRUE(absl::IsUnavailable(store_->Version({"t", "h"}).status()));
  EXPECT_TRUE(absl::IsUnavailable(GetAll(store_.get(), {"t", "h"}).status()));
}

// It may be a newer one.
TEST_F(DirectoryStoreTest, WhatCannotBeReadIsNotReplaced) {
  EXPECT_EQ(Put("other", absl::Hours(1)), absl::OkStatus());
  fs::create_symlink("h", Path("h"));  // Leads to itself.
  EXPECT_TRUE(absl::IsUnavailable(Put("h", absl::Hours(1), /*version=*/7)));
  EXPECT_TRUE(fs::is_symlink(Path("h")));
}

TEST_F(DirectoryStoreTest, NobodyElseReadsTheNamesOfSessions) {
  const std::string folder = folder_ + "/sessions", tenant = folder + "/tenant-t";
  EXPECT_EQ(fs::status(folder).permissions(), fs::perms::owner_all);
  EXPECT_FALSE(OthersMayReadOrWrite(folder));
  // Nor where the folder was there already.
  fs::permissions(folder, fs::perms::all);
  EXPECT_EQ(Put("h", absl::Hours(1)), absl::OkStatus());
  EXPECT_EQ(fs::status(tenant).permissions(), fs::perms::owner_all);
  // Earlier versions did.
  fs::permissions(tenant, fs::perms::all);
  Open();
  EXPECT_EQ(fs::status(tenant).permissions(), fs::perms::owner_all);
  EXPECT_EQ(fs::status(folder).permissions(), fs::perms::all);  // That is not ours.
  for (const fs::perms more : {fs::perms::group_read, fs::perms::group_write,
                               fs::perms::others_read, fs::perms::others_write}) {
    fs::permissions(folder, fs::perms::owner_all | more);
    EXPECT_TRUE(OthersMayReadOrWrite(folder)) << static_cast<int>(more);
  }
  fs::permissions(folder, fs::perms::owner_all | fs::perms::others_exec);
  EXPECT_FALSE(OthersMayReadOrWrite(folder));
  EXPECT_FALSE(OthersMayReadOrWrite(folder_ + "/none"));
}

TEST_F(DirectoryStoreTest, WhatNobodyCanMakeIsRefusedAtTheStart) {
  std::ofstream(folder_ + "/file") << "x";
  DirectoryStoreOptions options;
  options.folder = folder_ + "/file/sessions";
  const absl::Status status = DirectoryStore::Open(options).status();
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(std::string(status.message()), HasSubstr("file/sessions: cannot be made"));
}

TEST_F(DirectoryStoreTest, HandlesAreNoPaths) {
  EXPECT_DEATH(store_->Delete({"t", "../h"}, absl::Hours(1)).IgnoreError(), "\\.\\./h");
  EXPECT_DEATH(store_->Delete({"t", ""}, absl::Hours(1)).IgnoreError(), "handle");
}

TEST(PendingFile, AppearsWhenItIsCommittedOrNever) {
  std::string name = testing::TempDir() + "/pendingXXXXXX";
  const std::string folder = mkdtemp(name.data());
  const std::string path = folder + "/file";
  {
    auto file = PendingFile::Write(path, {"first", "", " try"});
    ASSERT_TRUE(file.ok()) << file.status();
    EXPECT_FALSE(fs::exists(path));
    EXPECT_EQ(std::distance(fs::directory_iterator(folder), {}), 1);
  }
  EXPECT_TRUE(fs::is_empty(folder));
  for (const char* text : {"old", "newer"}) {
    auto file = PendingFile::Write(path, {text});
    ASSERT_TRUE(file.ok()) << file.status();
    EXPECT_EQ(file->Commit(), absl::OkStatus());
    EXPECT_EQ(*ReadWholeFile(path, 5), text);
  }
  EXPECT_EQ(std::distance(fs::directory_iterator(folder), {}), 1);
  EXPECT_TRUE(absl::IsResourceExhausted(ReadWholeFile(path, 4).status()));
  EXPECT_TRUE(absl::IsNotFound(ReadWholeFile(folder + "/other", 4).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(ReadWholeFile(folder, 1 << 20).status()));
  const absl::Status status = PendingFile::Write(folder + "/none/file", {"x"}).status();
  EXPECT_TRUE(absl::IsNotFound(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("/none/file: cannot make a file beside it"));
  fs::remove_all(folder);
}

}  // namespace
}  // namespace packrat
