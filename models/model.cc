#include "models/model.h"

#include <algorithm>
#include <new>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"
#include "kernels/cpu_target.h"
#include "kernels/elementwise.h"
#include "kernels/resources.h"
#include "models/files/checkpoint.h"
#include "models/host_model.h"
#include "models/layer.h"
#include "models/weights.h"

namespace packrat {
namespace {

struct Layer {
  std::vector<float> mixer_norm;
  std::unique_ptr<Mixer> mixer;
  std::vector<float> feed_forward_norm;
  FeedForward feed_forward;
};

class CpuModel : public HostModel {
 public:
  // With a loader that only measures, there is nothing but planned_scratch_bytes() to ask for.
  CpuModel(const ModelConfig& config, const ModelOptions& options, WeightLoader* weights)
      : config_(config),
        options_(options),
        layout_(config),
        ropes_(options.max_batch_tokens, weights->mode() == WeightLoader::Mode::kLoad) {
    const TensorNames& names = config_.names;
    const int d = config_.hidden_size;
    embedding_ = weights->Matrix(names.embedding, config_.vocab_size, d);
    for (size_t i = 0; i < config_.layers.size(); ++i) {
      const std::string prefix = absl::StrCat(names.layers, i, ".");
      std::vector<float> mixer_norm = weights->Floats(prefix + names.mixer_norm, {d});
      const MixerLoad load{d, config_.norm_eps, prefix + names.mixer, weights, &ropes_};
      auto mixer =
          std::visit([&](const auto& spec) { return LoadMixer(spec, load); }, config_.layers[i]);
      std::vector<float> ff_norm = weights->Floats(prefix + names.feed_forward_norm, {d});
      layers_.push_back({std::move(mixer_norm), std::move(mixer), std::move(ff_norm),
                         FeedForward(config_, prefix, weights)});
    }
    final_norm_ = weights->Floats(names.final_norm, {d});
    if (!config_.tie_embeddings) head_ = weights->Matrix(names.head, config_.vocab_size, d);
    weight_bytes_ = weights->bytes();
  }

  // After the weights are known to be good: what a forward pass needs.
  void AllocateScratch(std::string fingerprint) {
    fingerprint_ = std::move(fingerprint);
    const auto tokens = static_cast<size_t>(options_.max_batch_tokens);
    const ScratchSizes sizes = Sizes();
    activations_ = AlignedFloats(sizes.floats);
    spans_.resize(tokens);
    totals_.resize(tokens);
    rows_.resize(options_.max_logit_rows);
    tables_.assign(layout_.page_classes.size(), std::vector<PageTable>(tokens));
    x_ = AlignedFloats(sizes.x);
    h_ = AlignedFloats(sizes.h);
    logits_ = AlignedFloats(sizes.logits);
    context_ = std::make_unique<KernelContext>(options_.threads, sizes.packed, sizes.per_thread);
    TakeSamplers(config_.vocab_size, &context_->pool);
  }

  size_t planned_scratch_bytes() const {
    const ScratchSizes sizes = Sizes();
    return (sizes.floats + sizes.x + sizes.h + sizes.logits) * sizeof(float) +
           KernelContext::Bytes(options_.threads, sizes.packed, sizes.per_thread) + ropes_.bytes() +
           options_.threads * Sampler::Bytes(config_.vocab_size);
  }

  const ModelConfig& config() const override { return config_; }
  const StateLayout& state_layout() const override { return layout_; }
  const ModelOptions& options() const override { return options_; }
  size_t weight_bytes() const override { return weight_bytes_; }
  const std::string& fingerprint() const override { return fingerprint_; }
  size_t scratch_bytes() const override {
    return (activations_.size() + x_.size() + h_.size() + logits_.size()) * sizeof(float) +
           context_->bytes() + ropes_.bytes() +
           options_.threads * Sampler::Bytes(config_.vocab_size);
  }

  absl::StatusOr<float*> Forward(const Batch& batch, const StateMemory& state,
                                 SpanStats* stats) override {
    CheckBatch(batch);
    const int d = config_.hidden_size, tokens = batch.num_tokens;
    float *x = x_.data(), *h = h_.data();
    for (int t = 0; t < tokens; ++t) {
      embedding_.CopyRow(batch.tokens[t], x + static_cast<size_t>(t) * d);
    }
    const BatchView view = View(batch);
    ropes_.Fill(view, context_.get());
    std::fill_n(totals_.begin(), batch.num_spans, SpanTotals());
    const Step step{view,          state, layout_, tables_, totals_.data(), activations_.data(),
                    context_.get()};
    const auto observe = [&](int layer, LayerPart part) {
      if (options_.observe) options_.observe(layer, part, x);
    };
    observe(-1, LayerPart::kFeedForward);
    for (size_t i = 0; i < layers_.size(); ++i) {
      Layer& layer = layers_[i];
      Norm(layer.mixer_norm, tokens, h);
      layer.mixer->Forward(step, layout_.layers[i], h, x);
      observe(static_cast<int>(i), LayerPart::kMixer);
      Norm(layer.feed_forward_norm, tokens, h);
      layer.feed_forward.Forward(step, h, x);
      observe(static_cast<int>(i), LayerPart::kFeedForward);
    }
    return Logits(view, batch, stats);
  }

