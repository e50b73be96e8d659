#include "models/host_model.h"

#include <gnu/libc-version.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <new>

#include "absl/strings/str_cat.h"
#include "kernels/aligned.h"
#include "kernels/check.h"
#include "kernels/cpu_target.h"

namespace packrat {
namespace {

// What a serving process takes besides weights, scratch and state, for callers without a plan.
constexpr int64_t kServingBytes = int64_t{64} << 20;

class HostState : public StateBuffer {
 public:
  explicit HostState(size_t bytes) : memory_(bytes) {}
  std::byte* data() const override { return memory_.data(); }
  size_t size() const override { return memory_.size(); }
  void Fill(size_t offset, size_t bytes, unsigned char value) override {
    std::memset(At(offset, bytes), value, bytes);
  }
  void Copy(size_t from, size_t to, size_t bytes) override {
    PACKRAT_CHECK(from <= to ? bytes <= to - from : bytes <= from - to)
        << from << " and " << to << " are less than " << bytes << " apart";
    std::memcpy(At(to, bytes), At(from, bytes), bytes);
  }
  void Write(size_t to, const std::byte* from, size_t bytes) override {
    std::memcpy(At(to, bytes), from, bytes);
  }
  absl::Status Read(absl::Span<const Piece> pieces, std::byte* to) override {
    for (const Piece& piece : pieces) {
      std::memcpy(to, At(piece.from, piece.bytes), piece.bytes);
      to += piece.bytes;
    }
    return absl::OkStatus();
  }

 private:
  std::byte* At(size_t offset, size_t bytes) const {
    PACKRAT_CHECK(offset <= size() && bytes <= size() - offset) << offset << " + " << bytes;
    return data() + offset;
  }
  const AlignedBytes memory_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<StateBuffer>> AllocateHostState(size_t bytes) {
  PACKRAT_CHECK(bytes > 0);
  absl::Status status = ReadResources().CheckAvailable(static_cast<int64_t>(bytes),
                                                       "the state of all sequences takes");
  if (!status.ok()) return status;
  try {
    return std::make_unique<HostState>(bytes);
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the system refuses ", bytes, " bytes of memory for state"));
  }
}

int64_t HostStateRoom(const Resources& resources, int64_t rest, int64_t to_take) {
  int64_t room = resources.memory_limit - rest;
  if (!resources.memory_limit_is_own) room = std::min(room, resources.memory_limit / 4);
  const int64_t free = resources.memory_available - resources.memory_held - to_take;
  return std::max(std::min(room, free), int64_t{0});
}

absl::Status HostModel::Start(const Batch& batch, const StateMemory& state,
                              absl::Span<const SamplingRow> rows) {
  PACKRAT_CHECK(!started_, "started twice");
  PACKRAT_CHECK(!samplers_.empty());
  started_ = true;
  batch_ = batch;
  state_ = state;
  rows_ = rows;
  return absl::OkStatus();
}

absl::Status HostModel::Wait(SpanStats* stats, SampledToken* sampled) {
  PACKRAT_CHECK(started_, "nothing was started");
  started_ = false;
  absl::StatusOr<float*> logits = Forward(batch_, state_, stats);
  if (!logits.ok()) return logits.status();
  const auto start = std::chrono::steady_clock::now();
  const auto vocab = static_cast<size_t>(config().vocab_size);
  int num_rows = 0;
  sampled_rows_.clear();
  for (int i = 0; i < batch_.num_spans; ++i) {
    for (int l = 0; l < batch_.spans[i].num_logits; ++l, ++num_rows) {
      if (stats[i].finite) sampled_rows_.push_back(num_rows);
    }
  }
  PACKRAT_CHECK(static_cast<size_t>(num_rows) == rows_.size())
      << num_rows << " rows of logits for " << rows_.size();
  const auto sample = [&](int64_t i, int worker) {
    const int row = sampled_rows_[i];
    samplers_[worker]->Sample(rows_[row], *logits + row * vocab, &sampled[row]);
  };
  const auto count = static_cast<int64_t>(sampled_rows_.size());
  if (pool_ != nullptr) {
    pool_->Run(count, sample);
  } else {
    for (int64_t i = 0; i < count; ++i) sample(i, 0);
  }
  sampling_seconds_ =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return absl::OkStatus();
}

void HostModel::TakeSamplers(int vocab_size, ThreadPool* pool) {
  pool_ = pool;
  for (int i = pool == nullptr ? 1 : pool->size(); i > 0; --i) {
    samplers_.push_back(std::make_unique<Sampler>(vocab_size));
  }
  sampled_rows_.reserve(options().max_logit_rows);
}

absl::StatusOr<std::unique_ptr<StateBuffer>> HostModel::AllocateState(size_t bytes) {
  return AllocateHostState(bytes);
}

namespace {

// Which exp, sin and cos the C library uses. It has several versions, which round differently, and
// chooses by what the processor has.
std::string MathLibrary() {
  const char* variant = __builtin_cpu_supports("fma") && __builtin_cpu_supports("avx2") ? "-fma"
                        : __builtin_cpu_supports("fma4")                                ? "-fma4"
                                                                                        : "";
  return absl::StrCat("libm", gnu_get_libc_version(), variant);
}

}  // namespace

std::string HostModel::numerics_id() const {
  // Raise it with every change of what is added to what, or in which order, in any kernel.
  constexpr int kRevision = 6;
  return absl::StrCat("cpu-", CpuTargetName(), "-gcc", __VERSION__, "-", MathLibrary(), "-r",
                      kRevision);
}

std::string HostModel::device() const { return absl::StrCat("cpu ", CpuTargetName()); }

size_t HostModel::state_memory_limit() const {
  const Resources resources = ReadResources();
  return HostStateRoom(resources, resources.memory_held + kServingBytes, 0);
}

}  // namespace packrat
