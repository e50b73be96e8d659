// The detector: for each two bytes of memory, which threads have read and written them last. Blocks
// run one after the other and time counts what orders accesses, so that two numbers say of an
// access whether it came before the last barrier of the block or of the warp.
#include "tests/emulation/races.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <limits>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace emulation {
namespace {

constexpr size_t kPage = 4096;
constexpr size_t kCell = 2;  // No kernel writes single bytes; they would count as the two.
constexpr int kMaxThreads = 1024;

enum class Kind { kRead, kWrite, kAtomic };
// By whom, of the block: a thread, more lanes of its warp, or more warps.
enum class Who : uint8_t { kOne, kLanes, kWarps };

// The latest access and, since the last barrier that ordered it, all others of its kind.
struct Access {
  RaceTime time = 0;
  uint16_t thread = 0;
  Who who = Who::kOne;
  const void* place = nullptr;
};
// `last` is of the latest block, `earlier` of one before it in the launch.
struct Accesses {
  Access last, earlier;
};
struct Cell {
  Access write;
  Accesses reads;
};
struct Page {
  std::array<Cell, kPage / kCell> cells;
  std::unique_ptr<std::array<Accesses, kPage / kCell>> atomics;
};

// What a block has let others see at an atomic operation.
struct Release {
  RaceTime begin, end;       // Of the block, until then.
  std::vector<RaceTime> of;  // For each thread: what it did before.
};
// Releases of one word, seen by a thread of this block.
struct Acquire {
  const std::vector<Release>* releases;
  size_t count;
  int thread;
  RaceTime time;  // 0: its fence is still to come.
};

struct Detector {
  RaceTime now = 1, launch = 1, block = 1;
  RaceTime alone = 1;  // When work began last that overlaps with nothing.
  bool waited = true;  // The thread that runs, for the kernel before.
  std::array<OrderedBefore, kMaxThreads / 32> warps;  // Their `block` is the same.
  int thread = -1;
  const std::byte *stack = nullptr, *stack_end = nullptr;
  const std::byte *shared = nullptr, *shared_end = nullptr;
  std::array<OrderedBefore, kMaxThreads> fences;  // The time, and that of the barrier before it.
  bool any_fence = false;
  std::map<const void*, std::vector<Release>> released;
  std::vector<Acquire> acquired;
  std::vector<std::pair<RaceTime, uint3>> blocks;  // Their begins.

  std::vector<std::unique_ptr<Page>> shared_pages;
  std::map<uintptr_t, size_t> watched;  // Whole pages.
  std::unordered_map<uintptr_t, std::unique_ptr<Page>> pages;
  // Of pages looked up last; null: nobody watches it.
  struct Known {
    uintptr_t number = 0;
    Page* page = nullptr;
  };
  std::array<Known, 4096> known;

