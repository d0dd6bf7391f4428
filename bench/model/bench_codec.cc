// The size and fidelity of each codec: bytes per token, and how far answers over its encodings differ from those over
// raw-f32. Uses the demo's questions and documents; each position of a greedy answer over raw-f32 is one sample.
#include <cstdio>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "bench/model/bench_model.h"
#include "worker/infer/generator.h"
#include "worker/link/plan.h"
#include "worker/text/template/chat_template.h"

namespace kvlink::bench {
namespace {

struct Sample {
  infer::Request request;
  std::vector<int32_t> answer;  // greedy, over raw-f32
  std::vector<float> logits;    // [answer, vocab]
};

absl::StatusOr<std::unique_ptr<infer::Generator>> MakeGenerator(const BenchModel& bench, Codec codec) {
  infer::GeneratorOptions options;
  options.codec = codec;
  options.profile = bench.untuned;
  options.private_tokens = 2048;
  options.resident_budget_bytes = int64_t{4} << 30;  // each document is encoded once
  return infer::Generator::Create(bench.model.get(), bench.fingerprint, nullptr, options);
}

absl::StatusOr<std::vector<Sample>> Samples(const BenchModel& bench, int64_t count) {
  KVLINK_ASSIGN_OR_RETURN(const auto documents, DemoDocuments(bench));
  KVLINK_ASSIGN_OR_RETURN(const auto questions, DemoQuestions());
  KVLINK_ASSIGN_OR_RETURN(const link::ModelChat chat,
                          link::OpenChat(bench.weights->chat_template(), bench.weights->config(), *bench.tokenizer));
  absl::flat_hash_map<std::string, const BenchDocument*> by_id;
  for (const BenchDocument& document : documents) by_id[document.id] = &document;
  std::vector<Sample> samples;
  for (const BenchQuestion& question : questions) {
    if (static_cast<int64_t>(samples.size()) == count) break;
    Sample sample;
    for (const std::string& id : question.documents) {
      if (by_id.contains(id)) sample.request.documents.push_back({by_id[id]->tokens});
    }
    KVLINK_ASSIGN_OR_RETURN(sample.request.prompt, link::MakePrompt(*bench.tokenizer, *chat.chat_template, {},
                                                                    bench.untuned, "", question.text));
    sample.request.keep_logits = true;
    samples.push_back(std::move(sample));
  }
  return samples;
}

// The greedy answer, and the distribution of each of its tokens.
absl::Status AnswerGreedily(infer::Generator& generator, int64_t tokens, Sample* sample) {
  KVLINK_ASSIGN_OR_RETURN(const auto conversation, generator.Start(sample->request));
  while (true) {
    sample->answer.push_back(conversation->next());
    sample->logits.insert(sample->logits.end(), conversation->logits().begin(), conversation->logits().end());
    if (generator.IsEnd(conversation->next()) || static_cast<int64_t>(sample->answer.size()) == tokens)
      return absl::OkStatus();
    KVLINK_RETURN_IF_ERROR(generator.Step(*conversation, {}));
  }
}

// The distributions before the same tokens.
absl::StatusOr<std::vector<float>> Follow(infer::Generator& generator, const Sample& sample) {
  KVLINK_ASSIGN_OR_RETURN(const auto conversation, generator.Start(sample.request));
  std::vector<float> logits(conversation->logits().begin(), conversation->logits().end());
  if (sample.answer.size() > 1) {
    KVLINK_ASSIGN_OR_RETURN(
        const std::vector<float> rest,
        generator.Score(*conversation, absl::MakeConstSpan(sample.answer).subspan(0, sample.answer.size() - 1), {}));
    logits.insert(logits.end(), rest.begin(), rest.end());
  }
  return logits;
}

absl::Status Run(const Flags& flags, Report& report) {
  KVLINK_ASSIGN_OR_RETURN(const BenchModel bench, OpenBenchModel(flags));
  KVLINK_ASSIGN_OR_RETURN(std::vector<Sample> samples, Samples(bench, flags.GetInt("questions", 12)));
  const model::ModelConfig& config = bench.model->config();
  {
    KVLINK_ASSIGN_OR_RETURN(const auto generator, MakeGenerator(bench, Codec::kRawF32));
    for (Sample& sample : samples)
      KVLINK_RETURN_IF_ERROR(AnswerGreedily(*generator, flags.GetInt("tokens", 32), &sample));
  }
  for (Codec codec : {Codec::kRawF32, Codec::kRawBf16, Codec::kQ8, Codec::kQ4}) {
    const std::string name(CodecName(codec));
    const SlabShape shape{codec, config.kv_heads, config.head_dim, kUnitTokens};
    report.Add(absl::StrCat(name, " bytes per token"),
               static_cast<double>(config.layers * shape.used_bytes()) / static_cast<double>(kUnitTokens), "B");
    if (codec == Codec::kRawF32) continue;
    KVLINK_ASSIGN_OR_RETURN(const auto generator, MakeGenerator(bench, codec));
    Agreement agreement;
    for (const Sample& sample : samples) {
      KVLINK_ASSIGN_OR_RETURN(const std::vector<float> logits, Follow(*generator, sample));
      agreement.Add(sample.logits, logits, config.vocab);
    }
    std::optional<Target> target;
    if (codec == Codec::kQ8) target = Target{0.02, true};
    if (codec == Codec::kRawBf16) target = Target{0.01, true};
    report.Add(absl::StrCat(name, " mean KL"), agreement.mean_divergence(), "nats", target);
    report.Add(absl::StrCat(name, " top-1 agreement"), agreement.top1_percent(), "%");
    report.Add(absl::StrCat(name, " positions"), static_cast<double>(agreement.positions), "");
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace kvlink::bench

int main(int argc, char** argv) {
  using namespace kvlink::bench;
  const auto flags =
      Flags::Parse(argc, argv, "Measures what each codec costs and keeps: bytes a token, and answers against raw-f32.",
                   {{"questions", "N", "Questions of the demo to answer (default 12)."},
                    {"tokens", "N", "Most tokens of an answer (default 32)."},
                    kModelFlag,
                    kThreadsFlag,
                    kComputeFlag});
  if (!flags.ok()) {
    std::fprintf(stderr, "bench_codec: %s\n", std::string(flags.status().message()).c_str());
    return 1;
  }
  if (flags->help_wanted()) return 0;
  Report report("Codecs against raw-f32, linked answers over real documents");
  const absl::Status status = Run(*flags, report);
  if (!status.ok()) {
    std::fprintf(stderr, "bench_codec: %s\n", std::string(status.message()).c_str());
    return 1;
  }
  return report.Finish(flags->json());
}
