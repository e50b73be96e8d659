#include "models/cpu_model.h"

#include <algorithm>
#include <map>
#include <new>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/aligned.h"
#include "kernels/check.h"
#include "kernels/cpu_target.h"
#include "kernels/elementwise.h"
#include "kernels/resources.h"
#include "models/cpu_device.h"
#include "models/host_model.h"
#include "models/layer_stack.h"
#include "models/model_folder.h"
#include "models/weights.h"

namespace packrat {
namespace {

Arithmetic ArithmeticOf(ActivationType activations) {
  if (activations == ActivationType::kFloat32) return Arithmetic::kFloat32;
  // In both cases quantised weights are multiplied in bytes.
  return activations == ActivationType::kBFloat16 || CpuPrefersBFloat16() ? Arithmetic::kBFloat16
                                                                          : Arithmetic::kInt8;
}

class CpuModel : public HostModel {
 public:
  // With a loader that only measures, only weight_bytes() and scratch_bytes() may be asked.
  CpuModel(const ModelConfig& config, const ModelOptions& options, WeightLoader* loader)
      : config_(config),
        options_(options),
        limits_{options.max_batch_tokens, options.max_batch_tokens, options.max_logit_rows, 0},
        weights_(loader, config.tie_embeddings, ArithmeticOf(options.activations), options),
        stack_(config_, layout_, &device_, &weights_),
        weight_bytes_(weights_.bytes()),
        stack_bytes_(stack_.Carve(limits_, nullptr)) {
    if (in_bfloat16()) device_.ComputeInBFloat16();
    layout_ = StateLayout(config_, state_types());
  }

  // Allocates what a forward pass needs, once the weights are known to be good.
  void AllocateScratch(std::vector<std::string> fingerprints) {
    fingerprints_ = std::move(fingerprints);
    scratch_ = AlignedBytes(stack_bytes_);
    stack_.Carve(limits_, scratch_.data());
    device_.Allocate(options_.threads, most_rows(), weights_.widest());
    const absl::Status status = device_.FillTables();
    PACKRAT_CHECK(status.ok());
    spans_.resize(limits_.spans);
    totals_.resize(limits_.spans);
    first_rows_.resize(limits_.spans);
    rows_.resize(limits_.rows);
    page_tables_.assign(layout_.page_classes.size(), std::vector<PageTable>(limits_.spans));
    for (const auto& tables : page_tables_) tables_.push_back(tables.data());
    if (config_.num_dials() > 1) {
      dial_spans_.assign(config_.num_dials(), std::vector<BatchSpan>(limits_.spans));
      dials_.resize(config_.num_dials());
    }
    TakeSamplers(config_.vocab_size, device_.pool());
  }

  const ModelConfig& config() const override { return config_; }
  const StateLayout& state_layout() const override { return layout_; }
  const ModelOptions& options() const override { return options_; }
  size_t weight_bytes() const override { return weight_bytes_; }
  const std::vector<std::string>& fingerprints() const override { return fingerprints_; }
  StateTypes state_types() const {
    StateTypes types;
    types.paired_keys = in_bfloat16();
    return types;
  }
  bool multiplies_in(Arithmetic arithmetic) const { return weights_.multiplies_in(arithmetic); }
  const std::map<std::string, DType>& quantized() const { return weights_.quantized(); }
  bool quantises() const { return weights_.quantises(); }
  std::string numerics_id() const override {
    std::string id = HostModel::numerics_id();
    for (const Arithmetic arithmetic : {Arithmetic::kBFloat16, Arithmetic::kInt8}) {
      if (multiplies_in(arithmetic) || (arithmetic == Arithmetic::kBFloat16 && in_bfloat16())) {
        absl::StrAppend(&id, "-", ArithmeticName(arithmetic));
      }
    }
    return id + weights_.formats().Id();
  }
  size_t scratch_bytes() const override {
    return stack_bytes_ + device_.Bytes(options_.threads, most_rows(), weights_.widest()) +
           options_.threads * Sampler::Bytes(config_.vocab_size);
  }

  absl::StatusOr<float*> Forward(const Batch& batch, const StateMemory& state,
                                 SpanStats* stats) override {
    const BatchSizes sizes = SizesOf(batch);
    CheckBatch(batch, sizes);
    const BatchView view = View(batch, sizes);
    absl::Status status = stack_.Forward(
        {view, dials_, batch.tokens, rows_.data(), sizes.rows, state, tables_, totals_.data()},
        options_.observe);
    if (!status.ok()) return status;
    device_.pool()->Run(batch.num_spans, [&](int64_t i, int) {
      const size_t vocab = config_.vocab_size;
      stats[i] = SpanStats(totals_[i]);
      stats[i].finite &=
          AllFinite(stack_.logits() + first_rows_[i] * vocab, batch.spans[i].num_logits * vocab);
    });
    return stack_.logits();
  }