  std::set<std::pair<const void*, const void*>> reported;
  int races = 0;  // Of the launch.
};
Detector detector;
bool enabled = false;  // Some code is instrumented. Set by constructors, perhaps before `detector`.

uintptr_t PageOf(const std::byte* address) { return reinterpret_cast<uintptr_t>(address) / kPage; }

Page* SharedPage(const std::byte* address) {
  const size_t i = PageOf(address) - PageOf(detector.shared);
  if (i >= detector.shared_pages.size()) detector.shared_pages.resize(i + 1);
  if (detector.shared_pages[i] == nullptr) detector.shared_pages[i] = std::make_unique<Page>();
  return detector.shared_pages[i].get();
}

// Null where nobody watches.
Page* GlobalPage(const std::byte* address) {
  const uintptr_t number = PageOf(address);
  Detector::Known& known = detector.known[number % detector.known.size()];
  if (known.number == number) return known.page;
  known = {number, nullptr};
  const auto after = detector.watched.upper_bound(reinterpret_cast<uintptr_t>(address));
  if (after == detector.watched.begin()) return nullptr;
  const auto& [begin, bytes] = *std::prev(after);
  if (number * kPage >= begin + bytes) return nullptr;
  auto& page = detector.pages[number];
  if (page == nullptr) page = std::make_unique<Page>();
  return known.page = page.get();
}

// Whether this block has seen what an earlier one did.
bool Acquired(const Access& a, const OrderedBefore& before) {
  for (const Acquire& acquire : detector.acquired) {
    if (acquire.time == 0) continue;
    if (acquire.thread != detector.thread && acquire.time >= before.block) continue;
    for (size_t i = 0; i < acquire.count; ++i) {
      const Release& release = (*acquire.releases)[i];
      if (a.time < release.begin || a.time >= release.end) continue;
      const RaceTime until = a.who == Who::kOne
                                 ? release.of[a.thread]
                                 : *std::min_element(release.of.begin(), release.of.end());
      if (a.time < until) return true;
    }
  }
  return false;
}

// Whether an access, with all that it stands for, comes before one of the thread that runs.
bool Comes(const Access& a, const OrderedBefore& before, bool shared) {
  if (a.time < detector.launch) return true;
  if (a.time < detector.block) return shared || Acquired(a, before);
  if (a.time < before.block) return true;
  if (a.who == Who::kWarps || a.thread / 32 != detector.thread / 32) return false;
  return a.time < before.warp || (a.who == Who::kOne && a.thread == detector.thread);
}

void Add(Accesses* accesses, const OrderedBefore& before, const void* place) {
  Access& last = accesses->last;
  const Access own{detector.now, static_cast<uint16_t>(detector.thread), Who::kOne, place};
  if (last.time < before.block) {
    if (last.time >= detector.launch && last.time < detector.block) accesses->earlier = last;
    last = own;
  } else if (last.who == Who::kWarps || last.thread / 32 != own.thread / 32) {
    last.who = Who::kWarps;
    last.time = own.time;
  } else if (last.time < before.warp || (last.who == Who::kOne && last.thread == own.thread)) {
    last = own;
  } else {
    last.who = Who::kLanes;
    last.time = own.time;
  }
}

const char* Verb(Kind kind) {
  return kind == Kind::kRead ? "reads" : kind == Kind::kWrite ? "writes" : "changes atomically";
}
const char* Done(Kind kind) {
  return kind == Kind::kRead ? "read" : kind == Kind::kWrite ? "wrote" : "changed atomically";
}

void Report(Kind kind, const void* place, const std::byte* address, bool shared, Kind other,
            const Access& a) {
  ++detector.races;
  if (!detector.reported.insert({place, a.place}).second) return;
  std::string who =
      "thread " + std::to_string(a.thread) + (a.who == Who::kOne ? "" : " and others");
  const auto block =
      std::prev(std::upper_bound(detector.blocks.begin(), detector.blocks.end(), a.time,
                                 [](RaceTime time, const auto& b) { return time < b.first; }))
          ->second;
  who += " of block (" + std::to_string(block.x) + ", " + std::to_string(block.y) + ", " +
         std::to_string(block.z) + ")";
  char where[64];
  if (shared) {
    std::snprintf(where, sizeof where, "shared byte %td", address - detector.shared);
  } else {
    std::snprintf(where, sizeof where, "global address %p", static_cast<const void*>(address));
  }
  std::fprintf(stderr,
               "emulated kernel, block (%u, %u, %u): race: thread %d %s %s at %s, which %s %s at %s"
               " with nothing between\n",
               blockIdx.x, blockIdx.y, blockIdx.z, detector.thread, Verb(kind), where,
               CodePlace(place).c_str(), who.c_str(), Done(other), CodePlace(a.place).c_str());
}

// What a thread does to global memory before it has waited for the kernel before.
void ReportEarly(Kind kind, const void* place, const void* address) {
  ++detector.races;
  if (!detector.reported.insert({place, nullptr}).second) return;
  std::fprintf(stderr,
               "emulated kernel, block (%u, %u, %u): thread %d %s global address %p at %s%s\n",
               blockIdx.x, blockIdx.y, blockIdx.z, detector.thread, Verb(kind), address,
               CodePlace(place).c_str(),
               kind == Kind::kRead ? ", which the kernel before may still write"
                                   : " before it has waited for the kernel before");
}

void Check(Kind kind, const void* memory, size_t bytes, const OrderedBefore& before,
           const void* place) {
  const auto* address = static_cast<const std::byte*>(memory);
  if (address >= detector.stack && address < detector.stack_end) return;
  const bool shared = address >= detector.shared && address < detector.shared_end;
  const auto* end = address + bytes;
  address -= reinterpret_cast<uintptr_t>(address) % kCell;
  Page* page = nullptr;
  for (; address < end; address += kCell) {
    const size_t offset = reinterpret_cast<uintptr_t>(address) % kPage;
    if (page == nullptr || offset == 0) page = shared ? SharedPage(address) : GlobalPage(address);
    if (page == nullptr) return;
    Cell& cell = page->cells[offset / kCell];
    const auto expect = [&](Kind other, const Access& a) {
      if (!Comes(a, before, shared)) Report(kind, place, address, shared, other, a);
    };
    expect(Kind::kWrite, cell.write);
    if (kind != Kind::kRead) {
      expect(Kind::kRead, cell.reads.last);
      expect(Kind::kRead, cell.reads.earlier);
    }
    if (kind == Kind::kAtomic && page->atomics == nullptr) {
      page->atomics = std::make_unique<std::array<Accesses, kPage / kCell>>();
    }
    Accesses* atomics = page->atomics != nullptr ? &(*page->atomics)[offset / kCell] : nullptr;
    if (!detector.waited && !shared &&
        (kind != Kind::kRead || cell.write.time >= detector.alone ||
         (atomics != nullptr && atomics->last.time >= detector.alone))) {
      ReportEarly(kind, place, address);
    }
    if (kind != Kind::kAtomic && atomics != nullptr) {
      expect(Kind::kAtomic, atomics->last);
      expect(Kind::kAtomic, atomics->earlier);
    }
    if (kind == Kind::kWrite) {
      cell.write = {detector.now, static_cast<uint16_t>(detector.thread), Who::kOne, place};
    } else {
      Add(kind == Kind::kRead ? &cell.reads : atomics, before, place);
    }
  }
}

}  // namespace

