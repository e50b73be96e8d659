#include "models/gpu/model.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"
#include "kernels/elementwise.h"
#include "models/files/checkpoint.h"
#include "models/gpu/device_batch.h"
#include "models/gpu/device_fit.h"
#include "models/gpu/device_state.h"
#include "models/gpu/flights.h"
#include "models/gpu/layer.h"
#include "models/gpu/memory.h"
#include "models/gpu/sampling_rows.h"
#include "models/gpu/step_graphs.h"
#include "models/gpu/weights.h"

namespace packrat::gpu {
namespace {

struct Layer {
  const float* mixer_norm;
  std::unique_ptr<Mixer> mixer;
  const float* feed_forward_norm;
  FeedForward feed_forward;
};

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
  const std::string& fingerprint() const override { return fingerprint_; }
  std::string numerics_id() const override;
  std::string device() const override { return device_.name; }

  absl::Status Start(const Batch& batch, const StateMemory& state,
                     absl::Span<const SamplingRow> rows) override;
  absl::Status Wait(SpanStats* stats, SampledToken* sampled) override;
  int max_steps_in_flight() const override { return kMaxStepsInFlight; }
  absl::StatusOr<float*> Forward(const Batch& batch, const StateMemory& state,
                                 SpanStats* stats) override;
  absl::StatusOr<std::unique_ptr<StateBuffer>> AllocateState(size_t bytes) override;
  size_t state_memory_limit() const override { return DeviceStateLimit(); }

 private:
  GpuModel(const ModelConfig& config, const ModelOptions& options, const GpuOptions& gpu_options,
           DType type, const DeviceInfo& device);
  void LoadLayers(DeviceWeights* weights);
  size_t CarveScratch(std::byte* base);
  absl::Status AllocateScratch();
  void CheckTokens(const Batch& batch) const;
  // A step up to the logits, or with `rows` up to the sampled tokens.
  absl::Status QueueStep(const Batch& batch, const StateMemory& state,
                         const absl::Span<const SamplingRow>* rows);
  absl::Status LaunchKernels(const StepSize& size);
  void CountScratch() {
    scratch_bytes_.store(
        scratch_memory_.size() + batch_->bytes() + sampling_->bytes() + matmul_->workspace_bytes(),
        std::memory_order_relaxed);
  }

  const ModelConfig config_;
  const ModelOptions options_;
  const GpuOptions gpu_options_;
  const DType type_;  // Of matrices and activations.
  const DeviceInfo device_;
  const StateLayout layout_;
  const Limits limits_;
  std::unique_ptr<DeviceWeights> weights_;
  size_t weight_bytes_ = 0;
  std::atomic<size_t> scratch_bytes_{0};  // Any thread may ask while a step makes it grow.
  std::string fingerprint_;
  Matrix embedding_, head_;  // head_ is the embedding where tied.
  std::vector<Layer> layers_;
  const float* final_norm_ = nullptr;

