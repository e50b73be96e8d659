#include "models/gpu/model.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"
#include "kernels/cublas_lt.h"
#include "kernels/elementwise.h"
#include "kernels/resources.h"
#include "kernels/sampling.h"
#include "models/gpu/device.h"
#include "models/gpu/device_batch.h"
#include "models/gpu/device_state.h"
#include "models/gpu/flights.h"
#include "models/gpu/memory.h"
#include "models/gpu/step_graphs.h"
#include "models/gpu/weights.h"
#include "models/layer_stack.h"
#include "models/model_folder.h"

namespace packrat::gpu {
namespace {

class GpuModel : public LanguageModel {
 public:
  static absl::StatusOr<std::unique_ptr<LanguageModel>> Load(const std::string& dir,
                                                             const ModelOptions& options,
                                                             const GpuOptions& gpu_options);
  ~GpuModel() override;

  const ModelConfig& config() const override { return config_; }
  const StateLayout& state_layout() const override { return layout_; }
  const ModelOptions& options() const override { return options_; }
  size_t weight_bytes() const override { return weight_bytes_; }
  size_t scratch_bytes() const override { return scratch_bytes_.load(std::memory_order_relaxed); }
  const std::vector<std::string>& fingerprints() const override { return fingerprints_; }
  std::string numerics_id() const override;
  std::string device() const override { return info_.name; }

  absl::Status ReserveSampling(size_t list_bytes) override;
  absl::Status Start(const Batch& batch, const StateMemory& state,
                     absl::Span<const SamplingRow> rows) override;
  absl::Status Wait(SpanStats* stats, SampledToken* sampled) override;
  int max_steps_in_flight() const override { return kMaxStepsInFlight; }
  absl::StatusOr<float*> Forward(const Batch& batch, const StateMemory& state,
                                 SpanStats* stats) override;
  absl::StatusOr<std::unique_ptr<StateBuffer>> AllocateState(size_t bytes) override;
  size_t state_memory_limit() const override { return DeviceStateLimit(); }

 private:
  // With weights that only measure, it can only say what it will take.
  GpuModel(const ModelConfig& config, const ModelOptions& options, const GpuOptions& gpu_options,
           const DeviceInfo& info, std::unique_ptr<GpuWeights> weights);
  // FAILED_PRECONDITION, or RESOURCE_EXHAUSTED with the plan: the device has too little for it.
  absl::Status CheckFit(size_t weight_bytes);
  absl::Status AllocateScratch();
  void CheckTokens(const Batch& batch) const;
  // A step up to the sampled tokens, or where there are no `rows` up to the logits.
  absl::Status QueueStep(const Batch& batch, const StepSize& size, const StateMemory& state,
                         absl::Span<const SamplingRow> rows);
  absl::Status LaunchKernels(const StepSize& size);
  void CountScratch() {
    scratch_bytes_.store(
        scratch_memory_.size() + batch_->bytes() + flights_->bytes() + device_->workspace_bytes(),
        std::memory_order_relaxed);
  }

  const ModelConfig config_;
  const ModelOptions options_;
  const GpuOptions gpu_options_;
  const DeviceInfo info_;
  const StateLayout layout_;
  const Limits limits_;
  const std::unique_ptr<GpuWeights> weights_;
  const std::unique_ptr<GpuDevice> device_;
  LayerStack stack_;
  size_t weight_bytes_ = 0;
  std::atomic<size_t> scratch_bytes_{0};  // Any thread may ask while a request makes it grow.
  std::vector<std::string> fingerprints_;

