#include "runtime/tenants.h"

#include <algorithm>
#include <utility>

#include "kernels/check.h"

namespace packrat {

int Tenants::Join(const std::string& name, double weight) {
  PACKRAT_CHECK(weight > 0);
  const auto found = index_.find(name);
  const int tenant = found != index_.end() ? found->second : Add(name);
  TenantShare& share = shares_[tenant];
  share.weight = weight;
  if (accounts_[tenant].requests++ == 0) share.served = std::max(share.served, now_);
  return tenant;
}

int Tenants::Add(const std::string& name) {
  // Take the place of a tenant that is idle and owes nothing, if there is one: its account says
  // nothing that a new one would not.
  size_t place = 0;
  while (place < accounts_.size() &&
         (accounts_[place].requests > 0 || shares_[place].served > now_)) {
    ++place;
  }
  // If memory is refused on the way, what remains is a place that is idle and not in the index.
  Account account = {name, 0};
  if (place == accounts_.size()) {
    shares_.resize(place + 1);
    accounts_.resize(place + 1);
  }
  const auto before = index_.find(accounts_[place].name);
  if (before != index_.end() && before->second == static_cast<int>(place)) index_.erase(before);
  index_.emplace(name, static_cast<int>(place));
  accounts_[place] = std::move(account);
  shares_[place] = TenantShare();
  return static_cast<int>(place);
}

void Tenants::Charge(int tenant, int64_t tokens) {
  TenantShare& share = shares_[tenant];
  now_ = std::max(now_, share.served);
  share.served += static_cast<double>(tokens) / share.weight;
}

void Tenants::Refund(int tenant, int64_t tokens) {
  shares_[tenant].served -= static_cast<double>(tokens) / shares_[tenant].weight;
}

void Tenants::Leave(int tenant, int64_t unused) {
  PACKRAT_CHECK(accounts_[tenant].requests > 0, "a tenant without requests") << tenant;
  --accounts_[tenant].requests;
  Refund(tenant, unused);
}

}  // namespace packrat
