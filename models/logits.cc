#include "models/logits.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/aligned.h"
#include "models/checkpoint.h"
#include "models/model.h"
#include "models/owned_state.h"

namespace packrat {
namespace {

struct Texts {
  int64_t batch = 0, tokens = 0;
  std::vector<int32_t> ids;  // (batch, tokens)
};

absl::StatusOr<Texts> ReadTexts(const std::string& path, int vocab_size) {
  auto file = Checkpoint::OpenFile(path);
  if (!file.ok()) return file.status();
  auto view = (*file)->Find("input_ids");
  if (!view.ok()) return view.status();
  const auto refuse = [&](const std::string& reason) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": tensor input_ids ", reason));
  };
  if (view->type != TensorType::kI32 || view->shape.size() != 2) {
    return refuse("must be int32 of shape [batch, tokens]");
  }
  if (view->NumElements() == 0) return refuse("is empty");
  if (view->shape[1] > (1 << 24)) return refuse("has more than 2^24 tokens in a row");
  Texts texts{view->shape[0], view->shape[1], {}};
  texts.ids.resize(static_cast<size_t>(view->NumElements()));
  std::memcpy(texts.ids.data(), view->data, view->bytes);
  for (int32_t id : texts.ids) {
    if (id < 0 || id >= vocab_size) {
      return refuse(absl::StrCat("holds ", id, "; token ids must be in [0, ", vocab_size, ")"));
    }
  }
  return texts;
}

// The residual stream of all texts, by name.
class Activations {
 public:
  Activations(const Texts& texts, const ModelConfig& config)
      : shape_{texts.batch, texts.tokens, config.hidden_size} {
    const size_t size = texts.ids.size() * config.hidden_size;
    const auto add = [&](std::string name) { tensors_.emplace_back(std::move(name), size); };
    add("embeddings");
    for (size_t i = 0; i < config.layers.size(); ++i) {
      add(absl::StrCat("layers.", i, ".mixer"));
      add(absl::StrCat("layers.", i));
    }
  }

  // Where the rows go that are observed next: tokens of all texts, counted through.
  void SetRows(size_t first, size_t count) { first_ = first, count_ = count; }
  void Observe(int layer, LayerPart part, const float* x) {
    const int index = layer < 0 ? 0 : 1 + 2 * layer + (part == LayerPart::kFeedForward);
    const size_t width = shape_[2];
    std::copy_n(x, count_ * width, tensors_[index].second.data() + first_ * width);
  }

  absl::Status Write(const std::string& path) const {
    std::vector<TensorToWrite> tensors;
    for (const auto& [name, values] : tensors_) {
      tensors.push_back({name, TensorType::kF32, shape_, values.data()});
    }
    return WriteSafetensors(path, tensors);
  }

 private:
  const std::vector<int64_t> shape_;
  std::vector<std::pair<std::string, AlignedFloats>> tensors_;
  size_t first_ = 0, count_ = 0;
};

}  // namespace

absl::Status CheckOptions(const LogitsOptions& options) {
  const auto refuse = [](const char* name, const auto& value, const char* range) {
    return absl::InvalidArgumentError(absl::StrCat(name, " must be in ", range, ", got ", value));
  };
  if (options.piece < 1 || options.piece > 65536) {
    return refuse("piece", options.piece, "[1, 65536]");
  }
  if (!(options.cg_tolerance >= 1e-7f && options.cg_tolerance <= 0.1f)) {
    return refuse("cg_tolerance", options.cg_tolerance, "[1e-7, 0.1]");
  }
  if (options.cg_max_steps < 1 || options.cg_max_steps > 1024) {
    return refuse("cg_max_steps", options.cg_max_steps, "[1, 1024]");
  }
  if (options.threads < 0 || options.threads > 1024) {
    return refuse("threads", options.threads, "[0, 1024]");
  }
  if (options.output == options.tokens || options.output == options.activations ||
      (!options.activations.empty() && options.activations == options.tokens)) {
    return absl::InvalidArgumentError("tokens, output and activations must be different files");
  }
  return absl::OkStatus();
}

absl::Status WriteLogits(const LogitsOptions& options) {
  if (absl::Status status = CheckOptions(options); !status.ok()) return status;
  std::unique_ptr<Activations> activations;
  ModelOptions model_options;
  model_options.max_batch_tokens = model_options.max_logit_rows = options.piece;
  model_options.threads = options.threads;
  if (!options.activations.empty()) {
    model_options.observe = [&](int layer, LayerPart part, const float* x) {
      activations->Observe(layer, part, x);
    };
  }
  auto loaded = LoadModel(options.model, model_options);
  if (!loaded.ok()) return loaded.status();
  LanguageModel* model = loaded->get();
  const auto vocab = static_cast<size_t>(model->config().vocab_size);
  auto texts = ReadTexts(options.tokens, model->config().vocab_size);
  if (!texts.ok()) return texts.status();
  if (model_options.observe) activations = std::make_unique<Activations>(*texts, model->config());

  const auto length = static_cast<int>(texts->tokens);
  AlignedFloats logits(texts->ids.size() * vocab);
  auto state = OwnedState::Create(model, 1, length);
  if (!state.ok()) return state.status();
  for (int64_t row = 0; row < texts->batch; ++row) {
    const int32_t* ids = texts->ids.data() + row * length;
    float* out = logits.data() + static_cast<size_t>(row) * length * vocab;
    for (int done = 0, n; done < length; done += n) {
      n = std::min(options.piece, length - done);
      Span span = (*state)->SpanFor(0, 0, n, done);
      span.num_logits = n;
      span.cg_tolerance = options.cg_tolerance;
      span.cg_max_steps = options.cg_max_steps;
      if (activations != nullptr) activations->SetRows(row * length + done, n);
      SpanStats stats;
      const absl::StatusOr<float*> rows =
          model->Forward({ids + done, n, &span, 1}, (*state)->memory(), &stats);
      if (!rows.ok()) return rows.status();
      if (!stats.finite) {
        return absl::InternalError(absl::StrCat("row ", row, ", tokens ", done, " to ",
                                                done + n - 1,
                                                ": the model produced a non-finite value"));
      }
      std::copy_n(*rows, n * vocab, out + done * vocab);
    }
  }
  if (activations != nullptr) {
    absl::Status status = activations->Write(options.activations);
    if (!status.ok()) return status;
  }
  return WriteSafetensors(options.output,
                          {{"logits",
                            TensorType::kF32,
                            {texts->batch, texts->tokens, static_cast<int64_t>(vocab)},
                            logits.data()}});
}

}  // namespace packrat
