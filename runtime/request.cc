#include "runtime/request.h"

#include <cstring>

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
  add(&dials.last, sizeof dials.last);
  add(&origin, sizeof origin);
  const size_t parts = dials.finer.size();
  add(&parts, sizeof parts);
  add(dials.finer.data(), parts * sizeof(TextDials::Part));
  return key + salt;
}

uint64_t StateSpace::OriginOf(const std::string& key) {
  size_t tenant_size = 0;
  std::memcpy(&tenant_size, key.data(), sizeof tenant_size);
  const size_t at = sizeof tenant_size + tenant_size + sizeof(SolverOptions::cg_tolerance) +
                    sizeof(SolverOptions::cg_max_steps) + sizeof(TextDials::last);
  uint64_t origin = 0;
  std::memcpy(&origin, key.data() + at, sizeof origin);
  return origin;
}

StateSpace SpaceOf(const Request& request) {
  return {request.tenant, request.cache.salt, request.solver, request.dials, request.cache.origin};
}

}  // namespace packrat
