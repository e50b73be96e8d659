// Kept states below the pool, of the fake model, in memory and in a folder of the test.
#ifndef PACKRAT_TESTS_RUNTIME_STATE_TIERS_FIXTURE_H_
#define PACKRAT_TESTS_RUNTIME_STATE_TIERS_FIXTURE_H_

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "runtime/state_tiers.h"
#include "tests/runtime/fake_model.h"

namespace packrat {

namespace fs = std::filesystem;
using Place = StateTiers::Place;

class StateTiersTest : public ::testing::Test {
 protected:
  StateTiersTest() : folder_(::testing::TempDir() + "states") { fs::remove_all(folder_); }

  // Room for so many states of 16 tokens.
  void Start(int in_memory, int on_disk, bool with_folder = true) {
    tiers_.reset();
    StateTierOptions options;
    tiers_ = *StateTiers::Open(options, owner_, [] {});
    one_ = tiers_->BytesOf(16, 0);
    options.memory_bytes = in_memory * one_;
    options.disk_bytes = on_disk * one_;
    if (with_folder) options.folder = folder_;
    auto opened = StateTiers::Open(options, owner_, [this] { ++wakes_; });
    ASSERT_TRUE(opened.ok()) << opened.status();
    tiers_ = *std::move(opened);
  }
  SavedState State(int position, int number) const {
    SavedState state;
    state.position = position;
    for (int i = 0; i < position; ++i) state.tokens.push_back((i + number) % FakeModel::kVocab);
    state.parts.resize(SavedPartBytes(owner_.layout, position));
    for (size_t i = 0; i < state.parts.size(); ++i) {
      state.parts[i] = static_cast<char>(i * 7 + number);
    }
    return state;
  }
  uint64_t Add(int number, double worth = 1) {
    const uint64_t id = tiers_->Add(State(16, number), worth);
    if (id != 0) held_.push_back(id);
    Check();
    return id;
  }
  // As Add(), and lets the threads come after.
  uint64_t AddSlowly(int number, double worth = 1) {
    const uint64_t id = Add(number, worth);
    Wait();
    return id;
  }
  void Check() { ASSERT_EQ(tiers_->CheckIntegrity(held_), absl::OkStatus()); }
  void Wait() {
    tiers_->WaitForThreads();
    Check();
  }
  void Fetch(uint64_t id) {
    tiers_->Fetch(id, 0, 1);
    EXPECT_TRUE(tiers_->IsFetching(id));
    Wait();
    EXPECT_FALSE(tiers_->IsFetching(id));
  }
  void ExpectIs(uint64_t id, const SavedState& state) {
    ASSERT_EQ(tiers_->PlaceOf(id), Place::kMemory);
    EXPECT_EQ(tiers_->Get(id)->position, state.position);
    EXPECT_EQ(tiers_->Get(id)->tokens, state.tokens);
    EXPECT_EQ(tiers_->Get(id)->parts, state.parts);
  }
  std::vector<std::string> Files() const {
    std::vector<std::string> files;
    for (const auto& entry : fs::directory_iterator(folder_)) {
      if (entry.path().filename() != "states.lock") files.push_back(entry.path());
    }
    std::sort(files.begin(), files.end());
    return files;
  }
  std::string FileOf(uint64_t id) const { return folder_ + "/state-" + std::to_string(id); }

  FakeModel model_;
  const StateOwner owner_ = OwnerOf(model_);
  const std::string folder_;
  int64_t one_ = 0;
  std::atomic<int> wakes_{0};
  std::unique_ptr<StateTiers> tiers_;
  std::vector<uint64_t> held_;
};

}  // namespace packrat

#endif  // PACKRAT_TESTS_RUNTIME_STATE_TIERS_FIXTURE_H_
