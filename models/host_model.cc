#include "models/host_model.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"
#include "kernels/cpu_target.h"

namespace packrat {
namespace {

// From here on, huge pages save more page walks than the rounding up costs memory.
constexpr size_t kHugePagesFrom = size_t{64} << 20;

class HostState : public StateBuffer {
 public:
  HostState(void* mapping, size_t bytes) : mapping_(mapping), bytes_(bytes) {}
  ~HostState() override { munmap(mapping_, bytes_); }
  std::byte* data() const override { return static_cast<std::byte*>(mapping_); }
  size_t size() const override { return bytes_; }
  void Fill(size_t offset, size_t bytes, unsigned char value) override {
    PACKRAT_CHECK(offset <= bytes_ && bytes <= bytes_ - offset) << offset << " + " << bytes;
    std::memset(data() + offset, value, bytes);
  }

 private:
  void* const mapping_;
  const size_t bytes_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<StateBuffer>> AllocateHostState(size_t bytes) {
  PACKRAT_CHECK(bytes > 0);
  void* mapping = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping == MAP_FAILED) {
    return absl::ResourceExhaustedError(
        absl::StrCat("cannot map ", bytes, " bytes of state: ", strerror(errno)));
  }
  if (bytes >= kHugePagesFrom) madvise(mapping, bytes, MADV_HUGEPAGE);  // A hint: may fail.
  return std::make_unique<HostState>(mapping, bytes);
}

absl::Status HostModel::Start(const Batch& batch, const StateMemory& state,
                              absl::Span<const SamplingRow> rows) {
  PACKRAT_CHECK(!started_, "started twice");
  PACKRAT_CHECK(sampler_ != nullptr);
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
  size_t row = 0;
  for (int i = 0; i < batch_.num_spans; ++i) {
    for (int l = 0; l < batch_.spans[i].num_logits; ++l, ++row) {
      PACKRAT_CHECK(row < rows_.size(), "fewer sampling rows than rows of logits");
      if (stats[i].finite) sampler_->Sample(rows_[row], *logits + row * vocab, &sampled[row]);
    }
  }
  PACKRAT_CHECK(row == rows_.size()) << row << " rows of logits for " << rows_.size();
  sampling_seconds_ =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<StateBuffer>> HostModel::AllocateState(size_t bytes) {
  return AllocateHostState(bytes);
}

std::string HostModel::numerics_id() const {
  // Raise it with every change of what is added to what, or in which order, in any kernel.
  constexpr int kRevision = 1;
  return absl::StrCat("cpu-", CpuTargetName(), "-gcc", __VERSION__, "-r", kRevision);
}

std::string HostModel::device() const { return absl::StrCat("cpu ", CpuTargetName()); }

size_t HostModel::state_memory_limit() const {
  return static_cast<size_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<size_t>(sysconf(_SC_PAGESIZE)) /
         4;
}

}  // namespace packrat
