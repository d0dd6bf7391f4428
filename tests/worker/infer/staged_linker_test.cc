// Linkers that choose tokens by what an earlier stage observes: the generator chooses what the oracle would, and with
// everything or nothing chosen computes what a full prefill or the linker without a choice does.
#include <algorithm>
#include <cmath>
#include <optional>

#include "tests/worker/infer/random_case.h"

namespace kvlink::infer {
namespace {

using link::Linker;
using link::Observed;

// A case at position 0, as the generator plans it.
Case StagedCase(uint64_t seed, Linker::Choice choice, int64_t max_tokens = 90) {
  Case c = RandomCase(seed, 4, max_tokens);
  c.base = 0;
  c.model.layers = std::max<int64_t>(c.model.layers, 2);  // the first layer's keys and values never deviate
  c.request.linker.choice = choice;
  return c;
}

std::unique_ptr<Generator> MakeGenerator(const Case& c, const Loaded& loaded, int64_t prefill_chunk = 1024) {
  GeneratorOptions options;
  options.codec = loaded.backend->compute_dtype() == kernels::Dtype::kF32 ? Codec::kRawF32 : Codec::kRawBf16;
  options.profile = c.profile;
  options.link_embeddings = c.link_embeddings;
  options.wrapper = c.wrapper;
  options.private_tokens = 2048;
  options.prefill_chunk = prefill_chunk;
  auto generator = Generator::Create(loaded.model.get(), loaded.fingerprint, nullptr, options);
  EXPECT_TRUE(generator.ok()) << generator.status();
  return *std::move(generator);
}

// Logits behind the prompt and behind each forced token.
std::vector<float> Answer(Generator& generator, const Case& c, Linker linker) {
  Request request = c.request;
  request.linker = linker;
  return LogitsOf(generator, c, generator.Start(request));
}

testing::MaskedTrace Trace(const Case& c, const link::LinkPlan& plan, const model::Weights& weights) {
  const std::vector<testing::MaskedToken> tokens = MaskedTokensOf(c, plan);
  testing::MaskedTrace trace;
  trace.layer = 1;
  const int64_t question = plan.length - static_cast<int64_t>(c.request.prompt.after.size());
  for (size_t i = 0; i < tokens.size() && plan.observe == link::Observe::kKeyMass; ++i) {
    if (tokens[i].position >= question) trace.observers.push_back(static_cast<int64_t>(i));
  }
  std::vector<int64_t> wanted = trace.observers;
  if (wanted.empty()) wanted = {static_cast<int64_t>(tokens.size()) - 1};
  const auto logits = testing::MaskedForward(weights, tokens, ExtraEmbeddings(c), wanted, &trace);
  EXPECT_TRUE(logits.ok()) << logits.status();
  return trace;
}

// Calls f(document, token, index of the token in the oracle's list) for every stored token.
void ForStored(const Case& c, const link::LinkPlan& plan, const std::function<void(size_t, size_t, size_t)>& f) {
  const std::vector<testing::MaskedToken> tokens = MaskedTokensOf(c, plan);
  int64_t segment = 0;
  for (const link::PlacedDocument& placed : plan.documents) {
    ++segment;
    for (size_t i = 0; i < tokens.size(); ++i) {
      if (tokens[i].segment != segment) continue;
      f(static_cast<size_t>(placed.document), static_cast<size_t>(tokens[i].position - placed.offset), i);
    }
  }
}

// What the first stage should observe.
Observed OracleObserves(const Case& c, const link::LinkPlan& first, const model::Weights& weights) {
  Observed observed;
  for (const RequestDocument& document : c.request.documents) {
    observed.emplace_back(EncodedTokens(c, document, first.packet).size());
  }
  const testing::MaskedTrace trace = Trace(c, first, weights);
  if (first.observe == link::Observe::kKeyMass) {
    ForStored(c, first, [&](size_t document, size_t token, size_t index) {
      observed[document][token] = static_cast<float>(trace.mass[index]);
    });
    return observed;
  }
  // Stored tokens see their own document, whatever hides them, so both views are in one pass.
  const std::vector<testing::MaskedToken> tokens = MaskedTokensOf(c, first);
  const size_t size = static_cast<size_t>(c.model.kv_heads * c.model.head_dim);
  ForStored(c, first, [&](size_t document, size_t token, size_t index) {
    const auto fresh = std::find_if(tokens.begin(), tokens.end(), [&](const testing::MaskedToken& one) {
      return one.segment == 0 && one.position == tokens[index].position;
    });
    if (fresh == tokens.end()) return;  // of the wrapper
    const auto other = static_cast<size_t>(fresh - tokens.begin());
    double deviation = 0;
    for (const std::vector<double>* of : {&trace.keys, &trace.values}) {
      double difference = 0, stored = 0;
      for (size_t i = 0; i < size; ++i) {
        const double old = (*of)[index * size + i];
        difference += std::pow((*of)[other * size + i] - old, 2);
        stored += old * old;
      }
      deviation += difference / stored;
    }
    observed[document][token] = static_cast<float>(deviation);
  });
  return observed;
}

// A percentage at which rounding cannot change what is chosen: the last chosen number is well above the next one.
std::optional<int64_t> ClearPercent(const Case& c, const link::LinkPlan& plan, const Observed& observed) {
  std::vector<float> numbers;
  int64_t tokens = 0;
  for (size_t i = 0; i < c.request.documents.size(); ++i) {
    tokens += static_cast<int64_t>(c.request.documents[i].tokens.size());
  }
  const bool blend = plan.observe == link::Observe::kDeviation;
  const int64_t head = c.request.linker.head;
  const int64_t header = plan.packet ? c.wrapper.header : 0;
  ForStored(c, plan, [&](size_t document, size_t index, size_t) {
    const int64_t token = static_cast<int64_t>(index) - header;
    const auto own = static_cast<int64_t>(c.request.documents[document].tokens.size());
    if (token < (document > 0 ? head : 0) || token >= own) return;
    numbers.push_back(observed[document][index]);
  });
  std::sort(numbers.begin(), numbers.end(), std::greater<>());
  std::mt19937_64 random(c.model.seed);
  for (int attempt = 0; attempt < 200; ++attempt) {
    const int64_t percent = Between(random, 1, 60);
    const auto count = static_cast<size_t>((tokens * percent + 99) / 100);
    if (count >= numbers.size()) continue;
    // Deviations are differences of nearly equal numbers.
    if (numbers[count - 1] > 1e-4 && numbers[count] < numbers[count - 1] * (blend ? 0.98 : 0.998)) return percent;
  }
  return std::nullopt;
}

TEST(StagedLinkers, ChooseWhatTheOracleDoes) {
  const uint64_t seed = TestSeed();
  int compared = 0;
  for (int i = 0; i < (Soak() ? 200 : 12); ++i) {
    Case c = StagedCase(seed + i, i % 2 == 0 ? Linker::kBlend : Linker::kProphet);
    SCOPED_TRACE(c.name);
    TempDirectory directory;
    ASSERT_TRUE(testing::WriteTinyModel(directory.path(), c.model).ok());
    const Loaded loaded = LoadModel(directory.path(), MakeBackend(i % 3 == 0 ? "ref" : "fast"));
    link::Stages stages = StagesOf(c);
    const link::LinkPlan first = stages.Next({});
    const Observed observed = OracleObserves(c, first, *loaded.weights);
    const std::optional<int64_t> percent = ClearPercent(c, first, observed);
    if (!percent) continue;
    ++compared;
    c.request.linker.percent = *percent;
    stages = StagesOf(c);
    stages.Next({});
    const std::vector<float> expected = Expected(c, stages.Next(observed), *loaded.weights);
    const auto generator = MakeGenerator(c, loaded, 1 + static_cast<int64_t>(c.model.seed % 97));
    ExpectClose(Answer(*generator, c, c.request.linker), expected, loaded);
    if (HasFailure()) break;
  }
  EXPECT_GT(compared, 3);
}

TEST(StagedLinkers, ChoosingEverythingIsAFullPrefillAndNothingChangesNothing) {
  const uint64_t seed = TestSeed() + 1000;
  for (const std::string backend : {"ref", "fast", "cuda_emulated"}) {
    for (int i = 0; i < (Soak() ? 30 : 2); ++i) {
      Case c = StagedCase(seed + i, Linker::kNone, backend == "cuda_emulated" ? 30 : 90);  // emulation is slow
      SCOPED_TRACE(absl::StrCat(backend, " ", c.name));
      c.profile.mem_start = c.profile.mem_end = std::nullopt;
      TempDirectory directory;
      ASSERT_TRUE(testing::WriteTinyModel(directory.path(), c.model).ok());
      const Loaded loaded = LoadModel(directory.path(), MakeBackend(backend));
      const auto generator = MakeGenerator(c, loaded, 50);
      const std::vector<float> full = Answer(*generator, c, Linker::kFull);
      Linker without = c.request.linker;
      without.percent = 0;
      const std::vector<float> unchanged = Answer(*generator, c, without);
      for (const Linker::Choice choice : {Linker::kBlend, Linker::kProphet}) {
        ExpectClose(Answer(*generator, c, {Linker::kConcat, 0, choice, 100}), full, loaded);
        Linker nothing = without;
        nothing.choice = choice;
        ExpectClose(Answer(*generator, c, nothing), unchanged, loaded);
      }
      if (HasFailure()) return;
    }
  }
}

}  // namespace
}  // namespace kvlink::infer
