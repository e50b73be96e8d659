// How attention on the GPU (attend.cuh) is laid over blocks: what each takes of the entries and of
// shared memory, and the scratch of blocks that share a sequence.
#ifndef PACKRAT_KERNELS_ATTEND_TILE_CUH_
#define PACKRAT_KERNELS_ATTEND_TILE_CUH_

#include <algorithm>
#include <type_traits>

#include "kernels/attend_plan.h"
#include "kernels/batch.h"
#include "kernels/device.cuh"

namespace packrat::gpu {

inline constexpr int kAttendThreads = 128, kAttendWarps = kAttendThreads / kWarp;

// How a block is laid over the entries. All of a split's rows are in flight at once: kSteps loads
// of 16 bytes (bfloat16) for keys and as many for values in each lane.
template <int kLanes_>
struct AttendLayout {
  static constexpr int kLanes = kLanes_;        // Of an entry; a power of two.
  static constexpr int kChannels = 8 * kLanes;  // Head dimension, padded to the lanes.
  static constexpr int kGroups = kAttendThreads / kLanes;
  static constexpr int kSteps = kLanes == 32 ? 8 : 64 / kGroups;
  static constexpr int kSplit = kGroups * kSteps;  // 64; 32 for more than 128 channels.
  static constexpr int kKeySteps = kSteps, kValueSteps = kSteps;
  static constexpr bool kTensor = false;
  static constexpr int kTile = 16;              // Queries of a block in prompts, at most.
  static constexpr int kWeightStride = kSplit;  // Floats from one query's weights to the next's.
};
// On tensor cores (attend_tensor.cuh): a warp takes sixteen neighbouring entries of a split.
template <int kLanes_>
struct TensorLayout : AttendLayout<kLanes_> {
  using AttendLayout<kLanes_>::kChannels;
  using AttendLayout<kLanes_>::kSplit;
  static_assert(kSplit == 16 * kAttendWarps);
  static constexpr int kKeySteps = kChannels / 16;       // Loads of eight channels in each lane.
  static constexpr int kWords = kChannels < 64 ? 2 : 4;  // Pairs of channels in a load of a value,
  static constexpr int kValueParts = kChannels / (16 * kWords);  // and of such loads for an entry.
  static constexpr int kValueSteps = 4 * kValueParts;
  static constexpr bool kTensor = true;
  static constexpr int kAtOnce = 8;  // Queries.
  static constexpr int kTile = 32;   // The entries that they share come from the second cache.
  // Strides by which the lanes of a warp meet few banks twice.
  static constexpr int kWeightStride = kSplit + 4, kPartialStride = kChannels + 8;
};

// Blocks for each multiprocessor, of a decoding kernel with so many queries at once: whose
// registers allow them (tests/bench/gpu/occupancy.py).
constexpr int DecodeBlocks(DType type, int lanes, int queries = 1) {
  if (type == DType::kF32) return 2;
  return queries > 1 || lanes == 16 ? 3 : 4;
}
template <class T, class L, int kQ = 1>
constexpr int DecodeBlocks() {
  return DecodeBlocks(std::is_same_v<T, float> ? DType::kF32 : DType::kBF16, L::kLanes, kQ);
}
// AttendKind::at_once of a kernel with `each` of them.
inline int BlocksAtOnce(int each) {
  const int multiprocessors = Multiprocessors();
  return multiprocessors > 0 ? multiprocessors * each : kFillingBlocks;
}

// Of the type of the activations, for lanes of less than 32: bfloat16 on tensor cores.
template <class T, int kLanes>
using LayoutOf =
    std::conditional_t<std::is_same_v<T, float>, AttendLayout<kLanes>, TensorLayout<kLanes>>;

// call(T(), layout of the lanes) for the type of the activations and a padded head dimension.
template <class T, class Call>
absl::Status WithAttendLanes(int padded, const Call& call) {
  switch (AttendLanes(padded)) {
    case 4:
      return call(T(), LayoutOf<T, 4>());
    case 8:
      return call(T(), LayoutOf<T, 8>());
    case 16:
      return call(T(), LayoutOf<T, 16>());
    default:
      return call(T(), AttendLayout<32>());
  }
}
template <class Call>
absl::Status WithAttendLayout(DType type, int padded, const Call& call) {
  return type == DType::kF32 ? WithAttendLanes<float>(padded, call)
                             : WithAttendLanes<BFloat16>(padded, call);
}

// Eight channels as they are stored.
template <class T>
struct Packed8;
template <>
struct Packed8<BFloat16> {
  uint4 words;
};
template <>
struct Packed8<float> {
  uint4 words[2];
};
// Channels c to c + 3; c: 0 or 4.
__device__ __forceinline__ void Unpack4(const Packed8<BFloat16>& p, int c, float* out) {
  const unsigned words[2] = {c == 0 ? p.words.x : p.words.z, c == 0 ? p.words.y : p.words.w};
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    out[2 * i] = __uint_as_float(words[i] << 16);
    out[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
  }
}
__device__ __forceinline__ void Unpack4(const Packed8<float>& p, int c, float* out) {
  const uint4 four = p.words[c / 4];
  out[0] = __uint_as_float(four.x), out[1] = __uint_as_float(four.y);
  out[2] = __uint_as_float(four.z), out[3] = __uint_as_float(four.w);
}

__device__ __forceinline__ float DotSlice(const float* a, const float* b) {
  float sum = a[0] * b[0];
#pragma unroll
  for (int c = 1; c < 8; ++c) sum = fmaf(a[c], b[c], sum);
  return sum;
}

__device__ __forceinline__ void LoadPacked(const BFloat16* p, Packed8<BFloat16>* to) {
  to->words = ReadFound16(p);
}
__device__ __forceinline__ void LoadPacked(const float* p, Packed8<float>* to) {
  to->words[0] = ReadFound16(p);
  to->words[1] = ReadFound16(p + 4);
}

// Places in a ring, n % length for n >= 0, without a division for each.
class RingIndex {
 public:
  __device__ __forceinline__ explicit RingIndex(int length)
      : length_(length), inverse_(0xffffffffu / static_cast<unsigned>(max(length, 1))) {}
  __device__ __forceinline__ int operator()(int n) const {
    // Since n < 2^31, this is the quotient or one less.
    const int place = n - static_cast<int>(__umulhi(n, inverse_)) * length_;
    return place < length_ ? place : place - length_;
  }
  __device__ __forceinline__ int length() const { return length_; }

