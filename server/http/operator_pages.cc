#include "server/http/operator_pages.h"

namespace packrat {
namespace {

// 200 and `good`, or `bad_status` and `trouble` if there is some.
HttpAnswer Probe(const std::string& trouble, const char* good, int bad_status = 503) {
  HttpAnswer answer;
  answer.status = trouble.empty() ? 200 : bad_status;
  answer.body = (trouble.empty() ? good : trouble) + "\n";
  return answer;
}

}  // namespace

// Kubelets and balancers have no certificate. They learn only whether the server is well.
std::vector<HttpRoute> OperatorRoutes(const OperatorPages& pages) {
  const auto ready =
      AtOnce([pages](const HttpRequest&) { return Probe(pages.not_ready(), "ready"); });
  return {
      {"/metrics", "GET", AtOnce([pages](const HttpRequest& request) {
         if (pages.may_read_metrics != nullptr) {
           const absl::Status status =
               pages.may_read_metrics(std::string(request.Header("Authorization")));
           if (!status.ok()) {
             HttpAnswer refusal = PlainRefusal(401, std::string(status.message()));
             refusal.headers = {{"WWW-Authenticate", "Bearer"}};
             return refusal;
           }
         }
         return HttpAnswer{200, "text/plain; version=0.0.4; charset=utf-8", pages.metrics(), {}};
       })},
      {"/healthz", "GET",
       AtOnce([pages](const HttpRequest&) { return Probe(pages.not_alive(), "ok"); }), true},
      {"/readyz", "GET", ready, true},
      // The name that other servers have for it, which their routers and benchmarks ask for.
      {"/health", "GET", ready, true},
      // For balancers that cut the streams of a server that is down. So draining has an answer of
      // its own.
      {"/balancerz", "GET", AtOnce([pages](const HttpRequest&) {
         return Probe(pages.not_ready(), "ready", pages.draining() ? 404 : 503);
       }),
       true},
      {"/version", "GET", AtOnce([pages](const HttpRequest&) {
         return HttpAnswer{200, "application/json", pages.version() + "\n", {}};
       })},
  };
}

}  // namespace packrat
