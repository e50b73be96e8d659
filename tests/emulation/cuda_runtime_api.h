// See cuda_runtime.h.
#include "tests/emulation/cuda_runtime.h"
