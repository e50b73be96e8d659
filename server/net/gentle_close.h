// Lets the last words of a connection arrive.
//
// gRPC closes a connection in both directions as soon as it has nothing more to say. What its peer
// sends a moment later, a window update say, is answered by the kernel with a reset, and a peer
// that meets a reset may drop what it has not looked at yet: HAProxy 2.6 lost the ends of 5 in
// 2,500 streams that way. The right way is to close our direction first, and the other one when the
// peer has closed its own. The library has no hook for that, so our shutdown() takes the place of
// the C library's, for the sockets that are named here.
#ifndef PACKRAT_SERVER_NET_GENTLE_CLOSE_H_
#define PACKRAT_SERVER_NET_GENTLE_CLOSE_H_

#include <chrono>

namespace packrat {

// From here on shutdown(fd, SHUT_RDWR) closes our direction only. The socket stays open, though
// `fd` is closed, until the peer has closed its own, has sent a megabyte, or two seconds are over;
// what it sends is thrown away. Holds for at most 64 sockets at a time: others are closed at once.
void CloseGently(int fd);

// Waits until no such socket is left, at most so long.
void WaitForGentleCloses(std::chrono::milliseconds time);

}  // namespace packrat

#endif  // PACKRAT_SERVER_NET_GENTLE_CLOSE_H_
