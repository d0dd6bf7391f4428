// kvlink inspect: shows the contents of a store, a document or a model. store/cli implements the part about the store.
#include "store/cli/inspect.h"

#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/cli/args.h"
#include "base/cli/json.h"
#include "base/slab.h"
#include "base/status.h"
#include "nlohmann/json.hpp"
#include "proto/manifest.h"
#include "worker/cli/commands.h"
#include "worker/cli/open.h"
#include "worker/encode/encoder.h"

namespace kvlink::cli {
namespace {

using Json = nlohmann::json;

constexpr absl::string_view kInspectSummary =
    "Shows the contents of a store, a document or a model.\n\n"
    "  kvlink inspect store             sizes, namespaces, codecs and models of the store\n"
    "  kvlink inspect documents         the documents of a namespace\n"
    "  kvlink inspect document ID       its entry and its encodings: codecs, sizes, etags, checksums\n"
    "  kvlink inspect model [PATH]      shapes, tensors, bytes per token and fingerprint of a model";

absl::Status InspectModel(const std::string& path, bool print_json) {
  KVLINK_ASSIGN_OR_RETURN(const auto weights, OpenModelWeights(path));
  KVLINK_ASSIGN_OR_RETURN(const Fingerprint fingerprint, encode::FingerprintOf(*weights, /*use_cache=*/true));
  const model::ModelConfig& config = weights->config();
  std::map<std::string, int64_t> types;
  int64_t bytes = 0;
  for (const model::SourceTensor& tensor : weights->tensors()) {
    ++types[tensor.type];
    bytes += static_cast<int64_t>(tensor.bytes.size());
  }
  Json per_token = Json::object();
  for (const Codec codec : {Codec::kRawBf16, Codec::kRawF32, Codec::kQ8, Codec::kQ4}) {
    const SlabShape shape{codec, config.kv_heads, config.head_dim, kUnitTokens};
    per_token[std::string(CodecName(codec))] =
        static_cast<double>(config.layers * shape.used_bytes()) / static_cast<double>(kUnitTokens);
  }
  const Json json = {{"model", path},
                     {"architecture", config.architecture},
                     {"layers", config.layers},
                     {"hidden", config.hidden},
                     {"intermediate", config.intermediate},
                     {"heads", config.heads},
                     {"kv_heads", config.kv_heads},
                     {"head_dim", config.head_dim},
                     {"vocabulary", config.vocab},
                     {"context", config.context},
                     {"rope_theta", config.rope.theta},
                     {"tensors", weights->tensors().size()},
                     {"tensor_types", types},
                     {"weight_bytes", bytes},
                     {"bytes_per_token", per_token},
                     {"files", weights->files()},
                     {"fingerprint", fingerprint.Hex()}};
  if (print_json) {
    PrintJson(json);
    return absl::OkStatus();
  }
  absl::PrintF("%s: %s, %d layers, width %d (%d), %d heads of %d, %d key/value heads\n", path, config.architecture,
               config.layers, config.hidden, config.intermediate, config.heads, config.head_dim, config.kv_heads);
  absl::PrintF("vocabulary  %d\ncontext     %d\nrope        theta %g, %d dimensions\n", config.vocab, config.context,
               config.rope.theta, config.rope.rotary_dim);
  absl::PrintF("weights     %s in %d tensors: %s\n", FormatBytes(static_cast<double>(bytes)), weights->tensors().size(),
               absl::StrJoin(types, ", ", [](std::string* out, const auto& type) {
                 absl::StrAppend(out, type.second, " ", type.first);
               }));
  for (const auto& [codec, value] : per_token.items()) {
    absl::PrintF("%-11s %s per token\n", codec, FormatBytes(value.get<double>()));
  }
  absl::PrintF("fingerprint %s\n", fingerprint.Hex());
  return absl::OkStatus();
}

}  // namespace

absl::Status RunInspect(absl::Span<char* const> args) {
  InspectFlags flags;
  ModelFlags model;
  Arguments arguments("inspect", "store|documents|document|model [ID|PATH]", kInspectSummary);
  AddInspectFlags(arguments, flags);
  arguments.Text("model", "PATH", "The model, if PATH is not given.", &model.model);
  KVLINK_RETURN_IF_ERROR(arguments.Parse(args));
  if (arguments.help_wanted()) return absl::OkStatus();
  const std::vector<std::string>& operands = arguments.operands();
  const std::string what = operands.empty() ? "" : operands[0];
  if (what == "store" || what == "documents" || what == "document") return Inspect(operands, flags);
  if (what != "model") {
    return absl::InvalidArgumentError("expected store, documents, document ID or model [PATH]");
  }
  if (operands.size() > 2) return absl::InvalidArgumentError("too many operands; give one PATH");
  return InspectModel(operands.size() == 2 ? operands[1] : model.model, flags.json);
}

}  // namespace kvlink::cli
