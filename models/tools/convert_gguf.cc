#include "models/tools/convert_gguf.h"

#include <cstring>
#include <fstream>
#include <map>
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
#include "models/tools/output_folder.h"

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
  // After Config. What makes them needs this converter.
  absl::Status Tensors(std::vector<TensorToWrite>* tensors) const;

 private:
  absl::Status Invalid(const std::string& why) const {
    return absl::InvalidArgumentError(absl::StrCat(file_.path(), ": ", why));
  }
  // A part of a tensor of the file, by its rows.
  struct Source {
    const std::string* name;
    const GgufTensor* tensor;
    std::string in_layer;  // Its name in its layer, or all of it.
    size_t part, parts;
  };
  // A tensor of ours: one of theirs, or two that become one matrix, or one of each expert.
  struct Made {
    TensorType type;
    std::vector<int64_t> shape;  // Of each source.
    std::vector<Source> sources;
  };
  // All of a source's tensor, and its shape.
  absl::StatusOr<ConvertedTensor> Convert(const Source& source, std::vector<int64_t>* shape) const;
  // Notes the parts of a tensor, each as `prefix` and its name in `ours`.
  absl::Status Add(Source source, const std::string& prefix, const std::string& ours,
                   std::map<std::string, Made>* all) const;
  absl::Status Make(const Made& made, std::vector<uint8_t>* data) const;

  const GgufFile& file_;
  GgufFields fields_;
  const GgufFamily* family_ = nullptr;
  GgufShape shape_;
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

absl::StatusOr<ConvertedTensor> Converter::Convert(const Source& source,
                                                   std::vector<int64_t>* shape) const {
  auto data = file_.Read(*source.tensor);
  if (!data.ok()) return data.status();
  auto converted = ConvertGgufTensor(*source.tensor, *data);
  *shape = source.tensor->shape;
  absl::Status status = converted.status();
  if (status.ok()) status = ChangeGgufLayout(*family_, shape_, source.in_layer, shape, &*converted);
  if (status.ok()) return converted;
  return Invalid(absl::StrCat("tensor ", Quoted(*source.name), ": ", status.message()));
}

absl::Status Converter::Add(Source source, const std::string& prefix, const std::string& ours,
                            std::map<std::string, Made>* all) const {
  const auto invalid = [&](absl::string_view why) {
    return Invalid(absl::StrCat("tensor ", Quoted(*source.name), " ", why));
  };
  std::vector<int64_t> shape;
  const auto converted = Convert(source, &shape);
  if (!converted.ok()) return converted.status();
  const std::vector<std::string> parts = absl::StrSplit(ours, '+');
  source.parts = parts.size();
  if (shape.empty() || shape[0] % static_cast<int64_t>(parts.size()) != 0) {
    return invalid(absl::StrCat("has no ", parts.size(), " parts"));
  }
  shape[0] /= static_cast<int64_t>(parts.size());
  for (source.part = 0; source.part < parts.size(); ++source.part) {
    const auto [found, first] =
        all->try_emplace(prefix + parts[source.part], Made{converted->type, shape, {}});
    Made& made = found->second;
    const bool two = shape.size() == 2 || shape.size() == 3;
    if (!first && (made.type != converted->type || made.shape != shape || !two)) {
      return invalid("has not the type and shape of the one that it belongs to");
    }
    if (!first && shape.size() == 3 && shape[0] == 0) return invalid("is of no expert");
    made.sources.push_back(source);
  }
  return absl::OkStatus();
}

absl::Status Converter::Make(const Made& made, std::vector<uint8_t>* data) const {
  // Of two matrices the second follows the first, for each expert.
  const size_t pieces =
      made.sources.size() > 1 && made.shape.size() == 3 ? static_cast<size_t>(made.shape[0]) : 1;
  const size_t bytes = TensorBytes(made.type, made.shape), piece = bytes / pieces;
  data->resize(bytes * made.sources.size());
  for (size_t i = 0; i < made.sources.size(); ++i) {
    const Source& source = made.sources[i];
    std::vector<int64_t> shape;
    const auto converted = Convert(source, &shape);
    if (!converted.ok()) return converted.status();
    if (converted->bytes.size() != bytes * source.parts) {
      return Invalid(absl::StrCat("tensor ", Quoted(*source.name), " has changed"));
    }
    const uint8_t* from = converted->bytes.data() + source.part * bytes;
    for (size_t p = 0; p < pieces && piece > 0; ++p) {
      std::memcpy(data->data() + (p * made.sources.size() + i) * piece, from + p * piece, piece);
    }
  }
  return absl::OkStatus();
}

