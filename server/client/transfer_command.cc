// packrat save and packrat load: a session as a file.
#include <sys/stat.h>

#include <cstdio>
#include <fstream>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "runtime/pending_file.h"
#include "server/client/commands.h"
#include "server/client/request_flags.h"
#include "server/standard_output.h"

namespace packrat {
namespace {

constexpr size_t kPieceBytes = size_t{512} << 10;

int FileError(const absl::Status& status) {
  std::fprintf(stderr, "packrat: %s\n", std::string(status.message()).c_str());
  return kExitFailed;
}

// A file is replaced; a device or a pipe must not be.
bool MayBeReplaced(const std::string& path) {
  struct stat stat;
  return lstat(path.c_str(), &stat) != 0 || S_ISREG(stat.st_mode);
}

}  // namespace

int SaveCommand(Connection* connection, const std::vector<std::string>& arguments) {
  const std::string path = absl::GetFlag(FLAGS_output);
  const v1::SaveSessionRequest request = SaveFromFlags();
  if (!arguments.empty() || request.session().empty() || path.empty()) {
    return UsageError("save takes --session=HANDLE and --output=FILE");
  }
  if (!MayBeReplaced(path))
    return UsageError(absl::StrCat("--output: ", path, " is not a regular file"));
  // Under its name only when it is whole.
  auto file = PendingFile::Create(path);
  if (!file.ok()) return FileError(file.status());
  absl::Status written;
  v1::SavedSession saved;
  const auto outcome =
      connection->SaveSession(request, [&](const v1::SaveSessionResponse& message) {
        if (message.has_saved()) saved = message.saved();
        written.Update(file->Append(message.data()));
        return written.ok();
      });
  if (!written.ok()) return FileError(written);
  if (!outcome.status.ok()) return Report(*connection, outcome);
  written = file->Sync();
  if (written.ok()) written = file->Commit();
  if (!written.ok()) return FileError(written);
  Print(absl::GetFlag(FLAGS_json)
            ? ToJson(saved) + "\n"
            : absl::StrCat(saved.tokens(), " tokens, with the state after ", saved.state_tokens(),
                           ", in ", saved.bytes(), " bytes\n"));
  return kExitOk;
}

int LoadCommand(Connection* connection, const std::vector<std::string>& arguments) {
  const std::string path = absl::GetFlag(FLAGS_input);
  if (!arguments.empty() || path.empty()) return UsageError("load takes --input=FILE");
  std::ifstream file(path, std::ios::binary);
  if (!file || file.peek() == std::ifstream::traits_type::eof()) {
    return UsageError(absl::StrCat("--input: ", path, " cannot be read, or is empty"));
  }
  std::optional<v1::LoadSessionRequest> first = LoadFromFlags();
  v1::LoadSessionResponse response;
  const auto outcome = connection->LoadSession(
      [&](v1::LoadSessionRequest* message) {
        *message =
            first.has_value() ? *std::exchange(first, std::nullopt) : v1::LoadSessionRequest();
        std::string* const data = message->mutable_data();
        data->resize(kPieceBytes);
        file.read(data->data(), static_cast<std::streamsize>(data->size()));
        data->resize(static_cast<size_t>(file.gcount()));
        return !data->empty();
      },
      &response);
  if (file.bad()) return FileError(absl::DataLossError(path + ": cannot read"));
  if (!outcome.status.ok()) return Report(*connection, outcome);
  if (absl::GetFlag(FLAGS_json)) {
    Print(ToJson(response) + "\n");
    return kExitOk;
  }
  Print(response.session().session() + "\n");
  if (!response.state_dropped().empty()) {
    std::fprintf(stderr, "[without its state, so that the first turn computes the text: %s]\n",
                 response.state_dropped().c_str());
  }
  return kExitOk;
}

}  // namespace packrat
