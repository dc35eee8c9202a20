// Python bindings, the only file that includes nanobind. Tensors are passed as addresses;
// kernels/*/cpp_impl.py checks the tensors and keeps them alive.
#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>

#include <array>
#include <cstdint>

#include "common/version.h"
#include "group_advantage/group_advantage.h"
#include "grpo_loss/grpo_loss.h"
#include "layer/layer.h"
#include "linear_logprob/linear_logprob.h"
#include "prefix_tree/prefix_tree.h"
#include "sample_tokens/sample_tokens.h"
#include "tree_decode/tree_decode.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using Address = std::uintptr_t;  // 0: no tensor
using WithoutGil = nb::call_guard<nb::gil_scoped_release>;

template <typename T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

fastrl::Tile tile(Address logits, std::int64_t rows, std::int64_t width, std::int64_t stride,
                  std::int64_t first, Address ids, Address floor, Address bias, Address temperature,
                  float inverse_temperature, float logit_scale, float softcap) {
  return {at<const float>(logits),
          rows,
          width,
          stride,
          first,
          at<const std::int64_t>(ids),
          at<const float>(floor),
          {at<const float>(bias), at<const float>(temperature), inverse_temperature, logit_scale, softcap}};
}

fastrl::RowScores row_scores(Address max, Address others, Address excluded, Address weighted, Address sum_z,
                             Address target, Address total, Address logprobs, Address entropy,
                             Address self_certainty, Address top1) {
  return {at<double>(max),    at<double>(others),        at<double>(excluded), at<double>(weighted),
          at<double>(sum_z),  at<double>(target),        at<float>(total),     at<float>(logprobs),
          at<float>(entropy), at<float>(self_certainty), at<bool>(top1)};
}

fastrl::GrpoConfig grpo_config(int policy, double low, double high, double dual_clip, int kl, double kl_coef,
                               bool kl_ratio, double entropy_coef, bool average_sequences, int correction,
                               bool correct_sequences, double correction_cap) {
  return {static_cast<fastrl::PolicyKind>(policy),
          low,
          high,
          dual_clip,
          static_cast<fastrl::KLKind>(kl),
          kl_coef,
          kl_ratio,
          entropy_coef,
          average_sequences,
          static_cast<fastrl::CorrectionKind>(correction),
          correct_sequences,
          correction_cap};
}

fastrl::GrpoBatch grpo_batch(std::int64_t tokens, std::int64_t sequences, Address cu_seqlens,
                             Address advantages, bool advantages_per_token, Address loss_mask,
                             Address old_logprobs, Address ref_logprobs, Address rollout_logprobs,
                             double denominator) {
  return {tokens,
          sequences,
          at<const std::int32_t>(cu_seqlens),
          at<const float>(advantages),
          advantages_per_token,
          at<const bool>(loss_mask),
          at<const float>(old_logprobs),
          at<const float>(ref_logprobs),
          at<const float>(rollout_logprobs),
          denominator};
}

fastrl::GrpoSelection grpo_selection(Address computed, Address lengths) {
  return {at<bool>(computed), at<std::int32_t>(lengths)};
}

fastrl::GrpoScores grpo_scores(std::int64_t count, Address rows, Address logprobs, Address entropy,
                               Address self_certainty, Address top1) {
  return {count,
          at<const std::int64_t>(rows),
          at<const float>(logprobs),
          at<const float>(entropy),
          at<const float>(self_certainty),
          at<const bool>(top1)};
}

fastrl::GrpoResults grpo_results(Address grad_logprobs, Address grad_entropy, Address stats) {
  return {at<float>(grad_logprobs), at<float>(grad_entropy), at<double>(stats)};
}

void bind_structs(nb::module_& m) {
  nb::class_<fastrl::Tile>(m, "Tile").def_static("of", &tile, "logits"_a, "rows"_a, "width"_a, "stride"_a,
                                                 "first"_a, "ids"_a, "floor"_a, "bias"_a, "temperature"_a,
                                                 "inverse_temperature"_a, "logit_scale"_a, "softcap"_a);
  nb::class_<fastrl::RowScores>(m, "RowScores")
      .def_static("of", &row_scores, "max"_a, "others"_a, "excluded"_a, "weighted"_a, "sum_z"_a, "target"_a,
                  "total"_a, "logprobs"_a, "entropy"_a, "self_certainty"_a, "top1"_a);
  nb::class_<fastrl::GrpoConfig>(m, "GrpoConfig")
      .def_static("of", &grpo_config, "policy"_a, "low"_a, "high"_a, "dual_clip"_a, "kl"_a, "kl_coef"_a,
                  "kl_ratio"_a, "entropy_coef"_a, "average_sequences"_a, "correction"_a,
                  "correct_sequences"_a, "correction_cap"_a);
  nb::class_<fastrl::GrpoBatch>(m, "GrpoBatch")
      .def_static("of", &grpo_batch, "tokens"_a, "sequences"_a, "cu_seqlens"_a, "advantages"_a,
                  "advantages_per_token"_a, "loss_mask"_a, "old_logprobs"_a, "ref_logprobs"_a,
                  "rollout_logprobs"_a, "denominator"_a);
  nb::class_<fastrl::GrpoSelection>(m, "GrpoSelection")
      .def_static("of", &grpo_selection, "computed"_a, "lengths"_a);
  nb::class_<fastrl::GrpoScores>(m, "GrpoScores")
      .def_static("of", &grpo_scores, "count"_a, "rows"_a, "logprobs"_a, "entropy"_a, "self_certainty"_a,
                  "top1"_a);
  nb::class_<fastrl::GrpoResults>(m, "GrpoResults")
      .def_static("of", &grpo_results, "grad_logprobs"_a, "grad_entropy"_a, "stats"_a);
}

