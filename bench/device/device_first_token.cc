// Time to first token by context: a full prefill, linked answers over documents that are resident or come from pinned
// host memory, and the floor given by the device's measured speed.
#include <algorithm>
#include <functional>
#include <iterator>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "bench/device/device_bench.h"
#include "bench/device/device_documents.h"
#include "bench/device/device_passes.h"
#include "bench/model/pass_cost.h"

namespace kvlink::bench {
namespace {

// A way to reach the first token over documents, and its targets. Ways that are not loaded read what the previous way
// decoded.
struct Way {
  absl::string_view name;
  Codec codec;
  bool loaded;
  double over_floor;  // maximum
  double less_at_5k;  // percent less than a full prefill
  double less_at_32k;
};
constexpr Way kWays[] = {{"raw", Codec::kRawBf16, true, 1.25, 88, 92},
                         {"resident", Codec::kRawBf16, false, 1.6, 95, 0},
                         {"q8", Codec::kQ8, true, 1.25, 93, 96},
                         {"q4", Codec::kQ4, true, 1.5, 94, 97.5}};

// Contexts with documents of one length.
class Contexts {
 public:
  // `most`: documents in the largest context.
  static absl::StatusOr<std::unique_ptr<Contexts>> Create(DeviceBench* bench, DevicePasses* passes,
                                                          kernels::SlabDecoder* decoder, int64_t document_tokens,
                                                          int64_t most) {
    std::unique_ptr<Contexts> contexts(new Contexts(bench, passes, decoder, document_tokens));
    const model::Model& model = passes->model();
    KVLINK_ASSIGN_OR_RETURN(const auto maker, SlabMaker::Create(bench->backend, model.config(), &model.rope()));
    int64_t bytes = 0;
    for (const Way& way : kWays) {
      if (!way.loaded) continue;
      KVLINK_ASSIGN_OR_RETURN(auto host,
                              HostDocuments::Make(bench->backend, *maker, maker->Shape(way.codec, document_tokens),
                                                  model.config().layers, most));
      bytes = std::max(bytes, host->decoded_bytes() * most);
      contexts->host_.emplace_back(way.codec, std::move(host));
    }
    KVLINK_ASSIGN_OR_RETURN(contexts->room_, bench->backend->Allocate(bytes));
    return contexts;
  }

  absl::Status Measure(int64_t tokens);

 private:
  Contexts(DeviceBench* bench, DevicePasses* passes, kernels::SlabDecoder* decoder, int64_t document_tokens)
      : bench_(*bench), passes_(*passes), decoder_(decoder), document_tokens_(document_tokens) {}

  const HostDocuments& Host(Codec codec) const {
    return *std::find_if(host_.begin(), host_.end(), [&](const auto& one) { return one.first == codec; })->second;
  }
  std::unique_ptr<DeviceDocuments> Documents(Codec codec, int64_t count) const {
    const HostDocuments& host = Host(codec);
    std::vector<std::byte*> rooms;
    for (int64_t i = 0; i < count; ++i) {
      rooms.push_back(static_cast<std::byte*>(room_.data()) + i * host.decoded_bytes());
    }
    return std::make_unique<DeviceDocuments>(&host, decoder_, rooms);
  }
  absl::Status First(const Way& way, DeviceDocuments& documents);
  absl::Status Full(int64_t tokens);
  double Floor(const Way& way, int64_t tokens) const;
  void Print(const Way& way, int64_t tokens, double seconds, double full);

