#include "models/tools/logits.h"

#include <algorithm>
#include <filesystem>
#include <memory>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/aligned.h"
#include "models/cpu_model.h"
#include "models/files/checkpoint.h"
#include "models/owned_state.h"

namespace packrat {
namespace {

struct Texts {
  int64_t batch = 0, tokens = 0;
  std::vector<int32_t> ids;  // (batch, tokens)
};

absl::StatusOr<Texts> ReadTexts(const std::string& path, const ModelConfig& config) {
  auto file = Checkpoint::OpenFile(path);
  if (!file.ok()) return file.status();
  const auto refuse = [&](const std::string& reason) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": tensor input_ids ", reason));
  };
  auto view = (*file)->Find("input_ids");
  if (!view.ok() && !(*file)->Has("input_ids")) return view.status();
  if (!view.ok() || view->type != TensorType::kI32 || view->shape.size() != 2) {
    return refuse("must be int32 (in PyTorch ids.to(torch.int32)) of shape [batch, tokens]");
  }
  if (view->NumElements() == 0) return refuse("is empty");
  if (view->shape[1] > (1 << 24)) return refuse("has more than 2^24 tokens in a row");
  if (view->shape[1] > config.max_context) {
    return refuse(absl::StrCat("has ", view->shape[1], " tokens in a row; the model's context is ",
                               config.max_context));
  }
  Texts texts{view->shape[0], view->shape[1], {}};
  texts.ids.resize(static_cast<size_t>(view->NumElements()));
  absl::Status status = (*file)->Read(*view, 0, view->bytes, texts.ids.data());
  if (!status.ok()) return status;
  for (int32_t id : texts.ids) {
    if (id < 0 || id >= config.vocab_size) {
      return refuse(
          absl::StrCat("holds ", id, "; token ids must be in [0, ", config.vocab_size, ")"));
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
    const std::vector<Sublayer>& parts = config.sublayers;
    for (size_t i = 0; i < parts.size(); ++i) {
      const bool last = i + 1 == parts.size() || parts[i + 1].layer != parts[i].layer;
      add(absl::StrCat("layers.", parts[i].layer, last ? "" : ".mixer"));
    }
  }

  // Where the rows go that are observed next: tokens of all texts, counted through.
  void SetRows(size_t first, size_t count) { first_ = first, count_ = count; }
  void Observe(int point, const float* x) {
    const size_t width = shape_[2];
    std::copy_n(x, count_ * width, tensors_[point].second.data() + first_ * width);
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
  if (absl::Status status = CheckFeedOptions(options); !status.ok()) return status;
  const auto resolved = [](const std::string& path) {
    std::error_code error;
    return std::filesystem::weakly_canonical(std::filesystem::absolute(path, error), error);
  };
  const auto tokens = resolved(options.tokens), output = resolved(options.output),
             layers = resolved(options.layers);
  if (output == tokens || (!options.layers.empty() && (layers == tokens || layers == output))) {
    return absl::InvalidArgumentError("tokens, output and layers must be different files");
  }
  return absl::OkStatus();
}

absl::Status WriteLogits(const LogitsOptions& options) {
  if (absl::Status status = CheckOptions(options); !status.ok()) return status;
  std::unique_ptr<Activations> activations;
  ModelOptions model_options = ModelOptionsOf(options);
  if (!options.layers.empty()) {
    model_options.observe = [&](int point, const float* x) { activations->Observe(point, x); };
  }
  auto loaded = LoadCpuModel(options.model, model_options);
  if (!loaded.ok()) return loaded.status();
  LanguageModel* model = loaded->get();
  const auto vocab = static_cast<size_t>(model->config().vocab_size);
  auto texts = ReadTexts(options.tokens, model->config());
  if (!texts.ok()) return texts.status();
  if (model_options.observe) activations = std::make_unique<Activations>(*texts, model->config());

  const auto length = static_cast<int>(texts->tokens);
  AlignedFloats logits(texts->ids.size() * vocab);
  auto state = OwnedState::Create(model, 1, length);
  if (!state.ok()) return state.status();
  for (int64_t row = 0; row < texts->batch; ++row) {
    const int32_t* ids = texts->ids.data() + row * length;
    float* out = logits.data() + static_cast<size_t>(row) * length * vocab;
    for (TextFeed feed(model, state->get(), options, ids, length); !feed.done();) {
      const int first = feed.first(), n = feed.size();
      if (activations != nullptr) activations->SetRows(row * length + first, n);
      const absl::StatusOr<float*> rows = feed.Next();
      if (!rows.ok()) {
        return absl::Status(rows.status().code(),
                            absl::StrCat("row ", row, ", ", rows.status().message()));
      }
      std::copy_n(*rows, n * vocab, out + first * vocab);
    }
  }
  if (activations != nullptr) {
    absl::Status status = activations->Write(options.layers);
    if (!status.ok()) return status;
  }
  return WriteSafetensors(options.output,
                          {{"logits",
                            TensorType::kF32,
                            {texts->batch, texts->tokens, static_cast<int64_t>(vocab)},
                            logits.data()}});
}

}  // namespace packrat
