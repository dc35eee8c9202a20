// CUDA errors become exceptions with the name of the op.
#pragma once

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

namespace fastrl {

// Throws what the launch before it reported; kernels still running are not waited for.
inline void check_launch(const char* op) {
  const cudaError_t error = cudaGetLastError();
  if (error == cudaSuccess) return;
  throw std::runtime_error(std::string("[") + op + "] launch: expected success, got " +
                           cudaGetErrorString(error));
}

}  // namespace fastrl
