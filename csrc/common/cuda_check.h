// Turns CUDA errors into exceptions with the op's name.
#pragma once

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

namespace fastrl {

// Throws the error of the last launch, if any; does not synchronise.
inline void check_launch(const char* op) {
  const cudaError_t error = cudaGetLastError();
  if (error == cudaSuccess) return;
  throw std::runtime_error(std::string("[") + op + "] launch: expected success, got " +
                           cudaGetErrorString(error));
}

}  // namespace fastrl
