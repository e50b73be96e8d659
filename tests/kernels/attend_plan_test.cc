#include "kernels/attend_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <vector>

#include "tests/kernels/random.h"

namespace packrat::gpu {
namespace {

// Sixteen heads, each with 64 entries in a split: 33 items fill the device.
constexpr AttendKind kFull = {16, 64, 1, 0};

std::vector<BatchSpan> Decoding(const std::vector<int>& positions) {
  std::vector<BatchSpan> spans;
  for (const int position : positions) spans.push_back({0, 1, position});
  return spans;
}

// Splits of an item's share.
int Splits(const AttendKind& kind, const std::vector<BatchSpan>& spans, const AttendItem& item) {
  const TextRuns runs = kind.RunsAt(spans[item.span].position);
  int splits = 0;
  const auto add = [&](const Runs& of, int run) {
    for (; run < of.count; run += item.workers) {
      const int first = of.first_split + run * of.length;
      splits += std::min(of.length, of.end_split - first);
    }
  };
  add(runs.far, item.worker);
  add(runs.near, FirstBehind(runs.far.count, item.worker, item.workers));
  return splits;
}

// The list's items; what every list has to be is checked.
std::vector<AttendItem> Plan(const AttendKind& kind, const std::vector<BatchSpan>& spans,
                             int max_context) {
  const int num = static_cast<int>(spans.size());
  const AttendItem untouched = {-7, -7, -7, -7, -7};
  std::vector<AttendItem> items(AttendItems(kind, num, max_context) + 1, untouched);
  AttendPlanner(kind, num).Plan(spans, max_context, items.data());
  EXPECT_EQ(items.back().span, -7) << "written beyond the list";
  items.pop_back();
  size_t used = 0;
  while (used < items.size() && items[used].workers != 0) ++used;
  for (size_t i = used; i < items.size(); ++i) EXPECT_EQ(items[i].workers, 0);
  items.resize(used);

  std::vector<std::set<int>> workers(num);
  std::vector<int> splits(num);  // Those that some item has.
  std::set<int> tickets;
  std::vector<bool> places(AttendRuns(kind, num));
  int before = 1 << 30;
  for (size_t i = 0; i < used; ++i) {
    const AttendItem& item = items[i];
    EXPECT_TRUE(item.span >= 0 && item.span < num);
    EXPECT_EQ(spans[item.span].num_tokens, 1);
    EXPECT_TRUE(workers[item.span].insert(item.worker).second) << "a share is taken twice";
    EXPECT_LT(item.worker, item.workers);
    const TextRuns runs = kind.RunsAt(spans[item.span].position);
    EXPECT_LE(item.workers, std::max(1, runs.count())) << "a share without a run";
    splits[item.span] += Splits(kind, spans, item);
    if (item.worker > 0) {
      EXPECT_EQ(item.span, items[i - 1].span);
      EXPECT_EQ(item.workers, items[i - 1].workers);
      EXPECT_EQ(item.ticket, items[i - 1].ticket);
      EXPECT_EQ(item.first_run, items[i - 1].first_run);
    } else {  // The first is the longest of a text's.
      const int most = (runs.count() + item.workers - 1) / item.workers * runs.length();
      EXPECT_LE(Splits(kind, spans, item), most);
      EXPECT_LE(most, before) << "a longer item comes later";
      before = most;
      if (item.workers == 1) continue;
      EXPECT_TRUE(tickets.insert(item.ticket).second);
      EXPECT_LT(item.ticket, AttendTickets(kind));
      for (int run = 0; run <= runs.count(); ++run) {
        const size_t place = item.first_run + run;
        EXPECT_LT(place, places.size());
        if (place >= places.size()) return items;
        EXPECT_FALSE(places[place]) << "two texts have one place";
        places[place] = true;
      }
    }
  }
  for (int i = 0; i < num; ++i) {
    const bool decodes = spans[i].num_tokens == 1;
    EXPECT_EQ(workers[i].empty(), !decodes) << "span " << i;
    if (!decodes || workers[i].empty()) continue;
    const auto item = std::find_if(items.begin(), items.end(),
                                   [&](const AttendItem& each) { return each.span == i; });
    EXPECT_EQ(static_cast<int>(workers[i].size()), item->workers);
    EXPECT_EQ(splits[i], kind.RunsAt(spans[i].position).splits());
  }
  return items;
}

int Longest(const AttendKind& kind, const std::vector<BatchSpan>& spans,
            const std::vector<AttendItem>& items) {
  int longest = 0;
  for (const AttendItem& item : items) longest = std::max(longest, Splits(kind, spans, item));
  return longest;
}

TEST(AttendPlanTest, OneTextFillsTheDevice) {
  const auto spans = Decoding({33 * 64});
  const std::vector<AttendItem> items = Plan(kFull, spans, 4096);
  EXPECT_EQ(items.size(), 33);
  EXPECT_EQ(Longest(kFull, spans, items), 1);
  EXPECT_EQ(Plan(kFull, Decoding({32768}), 32769).size(), 32);  // Two of 64 runs each.
  EXPECT_EQ(Plan(kFull, Decoding({0}), 1).size(), 1);
}

// What is alike is left whole where it fills its rounds, and cut where it does not.
TEST(AttendPlanTest, EqualTexts) {
  for (const auto& [n, items] : {std::pair(8, 32), {16, 32}, {33, 33}, {34, 68}, {256, 256}}) {
    EXPECT_EQ(Plan(kFull, Decoding(std::vector<int>(n, 2000)), 2001).size(), items) << n;
    // With as many runs as there are, too.
    EXPECT_EQ(Plan(kFull, Decoding(std::vector<int>(n, 8000)), 8001).size(), n == 16  ? 32
                                                                             : n == 8 ? 32
                                                                                      : items)
        << n;
  }
}

// RAT+'s runs are those over what it keeps, from the first on, then those over the window.
TEST(AttendPlanTest, RatPlus) {
  const AttendKind kind = {16, 64, 1, 0, RatPlusShape{16, 128, 16, 300, 4}};
  const TextRuns runs = kind.RunsAt(20'000);
  EXPECT_EQ(runs.far.count, (4 + 19'700 / 16 + 63) / 64);
  EXPECT_EQ(runs.near.first_split, 19'700 / 64);
  EXPECT_EQ(runs.near.end_split, (20'000 + 63) / 64);
  EXPECT_EQ(runs.count(), 20 + 6);
  for (const int workers : {1, 2, 3, 7, 20, 26}) {
    std::set<int> taken;
    for (int worker = 0; worker < workers; ++worker) {
      for (int r = worker; r < runs.far.count; r += workers) taken.insert(r);
      for (int r = FirstBehind(runs.far.count, worker, workers); r < runs.near.count;
           r += workers) {
        EXPECT_EQ((runs.far.count + r) % workers, worker);
        taken.insert(runs.far.count + r);
      }
    }
    EXPECT_EQ(static_cast<int>(taken.size()), runs.count());
  }
  const auto spans = Decoding({20'000});
  EXPECT_EQ(Longest(kind, spans, Plan(kind, spans, 20'001)), 1);
  EXPECT_EQ(kind.RunsAt(0).count(), 0);
}

// A long text among short ones holds nobody up: no item is longer than what each place has to do.
TEST(AttendPlanTest, OneLongText) {
  for (const int n : {33, 34, 64, 256, 1000}) {
    std::vector<int> positions(n, 1024);
    positions[n / 2] = 32768;
    const auto spans = Decoding(positions);
    const std::vector<AttendItem> items = Plan(kFull, spans, 32769);
    const int share = (16 * (n - 1) + 512) / 33;
    EXPECT_LE(Longest(kFull, spans, items), share) << n;
  }
}

TEST(AttendPlanTest, PromptsAndUnusedPlacesHaveNoItems) {
  std::vector<BatchSpan> spans = Decoding({5, 700, 9});
  spans[1].num_tokens = 3;
  spans.push_back({});
  spans.back().position = 1 << 30;
  EXPECT_EQ(Plan(kFull, spans, 1000).size(), 2);
}

TEST(AttendPlanTest, AnyBatch) {
  Random random(1);
  for (int i = 0; i < 1000; ++i) {
    const AttendKind kind = {random.OneOf<int>({1, 2, 5, 8, 16, 64, 500, 600}),
                             random.OneOf<int>({32, 64}), random.OneOf<int>({1, 2, 16}), 0};
    AttendKind windowed = kind;
    windowed.entry_tokens = 1, windowed.window = random.OneOf<int>({1, 2, 63, 64, 65, 1024});
    AttendKind rat_plus = kind;
    rat_plus.shape = {kind.blocks, 16, random.OneOf<int>({0, 2, 7, 16}),
                      random.OneOf<int>({0, 1, 64, 100, 5000}), random.OneOf<int>({0, 1, 70})};
    const int n = random.Int(1, random.OneOf<int>({4, 40, 300}));
    const int longest = random.OneOf<int>({1, 64, 1000, 100000});
    std::vector<BatchSpan> spans(n);
    int context = 1;
    for (BatchSpan& span : spans) {
      span.num_tokens = random.OneOf<int>({1, 1, 1, 1, 0, 7});
      span.position = random.Int(0, random.OneOf<int>({0, longest / 30, longest}));
      if (span.num_tokens == 1) context = std::max(context, span.position + 1);
    }
    SCOPED_TRACE(testing::Message() << "case " << i << " of " << n << " spans, " << kind.blocks
                                    << " blocks, context " << context);
    Plan(kind, spans, context + random.OneOf<int>({0, 100}));
    Plan(windowed, spans, context);
    Plan(rat_plus, spans, context);
    if (testing::Test::HasFailure()) return;
  }
}

TEST(AttendPlanTest, BoundsDoNotFall) {
  for (const AttendKind& kind :
       {kFull, AttendKind{2, 64, 16, 0}, AttendKind{8, 32, 1, 100}, AttendKind{600, 64, 1, 0},
        AttendKind{8, 64, 1, 0, RatPlusShape{8, 16, 16, 100, 4}}}) {
    for (const int context : {1, 64, 65, 5000, 100000}) {
      for (int n = 1; n < 300; ++n) {
        EXPECT_LE(AttendItems(kind, n, context), AttendItems(kind, n + 1, context));
        EXPECT_LE(AttendItems(kind, n, context), AttendItems(kind, n, 2 * context));
        EXPECT_LE(AttendRuns(kind, n), AttendRuns(kind, n + 1));
      }
    }
  }
}

}  // namespace
}  // namespace packrat::gpu
