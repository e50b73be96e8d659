// The runtime's functions: memory that only running work may touch, and streams whose work waits
// until something synchronises with them.
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

#include "tests/emulation/emulation.h"
#include "tests/emulation/races.h"
#include "tests/emulation/runtime.h"

struct Work {
  std::function<void()> run;
  emulation::WorkKind kind;
};

struct CUstream_st {
  std::deque<Work> queue;
  bool capturing = false;
  bool invalid = false;  // What was captured: something was done that a capture does not allow.
  std::vector<Work> captured;
  bool after_kernel = false;      // What ran last is a kernel.
  emulation::RaceTime alone = 0;  // When it, or what overlaps with it, began alone.
};
struct CUgraph_st {
  std::vector<Work> work;
};
struct CUgraphExec_st {
  std::vector<Work> work;
};
struct CUevent_st {
  struct Mark {
    bool passed = false;
    double time = 0;
  };
  CUstream_st* stream = nullptr;
  std::shared_ptr<Mark> mark;  // Of the last record.
};

namespace emulation {

Counters counters;
double milliseconds = 0;

namespace {

constexpr size_t kPage = 4096;

std::map<std::byte*, size_t> device_memory;  // Bytes asked for.
std::map<void*, size_t> host_memory;
size_t used = 0;
cudaError_t sticky = cudaSuccess, last = cudaSuccess;
std::atomic<cudaError_t> planned{cudaSuccess};  // Also set by signal handlers.
CUstream_st default_stream;
std::set<CUstream_st*> streams;
std::set<const void*> loaded;                       // Kernels that were used before.
thread_local CUstream_st* captured_here = nullptr;  // The stream that this thread captures.
std::map<const void*, size_t> shared_allowed;       // Of a kernel, by cudaFuncSetAttribute().

size_t Mapped(size_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }

// What follows an allocation in its last page, for AddressSanitizer.
void ForbidTail([[maybe_unused]] std::byte* memory, [[maybe_unused]] size_t bytes,
                [[maybe_unused]] bool forbid) {
#if defined(__SANITIZE_ADDRESS__)
  const size_t tail = Mapped(bytes) - bytes;
  if (forbid) __asan_poison_memory_region(memory + bytes, tail);
  if (!forbid) __asan_unpoison_memory_region(memory + bytes, tail);
#endif
}

// The host's hands off the device's memory, but while work runs.
void Protect(int protection) {
  for (const auto& [memory, bytes] : device_memory) {
    if (mprotect(memory, Mapped(bytes), protection) != 0) std::abort();
  }
}

void Run(CUstream_st* stream, const Work& work) {
  if (sticky != cudaSuccess) return;
  sticky = planned.exchange(cudaSuccess);
  if (sticky != cudaSuccess) return;
  if (work.kind != WorkKind::kOverlappingKernel) {
    stream->alone = RaceWorkAlone();
  } else if (stream->after_kernel) {
    RaceWorkOverlaps(stream->alone);
  } else {
    Fail("a kernel that may begin before the work before it has ended, which is no kernel");
  }
  work.run();
  stream->after_kernel = work.kind != WorkKind::kOther;
}

// Runs the stream's work, until *done where that is given.
cudaError_t Drain(CUstream_st* stream, const bool* done = nullptr) {
  if (stream->capturing) return Return(cudaErrorStreamCaptureUnsupported);
  ++counters.synchronisations;
  Protect(PROT_READ | PROT_WRITE);
  while (!stream->queue.empty() && (done == nullptr || !*done) && sticky == cudaSuccess) {
    const Work work = std::move(stream->queue.front());
    stream->queue.pop_front();
    Run(stream, work);
  }
  if (sticky != cudaSuccess) stream->queue.clear();
  Protect(PROT_NONE);
  return Return(cudaSuccess);
}

bool IsPinned(const void* memory) {
  auto block = host_memory.upper_bound(const_cast<void*>(memory));
  if (block == host_memory.begin()) return false;
  --block;
  return static_cast<const std::byte*>(memory) <
         static_cast<const std::byte*>(block->first) + block->second;
}

// Whether this thread captures, which allocations and work on the default stream make invalid.
bool DisturbsCapture() {
  if (captured_here == nullptr) return false;
  captured_here->invalid = true;
  last = cudaErrorStreamCaptureUnsupported;
  return true;
}

CUstream_st* Of(cudaStream_t stream) { return stream != nullptr ? stream : &default_stream; }

}  // namespace

void Reset() {
  machine = Machine();
  counters = Counters();
  sticky = last = cudaSuccess;
  planned = cudaSuccess;
  default_stream = CUstream_st();
  shared_allowed.clear();
  loaded.clear();
  SetThreadOrder(0);
}

cudaError_t Return(cudaError_t error) {
  if (sticky != cudaSuccess) error = sticky;
  if (error != cudaSuccess) last = error;
  return error;
}

void FailNextWork(cudaError_t error) { planned = error; }

cudaError_t Enqueue(cudaStream_t stream, std::function<void()> work, WorkKind kind) {
  CUstream_st* s = Of(stream);
  if (s == &default_stream && DisturbsCapture()) return cudaErrorStreamCaptureUnsupported;
  if (s->capturing) {
    s->captured.push_back({std::move(work), kind});
  } else {
    s->queue.push_back({std::move(work), kind});
  }
  return Return(cudaSuccess);
}

cudaError_t LaunchKernel(const void* kernel, const cudaLaunchConfig_t& config,
                         std::function<void()> body) {
  const auto allowed = shared_allowed.find(kernel);
  const size_t limit = allowed != shared_allowed.end() ? allowed->second : 48 << 10;
  const dim3 grid = config.gridDim, block = config.blockDim;
  bool overlaps = false;
  for (unsigned i = 0; i < config.numAttrs; ++i) {
    overlaps |= config.attrs[i].val.programmaticStreamSerializationAllowed != 0;
  }
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.y > 65535 || grid.z > 65535 ||
      block.x * block.y * block.z > 1024 || block.x * block.y * block.z == 0 ||
      config.dynamicSmemBytes > limit || (overlaps && machine.major < 9)) {
    return Return(cudaErrorInvalidValue);
  }
  // The driver loads a kernel when it is first used, which it must not do during a capture.
  if (!Of(config.stream)->capturing) loaded.insert(kernel);
  if (loaded.count(kernel) == 0 && DisturbsCapture()) return cudaErrorStreamCaptureUnsupported;
  return Enqueue(
      config.stream,
      [=, shared_bytes = config.dynamicSmemBytes, body = std::move(body)] {
        ++counters.launches;
        if (overlaps) ++counters.overlapping_launches;
        RunGrid(grid, block, shared_bytes, overlaps, body);
      },
      overlaps ? WorkKind::kOverlappingKernel : WorkKind::kKernel);
}

}  // namespace emulation