 private:
  int length_;
  unsigned inverse_;
};

// What a block knows of one of its queries.
struct AttendQuery {
  int first, end;          // The entries in pages that it sees; maybe none.
  float run_max, run_sum;  // Of the run under way.
  float max, sum;          // Of all finished runs.
  // How the split in work joins its run, and the run, if it ends here, the result.
  float run_scale, split_scale, scale, ended_scale;
  int steps;     // Of the kinds below.
  int run;       // That of the split in work,
  int run_step;  // how far the block's next run is,
  int left;      // and how many splits of the run came before.

  // As before the first of its splits, in a block that takes runs `worker`, `worker` + `workers`...
  __device__ __forceinline__ void Begin(int first_entry, int end_entry, int worker, int workers) {
    first = first_entry, end = end_entry;
    steps = 0, run = worker, run_step = workers, left = 0;
  }
};
enum AttendStep { kTakesPart = 1, kOpensRun = 2, kEndsRun = 4, kFirstRun = 8 };

// A block's shared memory.
struct AttendTile {
  AttendQuery* queries;
  const std::byte** rows;  // (2, 2, kSplit): where the keys and values of two splits are
  float* q;                // (queries, kChannels), rotated; zero beyond the head dimension;
                           // PutQuery() and LoadQuery() know how
  float* weights;          // (queries, kWeightStride): scores, then weights; -1: not seen
  float* partial;          // (2, warps, kQ, kChannels); for tensor cores see TensorValues()
  float* poison;           // (kSplit) for tensor cores: see ClearNotFinite()
  float* run;              // (queries, kChannels): the run under way
  float* result;           // (queries, kChannels): the finished runs
  float* own;              // (2, kChannels): the own entry's key, rotated, and value; decode only
  float* joins;            // (queries, runs with the own one, 4): decode only
  int* flag;

  int partial_queries;  // In `partial` at once.
  size_t bytes;         // Of all.

