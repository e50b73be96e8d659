#include "models/tools/convert_gguf.h"

#include <filesystem>
#include <fstream>
#include <map>
#include <system_error>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "models/cpu_model.h"
#include "models/files/json.h"
#include "models/tools/gguf_families.h"
#include "models/tools/gguf_fields.h"
#include "models/tools/gguf_layout.h"
#include "models/tools/gguf_rope.h"
#include "models/tools/gguf_tokenizer.h"
#include "models/tools/quantize.h"

namespace packrat {
namespace {

// "blk.N.REST".
bool SplitLayer(const std::string& name, int64_t* layer, std::string* rest) {
  const std::string begin = "blk.";
  const size_t dot = name.find('.', begin.size());
  if (!absl::StartsWith(name, begin) || dot == std::string::npos) return false;
  *rest = name.substr(dot + 1);
  return absl::SimpleAtoi(name.substr(begin.size(), dot - begin.size()), layer);
}

class Converter {
 public:
  explicit Converter(const GgufFile& file) : file_(file), fields_(file.header(), file.path()) {}

  absl::StatusOr<Json> Config();
  // After Config.
  absl::Status Tensors(std::vector<TensorToWrite>* tensors);

 private:
  absl::Status Invalid(const std::string& why) const {
    return absl::InvalidArgumentError(absl::StrCat(file_.path(), ": ", why));
  }
  // `in_layer`: its name there, or all of it. Ours: `prefix` before each part of `ours`.
  absl::Status Add(const std::string& name, const std::string& in_layer, const std::string& prefix,
                   const std::string& ours, const GgufTensor& tensor);

  struct Made {
    TensorType type;
    std::vector<int64_t> shape;
    std::vector<uint8_t> bytes;
  };
  absl::Status Keep(const std::string& name, const std::string& ours, Made made);

