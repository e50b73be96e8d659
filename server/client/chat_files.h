// The files of a chat: lines of earlier ones, and what was said.
#ifndef PACKRAT_SERVER_CLIENT_CHAT_FILES_H_
#define PACKRAT_SERVER_CLIENT_CHAT_FILES_H_

#include <string>

#include "absl/status/status.h"

namespace packrat {

// Where the lines of earlier chats are, in a folder that is made. Empty: nowhere.
std::string HistoryFile();

// `path` with the user's home in the place of a ~ before its first slash, as in a shell.
std::string WithHome(const std::string& path);

// Writes `text` into a file, which is not there yet unless `over`: ALREADY_EXISTS.
absl::Status SaveText(const std::string& path, bool over, const std::string& text);

}  // namespace packrat

#endif  // PACKRAT_SERVER_CLIENT_CHAT_FILES_H_