  DeviceBench& bench_;
  DevicePasses& passes_;
  kernels::SlabDecoder* const decoder_;
  const int64_t document_tokens_;
  std::vector<std::pair<Codec, std::unique_ptr<HostDocuments>>> host_;
  kernels::Buffer room_;  // every way's documents in turn
};

absl::Status Contexts::First(const Way& way, DeviceDocuments& documents) {
  std::vector<std::unique_ptr<DevicePasses::Request>> request;
  request.push_back(passes_.NewRequest());
  const int64_t fresh = bench_.options->fresh_tokens;
  if (!way.loaded) return passes_.First(request, documents.segments(), fresh, {});
  Decoding decoding(&documents);
  return passes_.First(request, documents.segments(), fresh, [&](int64_t layer) { return decoding.WaitLayer(layer); });
}

absl::Status Contexts::Full(int64_t tokens) {
  const auto request = passes_.NewRequest();
  return passes_.Full(*request, tokens + bench_.options->fresh_tokens, bench_.options->prefill_chunk);
}

// The least time for any implementation: the stored bytes over the link, the weights, keys and values through device
// memory, or the operations of the fresh tokens, whichever takes longest.
double Contexts::Floor(const Way& way, int64_t tokens) const {
  const model::ModelConfig& config = bench_.options->config;
  const DeviceRates& rates = bench_.rates();
  const HostDocuments& host = Host(way.codec);
  const double stored = static_cast<double>(tokens / document_tokens_ * host.layers() * host.shape().used_bytes());
  const auto number = static_cast<double>(kernels::DtypeBytes(bench_.backend->compute_dtype()));
  return std::max({way.loaded ? stored / rates.linked : 0, (number * Weights(config) + stored) / rates.copied,
                   PassOperations(config, ConcatPass(bench_.options->fresh_tokens, tokens)) / rates.operations});
}

void Contexts::Print(const Way& way, int64_t tokens, double seconds, double full) {
  const double floor = Floor(way, tokens);
  const std::string name = absl::StrCat(way.name, " ", tokens);
  bench_.Add(name, 1e3 * seconds, "ms");
  bench_.Add(absl::StrCat(name, ", floor"), 1e3 * floor, "ms");
  bench_.Add(absl::StrCat(name, ", over floor"), seconds / floor, "x", Target{way.over_floor, /*at_most=*/true});
  const double expected = tokens == 5120 ? way.less_at_5k : tokens == 32768 ? way.less_at_32k : 0;
  bench_.Add(absl::StrCat(name, ", less than a full prefill"), 100 * (1 - seconds / full), "%",
             expected > 0 ? std::optional<Target>(Target{expected}) : std::nullopt);
}

absl::Status Contexts::Measure(int64_t tokens) {
  const DeviceBenchOptions& options = *bench_.options;
  const int64_t count = tokens / document_tokens_;
  bench_.report->Section(absl::StrCat("Time to first token: ", count, " documents of ", document_tokens_, " tokens, ",
                                      options.fresh_tokens, " fresh"));
  KVLINK_RETURN_IF_ERROR(bench_.ceilings->Measure());
  absl::Status status;
  std::vector<std::unique_ptr<DeviceDocuments>> documents;
  std::vector<std::function<void()>> alternatives = {[&] { status.Update(Full(tokens)); }};
  for (const Way& way : kWays) {
    documents.push_back(Documents(way.codec, count));
    alternatives.push_back([&, mine = documents.back().get()] { status.Update(First(way, *mine)); });
  }
  const std::vector<double> seconds = Interleave(alternatives, options.rounds);
  KVLINK_RETURN_IF_ERROR(status);
  const int64_t rows = tokens + options.fresh_tokens;
  bench_.Add(absl::StrCat("full prefill ", tokens), 1e3 * seconds[0], "ms");
  bench_.Add(absl::StrCat("full prefill ", tokens, ", rate"), static_cast<double>(rows) / seconds[0], "tokens/s");
  bench_.Add(absl::StrCat("full prefill ", tokens, " over product of square matrices"),
             PassOperations(options.config, {rows, CausalPairs(rows), rows}) / seconds[0] / bench_.rates().operations,
             "x");
  for (size_t i = 0; i < std::size(kWays); ++i) Print(kWays[i], tokens, seconds[i + 1], seconds[0]);
  return absl::OkStatus();
}

}  // namespace

absl::Status BenchFirstToken(DeviceBench& bench, const model::Model& model) {
  const DeviceBenchOptions& options = *bench.options;
  if (options.contexts.empty()) return absl::OkStatus();
  const int64_t longest = *std::max_element(options.contexts.begin(), options.contexts.end());
  KVLINK_ASSIGN_OR_RETURN(const auto passes, DevicePasses::Create(&model, longest + options.fresh_tokens, 1));
  kernels::SlabDecoder decoder(bench.backend, &model.rope());
  for (const bool long_documents : {false, true}) {
    const int64_t tokens = long_documents ? options.long_document_tokens : options.document_tokens;
    std::vector<int64_t> mine;
    for (int64_t context : options.contexts) {
      if ((context >= options.long_context) == long_documents) mine.push_back(context);
    }
    if (mine.empty()) continue;
    const int64_t most = *std::max_element(mine.begin(), mine.end()) / tokens;
    KVLINK_ASSIGN_OR_RETURN(const auto contexts, Contexts::Create(&bench, passes.get(), &decoder, tokens, most));
    for (int64_t context : mine) KVLINK_RETURN_IF_ERROR(contexts->Measure(context));
  }
  return absl::OkStatus();
}

}  // namespace kvlink::bench
