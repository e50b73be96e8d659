// Makes sure that the last bytes of a connection arrive.
//
// gRPC closes a connection in both directions when it has nothing more to send. If the peer then
// sends something, such as a window update, the kernel answers with a reset, and the peer may drop
// bytes that it has not read yet. HAProxy 2.6 lost the ends of 5 in 2,500 streams in this way. The
// right way is to close our direction first, and the other one after the peer has closed its own.
// The library has no hook for this, so our shutdown() replaces that of the C library, for the
// sockets that are named here.
#ifndef PACKRAT_SERVER_NET_GENTLE_CLOSE_H_
#define PACKRAT_SERVER_NET_GENTLE_CLOSE_H_

#include <chrono>

namespace packrat {

// From here on shutdown(fd, SHUT_RDWR) closes our direction only. Though `fd` is closed, the socket
// stays open until the peer has closed its direction or sent a megabyte, or two seconds have
// passed. What it sends is thrown away. At most 64 sockets are kept open in this way; others are
// closed at once.
void CloseGently(int fd);

// Waits until no such socket is left, but not longer than this.
void WaitForGentleCloses(std::chrono::milliseconds time);

}  // namespace packrat

#endif  // PACKRAT_SERVER_NET_GENTLE_CLOSE_H_
