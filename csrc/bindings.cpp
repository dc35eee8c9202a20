// The only file that knows Python. Tensors come as addresses: kernels/*/cpp_impl.py checks and keeps them
// alive.
#include <nanobind/nanobind.h>

#include <cstdint>

#include "common/version.h"
#include "group_advantage/group_advantage.h"
#include "grpo_loss/grpo_loss.h"
#include "linear_logprob/linear_logprob.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using Address = std::uintptr_t;  // 0: no tensor
using WithoutGil = nb::call_guard<nb::gil_scoped_release>;

template <typename T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

fastrl::Logits logits(Address values, std::int64_t rows, std::int64_t vocab, Address ids, Address bias,
                      Address temperature, float inverse_temperature, float logit_scale, float softcap) {
  return {at<float>(values),
          rows,
          vocab,
          at<const std::int64_t>(ids),
          {at<const float>(bias), at<const float>(temperature), inverse_temperature, logit_scale, softcap}};
}

fastrl::RowScores row_scores(Address logprob, Address entropy, Address self_certainty, Address max,
                             Address sum, Address top1) {
  return {at<float>(logprob), at<float>(entropy), at<float>(self_certainty),
          at<float>(max),     at<float>(sum),     at<bool>(top1)};
}

fastrl::GrpoConfig grpo_config(int policy, double low, double high, double dual_clip, int kl, double kl_coef,
                               double entropy_coef, int correction, bool correct_sequences,
                               double correction_cap) {
  return {static_cast<fastrl::PolicyKind>(policy),
          low,
          high,
          dual_clip,
          static_cast<fastrl::KLKind>(kl),
          kl_coef,
          entropy_coef,
          static_cast<fastrl::CorrectionKind>(correction),
          correct_sequences,
          correction_cap};
}

fastrl::GrpoTokens grpo_tokens(std::int64_t tokens, std::int64_t sequences, Address cu_seqlens,
                               Address logprobs, Address advantages, Address weights, Address old_logprobs,
                               Address ref_logprobs, Address rollout_logprobs, Address entropy) {
  return {tokens,
          sequences,
          at<const std::int32_t>(cu_seqlens),
          at<const float>(logprobs),
          at<const float>(advantages),
          at<const float>(weights),
          at<const float>(old_logprobs),
          at<const float>(ref_logprobs),
          at<const float>(rollout_logprobs),
          at<const float>(entropy)};
}

void bind_structs(nb::module_& m) {
  nb::class_<fastrl::Logits>(m, "Logits")
      .def_static("of", &logits, "values"_a, "rows"_a, "vocab"_a, "ids"_a, "bias"_a, "temperature"_a,
                  "inverse_temperature"_a, "logit_scale"_a, "softcap"_a);
  nb::class_<fastrl::RowScores>(m, "RowScores")
      .def_static("of", &row_scores, "logprob"_a, "entropy"_a, "self_certainty"_a, "max"_a, "sum"_a,
                  "top1"_a);
  nb::class_<fastrl::GrpoConfig>(m, "GrpoConfig")
      .def_static("of", &grpo_config, "policy"_a, "low"_a, "high"_a, "dual_clip"_a, "kl"_a, "kl_coef"_a,
                  "entropy_coef"_a, "correction"_a, "correct_sequences"_a, "correction_cap"_a);
  nb::class_<fastrl::GrpoTokens>(m, "GrpoTokens")
      .def_static("of", &grpo_tokens, "tokens"_a, "sequences"_a, "cu_seqlens"_a, "logprobs"_a, "advantages"_a,
                  "weights"_a, "old_logprobs"_a, "ref_logprobs"_a, "rollout_logprobs"_a, "entropy"_a);
}

}  // namespace

NB_MODULE(_C, m) {
  m.doc() = "fastrl's compiled ops. Arguments that are tensors are addresses (Tensor.data_ptr()).";
  m.attr("NUM_GRPO_STATS") = static_cast<int>(fastrl::kNumGrpoStats);
  m.def("version", &fastrl::version);
  m.def("cuda_built", &fastrl::cuda_built, "Whether the CUDA kernels are in this build.");
  bind_structs(m);

  m.def("score_rows", &fastrl::score_rows, "logits"_a, "scores"_a, "keep_exponentials"_a, "num_threads"_a,
        WithoutGil());
  m.def(
      "gradient_rows",
      [](const fastrl::Logits& rows, const fastrl::RowScores& scores, Address grad_logprob,
         Address grad_entropy, bool exponentials, int num_threads) {
        fastrl::gradient_rows(rows, scores, at<const float>(grad_logprob), at<const float>(grad_entropy),
                              exponentials, num_threads);
      },
      "logits"_a, "scores"_a, "grad_logprob"_a, "grad_entropy"_a, "exponentials"_a, "num_threads"_a,
      WithoutGil());
  m.def(
      "grpo_loss_cpu",
      [](const fastrl::GrpoTokens& batch, const fastrl::GrpoConfig& config, Address slopes, Address stats,
         int num_threads) {
        fastrl::grpo_loss_cpu(batch, config, at<float>(slopes), at<double>(stats), num_threads);
      },
      "batch"_a, "config"_a, "slopes"_a, "stats"_a, "num_threads"_a, WithoutGil());
  m.def("grpo_scratch_size", &fastrl::grpo_scratch_size, "tokens"_a, "sequences"_a);
  m.def(
      "grpo_loss_cuda",
      [](const fastrl::GrpoTokens& batch, const fastrl::GrpoConfig& config, Address slopes, Address stats,
         Address scratch, Address stream) {
        fastrl::grpo_loss_cuda(batch, config, at<float>(slopes), at<double>(stats), at<float>(scratch),
                               at<void>(stream));
      },
      "batch"_a, "config"_a, "slopes"_a, "stats"_a, "scratch"_a, "stream"_a, WithoutGil());
  m.def(
      "group_advantage_cpu",
      [](Address rewards, Address group_ids, std::int64_t count, int scale, int baseline, double eps,
         Address advantages) {
        fastrl::group_advantage_cpu(at<const float>(rewards), at<const std::int64_t>(group_ids), count,
                                    static_cast<fastrl::AdvantageScale>(scale),
                                    static_cast<fastrl::AdvantageBaseline>(baseline), eps,
                                    at<float>(advantages));
      },
      "rewards"_a, "group_ids"_a, "count"_a, "scale"_a, "baseline"_a, "eps"_a, "advantages"_a, WithoutGil());
}
