// The page at /, with which a person tries the model in a browser. Its files are in the program.
#ifndef PACKRAT_SERVER_PAGE_PAGE_H_
#define PACKRAT_SERVER_PAGE_PAGE_H_

#include <vector>

#include "server/http/http_server.h"

namespace packrat {

// /, /page.css and /page.js.
std::vector<HttpRoute> PageRoutes();

}  // namespace packrat

#endif  // PACKRAT_SERVER_PAGE_PAGE_H_
