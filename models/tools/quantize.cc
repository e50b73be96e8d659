#include "models/tools/quantize.h"

#include <cstdint>
#include <deque>
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

namespace packrat {
namespace {

namespace fs = std::filesystem;

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

absl::Status MakeModelFolder(const std::string& dir) {
  std::error_code error;
  fs::create_directories(dir, error);
  if (error || !fs::is_directory(dir)) {
    return absl::InvalidArgumentError(absl::StrCat("output: cannot make folder ", dir, ": ",
                                                   error ? error.message() : "it is a file"));
  }
  if (!fs::is_empty(dir, error) || error) {
    return absl::InvalidArgumentError(absl::StrCat("output: folder ", dir, " is not empty"));
  }
  return absl::OkStatus();
}

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
  if (status = MakeModelFolder(options.output); !status.ok()) return status;

  const std::map<std::string, TensorView> sorted(checkpoint.tensors().begin(),
                                                 checkpoint.tensors().end());
  std::deque<std::vector<uint8_t>> data;
  std::vector<TensorToWrite> tensors;
  for (const auto& [name, view] : sorted) {
    std::vector<uint8_t>& bytes = data.emplace_back();
    const auto format = formats->find(name);
    TensorType type = view.type;
    if (format == formats->end()) {
      bytes.resize(view.bytes);
      status = checkpoint.Read(view, 0, view.bytes, bytes.data());
    } else {
      type = format->second == DType::kInt8 ? TensorType::kInt8 : TensorType::kInt4;
      bytes.reserve(TensorBytes(type, view.shape));
      status = Quantize(checkpoint, name, view, format->second, &bytes);
    }
    if (!status.ok()) return status;
    tensors.push_back({name, type, view.shape, bytes.data()});
  }
  if (status = CopyOtherFiles(options.model, options.output); !status.ok()) return status;
  return WriteSafetensors(options.output + "/model.safetensors", tensors);
}

}  // namespace packrat
