#include "runtime/bounded_store.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <future>
#include <memory>
#include <string>
#include <utility>

#include "absl/time/clock.h"
#include "runtime/directory_store.h"
#include "tests/runtime/session_store_contract.h"
#include "tests/runtime/stores_in_front.h"

namespace packrat {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class BoundedStoreTest : public testing::Test {
 protected:
  static constexpr absl::Duration kTimeout = absl::Milliseconds(200);
  static constexpr int kMostCalls = 3;

  BoundedStoreTest() {
    std::string name = testing::TempDir() + "/boundedXXXXXX";
    folder_ = mkdtemp(name.data());
  }
  ~BoundedStoreTest() override { fs::remove_all(folder_); }
  std::unique_ptr<DirectoryStore> Open() {
    DirectoryStoreOptions options;
    options.folder = folder_;
    options.now = [now = absl::Now()] { return now; };
    options.lock_timeout = absl::Milliseconds(10);
    return *DirectoryStore::Open(options);
  }
  static absl::Status Put(SessionStore* store, const std::string& handle, int64_t version) {
    return PutAll(store, {"t", handle}, version, {"bytes"});
  }
  std::string Path(const std::string& handle) { return folder_ + "/tenant-t/" + handle; }

  std::string folder_;
};

TEST_F(BoundedStoreTest, IsAStoreLikeTheOneUnderIt) {
  BoundedStore store(Open());
  CheckStoreKeepsSessions(&store);
  CheckStoreTakesAllOrNothing(&store);
  CheckStoreKeepsBranchesApart(&store);
}

// Who opens a pipe to read it waits for one who writes, as for a disk that does not answer.
TEST_F(BoundedStoreTest, ADiskThatHangsHoldsNobody) {
  BoundedStore store(Open(), kTimeout, kMostCalls);
  ASSERT_EQ(Put(&store, "fine", 1), absl::OkStatus());
  ASSERT_EQ(mkfifo(Path("hangs").c_str(), 0600), 0);
  const StoreKey hangs = {"t", "hangs"}, fine = {"t", "fine"};
  const absl::Status late = store.Version(hangs).status();
  EXPECT_TRUE(absl::IsUnavailable(late)) << late;
  EXPECT_THAT(late.message(), HasSubstr("has not answered"));
  EXPECT_TRUE(absl::IsUnavailable(GetAll(&store, hangs).status()));
  EXPECT_EQ(Put(&store, "fine", 2), absl::OkStatus());
  // With the lock of the folder.
  EXPECT_TRUE(absl::IsUnavailable(Put(&store, "hangs", 1)));
  // No more than these are left behind.
  const absl::Status full = store.Version(fine).status();
  EXPECT_TRUE(absl::IsUnavailable(full)) << full;
  EXPECT_THAT(full.message(), HasSubstr("3 calls"));

  // Once the disk answers, all is as before; and what was late is done.
  const int fd = open(Path("hangs").c_str(), O_WRONLY | O_NONBLOCK);
  ASSERT_GE(fd, 0);
  close(fd);
  while (store.Version(hangs).status() != absl::OkStatus()) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_EQ(store.Version(hangs)->revision, 1);
  EXPECT_EQ(store.Version(fine)->revision, 2);
  EXPECT_EQ(Put(&store, "fine", 3), absl::OkStatus());
}

TEST_F(BoundedStoreTest, WhoIsToldIsAskedForNoMorePieces) {
  const std::unique_ptr<DirectoryStore> under = Open();
  std::promise<void> go;
  BoundedStore store(
      std::make_unique<SlowStore>(under.get(), [gone = go.get_future().share()] { gone.wait(); }),
      kTimeout, /*most_calls=*/1);
  int pieces = 0;
  const auto next = [&pieces]() -> absl::StatusOr<std::string> {
    ++pieces;
    return std::string("piece");
  };
  const StoreKey key = {"t", "handle"};
  EXPECT_TRUE(absl::IsUnavailable(store.Put(key, At(1), next, absl::Hours(1))));
  EXPECT_TRUE(absl::IsUnavailable(store.Version(key).status()));
  go.set_value();
  absl::Status status;
  while (absl::IsUnavailable(status = store.Version(key).status())) {
    absl::SleepFor(absl::Milliseconds(1));
  }
  EXPECT_TRUE(absl::IsNotFound(status)) << status;
  EXPECT_EQ(pieces, 1);
  EXPECT_TRUE(fs::is_empty(folder_ + "/tenant-t"));
}

TEST_F(BoundedStoreTest, TimeForAPieceIsNotTheDisks) {
  BoundedStore store(Open(), kTimeout, kMostCalls);
  const auto next = [pieces = 0]() mutable -> absl::StatusOr<std::string> {
    absl::SleepFor(2 * kTimeout);
    return std::string(pieces++ == 0 ? "piece" : "");
  };
  const StoreKey key = {"t", "handle"};
  EXPECT_EQ(store.Put(key, At(1), next, absl::Hours(1)), absl::OkStatus());
  std::string bytes;
  const auto version = store.Get(key, [&bytes](absl::string_view piece) {
    absl::SleepFor(2 * kTimeout);
    bytes = std::string(piece);
    return true;
  });
  EXPECT_TRUE(version.ok()) << version.status();
  EXPECT_EQ(bytes, "piece");
}

}  // namespace
}  // namespace packrat
