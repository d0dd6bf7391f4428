// Runs the requested sections, each with its ceiling in the same rounds.
#include "bench/device/device_bench.h"

#include <algorithm>
#include <array>
#include <memory>

#include "absl/algorithm/container.h"
#include "base/status.h"
#include "bench/device/device_passes.h"
#include "bench/model/pass_cost.h"

namespace kvlink::bench {
namespace {

constexpr std::array<absl::string_view, 5> kSections = {"attention", "decode", "encode", "ttft", "sharing"};

absl::Status Check(const DeviceBenchOptions& options) {
  for (const std::string& section : options.sections) {
    if (!absl::c_linear_search(kSections, section)) {
      return absl::InvalidArgumentError(absl::StrCat("there is no section '", section, "'"));
    }
  }
  for (int64_t context : options.contexts) {
    const int64_t tokens = context < options.long_context ? options.document_tokens : options.long_document_tokens;
    if (context < tokens || context % tokens != 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("a context of ", context, " tokens is not a multiple of its documents' ", tokens));
    }
  }
  if (options.concurrent.empty()) return absl::InvalidArgumentError("no number of concurrent requests");
  return absl::OkStatus();
}

bool Wants(const DeviceBenchOptions& options, absl::string_view section) {
  return options.sections.empty() || absl::c_linear_search(options.sections, section);
}

absl::Status Sections(DeviceBench& bench) {
  const DeviceBenchOptions& options = *bench.options;
  if (Wants(options, "attention")) KVLINK_RETURN_IF_ERROR(BenchAttention(bench));
  if (Wants(options, "decode")) KVLINK_RETURN_IF_ERROR(BenchDecode(bench));
  if (!Wants(options, "encode") && !Wants(options, "ttft") && !Wants(options, "sharing")) return absl::OkStatus();
  const double start = Now();
  KVLINK_ASSIGN_OR_RETURN(const std::unique_ptr<model::Model> model,
                          model::Model::Load(bench.backend, RandomWeights(options.config), {}));
  bench.report->Section(absl::StrCat(
      "A model of ", options.config.layers, " layers, ", static_cast<int64_t>(Weights(options.config) / 1e6),
      " million weights in its matrices, loaded in ", static_cast<int64_t>(Now() - start), " s"));
  if (Wants(options, "encode")) KVLINK_RETURN_IF_ERROR(BenchEncode(bench, *model));
  if (Wants(options, "ttft")) KVLINK_RETURN_IF_ERROR(BenchFirstToken(bench, *model));
  if (Wants(options, "sharing")) KVLINK_RETURN_IF_ERROR(BenchSharing(bench, *model));
  return absl::OkStatus();
}

}  // namespace

DeviceBenchOptions SmallDeviceBench() {
  DeviceBenchOptions options;
  options.config = Toy();
  options.rounds = 1;
  options.targets = false;
  options.ceilings = {int64_t{1} << 16, int64_t{1} << 16, 64};
  options.document_tokens = 64, options.documents = 2, options.fresh_tokens = 8;
  options.decoding_requests = 3;
  options.decoded_tokens = 200;
  options.encoded_documents = 2;
  options.contexts = {128, 256};
  options.long_context = 256, options.long_document_tokens = 128;
  options.prefill_chunk = 96;
  options.concurrent = {1, 3};
  options.answer_tokens = 3;
  return options;
}

absl::Status RunDeviceBench(kernels::Backend* backend, const DeviceBenchOptions& options, Report* report) {
  KVLINK_RETURN_IF_ERROR(Check(options));
  KVLINK_ASSIGN_OR_RETURN(const std::unique_ptr<DeviceCeilings> ceilings,
                          DeviceCeilings::Create(backend, options.ceilings, options.rounds));
  DeviceBench bench{backend, &options, report, ceilings.get()};
  KVLINK_RETURN_IF_ERROR(Sections(bench));
  report->Section("The device, at its best in this run");
  report->Add("copy, read and written", bench.rates().copied / 1e9, "GB/s");
  report->Add("pinned host memory to the device", bench.rates().linked / 1e9, "GB/s");
  report->Add("product of square matrices", bench.rates().operations / 1e12, "TFLOP/s");
  return absl::OkStatus();
}

absl::Status BenchEncode(DeviceBench& bench, const model::Model& model) {
  const DeviceBenchOptions& options = *bench.options;
  const int64_t tokens = options.document_tokens, count = options.encoded_documents;
  bench.report->Section(absl::StrCat("Encoding ", count, " documents of ", tokens, " tokens in one pass"));
  KVLINK_RETURN_IF_ERROR(bench.ceilings->Measure());
  KVLINK_ASSIGN_OR_RETURN(const auto passes, DevicePasses::Create(&model, count * tokens, count));
  absl::Status status;
  const double seconds = Interleave({[&] {
                                      std::vector<std::unique_ptr<DevicePasses::Request>> documents;
                                      for (int64_t i = 0; i < count; ++i) documents.push_back(passes->NewRequest());
                                      status.Update(passes->Encode(documents, tokens));
                                    }},
                                    options.rounds)[0];
  KVLINK_RETURN_IF_ERROR(status);
  const double rate =
      static_cast<double>(count) * PassOperations(options.config, {tokens, CausalPairs(tokens)}) / seconds;
  bench.Add("encode", static_cast<double>(count * tokens) / seconds, "tokens/s");
  bench.Add("encode, operations", rate / 1e12, "TFLOP/s");
  bench.Add("encode over product of square matrices", rate / bench.rates().operations, "x", Target{0.6});
  return absl::OkStatus();
}

}  // namespace kvlink::bench
