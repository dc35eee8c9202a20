// Group advantages in float64.
#include "group_advantage/group_advantage.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

namespace fastrl {
namespace {

// The rewards at order[begin..end).
struct Members {
  const float* rewards;
  const std::int64_t* order;
  std::int64_t begin, end;

  double at(std::int64_t i) const { return rewards[order[i]]; }
  double count() const { return static_cast<double>(end - begin); }

  bool equal() const {
    for (std::int64_t i = begin + 1; i < end; ++i) {
      if (at(i) != at(begin)) return false;
    }
    return true;
  }

  double mean() const {
    double total = 0;
    for (std::int64_t i = begin; i < end; ++i) total += at(i);
    return total / count();
  }

  double std() const {
    const double centre = mean();
    double squares = 0;
    for (std::int64_t i = begin; i < end; ++i) squares += (at(i) - centre) * (at(i) - centre);
    return std::sqrt(squares / (count() - 1));
  }
};

void group(const Members& members, AdvantageBaseline baseline, double divisor, float* advantages) {
  const bool equal = members.equal();
  double offset = 0, factor = 1;
  if (baseline == AdvantageBaseline::kMean || baseline == AdvantageBaseline::kLeaveOneOut) {
    offset = equal ? members.at(members.begin) : members.mean();
    if (baseline == AdvantageBaseline::kLeaveOneOut && !equal)
      factor = members.count() / (members.count() - 1);
  } else if (baseline == AdvantageBaseline::kOne) {
    offset = 1;
  }
  for (std::int64_t i = members.begin; i < members.end; ++i) {
    advantages[members.order[i]] = static_cast<float>((members.at(i) - offset) * factor / divisor);
  }
}

}  // namespace

void group_advantage_cpu(const float* rewards, const std::int64_t* group_ids, std::int64_t count,
                         AdvantageScale scale, AdvantageBaseline baseline, double eps, float* advantages) {
  std::vector<std::int64_t> order(count);
  std::iota(order.begin(), order.end(), 0);
  const Members all{rewards, order.data(), 0, count};
  double divisor = 1;
  if (scale == AdvantageScale::kBatch && !all.equal()) divisor = all.std() + eps;
  std::stable_sort(order.begin(), order.end(),
                   [&](std::int64_t a, std::int64_t b) { return group_ids[a] < group_ids[b]; });
  for (std::int64_t begin = 0, end = 0; begin < count; begin = end) {
    while (end < count && group_ids[order[end]] == group_ids[order[begin]]) ++end;
    const Members members{rewards, order.data(), begin, end};
    if (scale == AdvantageScale::kStd) divisor = members.equal() ? 1 : members.std() + eps;
    group(members, baseline, divisor, advantages);
  }
}

}  // namespace fastrl
