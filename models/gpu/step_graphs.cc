#include "models/gpu/step_graphs.h"

#include <cuda_runtime_api.h>

#include "absl/status/statusor.h"
#include "models/gpu/memory.h"

namespace packrat::gpu {
namespace {

absl::StatusOr<cudaGraphExec_t> Capture(CudaStream stream,
                                        absl::FunctionRef<absl::Status()> launch) {
  absl::Status status = CudaStatus(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal),
                                   "capturing a step");
  if (!status.ok()) return status;
  const absl::Status launched = launch();
  // Also after an error, so that the stream is a plain one again.
  cudaGraph_t graph = nullptr;
  status = CudaStatus(cudaStreamEndCapture(stream, &graph), "capturing a step");
  cudaGraphExec_t exec = nullptr;
  if (status.ok() && launched.ok()) {
    status = CudaStatus(cudaGraphInstantiate(&exec, graph, 0), "making a graph");
  }
  if (graph != nullptr) cudaGraphDestroy(graph);
  if (!launched.ok()) return launched;
  if (!status.ok()) return status;
  return exec;
}

}  // namespace

absl::Status StepGraphs::Launch(const StepSize& size, CudaStream stream,
                                absl::FunctionRef<absl::Status()> launch) {
  const auto [entry, first] = graphs_.emplace(size, nullptr);
  if (first) return launch();
  void*& graph = entry->second;
  if (graph == nullptr) {
    auto captured = Capture(stream, launch);
    if (!captured.ok()) return captured.status();
    graph = *captured;
  }
  return CudaStatus(cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph), stream),
                    "launching a step");
}

void StepGraphs::Drop() {
  for (const auto& [size, graph] : graphs_) {
    if (graph != nullptr) cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(graph));
  }
  graphs_.clear();
}

}  // namespace packrat::gpu
