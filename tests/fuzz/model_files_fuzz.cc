// Any bytes as one of the files beside a model's weights and its tokenizer.json, or as a whole GGUF
// file that is converted: refused with a message, or read within the limits that everything else
// relies on. The first byte says which file, the rest is in it.
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <system_error>

#include "kernels/check.h"
#include "models/files/json.h"
#include "models/generation_config.h"
#include "models/text/tokenizer_config.h"
#include "models/tools/convert_gguf.h"

namespace packrat {
namespace {

constexpr int kVocab = 4096, kMostId = 1 << 22;
constexpr const char* kFiles[] = {"tokenizer_config.json",   "added_tokens.json",
                                  "special_tokens_map.json", "tokenizer.json",
                                  "generation_config.json",  "model.gguf"};

// Of this process, and gone with it.
class Folder {
 public:
  Folder() {
    std::string name = std::filesystem::temp_directory_path() / "packrat-fuzz-XXXXXX";
    PACKRAT_CHECK(mkdtemp(name.data()) != nullptr);
    path_ = name;
  }
  ~Folder() {
    std::error_code error;
    std::filesystem::remove_all(path_, error);
  }
  void Write(const std::string& name, const std::string& bytes) const {
    std::ofstream(File(name), std::ios::binary) << bytes;
  }
  void Remove(const std::string& name) const { std::filesystem::remove_all(File(name)); }
  std::string File(const std::string& name) const { return path_ + "/" + name; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

void Check(const absl::Status& refused) {
  PACKRAT_CHECK(!refused.message().empty() && refused.message().size() < 8192) << refused.message();
}

void ReadTokenizerConfig(const Folder& folder, const Json& listing) {
  const auto config = LoadTokenizerConfig(folder.path(), listing);
  if (!config.ok()) return Check(config.status());
  int last = -1;
  for (const AddedToken& token : config->added_tokens) {
    PACKRAT_CHECK(token.id > last && token.id < kMostId && !token.content.empty());
    last = token.id;
  }
}

void ReadGenerationConfig(const Folder& folder) {
  const auto config = LoadGenerationConfig(folder.path(), kVocab);
  if (!config.ok()) return Check(config.status());
  for (const int id : config->eos_ids) PACKRAT_CHECK(id >= 0 && id < kVocab);
  const SamplingDefaults& sampling = config->sampling;
  for (const int32_t id : sampling.banned_ids) PACKRAT_CHECK(id >= 0 && id < kVocab);
  PACKRAT_CHECK(sampling.temperature >= 0 && sampling.top_k >= 0);
  PACKRAT_CHECK(sampling.top_p > 0 && sampling.top_p <= 1 && sampling.repetition_penalty > 0);
  PACKRAT_CHECK(sampling.min_p >= 0 && sampling.min_p < 1);
  PACKRAT_CHECK(config->stop.min_tokens >= 0 && config->stop.max_tokens >= 0);
}

void Convert(const Folder& folder) {
  const absl::Status status = ConvertGguf({folder.File("model.gguf"), folder.File("made")});
  if (!status.ok()) Check(status);
  // What could not be made whole is not left there.
  PACKRAT_CHECK(status.ok() == std::filesystem::exists(folder.File("made")));
  folder.Remove("made");
}

}  // namespace
}  // namespace packrat

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace packrat;  // NOLINT
  static const Folder folder;
  if (size < 1) return 0;
  const std::string file = kFiles[data[0] % std::size(kFiles)];
  const std::string bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  folder.Write(file, bytes);
  if (file == "model.gguf") {
    Convert(folder);
  } else if (file == "generation_config.json") {
    ReadGenerationConfig(folder);
  } else if (file == "tokenizer.json") {
    const auto listing = ParseJson(bytes.data(), bytes.size(), file);
    if (listing.ok()) ReadTokenizerConfig(folder, *listing);
  } else {
    ReadTokenizerConfig(folder, Json());
  }
  folder.Remove(file);
  return 0;
}
