#include "models/tools/quantize.h"

#include <cstdint>
#include <filesystem>
#include <map>
#include <system_error>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/quantized.h"
#include "models/cpu_model.h"
#include "models/files/checkpoint.h"
#include "models/model_folder.h"
#include "models/tools/output_folder.h"

namespace packrat {
namespace {

namespace fs = std::filesystem;

// The only folder within a model's that belongs to it (chat_template.h).
constexpr char kTemplatesFolder[] = "additional_chat_templates";

// Of the same model, as other programs have them.
bool IsOtherWeights(const std::string& name) {
  const auto ends = [&name](const char* suffix) { return absl::EndsWith(name, suffix); };
  return ends(".bin") || ends(".bin.index.json") || ends(".pth") || ends(".pt") || ends(".gguf");
}

absl::Status CopyOtherFiles(const std::string& from, const std::string& to) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(from, error)) {
    const std::string name = entry.path().filename().string();
    if (!entry.is_regular_file() || absl::EndsWith(name, ".safetensors") ||
        absl::EndsWith(name, ".safetensors.index.json") || IsOtherWeights(name)) {
      continue;
    }
    fs::copy_file(entry.path(), fs::path(to) / name, error);
    if (error) break;
  }
  std::error_code none;
  if (!error && fs::is_directory(fs::path(from) / kTemplatesFolder, none)) {
    fs::copy(fs::path(from) / kTemplatesFolder, fs::path(to) / kTemplatesFolder, error);
  }
  if (!error) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(to, ": cannot copy to it: ", error.message()));
}

// The weight (out, in), or several of them, in a format, as a file holds it.
absl::Status Quantize(const Checkpoint& checkpoint, const std::string& name, const TensorView& view,
                      DType format, std::vector<uint8_t>* to) {
  const auto rows = static_cast<int>(view.NumElements() / view.shape.back());
  WeightLoader loader(&checkpoint);
  loader.Groups(name, view.shape, 0, rows, format,
                [&](int, int, const QuantGroup& group) { AppendQuantGroup(group, format, to); });
  return loader.status();
}

}  // namespace

absl::Status QuantizeModel(const QuantizeOptions& options) {
  ModelOptions model;
  absl::Status status = SetWeightFormats(options.weights, options.output_weights, &model);
  if (!status.ok()) return status;
  if (model.weights == WeightFormat::kStored) {
    return absl::InvalidArgumentError("weights is \"stored\"; one of: int8, int4");
  }
  auto formats = QuantizedTensors(options.model, model);
  if (!formats.ok()) return formats.status();
  auto folder = OpenModelFolder(options.model);
  if (!folder.ok()) return folder.status();
  const Checkpoint& checkpoint = *folder->checkpoint;

  const std::map<std::string, TensorView> sorted(checkpoint.tensors().begin(),
                                                 checkpoint.tensors().end());
  std::vector<TensorToWrite> tensors;
  size_t done = 0, total = 0;
  bool nothing_new = true;
  for (const auto& [name, view] : sorted) {
    const auto format = formats->find(name);
    const bool stored = format == formats->end();
    const TensorType type = stored                           ? view.type
                            : format->second == DType::kInt8 ? TensorType::kInt8
                                                             : TensorType::kInt4;
    const size_t bytes = TensorBytes(type, view.shape);
    total += bytes;
    nothing_new = nothing_new && (stored || IsQuantized(view.type));
    // The parts of a binding cannot be captured.
    const auto make = [&, stored, bytes, &name = name, &view = view,
                       to = stored ? DType::kF32 : format->second](std::vector<uint8_t>* data) {
      absl::Status made;
      if (stored) {
        data->resize(bytes);
        made = checkpoint.Read(view, 0, bytes, data->data());
      } else {
        data->reserve(bytes);
        made = Quantize(checkpoint, name, view, to, data);
      }
      done += bytes;
      if (made.ok() && options.progress) options.progress(done, total);
      return made;
    };
    tensors.push_back({name, type, view.shape, nullptr, make});
  }
  if (nothing_new) {
    return absl::InvalidArgumentError(absl::StrCat(
        options.model, ": what can be is in 8 or 4 bits already, and is not quantised again"));
  }
  return FillOutputFolder(options.output, [&] {
    const absl::Status copied = CopyOtherFiles(options.model, options.output);
    return copied.ok() ? WriteSafetensors(options.output + "/model.safetensors", tensors) : copied;
  });
}

}  // namespace packrat
