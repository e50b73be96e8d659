// What a snapshot costs and what it costs to begin with one, at any length of text, beside a plain
// copy of as many bytes in the same moment. No model computes: the parts are copied as they are.
// Caches are cleared before each measurement, as between two turns of a conversation.
#include <algorithm>
#include <chrono>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/check.h"
#include "models/config.h"
#include "models/host_model.h"
#include "models/state_layout.h"
#include "runtime/prefix_cache.h"
#include "runtime/sequence_state.h"
#include "runtime/session.h"
#include "runtime/state_pool.h"
#include "tests/bench/report.h"

ABSL_FLAG(int, rounds, 25, "Of each measurement.");
ABSL_FLAG(int, session_tokens, 10000, "Of the session that is forked.");

namespace packrat {
namespace {

constexpr int kLengths[] = {100, 10000, 1000000};
// What sequences may take besides.
constexpr int kMoreTokens = 1024;

double Microseconds(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start)
      .count();
}

double Median(std::vector<double> of) {
  std::sort(of.begin(), of.end());
  return of[of.size() / 2];
}

// Larger than the caches.
void ClearCaches() {
  static std::vector<int64_t> memory(size_t{96} << 17, 1);
  for (int64_t& value : memory) ++value;
}

// What a snapshot at this position copies.
size_t CopiedBytes(const StateLayout& layout, int position) {
  size_t bytes = layout.slot_bytes + layout.tail_bytes;
  for (const PageClass& c : layout.page_classes) {
    const PagesInUse use(c, position);
    bytes += (use.end - use.unfinished) * c.page_bytes;
  }
  return bytes;
}

std::unique_ptr<StatePool> PoolOf(const StateLayout& layout, const StatePoolOptions& options) {
  auto pool = StatePool::Create(layout, options, AllocateHostState);
  PACKRAT_CHECK(pool.ok()) << pool.status();
  return *std::move(pool);
}

// One with all parts that it needs, as if `position` tokens had been computed; 0: none.
SequenceState Begun(const StateLayout& layout, const PartCounts& need, int position,
                    StatePool* pool) {
  SequenceState sequence;
  sequence.Prepare(layout, need);
  sequence.Take(pool);
  if (position == 0) return sequence;
  Span span;
  sequence.StartSpan(position, pool, &span);
  // Memory that was never written would be copied at no cost.
  std::vector<std::byte> bytes;
  sequence.ForEachPart([&](int kind, int32_t part) {
    bytes.assign(pool->part_bytes(kind, 0), std::byte{1});
    if (!bytes.empty()) pool->Write(kind, part, 0, bytes.data());
  });
  return sequence;
}

StatePoolOptions RoomFor(const StateLayout& layout, int sequences, int tokens) {
  StatePoolOptions options;
  options.max_running = sequences;
  options.max_context = tokens;
  options.state_bytes = sequences * static_cast<int64_t>(layout.SequenceBytes(tokens));
  return options;
}

void BenchSnapshot(const std::string& name, const StateLayout& layout, int position) {
  const PartCounts need = SequenceNeeds(layout, position + kMoreTokens);
  const auto pool = PoolOf(layout, RoomFor(layout, 3, position + kMoreTokens));
  StatePool* const parts = pool.get();
  SequenceState sequence = Begun(layout, need, position, parts);
  const size_t copied = CopiedBytes(layout, position);
  std::vector<std::byte> from(copied, std::byte{1}), to(copied, std::byte{2});
  std::vector<double> snap, restore, give_back, copy;
  for (int round = 0; round < absl::GetFlag(FLAGS_rounds) + 2; ++round) {
    Snapshot snapshot;
    SequenceState resumed;
    double took[4];
    ClearCaches();
    took[0] = Microseconds([&] { snapshot = sequence.Snap(/*share_slot=*/false, parts); });
    ClearCaches();
    took[1] = Microseconds([&] {
      resumed.Prepare(layout, need);
      resumed.Resume(snapshot, parts);
      resumed.Take(parts);
    });
    ClearCaches();
    took[2] = Microseconds([&] {
      resumed.Release(parts);
      snapshot.Release(parts);
    });
    ClearCaches();
    took[3] = Microseconds([&] { std::memcpy(to.data(), from.data(), copied); });
    if (round < 2) continue;  // Memory that is new to the process.
    std::vector<double>* const into[] = {&snap, &restore, &give_back, &copy};
    for (int i = 0; i < 4; ++i) into[i]->push_back(took[i]);
  }
  const int64_t listed = std::accumulate(need.pages.begin(), need.pages.end(), int64_t{0}) * 4;
  const double mb = static_cast<double>(copied) / 1e6;
  const auto row = [&](const char* what, const std::vector<double>& times) {
    std::string note = absl::StrFormat("%.1f KB copied, %.1f KB of page numbers", 1e3 * mb,
                                       1e-3 * static_cast<double>(listed));
    if (copied > 0) {
      absl::StrAppendFormat(&note, "; memcpy %.1f us; per MB %.0f and %.0f", Median(copy),
                            Median(times) / mb, Median(copy) / mb);
    }
    Row(absl::StrCat(name, ": ", what, " ", position, " tokens"), Median(times), "us", 0, note);
  };
  row("snapshot of", snap);
  row("begin with the snapshot of", restore);
  Row(absl::StrCat(name, ": give both back, ", position, " tokens"), Median(give_back), "us");
  sequence.Release(parts);
}

// All of a state leaves the pool as bytes of the process, as where a sequence is parked or one that
// is idle gives way, and comes back.
void BenchPark(const std::string& name, const StateLayout& layout, int position) {
  const PartCounts need = SequenceNeeds(layout, position + kMoreTokens);
  const auto pool = PoolOf(layout, RoomFor(layout, 1, position + kMoreTokens));
  SequenceState sequence = Begun(layout, need, position, pool.get());
  const auto bytes = static_cast<size_t>(sequence.ParkedBytes());
  std::vector<std::byte> from(bytes, std::byte{1}), to(bytes, std::byte{2});
  std::vector<double> park, go_on, copy;
  for (int round = 0; round < absl::GetFlag(FLAGS_rounds) + 2; ++round) {
    ClearCaches();
    const double parked = Microseconds([&] { PACKRAT_CHECK(sequence.Park(pool.get()).ok()); });
    ClearCaches();
    const double back = Microseconds([&] { sequence.Unpark(pool.get()); });
    ClearCaches();
    const double copied = Microseconds([&] { std::memcpy(to.data(), from.data(), bytes); });
    if (round < 2) continue;  // Memory that is new to the process.
    park.push_back(parked), go_on.push_back(back), copy.push_back(copied);
  }
  const double mb = static_cast<double>(bytes) / 1e6;
  const auto row = [&](const char* what, const std::vector<double>& times) {
    Row(absl::StrCat(name, ": ", what, " at ", position, " tokens"), Median(times), "us", 0,
        absl::StrFormat("%.2f MB; memcpy %.1f us; per MB %.0f and %.0f", mb, Median(copy),
                        Median(times) / mb, Median(copy) / mb));
  };
  row("park", park);
  row("go on", go_on);
  sequence.Release(pool.get());
}

// A state that nobody runs on, with others every few thousand tokens of its text, as a long prompt
// leaves them: who begins with it makes all of their pages a sequence's, and the cache's again at
// its end.
void BenchStatesOnTheWay(const std::string& name, const StateLayout& layout, int position) {
  constexpr int kEvery = 4096;
  const PartCounts need = SequenceNeeds(layout, position + kMoreTokens);
  StatePoolOptions options = RoomFor(layout, 2, position + kMoreTokens);
  options.cache_sequences = position / kEvery + 2;
  options.state_bytes += options.cache_sequences * static_cast<int64_t>(layout.tail_stride);
  const auto pool = PoolOf(layout, options);
  StatePool* const parts = pool.get();
  SequenceState sequence = Begun(layout, need, 0, parts);
  Span span;
  std::vector<Snapshot> on_the_way;
  while (sequence.position() + kEvery < position) {
    sequence.StartSpan(kEvery, parts, &span);
    on_the_way.push_back(sequence.Snap(/*share_slot=*/false, parts));
  }
  sequence.StartSpan(position - sequence.position(), parts, &span);
  Snapshot last = sequence.HandOver(parts);
  std::vector<double> begin, end;
  for (int round = 0; round < absl::GetFlag(FLAGS_rounds) + 2; ++round) {
    SequenceState resumed;
    ClearCaches();
    const double began = Microseconds([&] {
      resumed.Prepare(layout, need);
      resumed.Resume(last, parts);
      resumed.Take(parts);
    });
    ClearCaches();
    const double ended = Microseconds([&] { resumed.Release(parts); });
    if (round < 2) continue;
    begin.push_back(began);
    end.push_back(ended);
  }
  const std::string what = absl::StrCat(" a state of ", position, " tokens with ",
                                        on_the_way.size(), " on its way, nobody beside it");
  Row(absl::StrCat(name, ": begin with", what), Median(begin), "us");
  Row(absl::StrCat(name, ": give back", what), Median(end), "us");
  for (Snapshot& snapshot : on_the_way) snapshot.Release(parts);
  last.Release(parts);
}

// What a sequence does beside its state before it is snapped: the tree of texts gets to know what
// has come since the last time.
void BenchText(int position) {
  constexpr int kSince = 64;
  PrefixCache cache(/*pool=*/nullptr, /*max_tokens=*/int64_t{4} << 20);
  std::vector<int32_t> text(position, 7);
  PrefixCache::Place place;
  cache.Remember("", text, &place);
  std::vector<double> since, whole;
  for (int round = 0; round < absl::GetFlag(FLAGS_rounds); ++round) {
    text.insert(text.end(), kSince, 7);
    ClearCaches();
    since.push_back(Microseconds([&] {
      cache.Remember("", {text.data() + (text.size() - kSince), kSince}, &place);
    }));
    ClearCaches();
    whole.push_back(Microseconds([&] { cache.Remember("", std::vector<int32_t>(text)); }));
  }
  const std::string what = absl::StrCat(kSince, " more tokens of a text of ", position);
  Row(absl::StrCat("the tree learns ", what), Median(since), "us", 0,
      absl::StrFormat("copied and looked for as a whole %.1f us", Median(whole)));
}

// The text alone; its state is begun with as above.
void BenchFork() {
  uint64_t random = 1;
  Sessions sessions(SessionOptions(),
                    [&random] { return random = random * 6364136223846793005u + 1442695041u; });
  const SessionOwner owner;
  const absl::Time now = absl::UnixEpoch();
  const auto home = sessions.Create(owner, std::nullopt, now);
  PACKRAT_CHECK(home.ok()) << home.status();
  {
    auto turn = sessions.Begin(owner, home->handle, now);
    PACKRAT_CHECK(turn.ok());
    std::vector<int32_t> text(absl::GetFlag(FLAGS_session_tokens), 7);
    PACKRAT_CHECK(turn->Promise(std::move(text), 1).ok());
    turn->Keep(now);
  }
  std::vector<double> fork;
  for (int round = 0; round < absl::GetFlag(FLAGS_rounds); ++round) {
    ClearCaches();
    std::string handle;
    fork.push_back(Microseconds([&] { handle = sessions.Fork(owner, home->handle, now)->handle; }));
    PACKRAT_CHECK(sessions.Delete(owner, handle, now).ok());
  }
  Row(absl::StrCat("fork of a session of ", absl::GetFlag(FLAGS_session_tokens), " tokens"),
      Median(fork), "us");
}

void Run() {
  const RatSpec rat{6, 2, 64, 16};
  const AttentionSpec attention{6, 2, 64, 0}, window{6, 2, 64, 128};
  const MesaSpec mesa{6, 64, 4, 0.25f, true}, small_mesa{4, 64, 4, 0.25f, true};
  const GatedDeltaSpec delta{6, 6, 64, 64, 4};
  const Mamba2Spec mamba{12, 1, 64, 64};
  const ShortConvSpec conv{384, 4};
  const RgLruSpec lru{6, 64, 4};
  const RatPlusSpec rat_plus{6, 64, {16, 16, 4}};
  const std::pair<const char*, std::vector<MixerSpec>> models[] = {
      {"bundled model", {rat, window, small_mesa, rat, window, small_mesa, rat, window}},
      {"8 layers of Mesa", std::vector<MixerSpec>(8, mesa)},
      {"8 layers of gated delta", std::vector<MixerSpec>(8, delta)},
      {"8 layers of RAT", std::vector<MixerSpec>(8, rat)},
      {"8 layers of Mamba-2", std::vector<MixerSpec>(8, mamba)},
      {"8 short convolutions", std::vector<MixerSpec>(8, conv)},
      {"8 layers of RG-LRU", std::vector<MixerSpec>(8, lru)},
      {"8 layers of RAT+", std::vector<MixerSpec>(8, rat_plus)},
      {"8 layers of window 128", std::vector<MixerSpec>(8, window)},
      {"1 layer of attention", {attention}},
  };
  for (const auto& [name, layers] : models) {
    ModelConfig config;
    config.mixers = layers;
    const StateLayout layout(config);
    for (const int position : kLengths) BenchSnapshot(name, layout, position);
    BenchPark(name, layout, kLengths[1]);
  }
  ModelConfig config;
  config.mixers = std::vector<MixerSpec>(8, rat);
  BenchStatesOnTheWay("8 layers of RAT", StateLayout(config), kLengths[2]);
  for (const int position : kLengths) BenchText(position);
  BenchFork();
}

}  // namespace
}  // namespace packrat

int main(int argc, char** argv) {
  absl::SetProgramUsageMessage("what snapshots cost by the length of their text");
  absl::ParseCommandLine(argc, argv);
  packrat::Run();
  return 0;
}