  const GgufFile& file_;
  GgufFields fields_;
  const GgufFamily* family_ = nullptr;
  GgufShape shape_;
  std::map<std::string, Made> made_;
};

absl::StatusOr<Json> Converter::Config() {
  if (!fields_.status().ok()) return fields_.status();
  family_ = FindGgufFamily(fields_.architecture());
  if (family_ == nullptr) {
    return Invalid(absl::StrCat("general.architecture is ", Quoted(fields_.architecture()), "; ",
                                GgufFamilyNames(), " are read"));
  }
  if (const int64_t parts = fields_.Integer("split.count", 1); parts > 1) {
    fields_.Fail("split.count", absl::StrCat("is ", parts, "; join the parts first"));
  }
  Json config = GgufConfig(*family_, &fields_, &shape_);
  if (!fields_.status().ok()) return fields_.status();
  if (!config.contains("rope_theta")) return config;  // No attention is rotated.
  auto scaling =
      RopeScalingOfGguf(file_, &fields_, config["rope_theta"], static_cast<int>(shape_.head_dim));
  if (!scaling.ok()) return scaling.status();
  config["rope_scaling"] = *scaling;
  return config;
}

absl::Status Converter::Add(const std::string& name, const std::string& in_layer,
                            const std::string& prefix, const std::string& ours,
                            const GgufTensor& tensor) {
  auto data = file_.Read(tensor);
  if (!data.ok()) return data.status();
  auto converted = ConvertGgufTensor(tensor, *data);
  std::vector<int64_t> shape = tensor.shape;
  absl::Status status = converted.status();
  if (status.ok()) status = ChangeGgufLayout(*family_, shape_, in_layer, &shape, &*converted);
  if (!status.ok()) return Invalid(absl::StrCat("tensor ", Quoted(name), ": ", status.message()));
  const std::vector<std::string> parts = absl::StrSplit(ours, '+');
  if (shape.empty() || shape[0] % static_cast<int64_t>(parts.size()) != 0) {
    return Invalid(absl::StrCat("tensor ", Quoted(name), " has no ", parts.size(), " parts"));
  }
  shape[0] /= static_cast<int64_t>(parts.size());
  const auto size = static_cast<ptrdiff_t>(converted->bytes.size() / parts.size());
  auto begin = converted->bytes.begin();
  for (const std::string& part : parts) {
    status = Keep(name, prefix + part, {converted->type, shape, {begin, begin + size}});
    if (!status.ok()) return status;
    begin += size;
  }
  return absl::OkStatus();
}

absl::Status Converter::Keep(const std::string& name, const std::string& ours, Made made) {
  const auto [found, first] = made_.try_emplace(ours, std::move(made));
  if (first) return absl::OkStatus();
  // The second half of a matrix, or of each expert's.
  Made& whole = found->second;
  const size_t dims = made.shape.size();
  if (whole.type != made.type || whole.shape != made.shape || dims < 2 || dims > 3) {
    return Invalid(absl::StrCat("tensor ", Quoted(name), " has not the type and shape of the one ",
                                "that it belongs to"));
  }
  const size_t pieces = dims == 2 ? 1 : static_cast<size_t>(made.shape[0]);
  if (pieces == 0) return Invalid(absl::StrCat("tensor ", Quoted(name), " is of no expert"));
  const size_t piece = made.bytes.size() / pieces;
  std::vector<uint8_t> both;
  both.reserve(2 * made.bytes.size());
  for (size_t i = 0; i < pieces; ++i) {
    for (const Made* half : {&whole, &made}) {
      const auto begin = half->bytes.begin() + static_cast<ptrdiff_t>(i * piece);
      both.insert(both.end(), begin, begin + static_cast<ptrdiff_t>(piece));
    }
  }
  whole.shape[dims - 2] *= 2;
  whole.bytes = std::move(both);
  return absl::OkStatus();
}

absl::Status Converter::Tensors(std::vector<TensorToWrite>* tensors) {
  for (const auto& [name, tensor] : fields_.header().tensors) {
    if (name == kGgufRopeFactors) continue;  // Is in the configuration.
    std::string in_layer, prefix, ours;
    int64_t layer = 0;
    if (SplitLayer(name, &layer, &in_layer)) {
      if (layer >= shape_.layers && layer < shape_.blocks) continue;
      const auto found = family_->layer_names.find(in_layer);
      if (layer >= 0 && layer < shape_.layers && found != family_->layer_names.end()) {
        prefix = absl::StrCat("model.layers.", layer, ".");
        ours = found->second;
      }
    } else if (const auto found = family_->names.find(name); found != family_->names.end()) {
      ours = found->second;
    }
    if (ours.empty()) {
      return Invalid(
          absl::StrCat("tensor ", Quoted(name), " has no place in a ", family_->architecture));
    }
    // Norms outside of the layers are changed as those within.
    absl::Status status = Add(name, in_layer.empty() ? name : in_layer, prefix, ours, tensor);
    if (!status.ok()) return status;
  }
  for (const auto& [name, made] : made_) {
    tensors->push_back({name, made.type, made.shape, made.bytes.data()});
  }
  return absl::OkStatus();
}

absl::Status WriteFile(const std::string& path, const std::string& bytes) {
  std::ofstream file(path, std::ios::binary);
  file << bytes;
  file.close();
  if (file) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(path, ": cannot write"));
}

absl::Status WriteJson(const std::string& path, const Json& json) {
  return WriteFile(path, json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
}

absl::Status WriteFolder(const std::string& path, const Json& config,
                         const GgufTokenizer& tokenizer,
                         const std::vector<TensorToWrite>& tensors) {
  const std::string dir = path + "/";
  absl::Status status = WriteJson(dir + "config.json", config);
  if (status.ok() && !tokenizer.json.is_null()) {
    status = WriteJson(dir + "tokenizer.json", tokenizer.json);
  }
  if (status.ok() && !tokenizer.sentence_pieces.empty()) {
    status = WriteFile(dir + "tokenizer.model", tokenizer.sentence_pieces);
  }
  if (status.ok() && !tokenizer.config.is_null()) {
    status = WriteJson(dir + "tokenizer_config.json", tokenizer.config);
  }
  return status.ok() ? WriteSafetensors(dir + "model.safetensors", tensors) : status;
}

}  // namespace

absl::Status ConvertGguf(const ConvertOptions& options) {
  auto file = GgufFile::Open(options.gguf);
  if (!file.ok()) return file.status();
  Converter converter(**file);
  auto config = converter.Config();
  if (!config.ok()) return config.status();
  auto tokenizer = TokenizerOfGguf((*file)->header(), options.gguf);
  if (!tokenizer.ok()) return tokenizer.status();
  std::vector<TensorToWrite> tensors;
  absl::Status status = converter.Tensors(&tensors);
  if (!status.ok()) return status;
  if (status = MakeModelFolder(options.output); !status.ok()) return status;
  status = WriteFolder(options.output, *config, *tokenizer, tensors);
  if (!status.ok()) return status;
  // A file may lack what its model needs, or have it in other shapes.
  status = MeasureModel(options.output, ModelOptions()).status();
  if (!absl::IsInvalidArgument(status)) return absl::OkStatus();
  std::error_code error;
  std::filesystem::remove_all(options.output, error);
  return absl::InvalidArgumentError(
      absl::StrCat(options.gguf, ": makes no model: ", status.message()));
}

}  // namespace packrat
