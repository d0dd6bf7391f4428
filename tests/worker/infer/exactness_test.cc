// Linked decoding from stored raw-f32 encodings equals one forward pass under the segment mask, and equals keys that
// were really shifted; as a property over random models, documents and links.
#include <algorithm>
#include <cstring>
#include <numeric>
#include <optional>
#include <random>

#include "base/clock.h"
#include "tests/support/masked_forward.h"
#include "tests/worker/infer/fixture.h"
#include "worker/link/plan.h"

namespace kvlink::infer {
namespace {

constexpr double kTolerance = 1e-3;  // of logits in f32
// Of distributions in bf16, in nats: as against transformers (tests/worker/model/forward_test.cc).
constexpr double kDivergence = 0.01;

template <typename T>
T Pick(std::mt19937_64& random, std::initializer_list<T> choices) {
  return choices.begin()[random() % choices.size()];
}
int64_t Between(std::mt19937_64& random, int64_t low, int64_t high) {
  return low + static_cast<int64_t>(random() % static_cast<uint64_t>(high - low + 1));
}

struct Case {
  testing::TinyModelOptions model;
  link::LinkProfile profile;
  std::vector<float> link_embeddings;
  Request request;
  std::vector<int32_t> forced;  // decoded after the prefill, whatever was sampled
  int64_t base = 0;             // added to every position
  std::string backend = "ref";
  std::string name;
};

Case RandomCase(uint64_t seed, int64_t max_documents, int64_t max_tokens) {
  std::mt19937_64 random(seed);
  Case c;
  testing::TinyModelOptions& m = c.model;
  m.seed = seed;
  m.architecture = Pick<std::string>(random, {"llama", "llama", "mistral", "qwen2", "qwen3"});
  m.layers = Between(random, 1, 3);
  m.head_dim = Pick<int64_t>(random, {64, 80, 128});
  m.kv_heads = Pick<int64_t>(random, {1, 2, 3});
  m.heads = m.kv_heads * Pick<int64_t>(random, {1, 2, 3, 4});
  m.context = 131072;
  m.tied = random() % 2 == 0;
  if (m.architecture == "mistral" && random() % 4 != 0) m.window = Between(random, 1, 400);
  m.rope_theta = Pick<double>(random, {10000, 500000});
  m.rope_scaling = Pick<std::string>(
      random,
      {"", R"({"rope_type":"linear","factor":4.0})",
       R"({"rope_type":"llama3","factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,"original_max_position_embeddings":512})",
       R"({"rope_type":"yarn","factor":4.0,"original_max_position_embeddings":512})"});
  const int64_t links = Pick<int64_t>(random, {0, 1, 5});
  c.profile.name = "random";
  c.profile.trained = true;
  c.profile.links_per_document = links;
  c.profile.slots = links == 0 ? 0 : 20;
  if (links > 0 && random() % 2 == 0) {
    std::normal_distribution<float> normal(0, 0.05f);
    c.link_embeddings.resize(c.profile.slots * links * m.hidden);
    for (float& element : c.link_embeddings) element = normal(random);
  } else if (links > 0) {
    c.profile.first_link_id = 100;
  }
  if (random() % 2 == 0) c.profile.mem_start = 5;
  if (random() % 2 == 0) c.profile.mem_end = 6;
  c.request.linker = links > 0 ? link::Linker::kLinks : link::Linker::kConcat;
  if (random() % 2 == 0) c.request.linker.head = Pick<int64_t>(random, {1, 4, 32, 64, 100});
  c.request.keep_logits = true;
  c.request.prompt.before = RandomTokens(random, Between(random, 0, 40), m.vocab);
  c.request.prompt.after = RandomTokens(random, Between(random, 1, 40), m.vocab);
  const int64_t documents = Between(random, 1, max_documents);
  for (int64_t i = 0; i < documents; ++i) {
    if (i > 0 && random() % 8 == 0) {
      c.request.documents.push_back(c.request.documents[random() % i]);  // the same one again, elsewhere
    } else {
      c.request.documents.push_back({RandomTokens(random, Between(random, 1, max_tokens), m.vocab), {}});
    }
  }
  c.forced = RandomTokens(random, Between(random, 1, 5), m.vocab);
  if (random() % 2 == 0) c.base = Between(random, 0, 100000);
  c.name = absl::StrCat("seed ", seed, ": ", m.architecture, " heads ", m.heads, "/", m.kv_heads, " dim ", m.head_dim,
                        " window ", m.window, " rope ", m.rope_scaling, " linker ", link::LinkerName(c.request.linker),
                        " documents ", documents, " base ", c.base);
  return c;
}

