// What a server with these options takes of memory and CPU: checked as it starts, and told by
// packrat_server --plan without starting one.
#ifndef PACKRAT_SERVER_PLAN_H_
#define PACKRAT_SERVER_PLAN_H_

#include <string>

#include "absl/status/status.h"
#include "models/model.h"
#include "runtime/memory_plan.h"
#include "server/options.h"

namespace packrat {

ModelOptions ToModelOptions(const ServerOptions& options);

// Those of the machine, less what --memory_limit takes away.
Resources ResourcesOf(const ServerOptions& options, const Resources& machine);

struct ServerPlan {
  Resources resources;  // --memory_limit included.
  int threads = 0;      // Of the model.
  MemoryPlan memory;
};

// For a model on the CPU. Errors of MeasureModel(), and of PlanMemory(), after which `plan` holds
// what is known.
absl::Status PlanServer(const ServerOptions& options, const Resources& machine, ServerPlan* plan);

// Of the process that ends for it: 2 where an option is wrong, else 1; 0 where all is well.
int ExitCode(const ServerPlan& plan, const absl::Status& status);

// For people, or as one JSON object where `json`. `status`: of PlanServer().
std::string DescribePlan(const ServerOptions& options, const ServerPlan& plan,
                         const absl::Status& status, bool json);

}  // namespace packrat

#endif  // PACKRAT_SERVER_PLAN_H_
