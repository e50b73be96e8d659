#include "kernels/attend_plan.h"

#include <algorithm>
#include <tuple>

#include "kernels/check.h"

namespace packrat::gpu {
namespace {

template <class T>
T CeilDiv(T a, T b) {
  return (a + b - 1) / b;
}

// Rounds in which a device that runs `slots` items at once can take those of n texts: as few as it
// needs for one each, or one more, so that texts may be cut even where they fill the last round
// badly. With half a round or less, cutting fills it well enough.
int FewestRounds(int n, int slots) { return CeilDiv(std::max(n, 1), slots); }
int MostRounds(int n, int slots) { return FewestRounds(n, slots) + (2 * n > slots ? 1 : 0); }

// Runs of so many entries in a row.
int MostRuns(int entries, int split, bool begins_anywhere) {
  return std::min(CeilDiv(entries, split) + (begins_anywhere ? 1 : 0), kMaxRuns);
}
// The most that one text of up to max_context tokens has.
int MostRuns(const AttendKind& kind, int max_context) {
  if (kind.rat_plus()) {
    return MostRuns(kind.shape.Far(max_context), kind.split, false) +
           MostRuns(std::min(kind.shape.window, max_context), kind.split, kind.shape.window > 0);
  }
  const int visible = kind.window > 0 ? std::min(kind.window, max_context) : max_context;
  return MostRuns(visible / kind.entry_tokens, kind.split, kind.window > 0);
}

}  // namespace

int AttendItems(const AttendKind& kind, int num_spans, int max_context) {
  if (kind.slots() == 0) return num_spans;
  const int64_t runs = int64_t{num_spans} * MostRuns(kind, max_context);
  const int64_t rounds = int64_t{kind.slots()} * MostRounds(num_spans, kind.slots());
  return static_cast<int>(std::max<int64_t>(num_spans, std::min(runs, rounds)));
}

AttendPlanner::AttendPlanner(const AttendKind& kind, int max_spans) : kind_(kind) {
  texts_.reserve(max_spans);
}

void AttendPlanner::Text::Cut(int limit) {
  if (count == 0) return;
  workers = CeilDiv(count, std::max(1, limit / length));
  most = CeilDiv(count, workers) * length;
}

AttendPlanner::Outcome AttendPlanner::Try(int limit) const {
  Outcome outcome;
  for (Text text : texts_) {
    text.Cut(limit);
    outcome.items += text.workers;
    outcome.most = std::max(outcome.most, text.most);
    if (text.workers > 1) outcome.runs += text.count + 1;
  }
  return outcome;
}

int AttendPlanner::LeastLimit(int items, int runs, int lowest, int highest) const {
  while (lowest < highest) {
    const int middle = lowest + (highest - lowest) / 2;
    const Outcome outcome = Try(middle);
    if (outcome.items <= items && outcome.runs <= runs) {
      highest = middle;
    } else {
      lowest = middle + 1;
    }
  }
  return highest;
}

void AttendPlanner::Plan(absl::Span<const BatchSpan> spans, int max_context, AttendItem* items) {
  const int num_spans = static_cast<int>(spans.size());
  int64_t all = 0;  // Splits.
  int longest = 1;
  texts_.clear();
  for (int i = 0; i < num_spans; ++i) {
    if (spans[i].num_tokens != 1) continue;
    PACKRAT_CHECK(spans[i].position < max_context) << spans[i].position;
    const TextRuns runs = kind_.RunsAt(spans[i].position);
    texts_.push_back({i, runs.count(), runs.length()});
    all += runs.splits();
    longest = std::max(longest, runs.count() * runs.length());
  }
  const int slots = kind_.slots(), n = static_cast<int>(texts_.size());
  int limit = longest;
  if (slots > 0) {
    const int64_t each = all / slots;
    int64_t best = 0;
    for (int rounds = FewestRounds(n, slots); rounds <= MostRounds(n, slots); ++rounds) {
      const auto lowest = static_cast<int>(
          std::clamp<int64_t>(CeilDiv(all, int64_t{1} * rounds * slots), 1, longest));
      const int least = LeastLimit(rounds * slots, AttendRuns(kind_, num_spans), lowest, longest);
      // It takes at most all rounds of the longest item, or a fair share and one such item; and
      // with each round a split's time to begin and to join.
      const int64_t most = Try(least).most;
      const int64_t time = std::min(rounds * most, each + most) + rounds;
      if (best == 0 || time < best) best = time, limit = least;
    }
  }
  for (Text& text : texts_) text.Cut(limit);
  std::sort(texts_.begin(), texts_.end(), [](const Text& a, const Text& b) {
    return std::tie(b.most, a.span) < std::tie(a.most, b.span);
  });
  AttendItem* const end = items + AttendItems(kind_, num_spans, max_context);
  int ticket = 0, first_run = 0;
  for (const Text& text : texts_) {
    PACKRAT_CHECK(text.workers <= end - items);
    const bool shared = text.workers > 1;
    for (int worker = 0; worker < text.workers; ++worker) {
      *items++ = {text.span, static_cast<int16_t>(worker), static_cast<int16_t>(text.workers),
                  shared ? ticket : 0, shared ? first_run : 0};
    }
    if (shared) ++ticket, first_run += text.count + 1;
  }
  PACKRAT_CHECK(ticket <= AttendTickets(kind_) && first_run <= AttendRuns(kind_, num_spans));
  std::fill(items, end, AttendItem());
}

}  // namespace packrat::gpu