link::LinkPlan PlanOf(const Case& c) {
  link::PlanInput input;
  input.linker = c.request.linker;
  input.profile = &c.profile;
  input.vocab = c.model.vocab;
  input.context = c.model.context - c.base;
  input.prompt = c.request.prompt;
  for (const RequestDocument& document : c.request.documents) input.documents.push_back(document.tokens);
  auto plan = link::MakePlan(input);
  EXPECT_TRUE(plan.ok()) << plan.status();
  for (int64_t& position : plan->fresh_positions) position += c.base;
  for (link::PlacedDocument& placed : plan->documents) placed.offset += c.base;
  plan->length += c.base;
  return *std::move(plan);
}

bool Hides(const link::PlacedDocument& placed, size_t token) {
  return !placed.hidden.empty() && ((placed.hidden[token / 64] >> (token % 64)) & 1) != 0;
}

// Logits behind the prompt and behind each forced token, by the oracle.
std::vector<float> Expected(const Case& c, const link::LinkPlan& plan, const model::Weights& weights) {
  std::vector<testing::MaskedToken> tokens;
  for (size_t i = 0; i < plan.fresh_tokens.size(); ++i)
    tokens.push_back({plan.fresh_tokens[i], plan.fresh_positions[i], 0});
  int64_t segment = 0;
  for (const link::PlacedDocument& placed : plan.documents) {
    ++segment;
    const std::vector<int32_t>& document = c.request.documents[placed.document].tokens;
    for (size_t i = 0; i < document.size(); ++i) {
      tokens.push_back({document[i], placed.offset + static_cast<int64_t>(i), segment, Hides(placed, i)});
    }
  }
  for (size_t i = 0; i < c.forced.size(); ++i)
    tokens.push_back({c.forced[i], plan.length + static_cast<int64_t>(i), 0});
  std::sort(tokens.begin(), tokens.end(), [](const auto& a, const auto& b) { return a.position < b.position; });
  int64_t seen = c.base;
  for (const testing::MaskedToken& token : tokens) {
    if (token.hidden) continue;
    EXPECT_EQ(token.position, seen++);
  }
  std::vector<int64_t> wanted(c.forced.size() + 1);
  std::iota(wanted.begin(), wanted.end(), static_cast<int64_t>(tokens.size() - wanted.size()));
  auto logits = testing::MaskedForward(weights, tokens, c.link_embeddings, wanted);
  EXPECT_TRUE(logits.ok()) << logits.status();
  return *std::move(logits);
}

std::vector<float> Linked(Generator& generator, const Case& c, const link::LinkPlan& plan) {
  auto conversation = generator.StartPlanned(plan, c.request);
  EXPECT_TRUE(conversation.ok()) << conversation.status();
  if (!conversation.ok()) return {};
  std::vector<float> logits((*conversation)->logits().begin(), (*conversation)->logits().end());
  const auto scores = generator.Score(**conversation, c.forced, {});
  EXPECT_TRUE(scores.ok()) << scores.status();
  if (scores.ok()) logits.insert(logits.end(), scores->begin(), scores->end());
  return logits;
}

