// Finds the handler of a request, or the answer if there is none.
#ifndef PACKRAT_SERVER_HTTP_ROUTER_H_
#define PACKRAT_SERVER_HTTP_ROUTER_H_

#include <string>
#include <utility>
#include <vector>

#include "server/http/http_server.h"

namespace packrat {

// A handler, or why there is none.
struct Routed {
  const HttpRoute* route = nullptr;  // Null: refused.
  int status = 0;                    // 404: no route has the path; 405: none has the method; 403:
                                     // the client must be trusted and is not.
  std::string message;               // With the path, and the method.
  std::string allow;                 // The header of 405.
};

class Router {
 public:
  explicit Router(std::vector<HttpRoute> routes) : routes_(std::move(routes)) {}

  Routed Find(const std::string& method, const std::string& path, bool trusted) const;
  bool Has(const std::string& path) const;
  // The methods that pages of other sites may use there; empty: none.
  std::string CrossOriginMethods(const std::string& path) const;

 private:
  // A page that a client may have meant: its base URL lacks the version, or has it twice, or there
  // is a slash at the end. Empty: none.
  std::string Meant(const std::string& path) const;

  const std::vector<HttpRoute> routes_;
};

}  // namespace packrat

#endif  // PACKRAT_SERVER_HTTP_ROUTER_H_
