// The API over HTTP: OpenAI's under /v1, and every method of packrat.v1.Inference with one request
// message under /packrat/v1.
#ifndef PACKRAT_SERVER_HTTP_API_ROUTES_H_
#define PACKRAT_SERVER_HTTP_API_ROUTES_H_

#include <string>
#include <vector>

#include "server/generation/call_environment.h"
#include "server/http/http_server.h"

namespace packrat {

// `environment` outlives the server.
std::vector<HttpRoute> ApiRoutes(CallEnvironment* environment);

// A request that no handler gets, in the form of the API that its path belongs to.
HttpAnswer ApiRefusal(const std::string& path, int status, const std::string& message);

}  // namespace packrat

#endif  // PACKRAT_SERVER_HTTP_API_ROUTES_H_