// A stored encoding with its keys rotated to `offset` and positions of their own.
struct Shifted {
  std::vector<std::vector<std::byte>> slabs;
  std::vector<const std::byte*> layer_data;
  std::vector<int64_t> positions;
  kernels::KvSegment segment;
};

void Materialise(store::Store& store, const Loaded& loaded, absl::Span<const int32_t> tokens, int64_t offset,
                 Shifted* shifted) {
  const Identity identity = ComputeIdentity({loaded.fingerprint, "", tokens}, "");
  const auto found = store.Lookup("default", {identity}, Codec::kRawF32);
  ASSERT_TRUE(found.ok() && (*found)[0].present);
  const absl::Time deadline = SteadyNow() + absl::Seconds(60);
  auto lease = store.Read("default", identity, Codec::kRawF32, (*found)[0].etag, deadline);
  ASSERT_TRUE(lease.ok()) << lease.status();
  const SlabShape shape = (*lease)->manifest().shape(0);
  kernels::Backend& backend = *loaded.backend;
  const auto stream = backend.NewStream();
  for (int64_t layer = 0; layer < loaded.model->config().layers; ++layer) {
    ASSERT_TRUE((*lease)->WaitLayer(layer, deadline).ok());
    const auto slab = (*lease)->layer(layer);
    shifted->slabs.emplace_back(slab.begin(), slab.end());
    for (int64_t block = 0; block < shape.blocks(); ++block) {
      const int64_t n = shape.block_tokens(block);
      std::vector<int64_t> slots(n);
      std::iota(slots.begin(), slots.end(), 0);
      kernels::ShiftKeysArgs args;
      args.rope = &loaded.model->rope();
      args.delta = offset;
      args.slots = kernels::Tensor::Dense(slots.data(), kernels::Dtype::kI64, backend.device(), {n});
      const auto view = [&](std::byte* base) {
        kernels::Tensor view = kernels::Tensor::Dense(base + shape.block_offset(0, block), kernels::Dtype::kF32,
                                                      backend.device(), {n, shape.kv_heads, shape.head_dim});
        view.strides = {shape.head_dim, shape.head_bytes() / 4, 1, 0};
        view.bytes = shape.used_bytes() - shape.block_offset(0, block);
        return view;
      };
      std::vector<std::byte> original(slab.begin(), slab.end());
      args.in = view(original.data());
      args.out = view(shifted->slabs.back().data());
      ASSERT_TRUE(backend.ShiftKeys(*stream, args).ok()) << backend.ShiftKeys(*stream, args);
      ASSERT_TRUE(stream->Synchronize().ok());
    }
  }
  for (const auto& slab : shifted->slabs) shifted->layer_data.push_back(slab.data());
  for (int64_t j = 0; j < shape.tokens; ++j) shifted->positions.push_back(offset + j);
  shifted->segment = {Codec::kRawF32,       shifted->layer_data, nullptr, shape.head_bytes(),
                      shape.block_stride(), shape.tokens,        false,   shifted->positions.data()};
}

