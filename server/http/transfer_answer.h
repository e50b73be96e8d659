// SaveSession and LoadSession over HTTP: the saved session is the body of an answer, in pieces, or
// of a request.
#ifndef PACKRAT_SERVER_HTTP_TRANSFER_ANSWER_H_
#define PACKRAT_SERVER_HTTP_TRANSFER_ANSWER_H_

#include <memory>

#include "server/http/api_door.h"

namespace packrat {

// POST /packrat/v1/SaveSession with a SaveSessionRequest as JSON. What SavedSession tells, as gRPC
// has it, is in the headers X-Saved-Bytes, X-Saved-Tokens and X-Saved-State-Tokens.
void AnswerSave(const std::shared_ptr<ApiRequest>& request);

// POST /packrat/v1/LoadSession with the saved bytes, which are taken as they come; the headers
// X-Cache-Salt and X-Session-Ttl, in seconds, are the fields of LoadSessionRequest.
std::shared_ptr<HttpUpload> TakeSession(CallEnvironment* environment, const HttpRequest& head);

}  // namespace packrat

#endif  // PACKRAT_SERVER_HTTP_TRANSFER_ANSWER_H_