 private:
  // The batch as the kernels see it.
  BatchView View(const Batch& batch) {
    BatchView view;
    view.spans = spans_.data();
    view.num_spans = batch.num_spans;
    view.num_tokens = batch.num_tokens;
    for (int i = 0; i < batch.num_spans; ++i) {
      const Span& span = batch.spans[i];
      spans_[i] = {span.first_token, span.num_tokens, span.position,     span.slot_in,
                   span.slot_out,    span.tail,       span.cg_tolerance, span.cg_max_steps};
      for (size_t c = 0; c < tables_.size(); ++c) tables_[c][i] = span.pages[c];
      view.max_span_tokens = std::max(view.max_span_tokens, span.num_tokens);
      view.max_context = std::max(view.max_context, span.position + span.num_tokens);
    }
    return view;
  }

  void Norm(const std::vector<float>& weight, int tokens, float* h) {
    const absl::Status status = RmsNorm(x_.data(), tokens, config_.hidden_size, weight.data(),
                                        config_.norm_eps, h, DType::kF32, context_.get());
    PACKRAT_CHECK(status.ok());
  }

  // Floats of each part.
  struct ScratchSizes {
    size_t floats, x, h, logits, packed, per_thread;
  };
  ScratchSizes Sizes() const {
    const auto tokens = static_cast<size_t>(options_.max_batch_tokens);
    const auto rows = static_cast<size_t>(options_.max_logit_rows);
    const auto d = static_cast<size_t>(config_.hidden_size);
    size_t per_token = FeedForward::ScratchFloatsPerToken(config_), per_thread = 0;
    int linear = std::max(config_.hidden_size, config_.intermediate_size);
    for (const Layer& layer : layers_) {
      per_token = std::max(per_token, layer.mixer->scratch_floats_per_token());
      per_thread = std::max(per_thread, layer.mixer->thread_scratch_floats());
      linear = std::max(linear, layer.mixer->max_linear_inputs());
    }
    return {tokens * per_token,
            tokens * d,
            std::max(tokens, rows) * d,
            rows * config_.vocab_size,
            std::max(tokens, rows) * linear,
            per_thread};
  }

  void CheckBatch(const Batch& batch) const {
    PACKRAT_CHECK(batch.num_tokens <= options_.max_batch_tokens) << batch.num_tokens;
    int next = 0, rows = 0;
    for (int i = 0; i < batch.num_spans; ++i) {
      const Span& span = batch.spans[i];
      PACKRAT_CHECK(span.first_token == next && span.num_tokens > 0, "spans are not back to back");
      PACKRAT_CHECK(span.num_logits >= 0 && span.num_logits <= span.num_tokens);
      PACKRAT_CHECK(layout_.slot_bytes == 0 || (span.slot_in >= 0 && span.slot_out >= 0));
      next += span.num_tokens;
      rows += span.num_logits;
    }
    PACKRAT_CHECK(next == batch.num_tokens, "spans do not cover the tokens");
    PACKRAT_CHECK(rows <= options_.max_logit_rows) << rows << " rows of logits";
    for (int t = 0; t < batch.num_tokens; ++t) {
      PACKRAT_CHECK(batch.tokens[t] >= 0 && batch.tokens[t] < config_.vocab_size)
          << batch.tokens[t];
    }
  }

  // Final norm and output matrix for the rows that were asked for.
  float* Logits(const BatchView& view, const Batch& batch, SpanStats* stats) {
    const int d = config_.hidden_size;
    const auto vocab = static_cast<size_t>(config_.vocab_size);
    float* h = h_.data();
    int rows = 0;
    absl::Status status = CheckFinite(view, x_.data(), d, totals_.data(), context_.get());
    PACKRAT_CHECK(status.ok());
    for (int i = 0; i < batch.num_spans; ++i) {
      const Span& span = batch.spans[i];
      stats[i] = SpanStats(totals_[i]);
      for (int t = span.num_tokens - span.num_logits; t < span.num_tokens; ++t) {
        rows_[rows++] = span.first_token + t;
      }
    }
    float* logits = logits_.data();
    if (rows == 0) return logits;
    status = RmsNormRows(x_.data(), rows_.data(), rows, d, final_norm_.data(), config_.norm_eps, h,
                         DType::kF32, context_.get());
    PACKRAT_CHECK(status.ok());
    const PackedMatrix& head = config_.tie_embeddings ? embedding_ : head_;
    MatMul(h, d, rows, {{&head, logits, config_.vocab_size}}, context_.get());
    const float* row = logits;
    for (int i = 0; i < batch.num_spans; ++i) {
      const size_t values = batch.spans[i].num_logits * vocab;
      if (!AllFinite(row, values)) stats[i].finite = false;
      row += values;
    }
    return logits;
  }