  std::unique_ptr<MatMul> matmul_;
  std::unique_ptr<DeviceBatch> batch_;
  std::unique_ptr<SamplingRows> sampling_;
  std::unique_ptr<Flights> flights_;
  DeviceMemory scratch_memory_;
  // Parts of it.
  float *x_ = nullptr, *logits_ = nullptr;
  std::byte *h_ = nullptr, *activations_ = nullptr;
  SpanTotals* stats_ = nullptr;
  RopeRows ropes_;
  KernelScratch scratch_;
  PinnedMemory host_logits_;
  StateMemory state_;  // That of the captured graphs.
  StepGraphs graphs_;
  cudaStream_t stream_ = nullptr;
};

Limits LimitsOf(const ModelConfig& config, const ModelOptions& options) {
  Limits limits;
  limits.tokens = options.max_batch_tokens;
  limits.spans = std::min(options.max_batch_tokens, options.max_logit_rows);
  limits.context = options.max_context > 0 ? std::min(options.max_context, config.max_context)
                                           : config.max_context;
  return limits;
}

GpuModel::GpuModel(const ModelConfig& config, const ModelOptions& options,
                   const GpuOptions& gpu_options, DType type, const DeviceInfo& device)
    : config_(config),
      options_(options),
      gpu_options_(gpu_options),
      type_(type),
      device_(device),
      layout_(config, {type, gpu_options.mesa_state}),
      limits_(LimitsOf(config, options)) {}

GpuModel::~GpuModel() {
  if (stream_ != nullptr) cudaStreamSynchronize(stream_);
  graphs_.Drop();
  if (stream_ != nullptr) cudaStreamDestroy(stream_);
}

void GpuModel::LoadLayers(DeviceWeights* weights) {
  const TensorNames& names = config_.names;
  const int d = config_.hidden_size;
  embedding_ = weights->Load(names.embedding, config_.vocab_size, d);
  for (size_t i = 0; i < config_.layers.size(); ++i) {
    const std::string prefix = absl::StrCat(names.layers, i, ".");
    const MixerLoad load{d,        config_.norm_eps,     type_,   gpu_options_.mesa_state,
                         limits_,  prefix + names.mixer, weights, &ropes_,
                         &scratch_};
    const float* mixer_norm = weights->Floats(prefix + names.mixer_norm, {d});
    auto mixer =
        std::visit([&](const auto& spec) { return LoadMixer(spec, load); }, config_.layers[i]);
    const float* norm = weights->Floats(prefix + names.feed_forward_norm, {d});
    layers_.push_back({mixer_norm, std::move(mixer), norm, FeedForward(config_, prefix, weights)});
  }
  final_norm_ = weights->Floats(names.final_norm, {d});
  head_ = config_.tie_embeddings ? embedding_ : weights->Load(names.head, config_.vocab_size, d);
}

// Hands out the parts of the scratch memory; without memory, tells how much that is.
size_t GpuModel::CarveScratch(std::byte* base) {
  const auto tokens = static_cast<size_t>(limits_.tokens);
  const auto rows = static_cast<size_t>(options_.max_logit_rows);
  const auto d = static_cast<size_t>(config_.hidden_size);
  size_t per_token = FeedForward::BytesPerToken(config_, type_);
  for (const Layer& layer : layers_) {
    per_token = std::max(per_token, layer.mixer->bytes_per_token());
  }
  Carver carver(base);
  x_ = carver.Take<float>(tokens * d);
  h_ = carver.Take<std::byte>(std::max(tokens, rows) * d * DTypeBytes(type_));
  activations_ = carver.Take<std::byte>(tokens * per_token + kActivationSlack);
  logits_ = carver.Take<float>(rows * config_.vocab_size);
  stats_ = carver.Take<SpanTotals>(limits_.spans);
  ropes_.Carve(limits_.tokens, &carver);
  scratch_.Carve(&carver);
  return carver.used();
}

absl::Status GpuModel::AllocateScratch() {
  auto memory = DeviceMemory::AllocateZeroed(CarveScratch(nullptr), "the scratch of a step");
  if (!memory.ok()) return memory.status();
  scratch_memory_ = *std::move(memory);
  CarveScratch(scratch_memory_.data());
  auto flights = Flights::Create(limits_.spans);
  if (!flights.ok()) return flights.status();
  flights_ = *std::move(flights);
  auto batch = DeviceBatch::Create(layout_, limits_, options_.max_logit_rows);
  if (!batch.ok()) return batch.status();
  batch_ = *std::move(batch);
  auto sampling = SamplingRows::Create(options_.max_logit_rows);
  if (!sampling.ok()) return sampling.status();
  sampling_ = *std::move(sampling);
  auto matmul = MatMul::Create({gpu_options_.deterministic});
  if (!matmul.ok()) return matmul.status();
  matmul_ = *std::move(matmul);
  CountScratch();
  absl::Status status =
      CudaStatus(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "making a stream");
  if (!status.ok()) return status;
  return ropes_.Upload();
}

absl::Status GpuModel::LaunchKernels(const StepSize& size) {
  const int d = config_.hidden_size;
  const float eps = config_.norm_eps;
  const Step step{batch_->View(size),
                  state_,
                  layout_,
                  batch_->tables(),
                  stats_,
                  activations_,
                  ropes_,
                  scratch_,
                  matmul_.get(),
                  stream_,
                  type_};
  absl::Status status = CudaStatus(
      cudaMemsetAsync(stats_, 0, size.spans * sizeof(SpanTotals), stream_), "clearing statistics");
  if (!status.ok()) return status;
  status = Embed(embedding_.data, type_, batch_->tokens(), sampling_->device_results(), size.tokens,
                 d, x_, stream_);
  if (!status.ok()) return status;
  if (status = ropes_.Fill(step.batch, stream_); !status.ok()) return status;
  for (size_t i = 0; i < layers_.size(); ++i) {
    const Layer& layer = layers_[i];
    status = RmsNorm(x_, size.tokens, d, layer.mixer_norm, eps, h_, type_, stream_);
    if (!status.ok()) return status;
    if (status = layer.mixer->Forward(step, layout_.layers[i], h_, x_); !status.ok()) return status;
    status = RmsNorm(x_, size.tokens, d, layer.feed_forward_norm, eps, h_, type_, stream_);
    if (!status.ok()) return status;
    if (status = layer.feed_forward.Forward(step, h_, x_); !status.ok()) return status;
  }
  status = CheckFinite(step.batch, x_, d, stats_, stream_);
  if (!status.ok() || size.rows == 0) return status;
  status = RmsNormRows(x_, batch_->rows(), size.rows, d, final_norm_, eps, h_, type_, stream_);
  if (!status.ok()) return status;
  status = matmul_->Run({&head_, h_, size.rows, logits_, DType::kF32}, stream_);
  if (!status.ok() || !size.sampled) return status;
  return sampling_->Launch(size.rows, config_.vocab_size, logits_, stream_);
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

absl::Status GpuModel::QueueStep(const Batch& batch, const StateMemory& state,
                                 const absl::Span<const SamplingRow>* rows) {
  CheckTokens(batch);
  StepSize size = SizeFor(batch, limits_, options_.max_logit_rows);
  size.sampled = rows != nullptr && !rows->empty();
  const int turn = flights_->turn();
  absl::Status status = batch_->Upload(batch, size, turn, stream_);
  if (!status.ok()) return status;
  bool moved = false;
  if (size.sampled) status = sampling_->Upload(*rows, size.rows, turn, stream_, &moved);
  if (!status.ok()) return status;
  if (moved) CountScratch();
  if (moved || state.slots != state_.slots || state.tails != state_.tails ||
      state.pages != state_.pages) {
    status = CudaStatus(cudaStreamSynchronize(stream_), "running a step");
    if (!status.ok()) return status;
    graphs_.Drop();  // They hold other addresses.
    state_ = state;
  }
  if (size.max_span_tokens > 1 || !gpu_options_.graphs) {
    status = LaunchKernels(size);
  } else {
    status = graphs_.Launch(size, stream_, [&] { return LaunchKernels(size); });
  }
  return status;
}

absl::Status GpuModel::Start(const Batch& batch, const StateMemory& state,
                             absl::Span<const SamplingRow> rows) {
  const int turn = flights_->turn();
  const int sampled = static_cast<int>(rows.size());
  absl::Status status = QueueStep(batch, state, &rows);
  if (status.ok() && sampled > 0) status = sampling_->Download(sampled, turn, stream_);
  return status.ok() ? flights_->Start(batch.num_spans, sampled, stats_, stream_) : status;
}

absl::Status GpuModel::Wait(SpanStats* stats, SampledToken* sampled) {
  int turn, rows;
  absl::Status status = flights_->Finish(stats, &turn, &rows);
  if (status.ok()) std::copy_n(sampling_->results(turn), rows, sampled);
  return status;
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
  absl::Status status = QueueStep(batch, state, nullptr);
  if (!status.ok()) return status;
  size_t rows = 0;
  for (int i = 0; i < batch.num_spans; ++i) rows += batch.spans[i].num_logits;
  auto* logits = reinterpret_cast<float*>(host_logits_.data());
  status = CudaStatus(
      cudaMemcpyAsync(logits, logits_, rows * row_bytes, cudaMemcpyDeviceToHost, stream_),
      "copying logits");
  if (status.ok()) status = flights_->Start(batch.num_spans, 0, stats_, stream_);
  int turn, sampled;
  if (status.ok()) status = flights_->Finish(stats, &turn, &sampled);
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
  constexpr int kRevision = 1;
  return absl::StrCat("cuda-sm", device_.compute_major, device_.compute_minor, "-",
                      DTypeName(type_), "-mesa-", DTypeName(gpu_options_.mesa_state),
                      gpu_options_.deterministic ? "-deterministic" : "", "-r", kRevision);
}

absl::StatusOr<std::unique_ptr<StateBuffer>> GpuModel::AllocateState(size_t bytes) {
  return AllocateDeviceState(bytes, stream_);
}

absl::StatusOr<std::unique_ptr<LanguageModel>> GpuModel::Load(const std::string& dir,
                                                              const ModelOptions& options,
                                                              const GpuOptions& gpu_options) {
  auto config = LoadModelConfig(dir);
  if (!config.ok()) return config.status();
  if (config->vocab_size > kMaxSampledVocab) {
    return absl::InvalidArgumentError(absl::StrCat(dir, "/config.json: vocab_size is ",
                                                   config->vocab_size, "; on a GPU at most ",
                                                   kMaxSampledVocab, " (the CPU takes more)"));
  }
  auto checkpoint = Checkpoint::Open(dir);
  if (!checkpoint.ok()) return checkpoint.status();
  auto device = OpenDevice();
  if (!device.ok()) return device.status();
  absl::Status status = CheckSharedMemory(*config, gpu_options.mesa_state, *device);
  if (!status.ok()) return status;
  const DType type = ActivationType(**checkpoint);
  const size_t bytes = WeightBytes(**checkpoint, type);
  std::unique_ptr<GpuModel> model(new GpuModel(*config, options, gpu_options, type, *device));
  const int context = model->limits_.context;
  // Scratch is known when the layers are there.
  status = CheckMemory(bytes, 0, model->layout_, context, *device);
  if (!status.ok()) return status;
  WeightLoader loader(checkpoint->get());
  auto weights = DeviceWeights::Create(&loader, type, bytes, gpu_options.progress);
  if (!weights.ok()) return weights.status();
  model->weights_ = *std::move(weights);
  model->LoadLayers(model->weights_.get());
  if (status = model->weights_->Finish(); !status.ok()) return status;
  model->weight_bytes_ = bytes;
  model->fingerprint_ = Fingerprint(*config, loader.hash());
  status = CheckMemory(bytes, model->CarveScratch(nullptr), model->layout_, context, *device);
  if (!status.ok()) return status;
  if (status = model->AllocateScratch(); !status.ok()) return status;
  return model;
}

}  // namespace

absl::Status DeviceUsable() { return OpenDevice().status(); }

absl::StatusOr<std::unique_ptr<LanguageModel>> LoadGpuModel(const std::string& dir,
                                                            const ModelOptions& options,
                                                            const GpuOptions& gpu_options) {
  return GpuModel::Load(dir, options, gpu_options);
}

}  // namespace packrat::gpu
