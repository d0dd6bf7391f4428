// Opens the model and a store in a scratch directory, and cuts documents out of the demo's texts and random tokens.
#include "bench/model/bench_model.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "kernels/cpu/cpu.h"
#include "nlohmann/json.hpp"
#include "store/embedded/embedded.h"
#include "worker/encode/encoder.h"
#include "worker/files/open_tokenizer.h"

namespace kvlink::bench {
namespace {

constexpr const char* kModel = "models/SmolLM2-135M-Instruct.Q4_1.gguf";

// A file of the project, searched for here and in the parent directories.
std::string Found(const std::string& name) {
  for (const char* prefix : {"", "../", "../../", "../../../"}) {
    if (std::filesystem::exists(prefix + name)) return prefix + name;
  }
  return name;
}

absl::StatusOr<std::vector<nlohmann::json>> ReadJsonLines(const std::string& name) {
  std::ifstream file(Found(name));
  std::vector<nlohmann::json> lines;
  for (std::string line; std::getline(file, line);) {
    auto json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!json.is_object()) return absl::InvalidArgumentError(absl::StrCat(name, ": a line is not a JSON object"));
    lines.push_back(std::move(json));
  }
  if (lines.empty())
    return absl::NotFoundError(absl::StrCat(name, ": nothing there; run this in the project's directory"));
  return lines;
}

double LogSum(absl::Span<const float> logits) {
  const double most = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (float logit : logits) sum += std::exp(logit - most);
  return most + std::log(sum);
}

}  // namespace

absl::StatusOr<BenchModel> OpenBenchModel(const Flags& flags) {
  BenchModel bench;
  const char* environment = std::getenv("KVLINK_MODEL");
  const std::string path = flags.Get("model", environment != nullptr ? environment : Found(kModel));
  kernels::CpuOptions options;
  options.threads = static_cast<int>(flags.GetInt("threads", 0));
  const std::string compute = flags.Get("compute", "auto");
  using Compute = kernels::CpuOptions::Compute;
  options.compute = compute == "f32" ? Compute::kF32 : compute == "bf16" ? Compute::kBf16 : Compute::kAuto;
  bench.threads = options.threads;
  KVLINK_ASSIGN_OR_RETURN(bench.backend, kernels::MakeCpuBackend(options));
  KVLINK_ASSIGN_OR_RETURN(bench.weights, model::OpenWeights(path));
  KVLINK_ASSIGN_OR_RETURN(bench.tokenizer, model::OpenTokenizer(path));
  KVLINK_ASSIGN_OR_RETURN(bench.fingerprint, encode::FingerprintOf(*bench.weights, true));
  KVLINK_ASSIGN_OR_RETURN(bench.model, model::Model::Load(bench.backend.get(), *bench.weights, {}));
  KVLINK_ASSIGN_OR_RETURN(bench.untuned, link::LoadLinkProfile("untuned"));
  return bench;
}

absl::StatusOr<std::vector<BenchDocument>> DemoDocuments(const BenchModel& model) {
  KVLINK_ASSIGN_OR_RETURN(const auto lines, ReadJsonLines("deploy/demo/documents.jsonl"));
  std::vector<BenchDocument> documents;
  for (const auto& line : lines) {
    BenchDocument document;
    document.id = line.value("id", "");
    KVLINK_ASSIGN_OR_RETURN(
        document.tokens,
        model.tokenizer->Encode(link::DocumentText(model.untuned, line.value("title", ""), line.value("text", "")),
                                false));
    documents.push_back(std::move(document));
  }
  return documents;
}

absl::StatusOr<std::vector<BenchQuestion>> DemoQuestions() {
  KVLINK_ASSIGN_OR_RETURN(const auto lines, ReadJsonLines("deploy/demo/questions.jsonl"));
  std::vector<BenchQuestion> questions;
  for (const auto& line : lines) {
    questions.push_back({line.value("question", ""), line.value("documents", std::vector<std::string>())});
  }
  return questions;
}

std::vector<std::vector<int32_t>> DocumentsOf(const BenchModel& model, int64_t count, int64_t tokens) {
  std::vector<int32_t> text;
  const auto demo = DemoDocuments(model);
  if (demo.ok()) {
    for (const BenchDocument& document : *demo) text.insert(text.end(), document.tokens.begin(), document.tokens.end());
  }
  uint64_t state = 1;
  while (static_cast<int64_t>(text.size()) < count * tokens) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    text.push_back(static_cast<int32_t>((state >> 33) % static_cast<uint64_t>(model.model->config().vocab)));
  }
  std::vector<std::vector<int32_t>> documents;
  for (int64_t i = 0; i < count; ++i)
    documents.emplace_back(text.begin() + i * tokens, text.begin() + (i + 1) * tokens);
  return documents;
}

absl::StatusOr<std::unique_ptr<BenchStore>> BenchStore::Create(const std::string& parent, int64_t dram_bytes) {
  std::unique_ptr<BenchStore> bench(new BenchStore());
  std::error_code error;
  const std::filesystem::path base =
      parent.empty() ? std::filesystem::temp_directory_path(error) : std::filesystem::path(parent);
  bench->directory_ = (base / absl::StrCat("kvlink_bench_", getpid())).string();
  std::filesystem::create_directories(base, error);
  store::EmbeddedOptions options;
  options.dram_bytes = dram_bytes;
  options.capacity_bytes = int64_t{8} << 30;
  KVLINK_ASSIGN_OR_RETURN(bench->store_, store::OpenEmbedded(bench->directory_, options));
  return bench;
}

BenchStore::~BenchStore() {
  store_.reset();
  std::error_code ignored;
  if (!directory_.empty()) std::filesystem::remove_all(directory_, ignored);
}

void Agreement::Add(absl::Span<const float> reference, absl::Span<const float> other, int64_t vocab) {
  for (size_t at = 0; at + vocab <= reference.size(); at += vocab) {
    const auto p = reference.subspan(at, vocab);
    const auto q = other.subspan(at, vocab);
    const double p_sum = LogSum(p);
    const double q_sum = LogSum(q);
    for (int64_t i = 0; i < vocab; ++i) divergence += std::exp(p[i] - p_sum) * ((p[i] - p_sum) - (q[i] - q_sum));
    top1 += std::max_element(p.begin(), p.end()) - p.begin() == std::max_element(q.begin(), q.end()) - q.begin();
    ++positions;
  }
}

}  // namespace kvlink::bench
