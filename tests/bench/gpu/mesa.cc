#include "tests/bench/gpu/mesa.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace packrat::gpu_bench {
namespace {

const float* Floats(const gpu::DeviceMemory& memory) {
  return reinterpret_cast<const float*>(memory.data());
}
size_t SlotBytes(const MesaShape& s, DType state) {
  return MesaSlotFloats(s.num_heads, s.head_dim) * DTypeBytes(state);
}
size_t TailBytes(const MesaShape& s) {
  return MesaTailLayout(s.num_heads, s.head_dim, s.conv_size).end * 4;
}

}  // namespace

absl::StatusOr<MesaBench> MesaBench::Make(Bench* bench, const MesaShape& shape, DType type,
                                          DType state, int spans, const MesaPrompts& prompts,
                                          bool only_prompt) {
  MesaBench b;
  b.shape_ = shape, b.type_ = type, b.state_ = state, b.spans_ = spans;
  const int prompt = prompts.tokens;
  const int piece = only_prompt ? prompt : std::min(prompt, bench->options().tiny ? 16 : 64);
  const size_t rows = size_t(spans) * prompt, width = shape.width(), heads = shape.num_heads;
  const size_t together = size_t(spans) * piece;
  const size_t sequence = SlotBytes(shape, state) + TailBytes(shape);
  // As many as a model has layers, if they fit.
  b.copies_ = only_prompt ? 1 : bench->Copies(static_cast<double>(spans * sequence), 24);
  const size_t states = size_t(b.copies_) * spans;
  const auto allocate = [](size_t bytes) {
    return gpu::DeviceMemory::AllocateZeroed(bytes, "state");
  };
  BENCH_ASSIGN(b.slots_, allocate(states * SlotBytes(shape, state)));
  BENCH_ASSIGN(b.tails_, allocate(states * TailBytes(shape)));
  BENCH_ASSIGN(b.rows_, bench->Random(rows * 4 * width, type, 1.0f));
  BENCH_ASSIGN(b.beta_, bench->Random(rows * heads, DType::kF32, 0.5f, 2.0f));
  BENCH_ASSIGN(b.gamma_,
               bench->Random(rows * heads, DType::kF32, prompts.gamma_deviation, prompts.gamma));
  BENCH_ASSIGN(b.conv_, bench->Random(2 * shape.conv_size * width, DType::kF32, 0.5f));
  BENCH_ASSIGN(b.lambda_, bench->Random(width, DType::kF32, 0.1f, 0.8f));
  BENCH_ASSIGN(b.norm_, bench->Random(shape.head_dim, DType::kF32, 0.1f, 1.0f));
  BENCH_ASSIGN(b.out_, bench->Random(together * width, type, 1.0f));
  BENCH_ASSIGN(b.stats_, allocate(spans * sizeof(SpanTotals)));
  BENCH_ASSIGN(b.scratch_,
               allocate(gpu::MesaScratchBytes(shape, spans, static_cast<int>(together)) + 256));
  if (only_prompt) {
    BENCH_ASSIGN(SpanBatch batch, SpanBatch::Make(std::vector<int>(spans, 0), prompt, 0));
    b.prompts_.push_back(std::move(batch));
    return b;
  }
  for (int copy = 0; copy < b.copies_; ++copy) {
    BENCH_RETURN_IF_ERROR(b.FeedPrompts(copy, prompt, piece, bench->stream()));
    for (int t = 0; t < kBlockTokens; ++t) {
      BENCH_ASSIGN(SpanBatch decode,
                   SpanBatch::Make(std::vector<int>(spans, prompt + t), 1, copy * spans));
      b.decodes_.push_back(std::move(decode));
    }
  }
  const size_t slots = spans * SlotBytes(shape, state);
  BENCH_ASSIGN(b.fed_, gpu::DeviceMemory::Allocate(slots, "state"));
  BENCH_RETURN_IF_ERROR(gpu::CudaStatus(cudaMemcpyAsync(b.fed_.data(), b.slots_.data(), slots,
                                                        cudaMemcpyDeviceToDevice, bench->stream()),
                                        "state"));
  BENCH_RETURN_IF_ERROR(b.Solves().status());
  return b;
}

absl::Status MesaBench::Rewind(CudaStream stream) {
  for (int copy = 0; copy < copies_; ++copy) {
    BENCH_RETURN_IF_ERROR(
        gpu::CudaStatus(cudaMemcpyAsync(slots_.data() + copy * fed_.size(), fed_.data(),
                                        fed_.size(), cudaMemcpyDeviceToDevice, stream),
                        "state"));
  }
  return absl::OkStatus();
}

absl::Status MesaBench::FeedPrompts(int copy, int prompt, int piece, CudaStream stream) {
  for (int position = 0; position < prompt; position += piece) {
    BENCH_ASSIGN(SpanBatch batch,
                 SpanBatch::Make(std::vector<int>(spans_, position), piece, copy * spans_));
    BENCH_RETURN_IF_ERROR(Run(batch, copy, size_t(spans_) * position, stream));
    // The batch is read until then.
    BENCH_RETURN_IF_ERROR(gpu::CudaStatus(cudaStreamSynchronize(stream), "feeding a prompt"));
  }
  return absl::OkStatus();
}