using emulation::counters;
using emulation::Of;
using emulation::Return;

cudaError_t cudaGetLastError() { return std::exchange(emulation::last, cudaSuccess); }
cudaError_t cudaPeekAtLastError() { return emulation::last; }
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  *total = emulation::machine.memory;
  *free = *total - std::min(*total, emulation::used);
  return Return(cudaSuccess);
}
cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute, int value) {
  if (value < 0 || static_cast<size_t>(value) > emulation::SharedLimit()) {
    return Return(cudaErrorInvalidValue);
  }
  emulation::shared_allowed[kernel] = std::max<size_t>(value, 48 << 10);
  return Return(cudaSuccess);
}
cudaError_t cudaDeviceSynchronize() {
  if (emulation::DisturbsCapture()) return cudaErrorStreamCaptureUnsupported;
  cudaError_t error = emulation::Drain(&emulation::default_stream);
  for (CUstream_st* stream : emulation::streams) {
    if (!stream->capturing && !stream->queue.empty()) error = emulation::Drain(stream);
  }
  return error;
}

cudaError_t cudaMalloc(void** memory, size_t bytes) {
  if (emulation::DisturbsCapture()) return cudaErrorStreamCaptureUnsupported;
  ++counters.allocations;
  if (bytes == 0) {
    *memory = nullptr;
    return Return(cudaSuccess);
  }
  if (emulation::used + bytes > emulation::machine.memory) {
    return Return(cudaErrorMemoryAllocation);
  }
  void* mapping = mmap(nullptr, emulation::Mapped(bytes), PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping == MAP_FAILED) return Return(cudaErrorMemoryAllocation);
  std::memset(mapping, 0xFF, emulation::Mapped(bytes));
  mprotect(mapping, emulation::Mapped(bytes), PROT_NONE);
  emulation::ForbidTail(static_cast<std::byte*>(mapping), bytes, true);
  emulation::device_memory[static_cast<std::byte*>(mapping)] = bytes;
  emulation::WatchMemory(mapping, emulation::Mapped(bytes));
  emulation::used += bytes;
  *memory = mapping;
  return Return(cudaSuccess);
}
cudaError_t cudaFree(void* memory) {
  if (memory == nullptr) return Return(cudaSuccess);
  if (emulation::DisturbsCapture()) return cudaErrorStreamCaptureUnsupported;
  const auto found = emulation::device_memory.find(static_cast<std::byte*>(memory));
  if (found == emulation::device_memory.end()) std::abort();
  // As the runtime does, waits for all that may still use the memory.
  if (!emulation::default_stream.queue.empty()) emulation::Drain(&emulation::default_stream);
  for (CUstream_st* stream : emulation::streams) {
    if (!stream->capturing && !stream->queue.empty()) emulation::Drain(stream);
  }
  emulation::used -= found->second;
  emulation::ForbidTail(found->first, found->second, false);
  emulation::ForgetMemory(memory, emulation::Mapped(found->second));
  munmap(memory, emulation::Mapped(found->second));
  emulation::device_memory.erase(found);
  return Return(cudaSuccess);
}
cudaError_t cudaHostAlloc(void** memory, size_t bytes, unsigned) {
  if (emulation::DisturbsCapture()) return cudaErrorStreamCaptureUnsupported;
  ++counters.allocations;
  *memory = std::aligned_alloc(4096, emulation::Mapped(std::max<size_t>(bytes, 1)));
  emulation::host_memory[*memory] = bytes;
  emulation::WatchMemory(*memory, bytes);
  return Return(cudaSuccess);
}
cudaError_t cudaFreeHost(void* memory) {
  if (memory == nullptr) return cudaSuccess;
  if (emulation::DisturbsCapture()) return cudaErrorStreamCaptureUnsupported;
  const auto found = emulation::host_memory.find(memory);
  if (found == emulation::host_memory.end()) std::abort();
  std::memset(memory, 0xFF, found->second);  // Queued work that still reads it reads NaNs.
  emulation::ForgetMemory(memory, found->second);
  emulation::host_memory.erase(found);
  std::free(memory);
  return Return(cudaSuccess);
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  const auto copy = [=](const void* begin) {
    if (bytes > 0) std::memcpy(to, begin, bytes);  // No bytes may be nowhere.
    if (kind == cudaMemcpyHostToDevice) ++counters.uploads, counters.uploaded_bytes += bytes;
    if (kind == cudaMemcpyDeviceToHost) ++counters.downloads;
  };
  if (kind != cudaMemcpyHostToDevice || emulation::IsPinned(from)) {
    return emulation::Enqueue(stream, [=] { copy(from); });
  }
  // From pageable memory the values are staged at once, and go on their way later.
  const auto* begin = static_cast<const std::byte*>(from);
  auto staged = std::make_shared<std::vector<std::byte>>(begin, begin + bytes);
  return emulation::Enqueue(stream, [=] { copy(staged->data()); });
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  const cudaError_t error = cudaMemcpyAsync(to, from, bytes, kind, nullptr);
  // It returns when pageable values are staged: who reads them on a stream that does not wait for
  // the default one must synchronise.
  const bool staged = kind == cudaMemcpyHostToDevice && !emulation::IsPinned(from);
  return error != cudaSuccess || staged ? error : emulation::Drain(&emulation::default_stream);
}
cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t stream) {
  return emulation::Enqueue(stream, [=] {
    if (bytes > 0) std::memset(memory, value, bytes);
  });
}
// Of device memory: it returns before it is done.
cudaError_t cudaMemset(void* memory, int value, size_t bytes) {
  return cudaMemsetAsync(memory, value, bytes, nullptr);
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = new CUstream_st;
  emulation::streams.insert(*stream);
  return Return(cudaSuccess);
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  emulation::streams.erase(stream);
  delete stream;
  return Return(cudaSuccess);
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) { return emulation::Drain(Of(stream)); }
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (stream == nullptr || emulation::captured_here != nullptr) {
    return Return(cudaErrorStreamCaptureUnsupported);
  }
  ++counters.captures;
  stream->capturing = true;
  stream->invalid = false;
  stream->captured.clear();
  emulation::captured_here = stream;
  return Return(cudaSuccess);
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  stream->capturing = false;
  emulation::captured_here = nullptr;
  if (stream->invalid) {
    *graph = nullptr;
    return Return(cudaErrorStreamCaptureInvalidated);
  }
  *graph = new CUgraph_st{std::exchange(stream->captured, {})};
  return Return(cudaSuccess);
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  *status = Of(stream)->capturing ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return Return(cudaSuccess);
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  *exec = new CUgraphExec_st{graph->work};
  return Return(cudaSuccess);
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  const std::vector<Work>* work = &exec->work;
  return emulation::Enqueue(stream, [work, stream] {
    ++counters.graph_launches;
    Of(stream)->after_kernel = false;
    for (const Work& w : *work) emulation::Run(Of(stream), w);
  });
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return Return(cudaSuccess);
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  delete exec;
  return Return(cudaSuccess);
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new CUevent_st;
  return Return(cudaSuccess);
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return Return(cudaSuccess);
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  event->stream = Of(stream);
  event->mark = std::make_shared<CUevent_st::Mark>();
  return emulation::Enqueue(stream, [mark = event->mark] {
    mark->passed = true;
    mark->time = emulation::milliseconds;
  });
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
  if (begin->mark == nullptr || end->mark == nullptr) return Return(cudaErrorInvalidValue);
  if (!begin->mark->passed || !end->mark->passed) return Return(cudaErrorNotReady);
  *milliseconds = static_cast<float>(end->mark->time - begin->mark->time);
  return Return(cudaSuccess);
}
// Nothing that was queued after it runs.
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  if (event->mark == nullptr) return Return(cudaSuccess);
  return emulation::Drain(event->stream, &event->mark->passed);
}