void EnableRaces() { enabled = true; }

void RaceAccess(const void* memory, size_t bytes, bool write, const void* place) {
  if (detector.thread < 0) return;
  Check(write ? Kind::kWrite : Kind::kRead, memory, bytes, detector.warps[detector.thread / 32],
        place);
}

void WatchMemory(const void* memory, size_t bytes) {
  if (!enabled || bytes == 0) return;
  detector.watched[reinterpret_cast<uintptr_t>(memory)] = bytes;
  detector.known = {};
}
void ForgetMemory(const void* memory, size_t bytes) {
  if (!enabled || bytes == 0) return;
  const auto begin = reinterpret_cast<uintptr_t>(memory);
  detector.watched.erase(begin);
  for (uintptr_t page = begin / kPage; page * kPage < begin + bytes; ++page) {
    detector.pages.erase(page);
  }
  detector.known = {};
}

RaceTime RaceWorkAlone() { return enabled ? ++detector.now : 0; }
void RaceWorkOverlaps(RaceTime alone) { detector.alone = alone; }
void RaceWrites(const void* memory, size_t bytes) {
  if (!enabled) return;
  const auto* address = static_cast<const std::byte*>(memory);
  for (const auto* end = address + bytes; address < end; address += kCell) {
    Page* page = GlobalPage(address);
    if (page == nullptr) return;
    Access& write = page->cells[reinterpret_cast<uintptr_t>(address) % kPage / kCell].write;
    write = {detector.now, 0, Who::kOne, nullptr};
  }
}

void RaceLaunchBegins() {
  if (!enabled) return;
  detector.launch = ++detector.now;
  detector.blocks.clear();
  detector.released.clear();
}
void RaceLaunchEnds() {
  if (detector.races == 0) return;
  std::fprintf(stderr, "emulated kernel: %d races in a launch\n", detector.races);
  std::abort();
}
void RaceBlockBegins(const std::byte* shared, size_t shared_bytes) {
  if (!enabled) return;
  if (detector.now > std::numeric_limits<RaceTime>::max() / 2) Fail("too long for the detector");
  detector.block = ++detector.now;
  detector.blocks.emplace_back(detector.block, blockIdx);
  detector.shared = shared;
  detector.shared_end = shared + shared_bytes;
  detector.warps.fill({detector.block, detector.block});
  detector.fences = {};
  detector.any_fence = false;
  detector.acquired.clear();
}
void RaceThreadRuns(int thread, const std::byte* stack, size_t stack_bytes) {
  if (!enabled) return;
  detector.thread = thread;
  detector.stack = stack;
  detector.stack_end = stack + stack_bytes;
}
void RaceThreadWaited(bool waited) { detector.waited = waited; }
void RaceBlockMeets() {
  if (!enabled) return;
  ++detector.now;
  for (OrderedBefore& warp : detector.warps) warp.block = detector.now;
}
void RaceWarpMeets(int warp) {
  if (enabled) detector.warps[warp].warp = ++detector.now;
}

OrderedBefore RaceCopyStarts() {
  return detector.thread < 0 ? OrderedBefore() : detector.warps[detector.thread / 32];
}
void RaceCopyEnds(void* to, const void* from, size_t bytes, const OrderedBefore& start,
                  const void* place) {
  if (detector.thread < 0) return;
  Check(Kind::kRead, from, bytes, start, place);
  Check(Kind::kWrite, to, bytes, start, place);
}

void Fence() {
  if (detector.thread < 0) return;
  detector.any_fence = true;
  OrderedBefore& fence = detector.fences[detector.thread];
  fence = {detector.warps[0].block, ++detector.now};
  for (Acquire& acquire : detector.acquired) {
    if (acquire.thread == detector.thread && acquire.time == 0) acquire.time = detector.now;
  }
}

// It releases what threads did before fences of theirs that a barrier follows, what the own thread
// did before its fence, and what all did before the barrier before that.
void Atomic(const void* word, size_t bytes, const void* place) {
  if (detector.thread < 0) return;
  const OrderedBefore& before = detector.warps[detector.thread / 32];
  Check(Kind::kAtomic, word, bytes, before, place);
  if (!detector.any_fence && detector.released.empty()) return;
  auto& releases = detector.released[word];
  if (!releases.empty()) {
    detector.acquired.push_back({&releases, releases.size(), detector.thread, 0});
  }
  Release own{detector.block, ++detector.now, {}};
  for (int thread = 0; thread < kMaxThreads; ++thread) {
    const RaceTime fence = detector.fences[thread].warp;
    const bool counts = thread == detector.thread || fence < before.block;
    own.of.push_back(std::max(counts ? fence : 0, detector.fences[detector.thread].block));
  }
  releases.push_back(std::move(own));
}

}  // namespace emulation
