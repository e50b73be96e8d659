// The client's commands. Each returns the exit code of the process.
#ifndef PACKRAT_SERVER_CLIENT_COMMANDS_H_
#define PACKRAT_SERVER_CLIENT_COMMANDS_H_

#include <string>
#include <vector>

#include "server/client/connection.h"

namespace google::protobuf {
class Message;
}

namespace packrat {

enum ExitCode {
  kExitOk = 0,
  kExitFailed = 1,    // The server refused or the call failed.
  kExitUsage = 2,     // A mistake in the command.
  kExitNoServer = 3,  // Nobody answers at the address.
  kExitDeadline = 4,  // --deadline has passed.
  kExitInterrupted = 130,
};

// `arguments`: what stands after the command's name and is no flag.
int CompleteCommand(Connection* connection, const std::vector<std::string>& arguments);
int ChatCommand(Connection* connection, const std::vector<std::string>& arguments);
int ScoreCommand(Connection* connection, const std::vector<std::string>& arguments);
int TokenizeCommand(Connection* connection, const std::vector<std::string>& arguments);
int DetokenizeCommand(Connection* connection, const std::vector<std::string>& arguments);
int InfoCommand(Connection* connection, const std::vector<std::string>& arguments);
int SessionsCommand(Connection* connection, const std::vector<std::string>& arguments);
int BenchCommand(Connection* connection, const std::vector<std::string>& arguments);
int HealthCommand(Connection* connection, const std::vector<std::string>& arguments);

// Adds what a message says to what those before it have said.
void Gather(const v1::GenerateResponse& message, v1::GenerateResponse* all);

// Where the request is for the session "new": makes one, names it in the request, and tells its
// handle on standard error.
Connection::Outcome MakeSessionIfNew(Connection* connection, v1::GenerateRequest* request);

// Tells what became of a call that did not end well, and gives the exit code for it.
int Report(const Connection& connection, const Connection::Outcome& outcome);
int UsageError(const std::string& message);
// In proto3's JSON, on one line; fields by their names in the .proto file.
std::string ToJson(const google::protobuf::Message& message);

}  // namespace packrat

#endif  // PACKRAT_SERVER_CLIENT_COMMANDS_H_