void bind_rows(nb::module_& m) {
  m.def("score_tile", &fastrl::score_tile, "tile"_a, "scores"_a, "vocab"_a, "num_threads"_a, WithoutGil());
  m.def(
      "gradient_tile",
      [](const fastrl::Tile& rows, const fastrl::RowScores& scores, Address grad_logprobs,
         Address grad_entropy, Address out, std::int64_t out_stride, int num_threads) {
        fastrl::gradient_tile(rows, scores, at<const float>(grad_logprobs), at<const float>(grad_entropy),
                              at<float>(out), out_stride, num_threads);
      },
      "tile"_a, "scores"_a, "grad_logprobs"_a, "grad_entropy"_a, "out"_a, "out_stride"_a, "num_threads"_a,
      WithoutGil());
  m.def(
      "support_floors",
      [](const fastrl::Tile& rows, std::int64_t top_k, double top_p, Address floors, int num_threads) {
        fastrl::support_floors(rows, top_k, top_p, at<float>(floors), num_threads);
      },
      "tile"_a, "top_k"_a, "top_p"_a, "floors"_a, "num_threads"_a, WithoutGil());
}

void bind_tokens(nb::module_& m) {
  m.def("grpo_select_cpu", &fastrl::grpo_select_cpu, "batch"_a, "leave_out"_a, "whole"_a, "selection"_a,
        WithoutGil());
  m.def("grpo_loss_cpu", &fastrl::grpo_loss_cpu, "batch"_a, "selection"_a, "scores"_a, "config"_a,
        "results"_a, "num_threads"_a, WithoutGil());
  m.def(
      "grpo_select_cuda",
      [](const fastrl::GrpoBatch& batch, bool leave_out, bool whole, const fastrl::GrpoSelection& selection,
         Address stream) { fastrl::grpo_select_cuda(batch, leave_out, whole, selection, at<void>(stream)); },
      "batch"_a, "leave_out"_a, "whole"_a, "selection"_a, "stream"_a, WithoutGil());
  m.def("grpo_scratch_size", &fastrl::grpo_scratch_size, "count"_a, "sequences"_a);
  m.def(
      "grpo_loss_cuda",
      [](const fastrl::GrpoBatch& batch, const fastrl::GrpoSelection& selection,
         const fastrl::GrpoScores& scores, const fastrl::GrpoConfig& config,
         const fastrl::GrpoResults& results, Address scratch, Address stream) {
        fastrl::grpo_loss_cuda(batch, selection, scores, config, results, at<float>(scratch),
                               at<void>(stream));
      },
      "batch"_a, "selection"_a, "scores"_a, "config"_a, "results"_a, "scratch"_a, "stream"_a, WithoutGil());
}

void bind_prefix_tree(nb::module_& m) {
  nb::class_<fastrl::PrefixTree>(m, "PrefixTree", "Holds pointers to the arrays that it was built from.")
      .def_static(
          "of",
          [](Address tokens, Address cu_seqlens, std::int64_t sequences) {
            return fastrl::PrefixTree(at<const std::int64_t>(tokens), at<const std::int64_t>(cu_seqlens),
                                      sequences);
          },
          "tokens"_a, "cu_seqlens"_a, "sequences"_a, WithoutGil())
      .def_prop_ro("num_slots", &fastrl::PrefixTree::num_slots)
      .def_prop_ro("num_segments", &fastrl::PrefixTree::num_segments)
      .def(
          "write",
          [](const fastrl::PrefixTree& tree, Address tokens, Address depths, Address starts, Address parents,
             Address stops, Address ends, Address counts, Address slots) {
            tree.write({at<std::int64_t>(tokens), at<std::int64_t>(depths), at<std::int64_t>(starts),
                        at<std::int64_t>(parents), at<std::int64_t>(stops), at<std::int64_t>(ends),
                        at<std::int64_t>(counts), at<std::int64_t>(slots)});
          },
          "tokens"_a, "depths"_a, "starts"_a, "parents"_a, "stops"_a, "ends"_a, "counts"_a, "slots"_a,
          WithoutGil());
}

using Numbers3 = std::array<std::int64_t, 3>;

