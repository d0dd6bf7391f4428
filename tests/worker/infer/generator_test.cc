#include "worker/infer/generator.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <thread>

#include "base/clock.h"
#include "gmock/gmock.h"
#include "tests/worker/infer/fixture.h"

namespace kvlink::infer {
namespace {

using ::testing::HasSubstr;

TEST_P(GeneratorTest, AMissIsEncodedAndWrittenBack) {
  const auto generator = MakeGenerator(store_.get(), Options());
  const auto first = Start(*generator, Ask());
  EXPECT_EQ(first->stats().documents_encoded, 4);
  EXPECT_EQ(first->stats().fresh_tokens, 14);
  EXPECT_EQ(first->stats().prompt_tokens, 14 + 265);
  EXPECT_EQ(generator->stats().encoded, 4);
  ASSERT_TRUE(generator->DrainWriteBack(SteadyNow() + absl::Seconds(60)));
  EXPECT_EQ(generator->stats().write_back.written, 4);
  EXPECT_EQ(store_->Stats()->namespaces.at(0).encodings, 4);

  const auto generator2 = MakeGenerator(store_.get(), Options());
  store_->DropDramTier();
  const auto second = Start(*generator2, Ask());
  EXPECT_EQ(second->stats().documents_disk, 4);
  EXPECT_GT(second->stats().bytes_segments, 0);
  EXPECT_EQ(generator2->stats().encoded, 0);
  EXPECT_EQ(LogitsOf(*first), LogitsOf(*second));
}

TEST_P(GeneratorTest, OneResidentCopyServesAllRequestsAtAllOffsets) {
  FillStore();
  const auto generator = MakeGenerator(store_.get(), Options());
  const auto a = Start(*generator, Ask({0, 2}));
  const auto b = Start(*generator, Ask({2, 3, 0, 2}));
  EXPECT_EQ(generator->stats().pool.residents, 3);
  EXPECT_EQ(generator->stats().pool.loads_dram + generator->stats().pool.loads_disk, 3);
  EXPECT_EQ(store_->Stats()->leases, GetParam().on_device ? 0 : 3);  // a device has a copy of its own
  EXPECT_EQ(b->stats().documents_resident, 3);
  EXPECT_LE(LargestDifference(LogitsOf(*a), Expected(Ask({0, 2}))), tolerance());
  EXPECT_LE(LargestDifference(LogitsOf(*b), Expected(Ask({2, 3, 0, 2}))), tolerance());
}

TEST_P(GeneratorTest, WhatNobodyUsesIsEvictedBeyondTheBudget) {
  if (GetParam().on_device) GTEST_SKIP() << "a device's budget is hard: device_test.cc";
  FillStore();
  GeneratorOptions options = Options();
  options.resident_budget_bytes = 0;
  const auto generator = MakeGenerator(store_.get(), options);
  auto a = Start(*generator, Ask({0, 2}));
  EXPECT_EQ(generator->stats().pool.residents, 2);
  a.reset();
  EXPECT_EQ(generator->stats().pool.residents, 0);
  EXPECT_EQ(generator->stats().pool.evictions, 2);
  EXPECT_EQ(store_->Stats()->leases, 0);
}

TEST_P(GeneratorTest, EachCodecAnswersNearlyTheSame) {
  const std::vector<float> expected = Expected(Ask());
  // Each codec's rounding, beside the arithmetic's.
  const std::pair<Codec, double> codecs[] = {
      {Codec::kRawF32, 0}, {Codec::kRawBf16, 0.02}, {Codec::kQ8, 0.05}, {Codec::kQ4, 0.5}};
  for (const auto& [codec, rounding] : codecs) {
    SCOPED_TRACE(std::string(CodecName(codec)));
    FillStore(codec);
    const auto generator = MakeGenerator(store_.get(), Options(codec));
    const auto stored = Start(*generator, Ask());
    EXPECT_EQ(stored->stats().documents_encoded, 0);
    EXPECT_LE(LargestDifference(LogitsOf(*stored), expected), rounding + tolerance());
    // Encodings computed here are read in the same form as stored ones.
    const auto generator2 = MakeGenerator(nullptr, Options(codec));
    EXPECT_LE(LargestDifference(LogitsOf(*Start(*generator2, Ask())), LogitsOf(*stored)), tolerance());
  }
}

TEST_P(GeneratorTest, FullIsTheSameInAnyChunks) {
  Request request = Ask();
  request.linker = link::Linker::kFull;
  std::vector<float> whole;
  for (int64_t chunk : {1024, 64, 7}) {
    GeneratorOptions options = Options();
    options.prefill_chunk = chunk;
    const auto generator = MakeGenerator(nullptr, options);
    const auto conversation = Start(*generator, request);
    EXPECT_EQ(conversation->stats().fresh_tokens, conversation->stats().prompt_tokens);
    if (whole.empty()) whole = LogitsOf(*conversation);
    EXPECT_LE(LargestDifference(LogitsOf(*conversation), whole), tolerance()) << chunk;
  }
  // With one document at the very start, linked and ordinary attention see the same.
  request.prompt.before.clear();
  request.documents.resize(1);
  const auto generator = MakeGenerator(nullptr, Options());
  const auto full = Start(*generator, request);
  request.linker = link::Linker::kConcat;
  const auto linked = Start(*generator, request);
  EXPECT_LE(LargestDifference(LogitsOf(*full), LogitsOf(*linked)), tolerance());
}

TEST_P(GeneratorTest, TheCostGrowsWithWhatIsComputedAgain) {
  FillStore();
  const auto generator = MakeGenerator(store_.get(), Options());
  const int64_t layers = loaded_.model->config().layers;
  const auto cost = [&](link::Linker linker) {
    Request request = Ask();
    request.linker = linker;
    const auto conversation = Start(*generator, request);
    EXPECT_EQ(conversation->stats().prompt_tokens, 279);
    EXPECT_EQ(conversation->length(), 279);
    return conversation->stats().fresh_tokens;
  };
  // 5 tokens before the documents, 9 after them, 265 of them.
  int64_t least_blend = 0, least_prophet = 0;
  for (const int64_t percent : {1, 10, 100}) {
    if (GetParam().on_device && percent == 100) break;  // emulation is slow
    const int64_t chosen = (265 * percent + 99) / 100;
    const int64_t blend = cost({link::Linker::kConcat, 0, link::Linker::kBlend, percent});
    EXPECT_EQ(blend, (270 * 2 + (14 + chosen) * layers + layers - 1) / layers);
    const int64_t prophet = cost({link::Linker::kConcat, 0, link::Linker::kProphet, percent});
    EXPECT_EQ(prophet, 14 + 9 + chosen);
    EXPECT_GT(blend, least_blend);
    EXPECT_GT(prophet, least_prophet);
    least_blend = blend;
    least_prophet = prophet;
  }
  // With heads, which are computed in both stages if a chosen token comes before them.
  if (!GetParam().on_device) {
    EXPECT_EQ(cost({link::Linker::kConcat, 4, link::Linker::kProphet, 100}), 297);
  }
}

TEST_P(GeneratorTest, ChoosingEverythingIsAFullPrefillWithEachCodec) {
  Request request = Ask({2, 0, 2});
  request.linker = link::Linker::kFull;
  const std::vector<float> expected = Expected(request);
  for (const Codec codec : {Codec::kRawF32, Codec::kRawBf16, Codec::kQ8, Codec::kQ4}) {
    if (GetParam().on_device && codec != Codec::kQ8) continue;  // emulation is slow
    SCOPED_TRACE(std::string(CodecName(codec)));
    FillStore(codec);
    const auto generator = MakeGenerator(store_.get(), Options(codec));
    for (const link::Linker::Choice choice : {link::Linker::kBlend, link::Linker::kProphet}) {
      request.linker = {link::Linker::kConcat, 0, choice, 100};
      const auto conversation = Start(*generator, request);
      EXPECT_EQ(conversation->stats().documents_encoded, 0);
      EXPECT_LE(LargestDifference(LogitsOf(*conversation), expected), tolerance());
    }
  }
}

TEST_P(GeneratorTest, StagesAreTheSameInAnyChunks) {
  if (GetParam().on_device) GTEST_SKIP() << "rounds another way in other chunks, and so may choose other tokens";
  for (const link::Linker::Choice choice : {link::Linker::kBlend, link::Linker::kProphet}) {
    Request request = Ask({0, 1, 2, 3, 0});
    request.linker = {link::Linker::kConcat, 2, choice, 10};
    std::vector<float> whole;
    for (const int64_t chunk : {1024, 64, 7}) {
      GeneratorOptions options = Options();
      options.prefill_chunk = chunk;
      const auto generator = MakeGenerator(nullptr, options);
      const auto conversation = Start(*generator, request);
      if (whole.empty()) whole = LogitsOf(*conversation);
      EXPECT_LE(LargestDifference(LogitsOf(*conversation), whole), tolerance()) << chunk;
    }
  }
}

TEST_P(GeneratorTest, ContinuingEqualsComputingAgain) {
  FillStore();
  const auto generator = MakeGenerator(store_.get(), Options());
  const auto conversation = Start(*generator, Ask());
  std::vector<int32_t> behind = Decode(*generator, *conversation, 6);
  std::mt19937_64 random(3);
  const std::vector<int32_t> turn = RandomTokens(random, 12, loaded_.model->config().vocab);
  behind.insert(behind.end(), turn.begin(), turn.end());
  std::vector<int32_t> fed = turn;
  fed.insert(fed.begin(), conversation->next());  // the last token of the answer was not fed yet
  ASSERT_TRUE(generator->Extend(*conversation, fed, {}).ok());

  Request again = Ask();
  again.prompt.after.insert(again.prompt.after.end(), behind.begin(), behind.end());
  const auto recomputed = Start(*generator, again);
  EXPECT_EQ(conversation->length(), recomputed->length());
  EXPECT_EQ(conversation->next(), recomputed->next());
  EXPECT_LE(LargestDifference(LogitsOf(*conversation), LogitsOf(*recomputed)), tolerance());
}

TEST_P(GeneratorTest, ARewoundConversationContinuesFromTheOlderToken) {
  FillStore();
  const auto generator = MakeGenerator(store_.get(), Options());
  const auto rewound = Start(*generator, Ask());
  const auto fresh = Start(*generator, Ask());
  const int64_t prompt = rewound->length();
  std::mt19937_64 random(TestSeed());
  const std::vector<int32_t> other = RandomTokens(random, 70, loaded_.model->config().vocab);  // onto another page
  ASSERT_TRUE(generator->Extend(*rewound, other, {}).ok());
  ASSERT_TRUE(generator->Rewind(*rewound, prompt).ok());
  EXPECT_EQ(rewound->length(), prompt);
  for (const int32_t token : {5, 9, 17}) {
    ASSERT_TRUE(generator->Extend(*rewound, {token}, {}).ok());
    ASSERT_TRUE(generator->Extend(*fresh, {token}, {}).ok());
    EXPECT_LE(LargestDifference(LogitsOf(*rewound), LogitsOf(*fresh)), tolerance());
  }
  // Within an answer as well, but not into the prompt and not beyond the end.
  ASSERT_TRUE(generator->Rewind(*rewound, prompt + 1).ok());
  ASSERT_TRUE(generator->Extend(*rewound, {9, 17}, {}).ok());
  EXPECT_LE(LargestDifference(LogitsOf(*rewound), LogitsOf(*fresh)), tolerance());
  for (const int64_t length : {prompt - 1, prompt + 4}) {
    EXPECT_EQ(generator->Rewind(*rewound, length).code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(rewound->length(), prompt + 3);
  }
}

TEST_P(GeneratorTest, ABatchOfConversationsStepsAsEachAlone) {
  FillStore();
  const auto generator = MakeGenerator(store_.get(), Options());
  const std::vector<std::vector<int>> asked = {{0, 1, 2, 3}, {2, 0}, {}, {2, 2, 3}};
  const std::vector<link::Linker> linkers = {{link::Linker::kConcat, 0, link::Linker::kProphet, 20},
                                             {link::Linker::kConcat, 4, link::Linker::kBlend, 20},
                                             {link::Linker::kConcat, 0, link::Linker::kProphet, 20},
                                             link::Linker::kConcat};
  const auto start = [&](size_t i) {
    Request request = Ask(asked[i]);
    request.linker = linkers[i];
    return Start(*generator, request);
  };
  std::vector<std::unique_ptr<Conversation>> together;
  std::vector<Conversation*> batch;
  for (size_t i = 0; i < asked.size(); ++i) {
    together.push_back(start(i));
    batch.push_back(together.back().get());
  }
  for (int step = 0; step < 5; ++step) ASSERT_TRUE(generator->StepBatch(batch, {}).ok());
  for (size_t i = 0; i < asked.size(); ++i) {
    const auto alone = start(i);
    Decode(*generator, *alone, 6);
    EXPECT_EQ(alone->next(), together[i]->next());
    EXPECT_EQ(alone->length(), together[i]->length());
    EXPECT_LE(LargestDifference(LogitsOf(*alone), LogitsOf(*together[i])), tolerance());
    EXPECT_EQ(together[i]->stats().decoded_tokens, 5);
  }
}

TEST_P(GeneratorTest, SamplingDependsOnTheSeedAlone) {
  Request request = Ask();
  request.sampling.temperature = 2;
  request.sampling.seed = 5;
  const auto generator = MakeGenerator(nullptr, Options());
  const auto a = Start(*generator, request);
  const auto b = Start(*generator, request);
  const std::vector<int32_t> decoded = Decode(*generator, *a, 12);
  EXPECT_EQ(decoded, Decode(*generator, *b, 12));
  request.sampling.seed = 6;
  EXPECT_NE(decoded, Decode(*generator, *Start(*generator, request), 12));
}

// Flips one byte in every 512 of each file that holds encodings: of their slabs, or of the page before them, in which
// their manifests lie.
void DamageSegments(const std::string& directory, bool manifests) {
  constexpr size_t kBlock = 65536, kPage = 4096;
  int files = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(directory)) {
    if (!entry.is_regular_file() || entry.path().string().find("segment") == std::string::npos) continue;
    const int fd = open(entry.path().c_str(), O_RDWR);
    ASSERT_GE(fd, 0);
    struct stat info;
    ASSERT_EQ(fstat(fd, &info), 0);
    std::vector<char> bytes(info.st_size);
    ASSERT_EQ(pread(fd, bytes.data(), bytes.size(), 0), info.st_size);
    for (size_t i = 100; i < bytes.size(); i += 512) {
      if ((i % kBlock < kPage) == manifests) bytes[i] ^= 0x40;
    }
    ASSERT_EQ(pwrite(fd, bytes.data(), bytes.size(), 0), info.st_size);
    ASSERT_EQ(fsync(fd), 0);
    ASSERT_EQ(close(fd), 0);
    ++files;
  }
  ASSERT_GT(files, 0) << "the store keeps its slabs elsewhere than this test looks";
}

TEST_P(GeneratorTest, DamagedBytesAreEncodedAgain) {
  FillStore();
  store_->DropDramTier();
  DamageSegments(directory_.path() + "/store", /*manifests=*/false);
  const auto generator = MakeGenerator(store_.get(), Options());
  const auto conversation = Start(*generator, Ask());
  EXPECT_LE(LargestDifference(LogitsOf(*conversation), Expected(Ask())), tolerance());
  EXPECT_GT(generator->stats().damaged, 0);
  EXPECT_EQ(generator->stats().encoded, 4);
  EXPECT_GT(store_->Stats()->integrity_failures, 0);
  // Each is counted once.
  EXPECT_EQ(conversation->stats().documents_encoded, 4);
  EXPECT_EQ(conversation->stats().documents_disk, 0);
}

TEST_P(GeneratorTest, WhatHasADamagedManifestIsEncodedAgain) {
  FillStore();
  store_->DropDramTier();
  DamageSegments(directory_.path() + "/store", /*manifests=*/true);
  const auto generator = MakeGenerator(store_.get(), Options());
  const auto conversation = Start(*generator, Ask());
  EXPECT_LE(LargestDifference(LogitsOf(*conversation), Expected(Ask())), tolerance());
  EXPECT_EQ(generator->stats().encoded, 4);
  EXPECT_GT(generator->stats().pool.store_errors, 0);
  EXPECT_GT(store_->Stats()->integrity_failures, 0);
}

TEST_P(GeneratorTest, LimitsEndACallAndLeaveTheConversation) {
  FillStore();
  const auto generator = MakeGenerator(store_.get(), Options());
  Request late = Ask();
  late.limits.timeout = absl::ZeroDuration();
  EXPECT_EQ(generator->Start(late).status().code(), absl::StatusCode::kDeadlineExceeded);
  Request cancelled = Ask();
  cancelled.limits.cancelled = [] { return true; };
  EXPECT_EQ(generator->Start(cancelled).status().code(), absl::StatusCode::kCancelled);

  const auto conversation = Start(*generator, Ask());
  const auto undisturbed = Start(*generator, Ask());
  Limits after_one_layer;
  int asked = 0;
  after_one_layer.cancelled = [&] { return ++asked > 2; };
  EXPECT_EQ(generator->Step(*conversation, after_one_layer).code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(generator->Extend(*conversation, {7, 8, 9}, {absl::ZeroDuration(), {}}).code(),
            absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(conversation->length(), undisturbed->length());
  EXPECT_EQ(Decode(*generator, *conversation, 8), Decode(*generator, *undisturbed, 8));
}

TEST_P(GeneratorTest, AStageThatIsCancelledLeaksNothing) {
  FillStore();
  GeneratorOptions options = Options();
  options.private_tokens = 279;
  const auto generator = MakeGenerator(store_.get(), options);
  for (const link::Linker::Choice choice : {link::Linker::kBlend, link::Linker::kProphet}) {
    Request request = Ask();
    request.linker = {link::Linker::kConcat, 0, choice, 30};
    const std::vector<float> expected = LogitsOf(*Start(*generator, request));
    int calls = 0;
    for (bool cancelled = true; cancelled; ++calls) {
      int asked = 0;
      request.limits.cancelled = [&] { return ++asked > calls; };
      const auto conversation = generator->Start(request);
      cancelled = absl::IsCancelled(conversation.status());
      if (cancelled) continue;
      ASSERT_TRUE(conversation.ok()) << conversation.status();
      EXPECT_EQ(LogitsOf(**conversation), expected);
    }
    EXPECT_GT(calls, 3 + static_cast<int>(loaded_.model->config().layers));  // before and within both stages
  }
}

TEST_P(GeneratorTest, RefusesWhatCannotBeAnswered) {
  const auto generator = MakeGenerator(store_.get(), Options());
  Request links = Ask();
  links.linker = link::Linker::kLinks;
  EXPECT_EQ(generator->Start(links).status().code(), absl::StatusCode::kFailedPrecondition);
  Request long_answer = Ask();
  long_answer.answer_tokens = 4096;
  EXPECT_THAT(generator->Start(long_answer).status().message(), HasSubstr("tokens too many"));
  link::LinkPlan observing;
  observing.observe = link::Observe::kKeyMass;
  EXPECT_EQ(generator->StartPlanned(observing, Ask()).status().code(), absl::StatusCode::kInvalidArgument);
  Request empty = Ask();
  empty.documents[1].tokens.clear();
  EXPECT_THAT(generator->Start(empty).status().message(), HasSubstr("document 2 of 4 is empty"));
  GeneratorOptions other = Options();
  other.profile = *link::LoadLinkProfile("kvlink-llama-5");
  EXPECT_THAT(Generator::Create(loaded_.model.get(), loaded_.fingerprint, nullptr, other).status().message(),
              HasSubstr("belongs to another model"));
}

TEST_P(GeneratorTest, FullPrivateKvIsAnErrorThatLeaksNothing) {
  GeneratorOptions options = Options();
  options.private_tokens = 64;  // and the spare pages
  const auto generator = MakeGenerator(nullptr, options);
  Request full = Ask();
  full.linker = link::Linker::kFull;
  std::vector<std::unique_ptr<Conversation>> held;
  absl::StatusOr<std::unique_ptr<Conversation>> last = absl::UnknownError("");
  for (int i = 0; i < 100; ++i) {
    last = generator->Start(full);
    if (!last.ok()) break;
    held.push_back(*std::move(last));
  }
  EXPECT_EQ(last.status().code(), absl::StatusCode::kResourceExhausted);
  const size_t most = held.size();
  held.clear();
  while (true) {
    last = generator->Start(full);
    if (!last.ok()) break;
    held.push_back(*std::move(last));
  }
  EXPECT_EQ(held.size(), most);
}

TEST_P(GeneratorTest, ManyThreadsShareEverything) {
  FillStore();
  store_->DropDramTier();
  GeneratorOptions options = Options();
  // Loads and evicts all the time; on a device one request at a time fits.
  options.resident_budget_bytes = GetParam().on_device ? BytesOf({3, 2, 1}) : 0;
  options.private_tokens = 4096;
  const auto generator = MakeGenerator(store_.get(), options);
  std::vector<std::vector<int>> asked = {{0, 1}, {2, 0}, {3, 2, 1}, {0}};
  std::vector<std::vector<int32_t>> expected;
  {
    const auto quiet = MakeGenerator(nullptr, Options());
    for (const auto& documents : asked) expected.push_back(Decode(*quiet, *Start(*quiet, Ask(documents)), 4));
  }
  // A document that is in no store is encoded by whoever comes first.
  std::mt19937_64 random(9);
  documents_.push_back({RandomTokens(random, 20, loaded_.model->config().vocab)});
  asked[3].push_back(4);
  {
    const auto quiet = MakeGenerator(nullptr, Options());
    expected[3] = Decode(*quiet, *Start(*quiet, Ask(asked[3])), 4);
  }
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int round = 0; round < 3; ++round) {
        const size_t which = (t + round) % asked.size();
        const auto conversation = Start(*generator, Ask(asked[which]));
        if (conversation == nullptr || Decode(*generator, *conversation, 4) != expected[which]) ++wrong;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_LE(generator->stats().pool.bytes, options.resident_budget_bytes);
}

// One generator reads a document in both forms, also in one pass.
TEST_P(GeneratorTest, DocumentsInsideTheirWrapperAndWithoutDoNotMix) {
  const int64_t hidden = loaded_.model->config().hidden;
  std::vector<float> rows(5 * hidden);
  for (size_t i = 0; i < rows.size(); ++i) rows[i] = std::sin(static_cast<float>(i));
  GeneratorOptions options = Options();
  options.profile.wrapper = {"", 3, 2};
  options.wrapper = encode::MakeWrapper(3, 2, rows);
  Request plain = Ask(), packet = Ask();
  packet.linker.packet = true;
  std::vector<std::vector<float>> expected;
  for (const Request& request : {plain, packet}) {
    const auto alone = MakeGenerator(nullptr, options);
    const auto conversation = Start(*alone, request);
    ASSERT_TRUE(alone->Step(*conversation, {}).ok());
    expected.push_back(LogitsOf(*conversation));
    EXPECT_EQ(conversation->stats().prompt_tokens, 279 + (request.linker.packet ? 4 * 5 : 0));
  }
  EXPECT_GT(LargestDifference(expected[0], expected[1]), 4 * tolerance());
  const auto generator = MakeGenerator(store_.get(), options);
  for (int round = 0; round < 2; ++round) {  // the second reads from the store
    const auto one = Start(*generator, plain), other = Start(*generator, packet);
    std::vector<Conversation*> both = {one.get(), other.get()};
    ASSERT_TRUE(generator->StepBatch(absl::MakeSpan(both), {}).ok());
    EXPECT_LE(LargestDifference(LogitsOf(*one), expected[0]), tolerance());
    EXPECT_LE(LargestDifference(LogitsOf(*other), expected[1]), tolerance());
    EXPECT_EQ(generator->stats().encoded, 8);
    ASSERT_TRUE(generator->DrainWriteBack(SteadyNow() + absl::Seconds(60)));
    generator->pool().Clear();
  }
  const auto& tokens = documents_[0].tokens;
  EXPECT_NE(generator->IdentityOf(tokens), generator->IdentityOf(tokens, /*packet=*/true));
  GeneratorOptions none = Options();
  none.wrapper = options.wrapper;  // and the profile has none
  EXPECT_EQ(Generator::Create(loaded_.model.get(), loaded_.fingerprint, nullptr, none).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(MakeGenerator(nullptr, Options())->Start(packet).status().code(), absl::StatusCode::kFailedPrecondition);
}

INSTANTIATE_TEST_SUITE_P(Backends, GeneratorTest, ::testing::ValuesIn(GeneratorBackends()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace kvlink::infer
