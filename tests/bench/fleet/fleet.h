// A fleet of simulated replicas behind one balancer, driven by events.
#ifndef PACKRAT_TESTS_BENCH_FLEET_FLEET_H_
#define PACKRAT_TESTS_BENCH_FLEET_FLEET_H_

#include <cstdint>
#include <string>

#include "models/state_layout.h"
#include "tests/bench/fleet/replica.h"
#include "tests/bench/fleet/workload.h"

namespace packrat {

enum class Balancing {
  kLeast,       // The replica with the fewest outstanding calls.
  kTwoChoices,  // The better of two drawn at random: Envoy's LEAST_REQUEST.
  kAffinity,    // A conversation's later turns go where its first went, unless that replica has
                // more than 1.25 times the mean of outstanding calls and two; then as kLeast.
};

struct FleetOptions {
  int replicas = 1;
  Balancing balancing = Balancing::kLeast;
  ReplicaOptions replica;
  int max_context = 4096;  // A conversation whose transcript would not fit ends.
  double begin = 0;        // Seconds of the day at which the simulation begins.
  double warm_up = 0;      // Seconds that are simulated but not counted.
  double seconds = 100;    // Simulated and counted.
  uint64_t seed = 1;
};

struct FleetResult {
  FleetCounts counts;
  double utilisation = 0;  // Share of the time in which a replica computes.
  double state = 0;        // Share of the fullest kind of state, while a replica computes.
  // Of the whole run, the warm-up included: arrivals = finished + refused + in_flight.
  int64_t arrivals = 0, finished = 0, refused = 0, in_flight = 0;
  int64_t finished_tokens = 0;  // Of the replies of finished calls.
};

FleetResult Simulate(const Workload& workload, const StepTimes& times, const StateLayout& layout,
                     const FleetOptions& options);

}  // namespace packrat

#endif  // PACKRAT_TESTS_BENCH_FLEET_FLEET_H_