  std::unique_ptr<DeviceBatch> batch_;
  std::unique_ptr<Flights> flights_;
  DeviceMemory scratch_memory_;
  PinnedMemory host_logits_;
  absl::Status state_error_;       // Of its copies, which do not wait.
  StateMemory state_;              // That of the captured graphs...
  std::vector<PageMemory> pages_;  // ...with the places of pages as they were then.
  StepGraphs graphs_;
};

Limits LimitsOf(const ModelConfig& config, const ModelOptions& options) {
  Limits limits;
  limits.tokens = options.max_batch_tokens;
  limits.rows = options.max_logit_rows;
  limits.spans = std::min(options.max_batch_tokens, options.max_logit_rows);
  limits.context = options.max_context > 0 ? std::min(options.max_context, config.max_context)
                                           : config.max_context;
  return limits;
}

GpuModel::GpuModel(const ModelConfig& config, const ModelOptions& options,
                   const GpuOptions& gpu_options, const DeviceInfo& info,
                   std::unique_ptr<GpuWeights> weights)
    : config_(config),
      options_(options),
      gpu_options_(gpu_options),
      info_(info),
      layout_(config_, {weights->type(), gpu_options.state_type}),
      limits_(LimitsOf(config, options)),
      weights_(std::move(weights)),
      device_(std::make_unique<GpuDevice>(info, limits_, weights_->type(), gpu_options.state_type)),
      stack_(config_, layout_, device_.get(), weights_.get()) {}

GpuModel::~GpuModel() {
  if (device_->stream() != nullptr) cudaStreamSynchronize(device_->stream());
  graphs_.Drop();
}

absl::Status GpuModel::CheckFit(size_t weight_bytes) {
  if (!device_->plan_status().ok()) return device_->plan_status();
  const size_t scratch = stack_.Carve(limits_, nullptr);
  if (weight_bytes + scratch <= info_.free_bytes) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat("too little device memory: ", info_.name, " has ", MiB(info_.free_bytes), " of ",
                   MiB(info_.total_bytes), " free; weights take ", MiB(weight_bytes), ", scratch ",
                   MiB(scratch), ", the state of one sequence of ", limits_.context, " tokens ",
                   MiB(layout_.BytesOfAny(limits_.context))));
}

absl::Status GpuModel::AllocateScratch() {
  auto memory =
      DeviceMemory::AllocateZeroed(stack_.Carve(limits_, nullptr), "the scratch of a step");
  if (!memory.ok()) return memory.status();
  scratch_memory_ = *std::move(memory);
  stack_.Carve(limits_, scratch_memory_.data());
  auto flights = Flights::Create(limits_.spans, limits_.rows);
  if (!flights.ok()) return flights.status();
  flights_ = *std::move(flights);
  device_->SetSampled(flights_->sampled());
  auto batch = DeviceBatch::Create(config_, layout_, limits_, device_->attend_kinds());
  if (!batch.ok()) return batch.status();
  batch_ = *std::move(batch);
  absl::Status status = device_->Open(gpu_options_.deterministic);
  if (!status.ok()) return status;
  CountScratch();
  return device_->FillTables();
}

absl::Status GpuModel::LaunchKernels(const StepSize& size) {
  device_->SetOverlap(gpu_options_.overlap_kernels && size.max_span_tokens <= 1);
  absl::Status status =
      stack_.Forward({batch_->View(), batch_->DialViews(), batch_->tokens(), batch_->rows(),
                      size.rows, state_, batch_->tables(), flights_->totals(size.spans)},
                     options_.observe);
  if (!status.ok() || !size.sampled) return status;
  return Sample(batch_->sampling(), size.rows, config_.vocab_size, stack_.logits(),
                flights_->sampled(), device_->step_stream());
}

void GpuModel::CheckTokens(const Batch& batch) const {
  const int rows = flights_->rows_before();
  for (int t = 0; t < batch.num_tokens; ++t) {
    const int32_t token = batch.tokens[t];
    PACKRAT_CHECK(IsSampledInRow(token) ? RowOf(token) < rows
                                        : token >= 0 && token < config_.vocab_size)
        << token;
  }
}

absl::Status GpuModel::QueueStep(const Batch& batch, const StepSize& size, const StateMemory& state,
                                 absl::Span<const SamplingRow> rows) {
  CheckTokens(batch);
  if (!state_error_.ok()) return state_error_;
  absl::Status status = batch_->Upload(batch, rows, size, flights_->turn(), device_->stream());
  if (!status.ok()) return status;
  const size_t classes = layout_.page_classes.size();
  if (state.slots != state_.slots || state.tails != state_.tails ||
      !std::equal(pages_.begin(), pages_.end(), state.pages, state.pages + classes)) {
    status = CudaStatus(cudaStreamSynchronize(device_->stream()), "running a step");
    if (!status.ok()) return status;
    graphs_.Drop();  // They hold other addresses.
    pages_.assign(state.pages, state.pages + classes);
    state_ = {state.slots, state.tails, pages_.data()};
  }
  if (size.max_span_tokens > 1 || !gpu_options_.graphs || options_.observe) {
    status = LaunchKernels(size);
  } else {
    status = graphs_.Launch(size, device_->stream(), [&] { return LaunchKernels(size); });
  }
  return status;
}

absl::Status GpuModel::ReserveSampling(size_t list_bytes) {
  bool moved = false;
  absl::Status status = batch_->Reserve(list_bytes, device_->stream(), &moved);
  if (!moved) return status;
  graphs_.Drop();  // They hold other addresses.
  CountScratch();
  return absl::OkStatus();
}

absl::Status GpuModel::Start(const Batch& batch, const StateMemory& state,
                             absl::Span<const SamplingRow> rows) {
  StepSize size = SizeFor(batch, limits_);
  size.sampled = !rows.empty();
  absl::Status status = QueueStep(batch, size, state, rows);
  if (!status.ok()) return status;
  return flights_->Start(size.spans, batch.num_spans, static_cast<int>(rows.size()),
                         device_->stream());
}

absl::Status GpuModel::Wait(SpanStats* stats, SampledToken* sampled) {
  return flights_->Finish(stats, sampled);
}

absl::StatusOr<float*> GpuModel::Forward(const Batch& batch, const StateMemory& state,
                                         SpanStats* stats) {
  PACKRAT_CHECK(flights_->none(), "a step is in flight");
  const size_t row_bytes = config_.vocab_size * sizeof(float);
  if (host_logits_.size() == 0) {  // Only tools and tests ask for logits.
    auto memory = PinnedMemory::Allocate(options_.max_logit_rows * row_bytes, "logits");
    if (!memory.ok()) return memory.status();
    host_logits_ = *std::move(memory);
  }
  const StepSize size = SizeFor(batch, limits_);
  absl::Status status = QueueStep(batch, size, state, {});
  if (!status.ok()) return status;
  size_t rows = 0;
  for (int i = 0; i < batch.num_spans; ++i) rows += batch.spans[i].num_logits;
  auto* logits = reinterpret_cast<float*>(host_logits_.data());
  status = CudaStatus(cudaMemcpyAsync(logits, stack_.logits(), rows * row_bytes,
                                      cudaMemcpyDeviceToHost, device_->stream()),
                      "copying logits");
  if (status.ok()) status = flights_->Start(size.spans, batch.num_spans, 0, device_->stream());
  if (status.ok()) status = flights_->Finish(stats, nullptr);
  if (!status.ok()) return status;
  const float* row = logits;
  for (int i = 0; i < batch.num_spans; ++i) {
    const size_t values = static_cast<size_t>(batch.spans[i].num_logits) * config_.vocab_size;
    if (!AllFinite(row, values)) stats[i].finite = false;
    row += values;
  }
  return logits;
}

std::string GpuModel::numerics_id() const {
  // Raise it with every change of what is added to what, or in which order, in any kernel.
  constexpr int kRevision = 3;
  return absl::StrCat("cuda-sm", info_.compute_major, info_.compute_minor, "-",
                      DTypeName(weights_->type()), "-state-", DTypeName(gpu_options_.state_type),
                      gpu_options_.deterministic ? "-deterministic" : "", "-r", kRevision,
                      weights_->formats().Id());
}

absl::StatusOr<std::unique_ptr<StateBuffer>> GpuModel::AllocateState(size_t bytes) {
  return AllocateDeviceState(bytes, device_->stream(), &state_error_);
}

absl::StatusOr<std::unique_ptr<LanguageModel>> GpuModel::Load(const std::string& dir,
                                                              const ModelOptions& options,
                                                              const GpuOptions& gpu_options) {
  auto folder = OpenModelFolder(dir, options.choices);
  if (!folder.ok()) return folder.status();
  const ModelConfig& config = folder->config;
  if (config.vocab_size > kMaxSampledVocab) {
    return absl::InvalidArgumentError(absl::StrCat(dir, "/config.json: vocab_size is ",
                                                   config.vocab_size, "; on a GPU at most ",
                                                   kMaxSampledVocab, " (the CPU takes more)"));
  }
  auto info = OpenDevice();
  if (!info.ok()) return info.status();
  if (gpu_options.overlap_kernels && info->compute_major < 9) {
    return absl::FailedPreconditionError(
        absl::StrCat("--overlap_kernels needs compute capability 9.0; ", info->name, " has ",
                     info->compute_major, ".", info->compute_minor));
  }
  const Checkpoint& checkpoint = *folder->checkpoint;
  const DType type = ActivationType(checkpoint);
  // What it will take is known before gigabytes are read.
  WeightLoader measure(&checkpoint, WeightLoader::Mode::kMeasure);
  GpuModel plan(config, options, gpu_options, *info,
                std::make_unique<GpuWeights>(&measure, config.tie_embeddings, type, options));
  if (absl::Status status = measure.Finish(); !status.ok()) return status;
  const size_t bytes = plan.weights_->planned_bytes();
  if (absl::Status status = plan.CheckFit(bytes); !status.ok()) return status;
  WeightLoader loader(&checkpoint);
  auto weights = GpuWeights::Create(&loader, config.tie_embeddings, type, options, bytes,
                                    gpu_options.progress);
  if (!weights.ok()) return weights.status();
  std::unique_ptr<GpuModel> model(
      new GpuModel(config, options, gpu_options, *info, *std::move(weights)));
  if (absl::Status status = model->weights_->Finish(); !status.ok()) return status;
  model->weight_bytes_ = bytes;
  model->fingerprints_ = Fingerprints(config, loader.hash());
  if (absl::Status status = model->AllocateScratch(); !status.ok()) return status;
  return model;
}

}  // namespace

absl::Status DeviceUsable() {
  const absl::Status device = OpenDevice().status();
  return device.ok() ? OpenCublasLt() : device;
}

absl::StatusOr<std::unique_ptr<LanguageModel>> LoadGpuModel(const std::string& dir,
                                                            const ModelOptions& options,
                                                            const GpuOptions& gpu_options) {
  return GpuModel::Load(dir, options, gpu_options);
}

}  // namespace packrat::gpu