fastrl::DecodeTensor decode_tensor(const Numbers3& numbers) {
  return {at<const void>(static_cast<Address>(numbers[0])), numbers[1], numbers[2]};
}

fastrl::DecodePlan decode_plan(Address items, std::int64_t num_items, std::int64_t tile, Address trunk_starts,
                               Address prefix_lengths, Address block_table, const Numbers3& table_shape,
                               std::int64_t block_size) {
  return {at<const fastrl::DecodeItem>(items),
          num_items,
          tile,
          at<const std::int32_t>(trunk_starts),
          at<const std::int32_t>(prefix_lengths),
          at<const std::int32_t>(block_table),
          table_shape[0],
          table_shape[1],
          table_shape[2],
          block_size};
}

fastrl::DecodeLayer decode_layer(const Numbers3& query, const Numbers3& keys, const Numbers3& values,
                                 Address out, bool bf16, const std::array<std::int64_t, 5>& sizes,
                                 Address tail_lengths, float scaling, float softcap, std::int64_t window) {
  return {decode_tensor(query),
          decode_tensor(keys),
          decode_tensor(values),
          at<void>(out),
          bf16,
          sizes[0],
          sizes[1],
          sizes[2],
          sizes[3],
          sizes[4],
          at<const std::int32_t>(tail_lengths),
          scaling,
          softcap,
          window};
}

void bind_tree_decode(nb::module_& m) {
  nb::class_<fastrl::DecodePlan>(m, "DecodePlan")
      .def_static("of", &decode_plan, "items"_a, "num_items"_a, "tile"_a, "trunk_starts"_a,
                  "prefix_lengths"_a, "block_table"_a, "table_shape"_a, "block_size"_a);
  nb::class_<fastrl::DecodeLayer>(m, "DecodeLayer")
      .def_static("of", &decode_layer, "query"_a, "keys"_a, "values"_a, "out"_a, "bf16"_a, "sizes"_a,
                  "tail_lengths"_a, "scaling"_a, "softcap"_a, "window"_a);
  m.def("tree_decode_cpu", &fastrl::tree_decode_cpu, "plan"_a, "layer"_a, "num_threads"_a, WithoutGil());
}

void bind_layer(nb::module_& m) {
  m.def(
      "rms_norm_cpu",
      [](Address x, Address weight, std::int64_t rows, std::int64_t width, float eps, Address out,
         int num_threads) {
        fastrl::rms_norm_cpu(at<const float>(x), at<const float>(weight), rows, width, eps, at<float>(out),
                             num_threads);
      },
      "x"_a, "weight"_a, "rows"_a, "width"_a, "eps"_a, "out"_a, "num_threads"_a, WithoutGil());
  m.def(
      "silu_mul_cpu",
      [](Address gate_up, std::int64_t rows, std::int64_t width, Address out, int num_threads) {
        fastrl::silu_mul_cpu(at<const float>(gate_up), rows, width, at<float>(out), num_threads);
      },
      "gate_up"_a, "rows"_a, "width"_a, "out"_a, "num_threads"_a, WithoutGil());
  m.def(
      "rotate_cpu",
      [](Address x, std::int64_t rows, std::int64_t heads, std::int64_t half, std::int64_t stride,
         Address cos, Address sin, int num_threads) {
        fastrl::rotate_cpu(at<float>(x), rows, heads, half, stride, at<const float>(cos),
                           at<const float>(sin), num_threads);
      },
      "x"_a, "rows"_a, "heads"_a, "half"_a, "stride"_a, "cos"_a, "sin"_a, "num_threads"_a, WithoutGil());
}

}  // namespace

NB_MODULE(_C, m) {
  m.doc() = "fastrl's compiled ops. Tensor arguments are addresses (Tensor.data_ptr()).";
  m.attr("NUM_GRPO_STATS") = static_cast<int>(fastrl::kNumGrpoStats);
  m.def("version", &fastrl::version);
  m.def("cuda_built", &fastrl::cuda_built, "Return True if the build has the CUDA kernels.");
  bind_structs(m);

  bind_rows(m);
  bind_tokens(m);
  bind_tree_decode(m);
  bind_prefix_tree(m);
  bind_layer(m);
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
  m.def(
      "sample_tokens_cpu",
      [](Address logits, std::int64_t vocab, std::int64_t stride, Address source, Address uniforms,
         std::int64_t requests, float temperature, std::int64_t top_k, double top_p, Address ids,
         Address logprobs, int num_threads) {
        fastrl::sample_tokens_cpu(
            {at<const float>(logits), vocab, stride, at<const std::int64_t>(source),
             at<const double>(uniforms), requests, at<std::int64_t>(ids), at<float>(logprobs)},
            {temperature, top_k, top_p}, num_threads);
      },
      "logits"_a, "vocab"_a, "stride"_a, "source"_a, "uniforms"_a, "requests"_a, "temperature"_a, "top_k"_a,
      "top_p"_a, "ids"_a, "logprobs"_a, "num_threads"_a, WithoutGil());
}
