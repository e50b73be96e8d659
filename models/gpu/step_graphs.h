// Captured steps: one CUDA graph for each size of step, made when the size comes a second time. The
// first step of a size runs uncaptured: the driver loads kernels when they are first used, which it
// must not do during a capture, and a size that never comes again is not worth a graph.
#ifndef PACKRAT_MODELS_GPU_STEP_GRAPHS_H_
#define PACKRAT_MODELS_GPU_STEP_GRAPHS_H_

#include <map>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "kernels/gpu.h"
#include "models/gpu/device_batch.h"

namespace packrat::gpu {

class StepGraphs {
 public:
  StepGraphs() = default;
  ~StepGraphs() { Drop(); }
  StepGraphs(const StepGraphs&) = delete;
  StepGraphs& operator=(const StepGraphs&) = delete;

  // Queues the step of this size. `launch` queues its kernels on the stream; from the second call
  // for a size on, what it read from the host is fixed.
  absl::Status Launch(const StepSize& size, CudaStream stream,
                      absl::FunctionRef<absl::Status()> launch);
  // Forgets all graphs, because addresses have changed. None of them may still run.
  void Drop();

 private:
  std::map<StepSize, void*> graphs_;  // cudaGraphExec_t; null: seen once.
};

}  // namespace packrat::gpu

#endif  // PACKRAT_MODELS_GPU_STEP_GRAPHS_H_
