// How decoding attention on the GPU (attend.cuh) is dealt out: for each step the host makes a list
// of what every block takes of which text, so that one long text among short ones keeps many blocks
// busy and not one. A list planned on the host for texts of any mixture of lengths is the idea of
// FlashInfer (Ye et al., arXiv 2501.01005).
//
// What is added to what does not depend on the list: a text is cut into runs by its own length
// (Runs), a block takes whole runs, and runs are joined in their order, whoever made them.
#ifndef PACKRAT_KERNELS_ATTEND_PLAN_H_
#define PACKRAT_KERNELS_ATTEND_PLAN_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "kernels/batch.h"
#include "kernels/rat_plus_shape.h"

namespace packrat::gpu {

inline constexpr int kMaxRuns = 64;         // Of a range of entries.
inline constexpr int kFillingBlocks = 528;  // Four for each multiprocessor of an H100.

// Lanes of a warp that share an entry of `padded` channels, and entries of a split: see
// AttendLayout.
constexpr int AttendLanes(int padded) {
  return padded <= 32 ? 4 : padded <= 64 ? 8 : padded <= 128 ? 16 : 32;
}
constexpr int AttendSplit(int padded) { return AttendLanes(padded) == 32 ? 32 : 64; }

// The splits and runs of a query that sees entries [first, end) of a range.
struct Runs {
  int first_split, end_split;
  int length;  // Splits of a run; the last may have fewer.
  int count;
  constexpr Runs(int first, int end, int split)
      : first_split(first / split),
        end_split(end > first ? (end - 1) / split + 1 : first_split),
        length((end_split - first_split + kMaxRuns - 1) / kMaxRuns),
        count(length == 0 ? 0 : (end_split - first_split + length - 1) / length) {}
};

// The runs of a token without its own entry, in the order in which they are joined: those over what
// is far, then, for RAT+ alone, those over what is near. They are numbered through.
struct TextRuns {
  Runs far, near;
  constexpr int count() const { return far.count + near.count; }
  constexpr int length() const { return far.length > near.length ? far.length : near.length; }
  constexpr int splits() const {
    return far.end_split - far.first_split + near.end_split - near.first_split;
  }
};
// Of the runs behind `before` others, the first that a block has which takes runs `worker`,
// `worker` + `workers`, ... of all.
constexpr int FirstBehind(int before, int worker, int workers) {
  const int first = worker - before % workers;
  return first >= 0 ? first : first + workers;
}
// RAT+'s: kept entries, numbered from 0, and positions of the window.
constexpr TextRuns RatPlusRuns(const RatPlusShape& shape, int position, int split) {
  const int first = position > shape.window ? position - shape.window : 0;
  return {Runs(0, shape.Far(position), split), Runs(first, position, split)};
}

// What decides how a layer's decoding is dealt out. Layers of one kind share a list.
struct AttendKind {
  int blocks;                    // Of a text, side by side: each for some of the heads.
  int split;                     // Entries.
  int entry_tokens;              // Of an entry in pages.
  int window;                    // Entries that a token sees, its own included; 0: all.
  RatPlusShape shape = {};       // RAT+'s, where the two before mean nothing; else no heads.
  int at_once = kFillingBlocks;  // Blocks that the device runs at once.

  constexpr bool rat_plus() const { return shape.num_heads > 0; }
  constexpr TextRuns RunsAt(int position) const {
    if (rat_plus()) return RatPlusRuns(shape, position, split);
    const int first = position + 1 - window;
    return {Runs(window > 0 && first > 0 ? first : 0, position / entry_tokens, split),
            Runs(0, 0, split)};
  }
  constexpr int most_runs() const { return rat_plus() ? 2 * kMaxRuns : kMaxRuns; }
  // Items that a device runs at once.
  constexpr int slots() const { return at_once / blocks; }
};

// What a block takes of a text: runs `worker`, `worker` + `workers`, ...
struct alignas(16) AttendItem {
  int32_t span = 0;
  int16_t worker = 0, workers = 0;  // workers 0: an unused place; nothing is read or written.
  // Of a text with several workers: its number among such texts, and the first of its places for
  // finished runs, of which it has one more than runs.
  int32_t ticket = 0, first_run = 0;
};

// Bounds of every list for so many spans, unused ones included, with at most `max_context` tokens:
// items, of which the grid has as many blocks, whatever the texts; tickets, and places for finished
// runs. None falls as the arguments grow.
int AttendItems(const AttendKind& kind, int num_spans, int max_context);
constexpr int AttendTickets(const AttendKind& kind) { return 2 * kind.slots(); }
constexpr int AttendRuns(const AttendKind& kind, int num_spans) {
  const int texts = AttendTickets(kind);
  return (num_spans < texts ? num_spans : texts) * (kind.most_runs() + 1);
}

// Plans the lists of one kind. Allocates nothing after it has been made.
class AttendPlanner {
 public:
  AttendPlanner(const AttendKind& kind, int max_spans);

  const AttendKind& kind() const { return kind_; }

  // Writes AttendItems() items for the spans of one token, which lie in host memory, the longest
  // items first: the device begins blocks in this order, and what comes last should be short.
  void Plan(absl::Span<const BatchSpan> spans, int max_context, AttendItem* items);

 private:
  struct Text {
    int32_t span, count, length;    // Runs, and splits of each.
    int32_t workers = 1, most = 0;  // Splits of the longest item.
    void Cut(int limit);
  };
  // What comes of cutting every text into items of at most `limit` splits, or of one run.
  struct Outcome {
    int items = 0, runs = 0;  // runs: places of those that several workers share.
    int most = 0;             // Splits of the longest item.
  };
  Outcome Try(int limit) const;
  // The least limit with at most `items` items that have room for their runs.
  int LeastLimit(int items, int runs, int lowest, int highest) const;

  const AttendKind kind_;
  std::vector<Text> texts_;
};

}  // namespace packrat::gpu

#endif  // PACKRAT_KERNELS_ATTEND_PLAN_H_
