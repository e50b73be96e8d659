// A server with a fake model, as a process, for tests of clients. Prints its gRPC address and its
// HTTP port when the ports are open; ends at SIGTERM.
//   fake_server [loading] [ids] [held] [some_steps] [narrow]
// loading: stays in the state of loading until SIGUSR1. ids: without a tokenizer. held: no step of
// the engine ends before SIGTERM. some_steps: three do. narrow: one request runs, one waits.
#include <signal.h>

#include <cstdio>
#include <cstring>

#include "tests/server/test_server.h"

int main(int argc, char** argv) {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGUSR1);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  packrat::TestServer::Options options;
  options.tokenizer = true;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "loading") == 0) options.serve = false;
    if (std::strcmp(argv[i], "ids") == 0) options.tokenizer = false;
    if (std::strcmp(argv[i], "narrow") == 0) {
      options.server.engine.max_running = options.server.engine.max_queue = 1;
    }
  }
  packrat::TestServer server(options);
  for (int i = 1; i < argc; ++i) {
    const bool some_steps = std::strcmp(argv[i], "some_steps") == 0;
    if (some_steps || std::strcmp(argv[i], "held") == 0) server.gate().Close();
    if (some_steps) server.gate().Allow(3);
  }
  std::printf("%s %d\n", server.address().c_str(), server.server().http_port());
  std::fflush(stdout);
  int number = 0;
  while (sigwait(&signals, &number) == 0 && number == SIGUSR1) server.Serve();
  server.gate().Open();
  server.server().Drain();
  for (const std::string& line : server.log_lines()) std::fprintf(stderr, "%s\n", line.c_str());
  return 0;
}
