#include "runtime/request.h"

namespace packrat {

std::string StateSpace::Key() const {
  std::string key;
  const auto add = [&key](const void* data, size_t size) {
    key.append(static_cast<const char*>(data), size);
  };
  const size_t tenant_size = tenant.size();
  add(&tenant_size, sizeof tenant_size);
  key += tenant;
  add(&solver.cg_tolerance, sizeof solver.cg_tolerance);
  add(&solver.cg_max_steps, sizeof solver.cg_max_steps);
  add(&origin, sizeof origin);
  return key + salt;
}

StateSpace SpaceOf(const Request& request) {
  return {request.tenant, request.cache.salt, request.solver, request.cache.origin};
}

}  // namespace packrat
