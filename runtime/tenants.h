// The accounts of tenants: how much each has been served. Start-time fair queueing: a tenant is
// charged when one of its requests is admitted, and one that had nothing to do for a while starts
// again where the others stand, so that idleness earns no credit.
#ifndef PACKRAT_RUNTIME_TENANTS_H_
#define PACKRAT_RUNTIME_TENANTS_H_

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/types/span.h"
#include "runtime/scheduler.h"

namespace packrat {

class Tenants {
 public:
  // A request has come: the index of its tenant, which is new or known by its name. `weight`, above
  // 0, counts from here on.
  int Join(const std::string& name, double weight);
  // The request has been admitted: charges `tokens`.
  void Charge(int tenant, int64_t tokens);
  // The request makes way for others with so many of them to go.
  void Refund(int tenant, int64_t tokens);
  // The request is over, and `unused` of the tokens were not needed (0 if it was never charged).
  // Once all requests of a tenant are over, its index may become that of another one.
  void Leave(int tenant, int64_t unused);

  // By index, including the places of tenants that have gone.
  absl::Span<const TenantShare> shares() const { return shares_; }

 private:
  struct Account {
    std::string name;
    int requests = 0;  // Waiting or running.
  };
  int Add(const std::string& name);

  std::vector<Account> accounts_;
  std::vector<TenantShare> shares_;  // Parallel.
  // Not Abseil's: that one is broken by a refused allocation.
  std::unordered_map<std::string, int> index_;
  double now_ = 0;  // What the tenant that was charged last had been served until then.
};

}  // namespace packrat

#endif  // PACKRAT_RUNTIME_TENANTS_H_
