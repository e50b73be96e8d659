// Any bytes as a session's file in a store's folder: damaged, over, or what its header says; and
// whatever they are, the next version takes their place. Also with the hashes that belong there:
// then the input is the version and the time, and the session's bytes.
#include <fcntl.h>
#include <sys/stat.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <utility>

#include "kernels/check.h"
#include "models/bytes_hash.h"
#include "models/weights.h"
#include "runtime/directory_store.h"

namespace packrat {
namespace {

constexpr size_t kHeaderBytes = 48, kNumbersBytes = 24;
constexpr int64_t kNext = 1000, kNow = 1800000000;

class Folder {
 public:
  Folder() {
    std::string name = std::filesystem::temp_directory_path() / "packrat-storeXXXXXX";
    PACKRAT_CHECK(mkdtemp(name.data()) != nullptr) << name;
    path_ = name;
    DirectoryStoreOptions options;
    options.folder = path_;
    options.now = [] { return absl::FromUnixSeconds(kNow); };
    options.sweep_interval = absl::ZeroDuration();
    store_ = *DirectoryStore::Open(std::move(options));
    std::filesystem::create_directory(path_ + "/tenant-");
  }
  ~Folder() { std::filesystem::remove_all(path_); }

  void Check(const std::string& bytes) {
    const std::string path = path_ + "/tenant-/somebody";
    std::ofstream(path, std::ios::binary) << bytes;
    const timespec written[2] = {{kNow, 0}, {kNow, 0}};
    PACKRAT_CHECK(utimensat(AT_FDCWD, path.c_str(), written, 0) == 0);
    const auto version = store_->Version(key_);
    const auto [got, taken] = Get();
    if (version.ok() && *version == kDeletedSession) {
      PACKRAT_CHECK(absl::IsNotFound(got.status()) && taken.empty()) << got.status();
    } else if (version.ok()) {
      PACKRAT_CHECK(got.ok() ? *got == *version : absl::IsDataLoss(got.status())) << got.status();
      PACKRAT_CHECK(taken == bytes.substr(kHeaderBytes));
    } else {
      PACKRAT_CHECK(absl::IsDataLoss(version.status()) || absl::IsNotFound(version.status()) ||
                    absl::IsFailedPrecondition(version.status()));
      PACKRAT_CHECK(got.status() == version.status() && taken.empty()) << got.status();
    }
    // What nobody can read may be a newer version's, and stays for a day.
    const bool over = absl::IsNotFound(version.status());
    PACKRAT_CHECK(store_->Sweep(kNext) == (over ? 1 : 0));
    PACKRAT_CHECK(std::filesystem::exists(path) != over);

    std::string next = "what comes next";
    const absl::Status put = store_->Put(
        key_, SessionPast({kNext, 1}), [&next] { return std::exchange(next, ""); },
        absl::Minutes(1));
    if (version.ok() && *version == SessionVersion{kNext, 1}) {
      PACKRAT_CHECK(put.ok()) << put;
    } else if (version.ok() && version->revision >= kNext) {
      PACKRAT_CHECK(absl::IsAborted(put)) << put;
    } else {
      PACKRAT_CHECK(put.ok()) << put;
      PACKRAT_CHECK(Get().second == "what comes next");
    }
    PACKRAT_CHECK(store_->Delete(key_, absl::Minutes(1)).ok());
    PACKRAT_CHECK(*store_->Version(key_) == kDeletedSession);
  }

 private:
  std::pair<absl::StatusOr<SessionVersion>, std::string> Get() {
    std::string taken;
    auto version = store_->Get(key_, [&taken](absl::string_view piece) {
      taken.append(piece.data(), piece.size());
      return true;
    });
    return {std::move(version), std::move(taken)};
  }

  std::string path_;
  std::unique_ptr<DirectoryStore> store_;
  const StoreKey key_ = {"", "somebody"};
};

std::string WithHashes(const std::string& input) {
  const std::string bytes = input.substr(kNumbersBytes);
  BytesHash hash;
  hash.Add(bytes.data(), bytes.size());
  const uint64_t bytes_hash = hash.Value();
  std::string numbers = input.substr(0, kNumbersBytes);
  numbers.append(reinterpret_cast<const char*>(&bytes_hash), sizeof bytes_hash);
  const uint64_t own = HashBytes(0, numbers.data(), numbers.size());
  std::string file = "PRSTORE2" + numbers;
  file.append(reinterpret_cast<const char*>(&own), sizeof own);
  return file + bytes;
}

}  // namespace
}  // namespace packrat

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* input, size_t size) {
  static packrat::Folder folder;
  const std::string bytes(reinterpret_cast<const char*>(input), size);
  folder.Check(bytes);
  if (size >= packrat::kNumbersBytes) folder.Check(packrat::WithHashes(bytes));
  return 0;
}
