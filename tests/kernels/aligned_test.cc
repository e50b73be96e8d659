// Memory from the heap, of shared mappings, and mapped by itself.
#include "kernels/aligned.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <thread>
#include <utility>
#include <vector>

#include "tests/kernels/random.h"

namespace packrat {
namespace {

TEST(AlignedTest, ZeroedAlignedAndMoved) {
  for (const size_t bytes : {0, 1, 100, 100'000, 3 << 20, 5 << 20}) {
    AlignedBytes memory(bytes);
    EXPECT_EQ(memory.size(), bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(memory.data()) % 64, 0u);
    for (size_t i = 0; i < bytes; ++i) ASSERT_EQ(memory.data()[i], std::byte{0});
    if (bytes > 0) memory.data()[bytes - 1] = std::byte{7};
    AlignedBytes moved(std::move(memory));
    AlignedBytes assigned;
    assigned = std::move(moved);
    EXPECT_EQ(assigned.size(), bytes);
    EXPECT_TRUE(bytes == 0 || assigned.data()[bytes - 1] == std::byte{7});
  }
}

// Whoever takes memory has it, to the last page: the system will not refuse it later.
TEST(AlignedTest, EveryPageIsThere) {
  for (const size_t bytes : {3'000'000, (200 << 20) + 5000}) {
    AlignedBytes memory(bytes);
    const uintptr_t within = reinterpret_cast<uintptr_t>(memory.data()) % 4096;
    std::vector<unsigned char> there((within + bytes + 4095) / 4096);
    ASSERT_EQ(mincore(memory.data() - within, within + bytes, there.data()), 0);
    EXPECT_EQ(
        std::count_if(there.begin(), there.end(), [](unsigned char page) { return page & 1; }),
        static_cast<int64_t>(there.size()));
  }
}

TEST(AlignedTest, WhatIsLargeBeginsAtAHugePage) {
  for (int i = 1; i < 4; ++i) {
    const AlignedBytes memory((size_t{4} << 20) + 4097 * i);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(memory.data()) % (2 << 20), 0u);
  }
}

// Pieces that come and go, from several threads: each is zeroed, and keeps what was written to it.
TEST(AlignedTest, PiecesAreApart) {
  const auto take_and_give_back = [](uint64_t seed) {
    Random random(seed);
    std::vector<std::pair<AlignedBytes, std::byte>> pieces(20);
    for (int i = 0; i < 200; ++i) {
      auto& [memory, mark] = pieces[random.Int(0, 19)];
      ASSERT_EQ(std::count(memory.data(), memory.data() + memory.size(), mark),
                static_cast<int64_t>(memory.size()));
      memory = AlignedBytes(random.OneOf<int>({10'000, 40'000, 300'000, 3'000'000, 5'000'000}));
      ASSERT_EQ(std::count(memory.data(), memory.data() + memory.size(), std::byte{0}),
                static_cast<int64_t>(memory.size()));
      mark = static_cast<std::byte>(random.Int(1, 255));
      std::fill_n(memory.data(), memory.size(), mark);
    }
  };
  std::vector<std::thread> threads;
  for (uint64_t seed = 1; seed <= 3; ++seed) threads.emplace_back(take_and_give_back, seed);
  for (std::thread& thread : threads) thread.join();
}

bool IsMapped(std::byte* place) {
  unsigned char there = 0;
  std::byte* const page = place - reinterpret_cast<uintptr_t>(place) % 4096;
  return mincore(page, 4096, &there) == 0 || errno != ENOMEM;
}

// A mapping goes with the last of its pieces.
TEST(AlignedTest, SharedMemoryIsGivenBack) {
#if defined(__SANITIZE_ADDRESS__)
  GTEST_SKIP() << "with AddressSanitizer nothing is shared";
#endif
  std::vector<AlignedBytes> pieces(30);
  std::vector<std::byte*> places;
  for (AlignedBytes& piece : pieces) {
    piece = AlignedBytes(3 << 20);
    places.push_back(piece.data());
  }
  const size_t kept = 3;  // Of the first mapping.
  for (size_t i = 0; i < pieces.size(); ++i) {
    if (i != kept) pieces[i] = AlignedBytes();
  }
  EXPECT_TRUE(IsMapped(places[kept]));
  EXPECT_FALSE(IsMapped(places[15]));
  EXPECT_FALSE(IsMapped(places[29]));
  pieces[kept] = AlignedBytes();
  EXPECT_EQ(std::count_if(places.begin(), places.end(), IsMapped), 0);
}

}  // namespace
}  // namespace packrat