absl::Status MesaBench::Run(const SpanBatch& batch, int copy, size_t first_row, CudaStream stream) {
  const size_t size = DTypeBytes(type_), width = shape_.width();
  const MesaWeights weights{Floats(conv_),
                            Floats(conv_) + shape_.conv_size * width,
                            nullptr,
                            nullptr,
                            Floats(lambda_),
                            Floats(norm_),
                            1e-6f};
  MesaOperands operands;
  const std::byte* rows = rows_.data() + first_row * 4 * width * size;
  operands.q = rows, operands.k = rows + width * size, operands.v = rows + 2 * width * size;
  operands.gate = rows + 3 * width * size;
  operands.stride = static_cast<int>(4 * width);
  operands.beta = Floats(beta_) + first_row * shape_.num_heads;
  operands.gamma = Floats(gamma_) + first_row * shape_.num_heads;
  operands.scalar_stride = shape_.num_heads;
  operands.out = out_.data(), operands.type = type_, operands.state_type = state_;
  const StateParts slots{slots_.data(), SlotBytes(shape_, state_)};
  const StateParts tails{tails_.data(), TailBytes(shape_)};
  return gpu::Mesa(shape_, weights, batch.view(), slots, tails, operands,
                   reinterpret_cast<SpanTotals*>(stats_.data()), scratch_.data(), stream);
}

absl::Status MesaBench::RunDecode(int launch, CudaStream stream) {
  const int copy = launch % copies_, t = launch / copies_;
  // Each token has rows of its own: of one that came 16 times the systems would be other ones.
  return Run(decodes_[size_t(copy) * kBlockTokens + t], copy, size_t(spans_) * t, stream);
}

absl::Status MesaBench::RunPrompt(CudaStream stream) { return Run(prompts_[0], 0, 0, stream); }

absl::StatusOr<std::string> MesaBench::Solves(double* steps) {
  std::vector<SpanTotals> stats(spans_);
  const size_t bytes = stats.size() * sizeof(SpanTotals);
  BENCH_RETURN_IF_ERROR(gpu::CudaStatus(
      cudaMemcpy(stats.data(), stats_.data(), bytes, cudaMemcpyDeviceToHost), "statistics"));
  BENCH_RETURN_IF_ERROR(gpu::CudaStatus(cudaMemset(stats_.data(), 0, bytes), "statistics"));
  BENCH_RETURN_IF_ERROR(gpu::CudaStatus(cudaDeviceSynchronize(), "statistics"));
  double taken = 0, solves = 0, unconverged = 0;
  for (const SpanTotals& s : stats) {
    taken += s.solver_steps, solves += s.solver_solves, unconverged += s.solver_unconverged;
    if (s.not_finite != 0) return absl::InternalError("a solve is not finite");
  }
  const double mean = solves > 0 ? taken / solves : 0;
  if (steps != nullptr) *steps = mean;
  return absl::StrFormat("%.1f steps a solve to 1e-4, %.4f unconverged", mean,
                         solves > 0 ? unconverged / solves : 0);
}

namespace {

void DecodeRow(Bench* bench, const std::string& name, const std::string& shape_text, DType state,
               int batch, const MesaPrompts& prompts) {
  const MesaShape shape = bench->options().tiny ? kTinyMesa : kMesa;
  const Work work = MesaToken(shape, 2, static_cast<int>(DTypeBytes(state)), 15, true) * batch;
  bench->Launch(
      name, shape_text, {{work, Rate::kF32}}, [&](std::string* note) -> absl::StatusOr<double> {
        BENCH_ASSIGN(MesaBench mesa,
                     MesaBench::Make(bench, shape, DType::kBF16, state, batch, prompts, false));
        BENCH_ASSIGN(const double seconds,
                     bench->Time(
                         kBlockTokens * mesa.copies(),
                         [&](int i, CudaStream s) { return mesa.RunDecode(i, s); },
                         [&](CudaStream s) { return mesa.Rewind(s); }));
        BENCH_ASSIGN(const std::string solves, mesa.Solves());
        *note = absl::StrCat(mesa.copies(), " layers; ", solves);
        return seconds;
      });
}

}  // namespace

void BenchMesa(Bench* bench) {
  const bool tiny = bench->options().tiny;
  const MesaPrompts quick{tiny ? 16 : 64}, slow = tiny ? kTinySlowDecay : kSlowDecay;
  for (const DType state : {DType::kF32, DType::kBF16}) {
    const std::string name =
        absl::StrCat("mesa decode, 16 heads of 128, bf16, state ", DTypeName(state));
    for (const int batch : tiny ? std::vector<int>{2} : std::vector<int>{1, 64, 256}) {
      const std::string text = absl::StrCat("batch ", batch);
      DecodeRow(bench, name, text, state, batch, quick);
      if (batch == 1) continue;
      DecodeRow(bench, name, absl::StrCat(text, ", decay 0.99, behind ", slow.tokens, " tokens"),
                state, batch, slow);
    }
  }
}

}  // namespace packrat::gpu_bench