 private:
  // Where activations are rounded for products in any case.
  bool in_bfloat16() const {
    return ArithmeticOf(options_.activations) == Arithmetic::kBFloat16 &&
           (multiplies_in(Arithmetic::kBFloat16) || multiplies_in(Arithmetic::kInt8));
  }
  int most_rows() const { return std::max(limits_.tokens, limits_.rows); }

  // The batch as the kernels see it. Fills dials_ and rows_ as well.
  BatchView View(const Batch& batch, const BatchSizes& sizes) {
    BatchView view;
    view.spans = spans_.data();
    view.num_spans = batch.num_spans;
    view.num_tokens = batch.num_tokens;
    view.max_span_tokens = sizes.max_span_tokens;
    view.max_context = sizes.max_context;
    int row = 0;
    for (int i = 0; i < batch.num_spans; ++i) {
      const Span& span = batch.spans[i];
      spans_[i] = {span.first_token, span.num_tokens, span.position, span.slot_in,
                   span.slot_out,    span.tail,       span.solver};
      for (size_t c = 0; c < page_tables_.size(); ++c) page_tables_[c][i] = span.pages[c];
      first_rows_[i] = row;
      for (int t = span.num_tokens - span.num_logits; t < span.num_tokens; ++t) {
        rows_[row++] = span.first_token + t;
      }
    }
    for (size_t d = 0; d < dials_.size(); ++d) {
      bool any = false;
      for (int i = 0; i < batch.num_spans; ++i) {
        const bool own = batch.spans[i].dial == static_cast<int>(d);
        dial_spans_[d][i] = own ? spans_[i] : BatchSpan();
        any = any || own;
      }
      dials_[d] = view;
      dials_[d].spans = dial_spans_[d].data();
      if (!any) dials_[d].num_spans = 0;
    }
    return view;
  }

  void CheckBatch(const Batch& batch, const BatchSizes& sizes) const {
    PACKRAT_CHECK(batch.num_tokens <= options_.max_batch_tokens) << batch.num_tokens;
    PACKRAT_CHECK(sizes.rows <= options_.max_logit_rows) << sizes.rows << " rows of logits";
    for (int i = 0; i < batch.num_spans; ++i) {
      const Span& span = batch.spans[i];
      PACKRAT_CHECK(layout_.slot_bytes == 0 || (span.slot_in >= 0 && span.slot_out >= 0));
      PACKRAT_CHECK(span.dial >= 0 && span.dial < config_.num_dials()) << span.dial;
    }
    for (int t = 0; t < batch.num_tokens; ++t) {
      PACKRAT_CHECK(batch.tokens[t] >= 0 && batch.tokens[t] < config_.vocab_size)
          << batch.tokens[t];
    }
  }

  const ModelConfig config_;
  const ModelOptions options_;
  const Limits limits_;
  // Set when the weights are known, and with them what attention computes in.
  StateLayout layout_{config_};
  CpuDevice device_;
  CpuWeights weights_;  // Its loader must not be used after the constructor.
  LayerStack stack_;
  const size_t weight_bytes_, stack_bytes_;
  std::vector<std::string> fingerprints_;
  AlignedBytes scratch_;
  std::vector<BatchSpan> spans_;
  std::vector<std::vector<BatchSpan>> dial_spans_;  // Where there are several: (dials, spans).
  std::vector<BatchView> dials_;
  std::vector<SpanTotals> totals_;
  std::vector<size_t> first_rows_;                   // Of each span's logits.
  std::vector<int32_t> rows_;                        // Tokens whose logits are wanted.
  std::vector<std::vector<PageTable>> page_tables_;  // Per page class: (spans).
  std::vector<const PageTable*> tables_;
};

absl::Status CheckOption(const char* name, int value, int low, int high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(name, " must be in [", low, ", ", high, "], got ", value));
}

// A model's files, opened, and the memory that it will take.
struct OpenModel {
  ModelOptions options;  // With its defaults resolved.
  std::unique_ptr<Checkpoint> checkpoint;
  ModelMemory memory;
  std::map<std::string, DType> quantized;
  bool quantises = false;  // Loading takes time then.
};

// `problems`: all of the tensors' errors, if there are any; may be null.
absl::StatusOr<OpenModel> OpenFiles(const std::string& dir, const ModelOptions& options,
                                    const Resources& resources,
                                    std::vector<std::string>* problems = nullptr) {
  for (const absl::Status& status :
       {CheckOption("max_batch_tokens", options.max_batch_tokens, 1, 1 << 16),
        CheckOption("max_logit_rows", options.max_logit_rows, 1, 1 << 16),
        CheckOption("threads", options.threads, 0, 1024)}) {
    if (!status.ok()) return status;
  }
  const bool bfloat16 = options.activations == ActivationType::kBFloat16;
  if (bfloat16 && !CpuHasBFloat16()) {
    return absl::FailedPreconditionError(
        absl::StrCat("activations: bfloat16 takes a processor with AVX512-BF16 (and cpu_target "
                     "avx512 or amx), this is ",
                     CpuTargetName(), " without it; say float32 or auto"));
  }
  OpenModel open;
  open.options = options;
  if (options.threads == 0) open.options.threads = resources.DefaultThreads();
  auto folder = OpenModelFolder(dir, options.choices);
  if (!folder.ok()) return folder.status();
  open.memory.config = std::move(folder->config);
  open.checkpoint = std::move(folder->checkpoint);
  WeightLoader weights(open.checkpoint.get(), WeightLoader::Mode::kMeasure);
  const CpuModel model(open.memory.config, open.options, &weights);
  if (absl::Status status = weights.Finish(); !status.ok()) {
    if (problems != nullptr) *problems = weights.Problems();
    return status;
  }
  if (bfloat16 && !model.multiplies_in(Arithmetic::kBFloat16)) {
    return absl::InvalidArgumentError(
        absl::StrCat("activations: bfloat16 is for weights stored in bfloat16, and ", dir,
                     " has no such matrix; say float32 or auto"));
  }
  open.memory.weight_bytes = model.weight_bytes();
  open.memory.scratch_bytes = model.scratch_bytes();
  open.memory.state_types = model.state_types();
  open.quantized = model.quantized();
  open.quantises = model.quantises();
  return open;
}

}  // namespace