  // For n queries of which AttendSplits() takes at_once (kQ) at once; on tensor cores kAtOnce.
  // most_runs: AttendKind's for decoding, 0 for prompts.
  template <class Layout>
  __host__ __device__ static size_t Bytes(int n, int at_once, int most_runs) {
    return AttendTile(Layout(), nullptr, n, at_once, most_runs).bytes;
  }
  template <class Layout>
  __host__ __device__ __forceinline__ AttendTile(Layout, std::byte* at, int n, int at_once,
                                                 int most_runs) {
    // By arithmetic on the pointer: if it went through an integer, the compiler could no longer
    // tell that this is shared memory.
    std::byte* next = at;
    const auto take = [&next](size_t floats) {
      auto* taken = reinterpret_cast<float*>(next);
      next += (floats * sizeof(float) + 15) / 16 * 16;
      return taken;
    };
    rows = reinterpret_cast<const std::byte**>(
        take(4 * Layout::kSplit * sizeof(*rows) / sizeof(float)));
    q = take(n * Layout::kChannels);
    weights = take(n * Layout::kWeightStride);
    if constexpr (Layout::kTensor) {
      partial_queries = n < Layout::kAtOnce ? n : Layout::kAtOnce;
      partial = take(kAttendWarps * partial_queries * Layout::kPartialStride);
      poison = take(Layout::kSplit);
    } else {
      partial_queries = at_once;
      partial = take(2 * kAttendWarps * at_once * Layout::kChannels);
      poison = nullptr;
    }
    run = take(n * Layout::kChannels);
    result = take(n * Layout::kChannels);
    own = take(most_runs > 0 ? 2 * Layout::kChannels : 0);
    joins = take(most_runs > 0 ? 4 * n * (most_runs + 1) : 0);
    queries = reinterpret_cast<AttendQuery*>(take(n * sizeof(AttendQuery) / sizeof(float)));
    flag = reinterpret_cast<int*>(take(1));
    bytes = static_cast<size_t>(next - at);
  }
};

// Finished runs of a block's queries in device memory, where several blocks share the queries.
struct AttendPartials {
  float* sums = nullptr;   // (queries, runs, channels)
  float* stats = nullptr;  // (queries, runs, 2): largest score, sum of weights
  int runs = 0;            // Of a query, its own entry included.
  int channels = 0;
  // Without sums: runs are joined to what the result has already; nothing where the query's `sum`
  // is zero.
  bool continues = false;

  // The same without the first `n` runs.
  __device__ __forceinline__ AttendPartials After(int n) const {
    AttendPartials rest = *this;
    if (sums != nullptr) rest.sums += static_cast<size_t>(n) * channels, rest.stats += n * 2;
    return rest;
  }
  __device__ __forceinline__ float* Sum(int query, int run) const {
    return sums + static_cast<size_t>(query * runs + run) * channels;
  }
  __device__ __forceinline__ float* Stat(int query, int run) const {
    return stats + static_cast<size_t>(query * runs + run) * 2;
  }
};

// Which splits a block takes, one after the other: those of runs `worker`, `worker` + `workers`,
// ...
class SplitWalk {
 public:
  const int end;

  __device__ __forceinline__ SplitWalk(const Runs& runs, int worker, int workers)
      : end(runs.end_split),
        length_(runs.length),
        between_((workers - 1) * runs.length),
        split_(runs.first_split + worker * runs.length) {}
  // The next one; `end` or more: there is none.
  __device__ __forceinline__ int Next() {
    const int split = split_++;
    if (++left_ == length_) left_ = 0, split_ += between_;
    return split;
  }

 private:
  int length_, between_;  // Of a run, and from one to the next: splits.
  int split_, left_ = 0;  // `left_` splits before `split_` in its run.
};

// The scratch of a decode step whose blocks share their entries: tickets, then finished runs, both
// by block of a text (AttendKind::blocks) and as its items say. Tickets keep their places whatever
// the batch.
struct AttendScratch {
  unsigned* tickets = nullptr;
  float* stats = nullptr;
  float* sums = nullptr;
  int tickets_each = 0, runs_each = 0;  // Of a block.
  int queries = 0, channels = 0;        // A run is of so many queries.

  // Places it at `at` for that many spans; returns what comes after it.
  std::byte* Carve(std::byte* at, const AttendKind& kind, int spans, int queries_each, int padded) {
    queries = queries_each;
    channels = AttendLanes(padded) * 8;
    tickets_each = AttendTickets(kind);
    runs_each = AttendRuns(kind, spans);
    const size_t runs = static_cast<size_t>(kind.blocks) * runs_each * queries;
    const auto take = [&at](size_t bytes) {
      std::byte* taken = at;
      at += (bytes + 255) / 256 * 256;
      return taken;
    };
    tickets = reinterpret_cast<unsigned*>(take(kind.blocks * tickets_each * sizeof(unsigned)));
    stats = reinterpret_cast<float*>(take(runs * 2 * sizeof(float)));
    sums = reinterpret_cast<float*>(take(runs * channels * sizeof(float)));
    return at;
  }
  // Of an item of several workers, for a text of so many runs.
  __device__ __forceinline__ AttendPartials Partials(const AttendItem& item, int block,
                                                     int runs) const {
    const size_t first = (static_cast<size_t>(block) * runs_each + item.first_run) * queries;
    return {sums + first * channels, stats + first * 2, runs + 1, channels};
  }
  __device__ __forceinline__ unsigned* Ticket(const AttendItem& item, int block) const {
    return tickets + block * tickets_each + item.ticket;
  }
};

}  // namespace packrat::gpu

#endif  // PACKRAT_KERNELS_ATTEND_TILE_CUH_
