// Linked decoding from stored raw-f32 encodings equals one forward pass under the segment mask, whatever tokens a
// linker has chosen, and equals keys that were really shifted; as a property over random models, documents and links.
#include <cstring>
#include <optional>

#include "base/clock.h"
#include "tests/worker/infer/random_case.h"

namespace kvlink::infer {
namespace {

// The last stage, after random observations, as one plan.
link::LinkPlan PlanOf(const Case& c) {
  link::Stages stages = StagesOf(c);
  link::LinkPlan plan = stages.Next({});
  if (plan.observe != link::Observe::kNothing) {
    std::mt19937_64 random(c.model.seed);
    link::Observed observed;
    const size_t around = c.request.linker.packet ? static_cast<size_t>(c.wrapper.tokens()) : 0;
    for (const RequestDocument& document : c.request.documents) {
      auto& numbers = observed.emplace_back(document.tokens.size() + around);
      for (float& number : numbers) number = static_cast<float>(random() % 1000);
    }
    plan = stages.Next(observed);
    plan.kept = 0;
  }
  for (int64_t& position : plan.fresh_positions) position += c.base;
  for (link::PlacedDocument& placed : plan.documents) placed.offset += c.base;
  plan.length += c.base;
  return plan;
}

std::vector<float> Linked(Generator& generator, const Case& c, const link::LinkPlan& plan) {
  return LogitsOf(generator, c, generator.StartPlanned(plan, c.request));
}

// A stored encoding with its keys rotated to `offset` and positions of their own.
struct Shifted {
  std::vector<std::vector<std::byte>> slabs;
  std::vector<const std::byte*> layer_data;
  std::vector<int64_t> positions;
  kernels::KvSegment segment;
};

void Materialise(store::Store& store, const Loaded& loaded, const IdentityInput& input, int64_t offset,
                 Shifted* shifted) {
  const Identity identity = ComputeIdentity(input, "");
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
    const std::vector<int32_t>& tokens = c.request.documents[plan.documents[i].document].tokens;
    Materialise(store, loaded, {loaded.fingerprint, plan.packet ? c.wrapper.digest : "", tokens},
                plan.documents[i].offset, &shifted[i]);
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
  options.wrapper = c.wrapper;
  const link::LinkPlan plan = PlanOf(c);
  options.private_tokens = static_cast<int64_t>(plan.fresh_tokens.size() + c.forced.size());
  options.prefill_chunk = 1 + static_cast<int64_t>(c.model.seed % 97);
  auto generator = Generator::Create(loaded.model.get(), loaded.fingerprint, store.get(), options);
  ASSERT_TRUE(generator.ok()) << generator.status();

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
  EXPECT_EQ((*generator)->stats().pool.loads_disk > 0, !plan.documents.empty());
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
    options.wrapper = c.wrapper;
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
  for (int i = 0; i < 20; ++i) c.request.documents.push_back({RandomTokens(random, 1 + 3 * i, c.model.vocab)});
  c.request.documents[4].tokens = RandomTokens(random, 700, c.model.vocab);
  c.base = 100000;
  c.model.layers = 2;
  c.backend = "fast";
  Check(c);
}

}  // namespace
}  // namespace kvlink::infer