// Logits behind the prompt, from materialised keys.
std::vector<float> FromShiftedKeys(store::Store& store, const Loaded& loaded, const Case& c,
                                   const link::LinkPlan& plan) {
  std::vector<Shifted> shifted(plan.documents.size());
  const int64_t rows = static_cast<int64_t>(plan.fresh_tokens.size());
  model::ForwardBatch batch;
  std::vector<kernels::KvSegment> segments;
  std::vector<kernels::KvRead> reads;
  for (size_t i = 0; i < shifted.size(); ++i) {
    Materialise(store, loaded, c.request.documents[plan.documents[i].document].tokens, plan.documents[i].offset,
                &shifted[i]);
    if (::testing::Test::HasFatalFailure()) return {};
    const std::vector<uint64_t>& hidden = plan.documents[i].hidden;
    reads.push_back({static_cast<int32_t>(i), 0, rows, 0, hidden.empty() ? nullptr : hidden.data()});
    segments.push_back(shifted[i].segment);
  }
  auto pages =
      model::KvPages::Create(loaded.backend.get(), loaded.model->config(), kernels::Dtype::kF32, rows / 64 + 1);
  EXPECT_TRUE(pages.ok()) << pages.status();
  model::KvSequence sequence(pages->get());
  const auto slots = sequence.Append(plan.fresh_positions);
  EXPECT_TRUE(slots.ok()) << slots.status();
  reads.push_back({static_cast<int32_t>(segments.size()), 0, rows, 0, nullptr});
  segments.push_back(sequence.segment());
  const std::vector<int64_t> wanted = {rows - 1};
  batch.tokens = plan.fresh_tokens;
  batch.positions = plan.fresh_positions;
  batch.slots = *slots;
  batch.pages = pages->get();
  batch.segments = segments;
  batch.reads = reads;
  batch.logits_rows = wanted;
  if (!c.link_embeddings.empty()) {
    batch.extra_embeddings = kernels::Tensor::Dense(
        const_cast<float*>(c.link_embeddings.data()), kernels::Dtype::kF32, loaded.backend->device(),
        {static_cast<int64_t>(c.link_embeddings.size()) / c.model.hidden, c.model.hidden});
  }
  const auto context = loaded.model->NewContext();
  const auto logits = loaded.model->Forward(*context, batch);
  EXPECT_TRUE(logits.ok()) << logits.status();
  if (!logits.ok()) return {};
  return std::vector<float>(logits->as<const float>(), logits->as<const float>() + c.model.vocab);
}

std::unique_ptr<kernels::Backend> MakeBackend(const std::string& name) {
  for (const testing::BackendFactory& factory : testing::AllBackends()) {
    if (factory.name == name) return factory.make();
  }
  return FastF32();
}

void ExpectClose(const std::vector<float>& actual, const std::vector<float>& expected, const Loaded& loaded) {
  if (loaded.backend->compute_dtype() == kernels::Dtype::kF32) {
    EXPECT_LE(LargestDifference(actual, expected), kTolerance);
    return;
  }
  ASSERT_EQ(actual.size(), expected.size());
  const int64_t vocab = loaded.model->config().vocab;
  double sum = 0;
  for (size_t i = 0; i < expected.size(); i += vocab) {
    sum += Divergence(absl::MakeConstSpan(expected).subspan(i, vocab), absl::MakeConstSpan(actual).subspan(i, vocab));
  }
  EXPECT_LE(sum / static_cast<double>(expected.size() / vocab), kDivergence);
}

void Check(const Case& c) {
  SCOPED_TRACE(c.name);
  TempDirectory directory;
  const std::string model_path = directory.path() + "/model";
  ASSERT_TRUE(testing::WriteTinyModel(model_path, c.model).ok()) << testing::WriteTinyModel(model_path, c.model);
  const Loaded loaded = LoadModel(model_path, MakeBackend(c.backend));
  const auto store = OpenStore(directory.path() + "/store", int64_t{192} << 20);
  GeneratorOptions options;
  options.codec = loaded.backend->compute_dtype() == kernels::Dtype::kF32 ? Codec::kRawF32 : Codec::kRawBf16;
  options.profile = c.profile;
  options.link_embeddings = c.link_embeddings;
  options.private_tokens = 1024;
  options.prefill_chunk = 1 + static_cast<int64_t>(c.model.seed % 97);
  auto generator = Generator::Create(loaded.model.get(), loaded.fingerprint, store.get(), options);
  ASSERT_TRUE(generator.ok()) << generator.status();

  const link::LinkPlan plan = PlanOf(c);
  const std::vector<float> expected = Expected(c, plan, *loaded.weights);
  // First everything is encoded on the spot; then everything comes out of the store's files.
  ExpectClose(Linked(**generator, c, plan), expected, loaded);
  ASSERT_TRUE((*generator)->DrainWriteBack(SteadyNow() + absl::Seconds(60)));
  EXPECT_EQ((*generator)->stats().write_back.failed, 0) << (*generator)->stats().write_back.last_error;
  const int64_t encoded = (*generator)->stats().encoded;
  (*generator)->pool().Clear();
  store->DropDramTier();
  const std::vector<float> linked = Linked(**generator, c, plan);
  ExpectClose(linked, expected, loaded);
  EXPECT_EQ((*generator)->stats().encoded, encoded);
  EXPECT_GT((*generator)->stats().pool.loads_disk, 0);
  if (loaded.backend->device().type != kernels::DeviceType::kCpu) return;
  const std::vector<float> shifted = FromShiftedKeys(*store, loaded, c, plan);
  EXPECT_LE(LargestDifference(absl::MakeConstSpan(linked).subspan(0, shifted.size()), shifted), kTolerance);
}