absl::Status Converter::Tensors(std::vector<TensorToWrite>* tensors) const {
  std::map<std::string, Made> all;
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
    const Source source = {&name, &tensor, in_layer.empty() ? name : in_layer, 0, 1};
    const absl::Status status = Add(source, prefix, ours, &all);
    if (!status.ok()) return status;
  }
  for (const auto& [name, made] : all) {
    std::vector<int64_t> shape = made.shape;
    if (made.sources.size() > 1) shape[shape.size() - 2] *= made.sources.size();
    tensors->push_back(
        {name, made.type, shape, nullptr,
         [this, made = made](std::vector<uint8_t>* data) { return Make(made, data); }});
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

// generation_config.json: what ends a text beside the EOS of config.json, and how texts are drawn
// unless a request says so. Empty where the file says neither.
absl::StatusOr<Json> GenerationConfigOf(const GgufHeader& header, const std::string& file,
                                        const Json& ends) {
  Json generation = Json::object();
  if (ends.size() > 1) generation["eos_token_id"] = ends;
  GgufFields fields(header, file);
  constexpr std::pair<const char*, const char*> kNames[] = {
      {"temp", "temperature"},
      {"top_k", "top_k"},
      {"top_p", "top_p"},
      {"min_p", "min_p"},
      {"penalty_repeat", "repetition_penalty"}};
  for (const auto& [theirs, name] : kNames) {
    const std::string key = absl::StrCat("general.sampling.", theirs);
    if (header.metadata.count(key) == 0) continue;
    if (header.metadata.at(key).kind == GgufValue::Kind::kInteger) {
      generation[name] = fields.Integer(key, 0);
    } else {
      generation[name] = fields.Number(key, 0);
    }
  }
  // transformers would take the likeliest token else.
  if (generation.contains("temperature")) generation["do_sample"] = generation["temperature"] > 0;
  if (!fields.status().ok()) return fields.status();
  return generation;
}

absl::Status WriteFolder(const std::string& path, const Json& config, const Json& generation,
                         const GgufTokenizer& tokenizer,
                         const std::vector<TensorToWrite>& tensors) {
  const std::string dir = path + "/";
  absl::Status status = WriteJson(dir + "config.json", config);
  if (status.ok() && !generation.empty()) {
    status = WriteJson(dir + "generation_config.json", generation);
  }
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
  auto generation = GenerationConfigOf((*file)->header(), options.gguf, tokenizer->ends);
  if (!generation.ok()) return generation.status();
  std::vector<TensorToWrite> tensors;
  absl::Status status = converter.Tensors(&tensors);
  if (!status.ok()) return status;
  size_t done = 0, total = 0;
  for (const TensorToWrite& tensor : tensors) total += TensorBytes(tensor.type, tensor.shape);
  for (TensorToWrite& tensor : tensors) {
    if (!options.progress) break;
    tensor.make = [&, make = std::move(tensor.make)](std::vector<uint8_t>* data) {
      absl::Status made = make(data);
      done += data->size();
      options.progress(done, total);
      return made;
    };
  }
  return FillOutputFolder(options.output, [&] {
    const absl::Status written =
        WriteFolder(options.output, *config, *generation, *tokenizer, tensors);
    if (!written.ok()) return written;
    // A file may lack what its model needs, or have it in other shapes.
    const absl::Status loads = MeasureModel(options.output, ModelOptions()).status();
    if (!absl::IsInvalidArgument(loads)) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat(options.gguf, ": makes no model: ", loads.message()));
  });
}

}  // namespace packrat
