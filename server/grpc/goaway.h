// Asks clients to send their calls elsewhere.
#ifndef PACKRAT_SERVER_GRPC_GOAWAY_H_
#define PACKRAT_SERVER_GRPC_GOAWAY_H_

namespace grpc {
class Server;
}

namespace packrat {

// Sends GOAWAY on every connection, so that its client makes a new one for later calls. Calls that
// run or were on their way go on, and the connection is closed after the last one. Later calls of
// this function affect new connections only.
void SendGoaways(grpc::Server* server);

}  // namespace packrat

#endif  // PACKRAT_SERVER_GRPC_GOAWAY_H_
