// The memory and CPUs that a server needs with its options. The server checks this at its start;
// packrat_server --plan prints it.
#ifndef PACKRAT_SERVER_PLAN_H_
#define PACKRAT_SERVER_PLAN_H_

#include <string>

#include "absl/status/status.h"
#include "models/model.h"
#include "runtime/memory_plan.h"
#include "server/options.h"

namespace packrat {

ModelOptions ToModelOptions(const ServerOptions& options);

// The resources of the machine, reduced by --memory_limit.
Resources ResourcesOf(const ServerOptions& options, const Resources& machine);

// What it may hold of sessions: as the options say, or where they leave it open, as fits
// `resources`.
SessionOptions SessionsOf(const ServerOptions& options, const Resources& resources);

struct ServerPlan {
  Resources resources;  // --memory_limit included.
  int threads = 0;      // Of the model.
  SessionOptions sessions;
  MemoryPlan memory;
};

// For a model on the CPU. Errors as of MeasureModel() and PlanMemory(). After an error of
// PlanMemory(), `plan` holds what is known.
absl::Status PlanServer(const ServerOptions& options, const Resources& machine, ServerPlan* plan);

// The exit code of the process: 0 if all is well, 2 if an option is wrong, else 1.
int ExitCode(const ServerPlan& plan, const absl::Status& status);

// As text for people, or with `json` as one JSON object. `status` is what PlanServer() returned.
std::string DescribePlan(const ServerOptions& options, const ServerPlan& plan,
                         const absl::Status& status, bool json);

}  // namespace packrat

#endif  // PACKRAT_SERVER_PLAN_H_
