// Argument checks of sampling, as in validate.cc.
#include <limits>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "kernels/checker.h"
#include "kernels/validate.h"

namespace kvlink::kernels {
namespace {

absl::Status VocabFits(const Checker& check, int64_t vocab) {
  if (vocab >= 1 && vocab <= std::numeric_limits<int32_t>::max()) return absl::OkStatus();
  return check.Fail("logits", absl::StrCat("vocabulary of ", vocab));
}

absl::Status AdjustmentsFit(const Checker& check, const SampleArgs& args, int64_t vocab) {
  if (args.adjustments.empty()) return absl::OkStatus();
  if (args.adjustments.size() != args.params.size()) {
    return check.Fail("adjustments", absl::StrCat(args.adjustments.size(), " for ", args.params.size(), " rows"));
  }
  for (const RowAdjustments& row : args.adjustments) {
    for (size_t i = 0; i < row.tokens.size(); ++i) {
      KVLINK_RETURN_IF_ERROR(ValidateLogitAdjustment(row.tokens[i], vocab));
      if (i > 0 && row.tokens[i].token <= row.tokens[i - 1].token) {
        return check.Fail("adjustments",
                          absl::StrCat("token ", row.tokens[i].token, " after ", row.tokens[i - 1].token));
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ValidateSampleParams(const SampleParams& params) {
  const Checker check("Sample", {});
  if (!Finite(params.temperature) || params.temperature < 0) {
    return check.Fail("params", absl::StrCat("temperature ", params.temperature, " must be finite and not negative"));
  }
  if (params.top_k < 0) return check.Fail("params", absl::StrCat("top_k ", params.top_k, " is negative"));
  if (!(params.top_p >= 0 && params.top_p <= 1)) {
    return check.Fail("params", absl::StrCat("top_p ", params.top_p, " is not within 0..1"));
  }
  if (!(params.min_p >= 0 && params.min_p <= 1)) {
    return check.Fail("params", absl::StrCat("min_p ", params.min_p, " is not within 0..1"));
  }
  if (params.position < 0) return check.Fail("params", absl::StrCat("position ", params.position, " is negative"));
  return absl::OkStatus();
}

absl::Status ValidateLogitAdjustment(const LogitAdjustment& adjustment, int64_t vocab) {
  const Checker check("Sample", {});
  if (adjustment.token < 0 || adjustment.token >= vocab) {
    return check.Fail("adjustments", absl::StrCat("token ", adjustment.token, " of ", vocab));
  }
  if (!Finite(adjustment.bias) || !Finite(adjustment.penalty)) {
    return check.Fail("adjustments", absl::StrCat("of token ", adjustment.token, " are not finite"));
  }
  if (!Finite(adjustment.repetition) || adjustment.repetition <= 0) {
    return check.Fail("adjustments",
                      absl::StrCat("repetition ", adjustment.repetition, " must be finite and positive"));
  }
  return absl::OkStatus();
}

absl::Status ValidateSample(const SampleArgs& args, Device device, int64_t workspace_bytes) {
  const Checker check("Sample", device);
  const int64_t rows = static_cast<int64_t>(args.params.size());
  KVLINK_RETURN_IF_ERROR(check.Input("logits", args.logits, {Dtype::kF32}, {rows, kAnySize}));
  const int64_t vocab = args.logits.sizes[1];
  KVLINK_RETURN_IF_ERROR(VocabFits(check, vocab));
  for (const SampleParams& params : args.params) KVLINK_RETURN_IF_ERROR(ValidateSampleParams(params));
  KVLINK_RETURN_IF_ERROR(AdjustmentsFit(check, args, vocab));
  KVLINK_RETURN_IF_ERROR(check.Output("out", args.out, {Dtype::kI32}, {rows}));
  return rows == 0 ? absl::OkStatus() : check.WorkspaceFits(args.workspace, workspace_bytes);
}

absl::Status ValidateLogprobs(const LogprobsArgs& args, Device device) {
  const Checker check("Logprobs", device);
  KVLINK_RETURN_IF_ERROR(check.Input("logits", args.logits, {Dtype::kF32}, {kAnySize, kAnySize}));
  const int64_t all = args.logits.sizes[0], count = static_cast<int64_t>(args.rows.size());
  KVLINK_RETURN_IF_ERROR(VocabFits(check, args.logits.sizes[1]));
  for (const int64_t row : args.rows) {
    if (row < 0 || row >= all) return check.Fail("rows", absl::StrCat("row ", row, " of ", all));
  }
  if (args.top < 0 || args.top > kMaxLikeliest) {
    return check.Fail("top", absl::StrCat(args.top, " is not within 0..", kMaxLikeliest));
  }
  KVLINK_RETURN_IF_ERROR(check.Input("tokens", args.tokens, {Dtype::kI32}, {all}));
  KVLINK_RETURN_IF_ERROR(check.Output("out", args.out, {Dtype::kF32}, {count, 1 + args.top}));
  return check.Output("likeliest", args.likeliest, {Dtype::kI32}, {count, args.top});
}

}  // namespace kvlink::kernels
