// A disk that does not answer, and one that has much to do.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "tests/runtime/engine_tiers_fixture.h"
#include "tests/runtime/state_pieces.h"

namespace packrat {
namespace {

// Opening a pipe takes until somebody opens its other end.
class StuckDiskTest : public EngineTiersTest {
 protected:
  void GetStuck() {
    StartTiers(1, 40);
    text_ = Turn(RandomPrompt(&random_, 70));
    Others(14);
    files_ = Files();
    ASSERT_FALSE(files_.empty());
    for (const std::string& file : files_) {
      fs::remove(file);
      ASSERT_EQ(mkfifo(file.c_str(), 0600), 0);
    }
    SubmitTurn(&stuck_, text_);
    for (int i = 0; i < 3; ++i) Step();
    EXPECT_FALSE(engine_->idle());
    EXPECT_EQ(engine_->stats().waiting, 1);
    EXPECT_EQ(engine_->stats().running, 0);
    EXPECT_FALSE(engine_->progress().has_work);  // It does not stand still.
  }
  // Texts whose states have gone down to the disk, in their order.
  std::vector<Text> ThreeOnDisk() {
    StartTiers(2, 80);
    std::vector<Text> texts;
    for (int i = 0; i < 3; ++i) {
      texts.push_back(Turn(RandomPrompt(&random_, 70)));
      Settle();
    }
    Others(30);
    return texts;
  }
  void MakePipe(int state) {
    files_.push_back(folder_ + "/state-" + std::to_string(state));
    ASSERT_TRUE(fs::remove(files_.back()));
    ASSERT_EQ(mkfifo(files_.back().c_str(), 0600), 0);
  }
  void TearDown() override {
    std::atomic<bool> done{false};
    std::thread opens([&] {  // What the reader has opened, or is about to.
      while (!done) {
        for (const std::string& file : files_) {
          const int fd = open(file.c_str(), O_WRONLY | O_NONBLOCK);
          if (fd >= 0) close(fd);
        }
        std::this_thread::yield();
      }
    });
    engine_.reset();
    done = true;
    opens.join();
  }
  Text text_;
  std::vector<std::string> files_;
  Consumer stuck_;
};

TEST_F(StuckDiskTest, OthersGoOnAndAfterAWhileTheTextIsComputed) {
  GetStuck();
  const Text prompt = RandomPrompt(&random_, 40);
  Consumer other;
  SubmitTurn(&other, prompt, 5, 0);
  for (int i = 0; i < 20; ++i) Step();
  Finish(&other, prompt, 5);
  EXPECT_FALSE(stuck_.Poll());
  now_ += absl::Seconds(2);
  for (int i = 0; i < 20; ++i) Step();
  Finish(&stuck_, text_, 5);
  EXPECT_EQ(cached_tokens_, 0);
  EXPECT_TRUE(engine_->idle());
}

// Two seconds in which nothing comes are a dead disk; two seconds in which others' states come are
// not. Of three that wait, two are at a pipe each, which the test opens after a while.
TEST_F(StuckDiskTest, WhoWaitsBehindOthersGetsItsState) {
  const std::vector<Text> texts = ThreeOnDisk();
  for (int i = 1; i <= 2; ++i) MakePipe(i);
  Consumer consumers[3];
  for (int i = 0; i < 3; ++i) SubmitTurn(&consumers[i], texts[i], 5, /*importance=*/0);
  for (int i = 0; i < 5; ++i) Step();
  EXPECT_EQ(engine_->stats().waiting, 3);
  for (int i = 0; i < 2; ++i) {
    now_ += absl::Milliseconds(1900);
    Step();
    const int fd = open(files_[i].c_str(), O_WRONLY);  // The reader is there: it is no file.
    ASSERT_GE(fd, 0);
    close(fd);
    while (engine_->stats().tiers.read_failures == i) {
      absl::SleepFor(absl::Milliseconds(1));
      Step();
    }
  }
  Run();
  for (int i = 0; i < 3; ++i) {
    Finish(&consumers[i], texts[i], 5);
    EXPECT_EQ(cached_tokens_ > 0, i == 2) << i;
  }
}

TEST_F(StuckDiskTest, WhereOneHasWaitedInVainOthersDoNot) {
  const std::vector<Text> texts = ThreeOnDisk();
  MakePipe(1);
  const auto read_failures = [this] { return engine_->stats().tiers.read_failures; };
  Consumer consumers[3];
  const auto ask = [&](int i) {
    SubmitTurn(&consumers[i], texts[i], 5, /*importance=*/0);
    for (int step = 0; step < 20; ++step) Step();
  };
  ask(0);
  EXPECT_EQ(engine_->stats().waiting, 1);
  EXPECT_EQ(engine_->TakeStateTrouble(), absl::OkStatus());
  now_ += absl::Seconds(2);
  for (int step = 0; step < 20; ++step) Step();
  Finish(&consumers[0], texts[0], 5);
  EXPECT_EQ(read_failures(), 1);
  EXPECT_TRUE(absl::IsDeadlineExceeded(engine_->TakeStateTrouble()));
  ask(1);
  Finish(&consumers[1], texts[1], 5);
  EXPECT_EQ(cached_tokens_, 0);
  EXPECT_EQ(read_failures(), 1);
  // After a while somebody tries again, and by then it answers.
  now_ += absl::Seconds(30);
  ask(2);
  EXPECT_EQ(engine_->stats().waiting, 1);
  const int fd = open(files_[0].c_str(), O_WRONLY);
  ASSERT_GE(fd, 0);
  close(fd);
  Run();
  Finish(&consumers[2], texts[2], 5);
  EXPECT_GT(cached_tokens_, 0);
}

TEST_F(StuckDiskTest, WhoWaitsForItCanBeCancelled) {
  GetStuck();
  engine_->Cancel(last_id_);
  Step();
  stuck_.Poll();
  ASSERT_TRUE(stuck_.finish.has_value());
  EXPECT_EQ(stuck_.finish->reason, FinishReason::kCancelled);
  EXPECT_TRUE(engine_->idle());
}

TEST_F(StuckDiskTest, DeadlinesHoldMeanwhile) {
  GetStuck();
  Consumer late;
  Request request = late.Make(++last_id_, text_, 5);
  request.deadline = now_ + absl::Milliseconds(100);
  Submit(std::move(request));
  for (int i = 0; i < 20; ++i) Step();
  late.Poll();
  ASSERT_TRUE(late.finish.has_value());
  EXPECT_EQ(late.finish->reason, FinishReason::kDeadline);
  EXPECT_FALSE(engine_->idle());  // The other has time.
}

TEST_F(StuckDiskTest, TheEndOfTheEngineIsTheEndOfTheRequest) {
  GetStuck();
  absl::Status saved = absl::UnknownError("not called");
  SaveWhole(engine_.get(), {}, text_,
            [&](const absl::StatusOr<SavedState>& s) { saved = s.status(); });
  Step();
  EXPECT_TRUE(absl::IsUnknown(saved));
  engine_->AbortAll(absl::UnavailableError("the server is shutting down"));
  Step();
  EXPECT_TRUE(absl::IsUnavailable(saved)) << saved;
  stuck_.Poll();
  ASSERT_TRUE(stuck_.finish.has_value());
  EXPECT_TRUE(absl::IsUnavailable(stuck_.finish->status));
  EXPECT_TRUE(engine_->idle());
}

}  // namespace
}  // namespace packrat