TEST(Exactness, LinkedDecodingEqualsOneMaskedPass) {
  const uint64_t seed = TestSeed();
  const int cases = Soak() ? 400 : 12;
  for (int i = 0; i < cases; ++i) {
    Case c = Soak() ? RandomCase(seed + i, 20, 700) : RandomCase(seed + i, 6, 150);
    c.backend = i % 3 == 0 ? "ref" : "fast";
    Check(c);
    if (HasFailure()) break;
  }
}

TEST(Exactness, HoldsOnADevice) {
  const uint64_t seed = TestSeed() + 2000;
  for (const testing::BackendFactory& factory : testing::AllBackends()) {
    if (!factory.on_device) continue;
    for (int i = 0; i < (Soak() ? 100 : 4); ++i) {
      Case c = RandomCase(seed + i, 4, 90);
      c.backend = factory.name;
      Check(c);
      if (HasFailure()) break;
    }
  }
}

// The first document is encoded as a prefill would compute it if nothing precedes it.
TEST(Exactness, HeadsOfWholeDocumentsAreAFullPrefill) {
  const uint64_t seed = TestSeed() + 3000;
  for (int i = 0; i < (Soak() ? 50 : 3); ++i) {
    Case c = RandomCase(seed + i, 5, 150);
    SCOPED_TRACE(c.name);
    c.profile.mem_start = c.profile.mem_end = std::nullopt;
    c.request.prompt.before.clear();
    TempDirectory directory;
    ASSERT_TRUE(testing::WriteTinyModel(directory.path(), c.model).ok());
    const Loaded loaded = LoadModel(directory.path(), MakeBackend("fast"));
    GeneratorOptions options;
    options.codec = Codec::kRawF32;
    options.profile = c.profile;
    options.link_embeddings = c.link_embeddings;
    options.private_tokens = 2048;
    auto generator = Generator::Create(loaded.model.get(), loaded.fingerprint, nullptr, options);
    ASSERT_TRUE(generator.ok()) << generator.status();
    const auto logits = [&](link::Linker linker) {
      c.request.linker = linker;
      auto conversation = (*generator)->Start(c.request);
      EXPECT_TRUE(conversation.ok()) << conversation.status();
      if (!conversation.ok()) return std::vector<float>();
      return std::vector<float>((*conversation)->logits().begin(), (*conversation)->logits().end());
    };
    const std::vector<float> full = logits(link::Linker::kFull);
    EXPECT_LE(LargestDifference(logits({link::Linker::kConcat, 150}), full), kTolerance);
  }
}

// The far ends of the property, once in every run.
TEST(Exactness, TwentyDocumentsFarOut) {
  Case c = RandomCase(TestSeed() + 1000, 3, 40);
  std::mt19937_64 random(7);
  c.request.documents.clear();
  for (int i = 0; i < 20; ++i) c.request.documents.push_back({RandomTokens(random, 1 + 3 * i, c.model.vocab), {}});
  c.request.documents[4].tokens = RandomTokens(random, 700, c.model.vocab);
  c.base = 100000;
  c.model.layers = 2;
  c.backend = "fast";
  Check(c);
}

}  // namespace
}  // namespace kvlink::infer
