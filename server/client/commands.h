// The client's commands. Each returns the exit code of the process.
#ifndef PACKRAT_SERVER_CLIENT_COMMANDS_H_
#define PACKRAT_SERVER_CLIENT_COMMANDS_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "server/client/connection.h"

namespace google::protobuf {
class Message;
}

namespace packrat {

enum ExitCode {
  kExitOk = 0,
  kExitFailed = 1,    // The server refused or the call failed.
  kExitUsage = 2,     // The command has a mistake.
  kExitNoServer = 3,  // Nobody answers at the address.
  kExitDeadline = 4,  // --deadline has passed.
  kExitInterrupted = 130,
};

// `arguments`: those after the command's name that are not flags.
int CompleteCommand(Connection* connection, const std::vector<std::string>& arguments);
int ScoreCommand(Connection* connection, const std::vector<std::string>& arguments);
int TokenizeCommand(Connection* connection, const std::vector<std::string>& arguments);
int DetokenizeCommand(Connection* connection, const std::vector<std::string>& arguments);
int InfoCommand(Connection* connection, const std::vector<std::string>& arguments);
int SessionsCommand(Connection* connection, const std::vector<std::string>& arguments);
int SaveCommand(Connection* connection, const std::vector<std::string>& arguments);
int LoadCommand(Connection* connection, const std::vector<std::string>& arguments);
int BenchCommand(Connection* connection, const std::vector<std::string>& arguments);
int HealthCommand(Connection* connection, const std::vector<std::string>& arguments);

// A failed read looks like the end of the input.
absl::Status CheckStandardInput();

// Generates, writes the text to standard output as it comes if `print`, and collects it in `all`.
Connection::Outcome Stream(Connection* connection, const v1::GenerateRequest& request, bool print,
                           v1::GenerateResponse* all);
// With --stats: tokens and times on standard error.
void PrintStats(const v1::Finished& finished);

// Adds a message to those before it.
void Gather(const v1::GenerateResponse& message, v1::GenerateResponse* all);

// If the request is for the session "new": makes a session, puts it into the request, and prints
// its handle on standard error.
Connection::Outcome MakeSessionIfNew(Connection* connection, v1::GenerateRequest* request);

// Prints why a call failed, and returns the exit code for it.
int Report(const Connection& connection, const Connection::Outcome& outcome);
int UsageError(const std::string& message);
// As proto3's JSON, on one line, with the names of fields in the .proto file.
std::string ToJson(const google::protobuf::Message& message);

}  // namespace packrat

#endif  // PACKRAT_SERVER_CLIENT_COMMANDS_H_
