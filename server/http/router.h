// Finds the handler of a request, or the answer if there is none.
#ifndef PACKRAT_SERVER_HTTP_ROUTER_H_
#define PACKRAT_SERVER_HTTP_ROUTER_H_

#include <string>
#include <utility>
#include <vector>

#include "server/http/http_server.h"

namespace packrat {

struct RoutedAnswer {
  HttpAnswer answer;
  std::string allow;  // The header of 405; empty: none.
};

class Router {
 public:
  explicit Router(std::vector<HttpRoute> routes) : routes_(std::move(routes)) {}

  // `target`: a path with or without a query, or a whole URL. 404: no route has the path; 405: none
  // has the method; 403: the client must be `trusted` and is not.
  RoutedAnswer Answer(const std::string& method, const std::string& target,
                      const std::string& authorization, bool trusted) const;

 private:
  const std::vector<HttpRoute> routes_;
};

// "/a" of "/a?b=c" and of "http://host/a".
std::string PathOf(const std::string& target);

}  // namespace packrat

#endif  // PACKRAT_SERVER_HTTP_ROUTER_H_
