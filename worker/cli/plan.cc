// kvlink plan: the size of a model's encodings, and the bandwidth above which loading them beats computing them.
#include <algorithm>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/cli/args.h"
#include "base/cli/json.h"
#include "base/clock.h"
#include "base/slab.h"
#include "base/status.h"
#include "nlohmann/json.hpp"
#include "worker/cli/commands.h"
#include "worker/cli/model_shapes.h"
#include "worker/cli/open.h"
#include "worker/encode/encoder.h"

namespace kvlink::cli {
namespace {

constexpr absl::string_view kPlanSummary =
    "Shows how large a model's encodings are with each codec, how much space a corpus takes, and at what\n"
    "bandwidth loading an encoding is as fast as computing it. MODEL is a .gguf file, a model directory\n"
    "or a built-in name (--list); without it, the default model is used. The prefill rate is\n"
    "--prefill-rate, or what --measure finds on this machine, or else a guess: --flops / (2 * weights of\n"
    "the layers). The default of 640e12 is what one large GPU reaches in bf16.";

struct PlanFlags {
  ModelFlags model;
  int64_t documents = 100000;
  int64_t document_tokens = 512;
  int64_t replicas = 1;
  double prefill_rate = 0;
  double flops = 640e12;
  double gain = 10;
  bool measure = false;
  bool list = false;
  bool json = false;
};

struct Row {
  Codec codec = Codec::kRawBf16;
  double bytes_per_token = 0;  // without padding
  int64_t document_bytes = 0;  // as stored
  double corpus_bytes = 0;
  double break_even = 0;  // bytes/s
};

Row PlanCodec(const ModelShape& shape, Codec codec, const PlanFlags& flags, double prefill_rate) {
  const SlabShape slab{codec, shape.kv_heads, shape.head_dim, flags.document_tokens};
  const double tokens = static_cast<double>(flags.document_tokens);
  Row row;
  row.codec = codec;
  row.bytes_per_token = static_cast<double>(shape.layers * slab.used_bytes()) / tokens;
  row.document_bytes = shape.layers * slab.slab_bytes();
  row.corpus_bytes = static_cast<double>(row.document_bytes) * static_cast<double>(flags.documents * flags.replicas);
  row.break_even = static_cast<double>(row.document_bytes) / tokens * prefill_rate;
  return row;
}

absl::StatusOr<ModelShape> FindShape(const std::string& name) {
  std::error_code error;
  if (auto built_in = BuiltInShape(name); built_in.ok() || !std::filesystem::exists(name, error)) {
    const bool path = name.find('/') != std::string::npos || name.find(".gguf") != std::string::npos;
    if (built_in.ok() || !path) return built_in;
  }
  KVLINK_ASSIGN_OR_RETURN(const auto weights, OpenModelWeights(name));
  return ShapeOf(name, weights->config());
}

// Measures the tokens per second of encoding one document on this machine, after a warm-up.
absl::StatusOr<double> MeasurePrefill(const ModelFlags& flags, int64_t tokens) {
  KVLINK_ASSIGN_OR_RETURN(const OpenedModel opened, OpenModel(flags));
  KVLINK_ASSIGN_OR_RETURN(const auto encoder, encode::Encoder::Create(opened.model.get(), opened.fingerprint, {}));
  const std::vector<int32_t> document(std::min(tokens, opened.model->config().context), 0);
  const std::vector<absl::Span<const int32_t>> documents = {document};
  absl::Time begin;
  for (int round = 0; round < 2; ++round) {
    begin = SteadyNow();
    KVLINK_RETURN_IF_ERROR(encoder->Encode(documents).status());
  }
  return static_cast<double>(document.size()) / std::max(1e-6, absl::ToDoubleSeconds(SteadyNow() - begin));
}

// Describes where the rate comes from.
std::string SourceOfRate(const PlanFlags& flags) {
  if (flags.measure) return "measured on this machine";
  if (flags.prefill_rate > 0) return "as given";
  return absl::StrFormat("assumed from %.3g FLOP/s; --measure measures this machine", flags.flops);
}

void PrintPlanText(const ModelShape& shape, const PlanFlags& flags, double prefill_rate, const std::vector<Row>& rows) {
  absl::PrintF("%s: %d layers, %d key/value heads of %d, context %d\n", shape.name, shape.layers, shape.kv_heads,
               shape.head_dim, shape.context);
  absl::PrintF("corpus: %d documents of %d tokens, %d %s\n", flags.documents, flags.document_tokens, flags.replicas,
               flags.replicas == 1 ? "copy" : "copies");
  absl::PrintF("prefill: %.0f tokens/s (%s)\n\n", prefill_rate, SourceOfRate(flags));
  absl::PrintF("%-9s %12s %12s %12s %16s %16s\n", "codec", "per token", "per document", "corpus", "break-even",
               absl::StrFormat("%gx faster", flags.gain));
  for (const Row& row : rows) {
    absl::PrintF("%-9s %12s %12s %12s %14s/s %14s/s\n", CodecName(row.codec), FormatBytes(row.bytes_per_token),
                 FormatBytes(static_cast<double>(row.document_bytes)), FormatBytes(row.corpus_bytes),
                 FormatBytes(row.break_even), FormatBytes(row.break_even * flags.gain));
  }
  absl::PrintF(
      "\nBelow the break-even bandwidth, computing a document again is faster than loading its encoding. Compare "
      "it\nwith the bandwidth of the tier that holds the encodings: memory, a disk or a network.\n");
}

void PrintPlanJson(const ModelShape& shape, const PlanFlags& flags, double prefill_rate, const std::vector<Row>& rows) {
  nlohmann::json codecs = nlohmann::json::array();
  for (const Row& row : rows) {
    codecs.push_back({{"codec", std::string(CodecName(row.codec))},
                      {"bytes_per_token", row.bytes_per_token},
                      {"document_bytes", row.document_bytes},
                      {"corpus_bytes", row.corpus_bytes},
                      {"break_even_bytes_per_second", row.break_even},
                      {"gain_bytes_per_second", row.break_even * flags.gain}});
  }
  const nlohmann::json json = {{"model", shape.name},
                               {"layers", shape.layers},
                               {"kv_heads", shape.kv_heads},
                               {"head_dim", shape.head_dim},
                               {"context", shape.context},
                               {"documents", flags.documents},
                               {"document_tokens", flags.document_tokens},
                               {"replicas", flags.replicas},
                               {"prefill_tokens_per_second", prefill_rate},
                               {"prefill_source", SourceOfRate(flags)},
                               {"gain", flags.gain},
                               {"codecs", codecs}};
  PrintJson(json);
}

}  // namespace

absl::Status RunPlan(absl::Span<char* const> args) {
  PlanFlags flags;
  Arguments arguments("plan", "[MODEL]", kPlanSummary);
  arguments.Text("model", "PATH|NAME", "The model, if MODEL is not given.", &flags.model.model);
  arguments.Integer("documents", "N", "Number of documents in the corpus.", 1, int64_t{1} << 40, &flags.documents);
  arguments.Integer("document-tokens", "N", "Tokens per document.", 1, int64_t{1} << 24, &flags.document_tokens);
  arguments.Integer("replicas", "N", "Copies of each encoding.", 1, 100, &flags.replicas);
  arguments.Number("prefill-rate", "TOKENS/S", "Measured prefill rate of the machine that answers.",
                   &flags.prefill_rate);
  arguments.Number("flops", "FLOP/S", "Matrix multiplication speed of the machine that answers.", &flags.flops);
  arguments.Number("gain", "FACTOR", "Also show the bandwidth at which loading is FACTOR times as fast as prefill.",
                   &flags.gain);
  arguments.Flag("measure",
                 "Measure the prefill rate of this machine; needs the model's files, not just a built-in name.",
                 &flags.measure);
  arguments.Flag("list", "List the built-in models.", &flags.list);
  AddJsonFlag(arguments, &flags.json);
  KVLINK_RETURN_IF_ERROR(arguments.Parse(args));
  if (arguments.help_wanted()) return absl::OkStatus();
  if (flags.list) {
    if (flags.json) {
      PrintJson(BuiltInNames());
      return absl::OkStatus();
    }
    for (const std::string& name : BuiltInNames()) absl::PrintF("%s\n", name);
    return absl::OkStatus();
  }
  if (arguments.operands().size() > 1) return absl::InvalidArgumentError("too many operands; give one MODEL");
  if (!arguments.operands().empty()) flags.model.model = arguments.operands()[0];
  if (flags.measure && (flags.prefill_rate > 0 || arguments.given("flops"))) {
    return absl::InvalidArgumentError("--measure cannot be combined with --prefill-rate or --flops");
  }
  KVLINK_ASSIGN_OR_RETURN(const ModelShape shape, FindShape(flags.model.model));
  double rate = flags.prefill_rate;
  if (flags.measure) {
    KVLINK_ASSIGN_OR_RETURN(rate, MeasurePrefill(flags.model, flags.document_tokens));
  } else if (rate <= 0) {
    rate = flags.flops / (2 * static_cast<double>(shape.layer_parameters()));
  }
  std::vector<Row> rows;
  for (const Codec codec : {Codec::kRawBf16, Codec::kQ8, Codec::kQ4}) {
    rows.push_back(PlanCodec(shape, codec, flags, rate));
  }
  if (flags.json) {
    PrintPlanJson(shape, flags, rate, rows);
  } else {
    PrintPlanText(shape, flags, rate, rows);
  }
  return absl::OkStatus();
}

}  // namespace kvlink::cli