  const ModelConfig config_;
  const ModelOptions options_;
  const StateLayout layout_;
  RopeTables ropes_;
  PackedMatrix embedding_, head_;  // head_ is empty where tied.
  std::vector<Layer> layers_;
  std::vector<float> final_norm_;
  size_t weight_bytes_ = 0;
  std::string fingerprint_;
  AlignedFloats x_, h_, logits_;  // Residual stream, normed input, (max_logit_rows, vocab_size).
  AlignedFloats activations_;
  std::vector<BatchSpan> spans_;  // Room for max_batch_tokens each.
  std::vector<SpanTotals> totals_;
  std::vector<std::vector<PageTable>> tables_;  // Per page class: (spans).
  std::vector<int32_t> rows_;                   // Tokens whose logits are wanted.
  std::unique_ptr<KernelContext> context_;
};

absl::Status CheckOption(const char* name, int value, int low, int high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(name, " must be in [", low, ", ", high, "], got ", value));
}

}  // namespace

const RopeTables::Table* RopeTables::Get(double base, int head_dim, int divisor) {
  for (const auto& t : tables_) {
    if (t->base == base && t->head_dim == head_dim && t->divisor == divisor) return t.get();
  }
  const size_t floats = allocate_ ? static_cast<size_t>(max_tokens_) * head_dim : 0;
  tables_.push_back(std::make_unique<Table>(
      Table{base, head_dim, divisor, RopeFrequencies(base, head_dim), AlignedFloats(floats)}));
  return tables_.back().get();
}

void RopeTables::Fill(const BatchView& batch, KernelContext* context) {
  for (const auto& t : tables_) {
    const absl::Status status =
        FillRope(batch, t->frequencies.data(), t->head_dim, t->divisor, t->rows.data(), context);
    PACKRAT_CHECK(status.ok());
  }
}

size_t RopeTables::bytes() const {
  size_t bytes = 0;
  for (const auto& table : tables_) bytes += sizeof(float) * table->head_dim * max_tokens_;
  return bytes;
}

namespace {

// A model's files, open, and what they will take.
struct OpenModel {
  ModelOptions options;  // With its defaults resolved.
  std::unique_ptr<Checkpoint> checkpoint;
  ModelMemory memory;
};

absl::StatusOr<OpenModel> OpenFiles(const std::string& dir, const ModelOptions& options,
                                    const Resources& resources) {
  for (const absl::Status& status :
       {CheckOption("max_batch_tokens", options.max_batch_tokens, 1, 1 << 16),
        CheckOption("max_logit_rows", options.max_logit_rows, 1, 1 << 16),
        CheckOption("threads", options.threads, 0, 1024)}) {
    if (!status.ok()) return status;
  }
  OpenModel open;
  open.options = options;
  if (options.threads == 0) open.options.threads = resources.DefaultThreads();
  auto config = LoadModelConfig(dir);
  if (!config.ok()) return config.status();
  open.memory.config = *std::move(config);
  auto checkpoint = Checkpoint::Open(dir);
  if (!checkpoint.ok()) return checkpoint.status();
  open.checkpoint = *std::move(checkpoint);
  WeightLoader weights(open.checkpoint.get(), WeightLoader::Mode::kMeasure);
  const CpuModel model(open.memory.config, open.options, &weights);
  if (absl::Status status = weights.Finish(); !status.ok()) return status;
  open.memory.weight_bytes = weights.bytes();
  open.memory.scratch_bytes = model.planned_scratch_bytes();
  return open;
}

}  // namespace

absl::StatusOr<ModelMemory> MeasureModel(const std::string& dir, const ModelOptions& options) {
  auto open = OpenFiles(dir, options, ReadResources());
  if (!open.ok()) return open.status();
  return open->memory;
}

absl::StatusOr<std::unique_ptr<LanguageModel>> LoadModel(const std::string& dir,
                                                         const ModelOptions& options) {
  const Resources resources = ReadResources();
  auto open = OpenFiles(dir, options, resources);
  if (!open.ok()) return open.status();
  const ModelMemory& memory = open->memory;
  const std::string plan = absl::StrCat(dir, ": weights (", MiB(memory.weight_bytes),
                                        ") and scratch (", MiB(memory.scratch_bytes), ") take");
  const auto bytes = static_cast<int64_t>(memory.weight_bytes + memory.scratch_bytes);
  if (absl::Status status = resources.CheckAvailable(bytes, plan); !status.ok()) return status;
  // What was counted may yet be refused, by a limit that nobody told of.
  try {
    WeightLoader weights(open->checkpoint.get());
    auto model = std::make_unique<CpuModel>(memory.config, open->options, &weights);
    if (absl::Status status = weights.Finish(); !status.ok()) return status;
    model->AllocateScratch(Fingerprint(memory.config, weights.hash()));
    return model;
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError(
        absl::StrCat(plan, " ", MiB(bytes), ", and the system refuses so much"));
  }
}

}  // namespace packrat
