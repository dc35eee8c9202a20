// Replaces grpo_loss.cu in a build without CUDA; every call throws.
#include <stdexcept>

#include "grpo_loss/grpo_loss.h"

namespace fastrl {
namespace {

[[noreturn]] void refuse() {
  throw std::runtime_error(
      "[grpo_loss] backend: expected a build with CUDA, got one without; install again with nvcc on PATH and "
      "-C cmake.define.FASTRL_CUDA=ON");
}

}  // namespace

bool cuda_built() { return false; }

std::int64_t grpo_scratch_size(std::int64_t, std::int64_t) { return 0; }

void grpo_select_cuda(const GrpoBatch&, bool, bool, const GrpoSelection&, void*) { refuse(); }

void grpo_loss_cuda(const GrpoBatch&, const GrpoSelection&, const GrpoScores&, const GrpoConfig&,
                    const GrpoResults&, float*, void*) {
  refuse();
}

}  // namespace fastrl