absl::StatusOr<ActivationType> ActivationTypeOf(const std::string& name) {
  if (name == "auto") return ActivationType::kAuto;
  if (name == "float32") return ActivationType::kFloat32;
  if (name == "bfloat16") return ActivationType::kBFloat16;
  return absl::InvalidArgumentError(
      absl::StrCat("activations is \"", name, "\"; one of: auto, float32, bfloat16"));
}

absl::Status SetWeightFormats(const std::string& weights, const std::string& output_weights,
                              ModelOptions* options) {
  const auto read = [](const std::string& name, auto* to) {
    for (const WeightFormat format :
         {WeightFormat::kStored, WeightFormat::kInt8, WeightFormat::kInt4}) {
      if (name != WeightFormatName(format)) continue;
      *to = format;
      return true;
    }
    return false;
  };
  if (!read(weights, &options->weights)) {
    return absl::InvalidArgumentError(
        absl::StrCat("weights is \"", weights, "\"; one of: stored, int8, int4"));
  }
  if (output_weights == "auto") {
    options->output_weights.reset();
  } else if (!read(output_weights, &options->output_weights)) {
    return absl::InvalidArgumentError(absl::StrCat("output_weights is \"", output_weights,
                                                   "\"; one of: auto, stored, int8, int4"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::map<std::string, DType>> QuantizedTensors(const std::string& dir,
                                                              const ModelOptions& options) {
  const Resources resources = ReadResources();
  auto open = OpenFiles(dir, options, resources);
  if (!open.ok()) return open.status();
  return std::move(open->quantized);
}

absl::StatusOr<ModelMemory> MeasureModel(const std::string& dir, const ModelOptions& options,
                                         std::vector<std::string>* problems) {
  std::vector<std::string> of_tensors;
  auto open = OpenFiles(dir, options, ReadResources(), &of_tensors);
  if (problems != nullptr && !open.ok()) {
    if (of_tensors.empty()) of_tensors.emplace_back(open.status().message());
    problems->insert(problems->end(), of_tensors.begin(), of_tensors.end());
  }
  if (!open.ok()) return open.status();
  return open->memory;
}

absl::StatusOr<std::unique_ptr<LanguageModel>> LoadCpuModel(
    const std::string& dir, const ModelOptions& options,
    std::function<void(size_t done_bytes, size_t total_bytes)> progress) {
  const Resources resources = ReadResources();
  auto open = OpenFiles(dir, options, resources);
  if (!open.ok()) return open.status();
  const ModelMemory& memory = open->memory;
  const std::string plan = absl::StrCat(dir, ": weights (", MiB(memory.weight_bytes),
                                        ") and scratch (", MiB(memory.scratch_bytes), ") take");
  const auto bytes = static_cast<int64_t>(memory.weight_bytes + memory.scratch_bytes);
  if (absl::Status status = resources.CheckAvailable(bytes, plan); !status.ok()) return status;
  // The system may still refuse it, by a limit that could not be read.
  try {
    WeightLoader weights(open->checkpoint.get());
    if (progress && open->quantises) weights.ReportTo(std::move(progress));
    auto model = std::make_unique<CpuModel>(memory.config, open->options, &weights);
    if (absl::Status status = weights.Finish(); !status.ok()) return status;
    model->AllocateScratch(Fingerprints(memory.config, weights.hash()));
    return model;
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError(
        absl::StrCat(plan, " ", MiB(bytes), ", and the system refuses that much"));
  }
}

}  // namespace packrat
