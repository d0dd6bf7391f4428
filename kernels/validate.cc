// Argument checks that all backends make before a launch, so that kernels may trust their input.
#include "kernels/validate.h"

#include <limits>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "kernels/checker.h"

namespace kvlink::kernels {
namespace {

absl::Status PagesFit(const Checker& check, absl::string_view name, const Tensor& pages, int64_t kv_heads,
                      int64_t head_dim, bool output) {
  const auto dtypes = {Dtype::kF32, Dtype::kBf16};
  const auto sizes = {kAnySize, kv_heads, 2 * kBlockTokens, head_dim};
  KVLINK_RETURN_IF_ERROR(output ? check.Output(name, pages, dtypes, sizes) : check.Input(name, pages, dtypes, sizes));
  if (pages.elements() > 0 && pages.strides[2] != pages.sizes[3]) return check.Fail(name, "[2 * 64, dim] is not dense");
  return absl::OkStatus();
}

// Checks what does not depend on the head dimension.
absl::Status SegmentFits(const Checker& check, absl::string_view name, const KvSegment& segment) {
  if (segment.codec != Codec::kRawF32 && segment.codec != Codec::kRawBf16 && segment.codec != Codec::kQ8) {
    return check.Fail(name, "only raw-f32, raw-bf16 and q8 are read in place; decode it first");
  }
  if (segment.tokens < 0 || segment.tokens > kMaxPosition) {
    return check.Fail(name, absl::StrCat(segment.tokens, " tokens"));
  }
  if (segment.head_stride < 0 || segment.block_stride < 0 || segment.head_stride % 4 != 0 ||
      segment.block_stride % 4 != 0) {
    return check.Fail(name, absl::StrCat("strides ", segment.head_stride, " and ", segment.block_stride,
                                         " must be multiples of 4, not negative"));
  }
  if (segment.padded_blocks && segment.codec == Codec::kQ8) return check.Fail(name, "q8 has no padded blocks");
  if (segment.positions != nullptr) {
    for (int64_t j = 0; j < segment.tokens; ++j) {
      const int64_t position = segment.positions[j];
      if (position < 0 || position > kMaxPosition || (j > 0 && position <= segment.positions[j - 1])) {
        return check.Fail(name,
                          absl::StrCat("position ", position, " of token ", j, " is not ascending or out of range"));
      }
    }
  }
  if (segment.block_table != nullptr) {
    for (int64_t b = 0; b * kBlockTokens < segment.tokens; ++b) {
      if (segment.block_table[b] < 0) return check.Fail(name, absl::StrCat("block ", b, " has a negative page"));
    }
  }
  return absl::OkStatus();
}

// Checks where a layer lies.
absl::Status LayerFits(const Checker& check, absl::string_view name, const KvSegment& segment, int64_t layer,
                       int64_t kv_heads, int64_t head_dim) {
  if (segment.tokens == 0) return absl::OkStatus();
  if (static_cast<size_t>(layer) >= segment.layer_data.size()) {
    return check.Fail(name, absl::StrCat("has no layer ", layer));
  }
  const std::byte* data = segment.layer_data[layer];
  if (data == nullptr || !Aligned(data, 4)) return check.Fail(name, "layer data is missing or not 4-byte aligned");
  const SlabShape shape{segment.codec, kv_heads, head_dim, std::min(segment.tokens, kBlockTokens)};
  const int64_t block = segment.padded_blocks ? shape.block_stride() : shape.head_bytes();
  if (kv_heads > 1 && segment.head_stride < block) return check.Fail(name, "head stride shorter than a block");
  if (segment.tokens > kBlockTokens && segment.block_stride < shape.block_stride()) {
    return check.Fail(name, "block stride shorter than a block");
  }
  return absl::OkStatus();
}

absl::Status RowsFit(const Checker& check, absl::string_view name, int64_t begin, int64_t count, int64_t rows) {
  if (begin >= 0 && count >= 0 && begin <= rows && count <= rows - begin) return absl::OkStatus();
  return check.Fail(name, absl::StrCat("rows ", begin, " + ", count, " of ", rows));
}

absl::Status OffsetFits(const Checker& check, absl::string_view name, const KvSegment& segment, int64_t offset) {
  if (offset < -kMaxPosition || offset > kMaxPosition) {
    return check.Fail(name, absl::StrCat("offset ", offset, " is out of range"));
  }
  if (offset != 0 && segment.positions != nullptr) {
    return check.Fail(name, "a segment with positions of its own takes no offset");
  }
  return absl::OkStatus();
}

// Checks what the scores of a batch are made from.
absl::Status ScoresFit(const Checker& check, const AttentionParams& params, const Tensor& q, int64_t layer,
                       const AttentionBatch& batch) {
  KVLINK_RETURN_IF_ERROR(check.AttentionFits(params));
  if (!Finite(params.scale)) return check.Fail("params", "scale is not finite");
  if (!Finite(params.softcap) || params.softcap < 0)
    return check.Fail("params", "softcap must be finite and not negative");
  if (params.window < 0 || params.window > kMaxPosition) return check.Fail("params", "window is out of range");
  if (params.rope < 0 || static_cast<size_t>(params.rope) >= batch.ropes.size()) {
    return check.Fail("params", absl::StrCat("rope ", params.rope, " of ", batch.ropes.size()));
  }
  KVLINK_RETURN_IF_ERROR(check.RopeFits(batch.ropes[params.rope], params.head_dim));
  const int64_t rows = static_cast<int64_t>(batch.positions.size());
  KVLINK_RETURN_IF_ERROR(check.Input("q", q, {Dtype::kF32, Dtype::kBf16}, {rows, params.heads, params.head_dim}));
  if (layer < 0) return check.Fail("layer", absl::StrCat(layer, " is negative"));
  for (size_t i = 0; i < batch.segments.size(); ++i) {
    KVLINK_RETURN_IF_ERROR(
        LayerFits(check, absl::StrCat("segment ", i), batch.segments[i], layer, params.kv_heads, params.head_dim));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ValidateEmbed(const EmbedArgs& args, Device device) {
  const Checker check("Embed", device);
  KVLINK_RETURN_IF_ERROR(check.Input("ids", args.ids, {Dtype::kI32}, {kAnySize}));
  KVLINK_RETURN_IF_ERROR(check.Input("table", args.table, {Dtype::kF32, Dtype::kBf16}, {kAnySize, kAnySize}));
  const int64_t hidden = args.table.sizes[1];
  KVLINK_RETURN_IF_ERROR(check.Optional("extra", args.extra, {Dtype::kF32}, {kAnySize, hidden}));
  return check.Output("out", args.out, {Dtype::kF32}, {args.ids.sizes[0], hidden});
}

absl::Status ValidateAddRmsNorm(const AddRmsNormArgs& args, Device device) {
  const Checker check("AddRmsNorm", device);
  KVLINK_RETURN_IF_ERROR(check.Output("residual", args.residual, {Dtype::kF32}, {kAnySize, kAnySize}));
  const int64_t rows = args.residual.sizes[0], hidden = args.residual.sizes[1];
  KVLINK_RETURN_IF_ERROR(check.Optional("delta", args.delta, {Dtype::kF32, Dtype::kBf16}, {rows, hidden}));
  KVLINK_RETURN_IF_ERROR(check.Input("weight", args.weight, {Dtype::kF32}, {hidden}));
  if (!Finite(args.eps) || args.eps < 0) return check.Fail("eps", "must be finite and not negative");
  return check.Output("out", args.out, {Dtype::kF32, Dtype::kBf16}, {rows, hidden});
}

absl::Status ValidatePackWeights(const Tensor& weight) {
  const Checker check("PackWeights", Device{});
  KVLINK_RETURN_IF_ERROR(check.Input("weight", weight, {Dtype::kF32, Dtype::kBf16}, {kAnySize, kAnySize}));
  if (weight.sizes[0] < 1 || weight.sizes[1] < 1) return check.Fail("weight", "empty");
  if (weight.sizes[0] > 1 && weight.strides[0] != weight.sizes[1]) return check.Fail("weight", "not dense");
  return absl::OkStatus();
}

absl::Status ValidateLinear(const LinearArgs& args, Device device, int64_t workspace_bytes) {
  const Checker check("Linear", device);
  if (args.weight == nullptr) return check.Fail("weight", "missing");
  const int64_t n = args.weight->n();
  KVLINK_RETURN_IF_ERROR(check.Input("x", args.x, {Dtype::kF32, Dtype::kBf16}, {kAnySize, args.weight->k()}));
  KVLINK_RETURN_IF_ERROR(check.Optional("bias", args.bias, {Dtype::kF32}, {n}));
  int64_t columns = n;
  if (args.epilogue == Epilogue::kSiluMul) {
    if (n % 2 != 0) return check.Fail("epilogue", absl::StrCat("silu-mul needs an even number of outputs, not ", n));
    columns = n / 2;
  } else if (args.epilogue != Epilogue::kNone) {
    return check.Fail("epilogue", "unknown");
  }
  KVLINK_RETURN_IF_ERROR(check.Output("out", args.out, {Dtype::kF32, Dtype::kBf16}, {args.x.sizes[0], columns}));
  return args.x.sizes[0] == 0 ? absl::OkStatus() : check.WorkspaceFits(args.workspace, workspace_bytes);
}

absl::Status ValidateQkvFinish(const QkvFinishArgs& args, Device device) {
  const Checker check("QkvFinish", device);
  KVLINK_RETURN_IF_ERROR(check.AttentionFits(args.params));
  const int64_t heads = args.params.heads, kv_heads = args.params.kv_heads, dim = args.params.head_dim;
  const int64_t width = (heads + 2 * kv_heads) * dim;
  KVLINK_RETURN_IF_ERROR(check.Input("qkv", args.qkv, {Dtype::kF32, Dtype::kBf16}, {kAnySize, width}));
  const int64_t rows = args.qkv.sizes[0];
  KVLINK_RETURN_IF_ERROR(check.Optional("bias", args.bias, {Dtype::kF32}, {width}));
  KVLINK_RETURN_IF_ERROR(check.Optional("q_norm", args.q_norm, {Dtype::kF32}, {dim}));
  KVLINK_RETURN_IF_ERROR(check.Optional("k_norm", args.k_norm, {Dtype::kF32}, {dim}));
  if (!Finite(args.norm_eps) || args.norm_eps < 0) return check.Fail("norm_eps", "must be finite and not negative");
  KVLINK_RETURN_IF_ERROR(check.RopeFits(args.rope, dim));
  KVLINK_RETURN_IF_ERROR(check.Input("positions", args.positions, {Dtype::kI64}, {rows}));
  KVLINK_RETURN_IF_ERROR(check.Input("slots", args.slots, {Dtype::kI64}, {rows}));
  KVLINK_RETURN_IF_ERROR(PagesFit(check, "pages", args.pages, kv_heads, dim, /*output=*/true));
  return check.Output("q_out", args.q_out, {Dtype::kF32, Dtype::kBf16}, {rows, heads, dim});
}

absl::Status ValidateBatch(const AttentionBatch& batch) {
  const Checker check("Plan", Device{});
  const int64_t rows = static_cast<int64_t>(batch.positions.size());
  for (int64_t position : batch.positions) {
    if (position < 0 || position > kMaxPosition) {
      return check.Fail("positions", absl::StrCat("position ", position, " is out of range"));
    }
  }
  for (const Rope* rope : batch.ropes) KVLINK_RETURN_IF_ERROR(check.RopeFits(rope, kMaxHeadDim));
  for (size_t i = 0; i < batch.segments.size(); ++i) {
    KVLINK_RETURN_IF_ERROR(SegmentFits(check, absl::StrCat("segment ", i), batch.segments[i]));
  }
  int32_t previous = 0;
  for (size_t i = 0; i < batch.reads.size(); ++i) {
    const KvRead& read = batch.reads[i];
    const std::string name = absl::StrCat("read ", i);
    if (read.segment < 0 || static_cast<size_t>(read.segment) >= batch.segments.size()) {
      return check.Fail(name, absl::StrCat("segment ", read.segment, " of ", batch.segments.size()));
    }
    if (read.segment < previous) return check.Fail(name, "reads are not ordered by segment");
    previous = read.segment;
    KVLINK_RETURN_IF_ERROR(RowsFit(check, name, read.row_begin, read.row_count, rows));
    KVLINK_RETURN_IF_ERROR(OffsetFits(check, name, batch.segments[read.segment], read.offset));
  }
  return absl::OkStatus();
}

absl::Status ValidateLinkedAttention(const LinkedAttentionArgs& args, const AttentionBatch& batch, Device device,
                                     int64_t workspace_bytes) {
  const Checker check("LinkedAttention", device);
  const AttentionParams& params = args.params;
  KVLINK_RETURN_IF_ERROR(ScoresFit(check, params, args.q, args.layer, batch));
  const int64_t rows = static_cast<int64_t>(batch.positions.size());
  KVLINK_RETURN_IF_ERROR(
      check.Output("out", args.out, {Dtype::kF32, Dtype::kBf16}, {rows, params.heads * params.head_dim}));
  if (args.lse.data != nullptr)
    KVLINK_RETURN_IF_ERROR(check.Output("lse", args.lse, {Dtype::kF32}, {rows, params.heads}));
  return rows == 0 ? absl::OkStatus() : check.WorkspaceFits(args.workspace, workspace_bytes);
}

absl::Status ValidateKeyMass(const KeyMassArgs& args, const AttentionBatch& batch, Device device,
                             int64_t workspace_bytes) {
  const Checker check("KeyMass", device);
  KVLINK_RETURN_IF_ERROR(ScoresFit(check, args.params, args.q, args.layer, batch));
  const int64_t rows = static_cast<int64_t>(batch.positions.size());
  KVLINK_RETURN_IF_ERROR(check.Input("lse", args.lse, {Dtype::kF32}, {rows, args.params.heads}));
  KVLINK_RETURN_IF_ERROR(RowsFit(check, "row_begin", args.row_begin, args.row_count, rows));
  int64_t tokens = 0;
  for (const KvRead& read : batch.reads) tokens += batch.segments[static_cast<size_t>(read.segment)].tokens;
  KVLINK_RETURN_IF_ERROR(check.Output("mass", args.mass, {Dtype::kF32}, {tokens}));
  return rows == 0 ? absl::OkStatus() : check.WorkspaceFits(args.workspace, workspace_bytes);
}

absl::Status ValidateKvDeviation(const KvDeviationArgs& args, Device device) {
  const Checker check("KvDeviation", device);
  KVLINK_RETURN_IF_ERROR(PagesFit(check, "pages", args.pages, kAnySize, kAnySize, /*output=*/false));
  AttentionParams params;
  params.heads = params.kv_heads = args.pages.sizes[1];
  params.head_dim = args.pages.sizes[3];
  KVLINK_RETURN_IF_ERROR(check.AttentionFits(params));
  KVLINK_RETURN_IF_ERROR(check.RopeFits(args.rope, params.head_dim));
  KVLINK_RETURN_IF_ERROR(SegmentFits(check, "segment", args.segment));
  KVLINK_RETURN_IF_ERROR(OffsetFits(check, "offset", args.segment, args.offset));
  if (args.layer < 0) return check.Fail("layer", absl::StrCat(args.layer, " is negative"));
  KVLINK_RETURN_IF_ERROR(LayerFits(check, "segment", args.segment, args.layer, params.kv_heads, params.head_dim));
  KVLINK_RETURN_IF_ERROR(check.Input("tokens", args.tokens, {Dtype::kI64}, {kAnySize}));
  KVLINK_RETURN_IF_ERROR(check.Input("slots", args.slots, {Dtype::kI64}, {args.tokens.sizes[0]}));
  return check.Output("out", args.out, {Dtype::kF32}, {args.tokens.sizes[0]});
}

absl::Status ValidatePack(const PackArgs& args, Device device) {
  const Checker check("Pack", device);
  if (absl::Status status = args.shape.Validate(); !status.ok()) return check.Fail("shape", status.message());
  KVLINK_RETURN_IF_ERROR(
      PagesFit(check, "pages", args.pages, args.shape.kv_heads, args.shape.head_dim, /*output=*/false));
  if (args.block_table == nullptr) return check.Fail("block_table", "missing");
  for (int64_t b = 0; b < args.shape.blocks(); ++b) {
    if (args.block_table[b] < 0 || args.block_table[b] >= args.pages.sizes[0]) {
      return check.Fail("block_table", absl::StrCat("page ", args.block_table[b], " of ", args.pages.sizes[0]));
    }
  }
  if (!args.shape.keys_rotated()) KVLINK_RETURN_IF_ERROR(check.RopeFits(args.rope, args.shape.head_dim));
  KVLINK_RETURN_IF_ERROR(check.Output("slab", args.slab, {Dtype::kU8}, {args.shape.slab_bytes()}));
  return Aligned(args.slab.data, 4) ? absl::OkStatus() : check.Fail("slab", "not 4-byte aligned");
}

absl::Status ValidateDecode(const DecodeArgs& args, Device device) {
  const Checker check("Decode", device);
  SlabShape shape = args.source_shape;
  if (absl::Status status = shape.Validate(); !status.ok()) return check.Fail("source_shape", status.message());
  if (args.codec != Codec::kRawBf16 && args.codec != Codec::kRawF32) {
    return check.Fail("codec", "a slab is decoded to raw-bf16 or raw-f32");
  }
  KVLINK_RETURN_IF_ERROR(check.Input("source", args.source, {Dtype::kU8}, {shape.slab_bytes()}));
  if (!shape.keys_rotated()) KVLINK_RETURN_IF_ERROR(check.RopeFits(args.rope, shape.head_dim));
  shape.codec = args.codec;
  KVLINK_RETURN_IF_ERROR(check.Output("out", args.out, {Dtype::kU8}, {shape.slab_bytes()}));
  if (!Aligned(args.source.data, 4)) return check.Fail("source", "not 4-byte aligned");
  return Aligned(args.out.data, 4) ? absl::OkStatus() : check.Fail("out", "not 4-byte aligned");
}

absl::Status ValidateShiftKeys(const ShiftKeysArgs& args, Device device) {
  const Checker check("ShiftKeys", device);
  KVLINK_RETURN_IF_ERROR(check.Input("in", args.in, {Dtype::kF32, Dtype::kBf16}, {kAnySize, kAnySize, kAnySize}));
  const int64_t tokens = args.in.sizes[0], kv_heads = args.in.sizes[1], dim = args.in.sizes[2];
  KVLINK_RETURN_IF_ERROR(check.RopeFits(args.rope, dim));
  if (args.delta < -kMaxPosition || args.delta > kMaxPosition) {
    return check.Fail("delta", absl::StrCat(args.delta, " is out of range"));
  }
  KVLINK_RETURN_IF_ERROR(check.Input("slots", args.slots, {Dtype::kI64}, {tokens}));
  return check.Output("out", args.out, {args.in.dtype}, {kAnySize, kv_heads, dim});
}

absl::Status ValidateChecksum(const ChecksumArgs& args, Device device) {
  const Checker check("Checksum", device);
  KVLINK_RETURN_IF_ERROR(check.Input("bytes", args.bytes, {Dtype::kU8}, {kAnySize}));
  if (args.offsets.size() != args.lengths.size()) {
    return check.Fail("lengths", absl::StrCat(args.lengths.size(), " for ", args.offsets.size(), " offsets"));
  }
  const int64_t bytes = args.bytes.sizes[0];
  for (size_t i = 0; i < args.offsets.size(); ++i) {
    const int64_t offset = args.offsets[i], length = args.lengths[i];
    if (offset < 0 || length < 0 || offset > bytes || length > bytes - offset) {
      return check.Fail("offsets", absl::StrCat("range ", offset, " + ", length, " of ", bytes, " bytes"));
    }
  }
  return check.Output("out", args.out, {Dtype::kU64}, {static_cast<int64_t>(args.offsets.size())});
}

}  // namespace kvlink::kernels
