// What the emulated device says of itself.
#include <cstring>

#include "tests/emulation/emulation.h"
#include "tests/emulation/runtime.h"

namespace emulation {

Machine machine;

size_t SharedLimit() {
  if (machine.shared_bytes > 0) return machine.shared_bytes;
  const int capability = machine.major * 10 + machine.minor;
  const bool small = capability == 86 || capability == 89 || machine.major == 12;
  return (small ? 99 : machine.major == 8 ? 163 : 227) << 10;
}

}  // namespace emulation

using emulation::machine;
using emulation::Return;

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorInsufficientDriver:
      return "cudaErrorInsufficientDriver";
    case cudaErrorNoDevice:
      return "cudaErrorNoDevice";
    case cudaErrorIllegalAddress:
      return "cudaErrorIllegalAddress";
    case cudaErrorLaunchFailure:
      return "cudaErrorLaunchFailure";
    default:
      return "cudaErrorUnknown";
  }
}
const char* cudaGetErrorString(cudaError_t error) { return cudaGetErrorName(error); }
cudaError_t cudaGetDeviceCount(int* count) {
  if (machine.driver < machine.runtime) {
    return Return(cudaErrorInsufficientDriver);
  }
  *count = machine.devices;
  return Return(*count > 0 ? cudaSuccess : cudaErrorNoDevice);
}
cudaError_t cudaSetDevice(int device) {
  return Return(device >= 0 && device < machine.devices ? cudaSuccess : cudaErrorInvalidDevice);
}
cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return Return(cudaSuccess);
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = cudaDeviceProp();
  std::strcpy(properties->name, "Emulated");
  properties->totalGlobalMem = machine.memory;
  properties->multiProcessorCount = machine.multiprocessors;
  properties->major = machine.major;
  properties->minor = machine.minor;
  properties->l2CacheSize = 1 << 16;
  properties->sharedMemPerBlockOptin = emulation::SharedLimit();
  return Return(cudaSuccess);
}
// The one attribute that is asked for. A block may have 1 KB less than that.
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrMultiProcessorCount
               ? machine.multiprocessors
               : static_cast<int>(emulation::SharedLimit()) + 1024;
  return Return(cudaSuccess);
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = machine.driver;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = machine.runtime;
  return cudaSuccess;
}
