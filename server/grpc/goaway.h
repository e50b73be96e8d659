// Asks clients to take their calls elsewhere.
#ifndef PACKRAT_SERVER_GRPC_GOAWAY_H_
#define PACKRAT_SERVER_GRPC_GOAWAY_H_

namespace grpc {
class Server;
}

namespace packrat {

// Sends GOAWAY on every connection: its client makes a new one for the calls to come. Calls that
// run, and those that were on their way, go on; the connection is closed after the last one. Again:
// nothing, but for connections that are new.
void SendGoaways(grpc::Server* server);

}  // namespace packrat

#endif  // PACKRAT_SERVER_GRPC_GOAWAY_H_
