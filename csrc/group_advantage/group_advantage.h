// The advantage of each rollout over its group; the formula is in kernels/group_advantage/__init__.py.
#pragma once

#include <cstdint>

namespace fastrl {

enum class AdvantageScale : int { kStd, kNone, kBatch };
enum class AdvantageBaseline : int { kMean, kLeaveOneOut, kZero, kOne };

// rewards, group_ids, advantages: [count].
void group_advantage_cpu(const float* rewards, const std::int64_t* group_ids, std::int64_t count,
                         AdvantageScale scale, AdvantageBaseline baseline, double eps, float* advantages);

}  // namespace fastrl
