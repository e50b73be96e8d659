#include "runtime/disk_clock.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include "absl/time/clock.h"
#include "gtest/gtest.h"

namespace packrat {
namespace {

const absl::Time kThen = absl::UnixEpoch() + absl::Hours(24) * 20000;

TEST(DiskClock, IsTheDisks) {
  std::optional<absl::Time> answer = kThen;
  int asked = 0;
  const auto ask = [&] { return ++asked, answer; };
  DiskClock clock(ask, absl::Hours(1));
  const absl::Time first = clock.Now();
  EXPECT_GE(first, kThen);
  EXPECT_LT(first, kThen + absl::Hours(1));
  answer = kThen - absl::Hours(100);
  EXPECT_GE(clock.Now(), first);
  EXPECT_EQ(asked, 1);

  DiskClock impatient(ask, absl::ZeroDuration());
  EXPECT_LT(impatient.Now(), kThen - absl::Hours(99));
  answer = kThen;
  EXPECT_GE(impatient.Now(), kThen);
  EXPECT_EQ(asked, 3);
}

TEST(DiskClock, WithoutAnAnswerItGoesOn) {
  std::optional<absl::Time> answer;
  DiskClock clock([&] { return answer; }, absl::ZeroDuration());
  const absl::Time before = absl::Now();
  EXPECT_GE(clock.Now(), before);
  answer = kThen;
  const absl::Time read = clock.Now();
  answer.reset();
  EXPECT_GE(clock.Now(), read);
  EXPECT_LT(clock.Now(), kThen + absl::Hours(1));
}

TEST(AskDisk, TellsWhenAFileWouldBeWritten) {
  std::string folder = testing::TempDir() + "/clockXXXXXX";
  ASSERT_NE(mkdtemp(folder.data()), nullptr);
  const auto first = AskDisk(folder);
  ASSERT_TRUE(first.has_value());
  // What the file had before does not matter.
  const timespec old[2] = {{1000, 0}, {1000, 0}};
  ASSERT_EQ(utimensat(AT_FDCWD, (folder + "/clock").c_str(), old, 0), 0);
  const auto second = AskDisk(folder);
  ASSERT_TRUE(second.has_value());
  EXPECT_GE(*second, *first);
  std::filesystem::remove_all(folder);
  EXPECT_FALSE(AskDisk(folder).has_value());
}

}  // namespace
}  // namespace packrat
