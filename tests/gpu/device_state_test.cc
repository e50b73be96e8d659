// State on the device: what the host does to it keeps its place between the steps.
#include "models/gpu/device_state.h"

#include <algorithm>
#include <memory>
#include <vector>

#include "tests/gpu/gpu.h"

namespace packrat {
namespace {

using gpu::AllocateDeviceState;

class DeviceStateTest : public GpuTest {
 protected:
  void SetUp() override {
    GpuTest::SetUp();
    if (IsSkipped()) return;
    auto state = AllocateDeviceState(256, stream_, &error_);
    ASSERT_TRUE(state.ok()) << state.status();
    state_ = *std::move(state);
  }
  void TearDown() override {
    EXPECT_EQ(error_, absl::OkStatus());
    state_.reset();
    GpuTest::TearDown();
  }
  // A step, which may be far from done when it returns, sets 64 bytes.
  void Step(size_t offset, unsigned char value) {
    EXPECT_CUDA_OK(cudaMemsetAsync(state_->data() + offset, value, 64, stream_));
  }
  std::vector<std::byte> Read(size_t offset) {
    std::vector<std::byte> bytes(64);
    EXPECT_EQ(state_->Read({{offset, 64}}, bytes.data()), absl::OkStatus());
    return bytes;
  }
  static std::vector<std::byte> All(unsigned char value) {
    return std::vector<std::byte>(64, std::byte{value});
  }

  absl::Status error_;
  std::unique_ptr<StateBuffer> state_;
};

TEST_F(DeviceStateTest, CopiesLieBetweenTheStepsBeforeAndAfter) {
  Step(0, 1);
  state_->Copy(0, 128, 64);
  Step(0, 2);
  EXPECT_EQ(Read(128), All(1));
  EXPECT_EQ(Read(0), All(2));
}

TEST_F(DeviceStateTest, FillsLieBetweenTheStepsBeforeAndAfter) {
  Step(0, 1);
  Step(64, 1);
  state_->Fill(0, 128, 2);
  Step(64, 3);
  EXPECT_EQ(Read(0), All(2));
  EXPECT_EQ(Read(64), All(3));
}

TEST_F(DeviceStateTest, WritesLieBetweenTheStepsBeforeAndAfterAndKeepNoHoldOfTheirSource) {
  std::vector<std::byte> source = All(5);
  Step(0, 1);
  state_->Write(0, source.data(), 64);
  state_->Copy(0, 128, 64);
  Step(0, 2);
  source = All(6);
  EXPECT_EQ(Read(0), All(2));
  EXPECT_EQ(Read(128), All(5));
}

TEST_F(DeviceStateTest, ReadsWaitForTheStepsBefore) {
  for (unsigned char value = 1; value < 4; ++value) {
    Step(64, value);
    EXPECT_EQ(Read(64), All(value));
  }
}

// Many pieces, of which one is longer than what is read at once.
TEST_F(DeviceStateTest, ReadsManyPieces) {
  constexpr size_t kBytes = size_t{20} << 20;
  state_ = *AllocateDeviceState(kBytes, stream_, &error_);
  std::vector<std::byte> bytes(kBytes), expected;
  for (size_t i = 0; i < kBytes; ++i) bytes[i] = std::byte(i * 7 + i / 251);
  state_->Write(0, bytes.data(), kBytes);
  std::vector<StateBuffer::Piece> pieces = {{5, size_t{9} << 20}};
  for (size_t i = 0; i < 40; ++i) pieces.push_back({kBytes - (i + 1) * 300000, 250001});
  for (const StateBuffer::Piece& piece : pieces) {
    expected.insert(expected.end(), bytes.begin() + piece.from,
                    bytes.begin() + piece.from + piece.bytes);
  }
  std::vector<std::byte> read(expected.size());
  EXPECT_EQ(state_->Read(pieces, read.data()), absl::OkStatus());
  EXPECT_TRUE(read == expected);
}

// Two classes of pages behind 128 other bytes: 5 pages of 3 parts of 64 bytes, and 7 of 2 of 128.
class PlanesTest : public DeviceStateTest {
 protected:
  static constexpr size_t kFirst = 128, kPage = 192, kPages = 5;
  static constexpr size_t kSecond = kFirst + kPages * kPage, kPage2 = 256, kPages2 = 7;
  static constexpr size_t kEnd = kSecond + kPages2 * kPage2, kBytes = kEnd + 64;
  void SetUp() override {
    DeviceStateTest::SetUp();
    if (IsSkipped()) return;
    state_ = *AllocateDeviceState(kBytes, stream_, &error_);
    EXPECT_EQ(state_->PlacePages(kFirst, kPage, 64, kPages),
              (PageMemory{state_->data() + kFirst, kPages}));
    EXPECT_EQ(state_->PlacePages(kSecond, kPage2, 128, kPages2),
              (PageMemory{state_->data() + kSecond, kPages2}));
    for (size_t i = 0; i < kBytes; ++i) bytes_.push_back(std::byte(i * 7 + i / 251));
    state_->Write(0, bytes_.data(), kBytes);
  }
  // What is expected of whole pages is in bytes_; in memory each part is where kernels look for it.
  void ExpectInPlanes() {
    std::vector<std::byte> memory(kBytes);
    Wait();
    EXPECT_CUDA_OK(cudaMemcpy(memory.data(), state_->data(), kBytes, cudaMemcpyDeviceToHost));
    std::vector<std::byte> expected = bytes_;
    const auto place = [&](size_t first, size_t page_bytes, size_t part_bytes, size_t pages) {
      for (size_t p = 0; p < pages; ++p) {
        for (size_t i = 0; i < page_bytes / part_bytes; ++i) {
          std::copy_n(bytes_.begin() + first + p * page_bytes + i * part_bytes, part_bytes,
                      expected.begin() + first + (i * pages + p) * part_bytes);
        }
      }
    };
    place(kFirst, kPage, 64, kPages);
    place(kSecond, kPage2, 128, kPages2);
    EXPECT_TRUE(memory == expected);
  }

