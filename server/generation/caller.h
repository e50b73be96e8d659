// What a front (server/grpc, server/http) and a call have to do with each other. A front turns its
// wire format into a message of packrat.v1 and a CallInfo, makes the call, and from then on is the
// call's Caller.
//
//   caller = what a front keeps of one call; it owns the request message
//   caller->call = Generation::Generate(environment, &request, info, caller)
//   put caller->call->labels() where the answer's headers or trailers are
//   caller->call->Start()
//      Caller::Taken()                        0 or 1 times
//      Caller::SendHeaders()                  0 or 1 times   -> WriteDone(ok)
//      Caller::Write(message)                 0 or more      -> WriteDone(ok)
//      Caller::WriteAndFinish() or Finish()   once           -> Done(gone)
//
// What a call promises its front:
// - One operation (SendHeaders, Write, WriteAndFinish, Finish) is under way at a time: the next one
//   begins when WriteDone() was called for the last. Finish may be the first, before Start()
//   returns: that is how a call is refused.
// - They come from any thread: the one that called Start() or WriteDone(), the writer's, a pool's.
//   None of them may block, since the writer's thread serves all streams.
// - A call holds no lock while it calls one. So a front may call WriteDone() or Done() inside of
//   it, on the same stack. After WriteAndFinish() and Finish() the call touches the Caller no more,
//   but for Abort().
// - Abort() may come beside an operation, and at any time before Done() returns.
//
// What a front promises a call:
// - Each SendHeaders() and Write() gets exactly one WriteDone(), even if the client has gone: then
//   WriteDone(false). After that the call ends by itself, with Finish(). (A WriteDone() for
//   WriteAndFinish() is ignored.)
// - WriteDone(true) means that there is room for another message, which is what makes a slow client
//   slow down its stream alone: it comes when the message is out, not when it is put in a queue
//   without bounds.
// - Done() comes exactly once, after WriteAndFinish() or Finish(), when the client has everything
//   or has gone: the end of the server waits for it. It is the last that is said to a call.
// - Cancelled() comes when the client has gone or does not want the rest: at any time from Start()
//   on, from any thread, beside anything else, more than once if need be. It never replaces
//   WriteDone() or Done().
// - The Caller, the request and the call live until Done() has returned: the front keeps the call's
//   shared_ptr, and a further one where it may call Cancelled() beside Done().
#ifndef PACKRAT_SERVER_GENERATION_CALLER_H_
#define PACKRAT_SERVER_GENERATION_CALLER_H_

#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace packrat {

namespace v1 {
class GenerateResponse;
}

// What a front knows of a call beside its message; empty where the client says nothing. Nothing in
// it need be checked before.
struct CallInfo {
  std::string peer;           // For the log: "ipv4:127.0.0.1:51234".
  std::string path;           // For the log: of an HTTP route.
  std::string authorization;  // "Bearer KEY".
  std::string request_id;     // x-request-id.
  std::string caller;         // x-caller.
  std::string traceparent;    // Of W3C Trace Context; empty as well if there are several.
  absl::Time deadline = absl::InfiniteFuture();  // On the clock of SteadyNow().
  bool whole = false;  // The front gathers what the call says: the client has it all, or nothing.
  // Where a front makes several calls for one request of its client, which is let in as one: with
  // the first call how many requests to the engine all of them are; the others follow it.
  int together = 0;
  bool follows = false;
};

// What the client is told with every answer, refusals included.
struct CallLabels {
  std::string request_id;     // x-request-id: the client's, or a new one.
  std::string traceresponse;  // Empty: the client has no trace.
};

class Caller {
 public:
  virtual ~Caller() = default;

  // The engine has the request, and will not refuse it any more. Comes before all operations, and
  // is none itself; not where the call is refused.
  virtual void Taken() {}
  // The request was admitted, and has no tokens yet: a client that waits may be told that it was
  // taken. Skipped where a message comes at once.
  virtual void SendHeaders() = 0;
  // The message stays as it is until WriteDone().
  virtual void Write(const v1::GenerateResponse& message) = 0;
  // The last message; the call has gone well. The message stays as it is until Done().
  virtual void WriteAndFinish(const v1::GenerateResponse& message) = 0;
  // No more messages. OK, or why the call failed, which may be after some messages. For a status
  // that is worth another try, RetryDelay() says when (call_status.h).
  virtual void Finish(const absl::Status& status) = 0;
  // The client has not read for --stream_idle_timeout: it is to be dropped, so that what is under
  // way gets its WriteDone(false) or Done(). The call's lock is held: nothing of the call may be
  // called on this stack.
  virtual void Abort() = 0;
};

}  // namespace packrat

#endif  // PACKRAT_SERVER_GENERATION_CALLER_H_