  std::vector<std::byte> bytes_;
};

TEST_F(PlanesTest, PagesAreWholeToTheHostAndInPlanesToKernels) {
  ExpectInPlanes();
  std::vector<std::byte> page(kPage, std::byte{9});
  state_->Write(kFirst + 3 * kPage, page.data(), kPage);
  std::copy(page.begin(), page.end(), bytes_.begin() + kFirst + 3 * kPage);
  page.assign(kPage, std::byte{10});  // Some of it: the end of a part, the next, and a beginning.
  state_->Write(kFirst + kPage + 50, page.data(), 100);
  std::copy_n(page.begin(), 100, bytes_.begin() + kFirst + kPage + 50);
  ExpectInPlanes();
}

TEST_F(PlanesTest, ReadsAnyPieces) {
  std::vector<std::byte> read(kBytes);
  for (size_t from = 0; from < kBytes; from += 61) {
    for (const size_t bytes : {size_t{1}, size_t{63}, size_t{192}, size_t{700}, kBytes}) {
      const size_t n = std::min(bytes, kBytes - from);
      // The first ends anywhere, so that what follows is staged at any place.
      ASSERT_EQ(state_->Read({{from, n}, {kFirst + kPage, kPage}, {kSecond + 5, 300}}, read.data()),
                absl::OkStatus());
      std::vector<std::byte> expected(bytes_.begin() + from, bytes_.begin() + from + n);
      expected.insert(expected.end(), bytes_.begin() + kFirst + kPage,
                      bytes_.begin() + kFirst + 2 * kPage);
      expected.insert(expected.end(), bytes_.begin() + kSecond + 5, bytes_.begin() + kSecond + 305);
      read.resize(expected.size());
      ASSERT_TRUE(read == expected) << from << " + " << n;
      read.resize(kBytes + 1000);
    }
  }
}

TEST_F(PlanesTest, CopiesAndFillsPages) {
  state_->Copy(kFirst + kPage, kFirst + 4 * kPage, kPage);
  std::copy_n(bytes_.begin() + kFirst + kPage, kPage, bytes_.begin() + kFirst + 4 * kPage);
  state_->Copy(kSecond + 6 * kPage2, kSecond, kPage2);
  std::copy_n(bytes_.begin() + kSecond + 6 * kPage2, kPage2, bytes_.begin() + kSecond);
  state_->Copy(0, 64, 64);
  std::copy_n(bytes_.begin(), 64, bytes_.begin() + 64);
  state_->Fill(kFirst + 2 * kPage, kPage, 0xFF);
  std::fill_n(bytes_.begin() + kFirst + 2 * kPage, kPage, std::byte{0xFF});
  ExpectInPlanes();
  state_->Fill(0, kBytes, 0xFF);
  bytes_.assign(kBytes, std::byte{0xFF});
  ExpectInPlanes();
}

// Pages of one layer have nothing to part, and parts that differ would not make planes.
TEST_F(PlanesTest, SomePagesStayWhole) {
  const auto state = *AllocateDeviceState(1024, stream_, &error_);
  EXPECT_EQ(state->PlacePages(0, 128, 128, 2), (PageMemory{state->data(), 0}));
  EXPECT_EQ(state->PlacePages(256, 192, 0, 2), (PageMemory{state->data() + 256, 0}));
  EXPECT_EQ(state->PlacePages(640, 128, 64, 0), (PageMemory{state->data() + 640, 0}));
}

TEST_F(PlanesTest, CopiesOfSomethingElseThanAPageStop) {
  EXPECT_DEATH(state_->Copy(kFirst, kFirst + kPage, 64), "one by one");
  EXPECT_DEATH(state_->Copy(0, kFirst, 64), "one by one");
  EXPECT_DEATH(state_->PlacePages(kFirst, kPage, 64, 1), "in their order");
}

// 64 blocks of threads move 256 KB of a part at once.
TEST_F(PlanesTest, PartsTakeSeveralRoundsOfAllBlocks) {
  constexpr size_t kPart = (size_t{256} << 10) + 4096 + 64, kParts = 2, kCount = 2;
  const auto state = *AllocateDeviceState(kPart * kParts * kCount, stream_, &error_);
  EXPECT_EQ(state->PlacePages(0, kParts * kPart, kPart, kCount).plane_pages, 2);
  std::vector<std::byte> bytes(kParts * kPart);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = std::byte(i * 7 + i / 251);
  state->Write(0, bytes.data(), bytes.size());
  state->Copy(0, bytes.size(), bytes.size());
  std::vector<std::byte> read(bytes.size());
  ASSERT_EQ(state->Read({{bytes.size(), bytes.size()}}, read.data()), absl::OkStatus());
  EXPECT_TRUE(read == bytes);
}

// A page is longer than what is read at once.
TEST_F(PlanesTest, LongPages) {
  constexpr size_t kPart = size_t{3} << 20, kParts = 2, kCount = 3;
  const auto state = *AllocateDeviceState(kPart * kParts * kCount, stream_, &error_);
  EXPECT_EQ(state->PlacePages(0, kParts * kPart, kPart, kCount).plane_pages, 3);
  std::vector<std::byte> bytes(kParts * kPart);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = std::byte(i * 7 + i / 251);
  state->Write(2 * bytes.size(), bytes.data(), bytes.size());
  state->Copy(2 * bytes.size(), 0, bytes.size());
  std::vector<std::byte> read(bytes.size());
  ASSERT_EQ(state->Read({{0, bytes.size()}}, read.data()), absl::OkStatus());
  EXPECT_TRUE(read == bytes);
}

TEST_F(DeviceStateTest, WhatCouldNotBeQueuedIsKept) {
  constexpr size_t kPage = 70000 * 64;  // Of more parts than a launch has blocks.
  const auto state = *AllocateDeviceState(2 * kPage, stream_, &error_);
  EXPECT_EQ(state->PlacePages(0, kPage, 64, 2).plane_pages, 2);
  state->Fill(0, 64, 1);
  EXPECT_EQ(error_, absl::OkStatus());
  state->Copy(0, kPage, kPage);
  EXPECT_EQ(error_.code(), absl::StatusCode::kInternal);
  const absl::Status first = error_;
  std::byte byte{};
  state->Write(kPage, &byte, 1);
  EXPECT_EQ(state->Read({{0, 1}}, &byte), first);
  EXPECT_EQ(error_, first);
  error_ = absl::OkStatus();
}

TEST_F(DeviceStateTest, NothingIsOutsideAndCopiesDoNotOverlap) {
  std::byte byte{};
  EXPECT_DEATH(state_->Write(256, &byte, 1), "256 \\+ 1");
  EXPECT_DEATH(state_->Read({{~size_t{0}, 1}}, &byte).IgnoreError(), "\\+ 1");
  EXPECT_DEATH(state_->Copy(200, 0, 57), "200 \\+ 57");
  EXPECT_DEATH(state_->Copy(10, 19, 10), "10 and 19 are less than 10 apart");
}

}  // namespace
}  // namespace packrat
