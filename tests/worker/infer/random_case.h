// Shared by the tests of linked decoding over random shapes: a random model with documents, links and a linker, what
// the oracle says of it, and what a generator computes.
#ifndef KVLINK_TESTS_WORKER_INFER_RANDOM_CASE_H_
#define KVLINK_TESTS_WORKER_INFER_RANDOM_CASE_H_

#include <algorithm>
#include <initializer_list>
#include <numeric>
#include <random>

#include "tests/support/masked_forward.h"
#include "tests/worker/infer/fixture.h"
#include "worker/link/plan.h"

namespace kvlink::infer {

constexpr double kTolerance = 1e-3;  // of logits in f32
// Of distributions in bf16, in nats: as against transformers (tests/worker/model/forward_test.cc).
constexpr double kDivergence = 0.01;

template <typename T>
T Pick(std::mt19937_64& random, std::initializer_list<T> choices) {
  return choices.begin()[random() % choices.size()];
}
inline int64_t Between(std::mt19937_64& random, int64_t low, int64_t high) {
  return low + static_cast<int64_t>(random() % static_cast<uint64_t>(high - low + 1));
}

struct Case {
  testing::TinyModelOptions model;
  link::LinkProfile profile;
  std::vector<float> link_embeddings;
  encode::Wrapper wrapper;  // the profile's
  Request request;
  std::vector<int32_t> forced;  // decoded after the prefill, whatever was sampled
  int64_t base = 0;             // added to every position
  std::string backend = "ref";
  std::string name;
};

inline Case RandomCase(uint64_t seed, int64_t max_documents, int64_t max_tokens) {
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
  c.request.linker.choice = Pick(random, {link::Linker::kNone, link::Linker::kBlend, link::Linker::kProphet});
  if (c.request.linker.choice != link::Linker::kNone) c.request.linker.percent = Between(random, 0, 100);
  c.request.keep_logits = true;
  c.request.prompt.before = RandomTokens(random, Between(random, 0, 40), m.vocab);
  c.request.prompt.after = RandomTokens(random, Between(random, 1, 40), m.vocab);
  const int64_t documents = Between(random, 1, max_documents);
  for (int64_t i = 0; i < documents; ++i) {
    if (i > 0 && random() % 8 == 0) {
      c.request.documents.push_back(c.request.documents[random() % i]);  // the same one again, elsewhere
    } else {
      c.request.documents.push_back({RandomTokens(random, Between(random, 1, max_tokens), m.vocab)});
    }
  }
  c.forced = RandomTokens(random, Between(random, 1, 5), m.vocab);
  if (random() % 2 == 0) c.base = Between(random, 0, 100000);
  if (random() % 2 == 0) {
    const int64_t header = Pick<int64_t>(random, {0, 1, 8, 70}), trailer = Between(random, header == 0 ? 1 : 0, 9);
    std::normal_distribution<float> normal(0, 1);
    std::vector<float> rows((header + trailer) * m.hidden);
    for (float& element : rows) element = normal(random);
    c.wrapper = encode::MakeWrapper(header, trailer, std::move(rows));
    c.profile.wrapper = {"", header, trailer};
    c.request.linker.packet = random() % 4 != 0;
  }
  c.name = absl::StrCat("seed ", seed, ": ", m.architecture, " heads ", m.heads, "/", m.kv_heads, " dim ", m.head_dim,
                        " window ", m.window, " rope ", m.rope_scaling, " linker ", link::LinkerName(c.request.linker),
                        " documents ", documents, " base ", c.base);
  return c;
}

inline link::Stages StagesOf(const Case& c) {
  link::PlanInput input;
  input.linker = c.request.linker;
  input.profile = &c.profile;
  input.vocab = c.model.vocab;
  input.context = c.model.context - c.base;
  input.prompt = c.request.prompt;
  for (const RequestDocument& document : c.request.documents) input.documents.push_back(document.tokens);
  auto stages = link::Stages::Create(input);
  EXPECT_TRUE(stages.ok()) << stages.status();
  return *std::move(stages);
}

// The embeddings after the vocabulary's, as the oracle takes them: of links, then of the wrapper.
inline std::vector<float> ExtraEmbeddings(const Case& c) {
  std::vector<float> rows = c.link_embeddings;
  rows.insert(rows.end(), c.wrapper.embeddings.begin(), c.wrapper.embeddings.end());
  return rows;
}

// The tokens of a document's encoding, with those of the wrapper around it.
inline std::vector<int32_t> EncodedTokens(const Case& c, const RequestDocument& document, bool packet) {
  std::vector<int32_t> tokens = document.tokens;
  if (!packet) return tokens;
  std::vector<int32_t> around(c.wrapper.tokens());
  std::iota(around.begin(), around.end(),
            static_cast<int32_t>(c.model.vocab + static_cast<int64_t>(c.link_embeddings.size()) / c.model.hidden));
  const auto trailer = around.begin() + c.wrapper.header;
  tokens.insert(tokens.end(), trailer, around.end());
  tokens.insert(tokens.begin(), around.begin(), trailer);
  return tokens;
}

// Logits behind the prompt of a conversation that has begun, and behind each forced token.
inline std::vector<float> LogitsOf(Generator& generator, const Case& c,
                                   const absl::StatusOr<std::unique_ptr<Conversation>>& conversation) {
  EXPECT_TRUE(conversation.ok()) << conversation.status();
  if (!conversation.ok()) return {};
  std::vector<float> logits((*conversation)->logits().begin(), (*conversation)->logits().end());
  const auto scores = generator.Score(**conversation, c.forced, {});
  EXPECT_TRUE(scores.ok()) << scores.status();
  if (scores.ok()) logits.insert(logits.end(), scores->begin(), scores->end());
  return logits;
}

inline bool Hides(const link::PlacedDocument& placed, size_t token) {
  return !placed.hidden.empty() && ((placed.hidden[token / 64] >> (token % 64)) & 1) != 0;
}

// A plan's tokens as the oracle takes them, in order of position.
inline std::vector<testing::MaskedToken> MaskedTokensOf(const Case& c, const link::LinkPlan& plan) {
  std::vector<testing::MaskedToken> tokens;
  for (size_t i = 0; i < plan.fresh_tokens.size(); ++i)
    tokens.push_back({plan.fresh_tokens[i], plan.fresh_positions[i], 0});
  int64_t segment = 0;
  for (const link::PlacedDocument& placed : plan.documents) {
    ++segment;
    const std::vector<int32_t> document = EncodedTokens(c, c.request.documents[placed.document], plan.packet);
    for (size_t i = 0; i < document.size(); ++i) {
      tokens.push_back({document[i], placed.offset + static_cast<int64_t>(i), segment, Hides(placed, i)});
    }
  }
  std::sort(tokens.begin(), tokens.end(), [](const auto& a, const auto& b) { return a.position < b.position; });
  return tokens;
}

// Logits behind the prompt and behind each forced token, by the oracle.
inline std::vector<float> Expected(const Case& c, const link::LinkPlan& plan, const model::Weights& weights) {
  std::vector<testing::MaskedToken> tokens = MaskedTokensOf(c, plan);
  for (size_t i = 0; i < c.forced.size(); ++i)
    tokens.push_back({c.forced[i], plan.length + static_cast<int64_t>(i), 0});
  int64_t seen = c.base;
  for (const testing::MaskedToken& token : tokens) {
    if (token.hidden) continue;
    EXPECT_EQ(token.position, seen++);
  }
  std::vector<int64_t> wanted(c.forced.size() + 1);
  std::iota(wanted.begin(), wanted.end(), static_cast<int64_t>(tokens.size() - wanted.size()));
  auto logits = testing::MaskedForward(weights, tokens, ExtraEmbeddings(c), wanted);
  EXPECT_TRUE(logits.ok()) << logits.status();
  return *std::move(logits);
}

inline std::unique_ptr<kernels::Backend> MakeBackend(const std::string& name) {
  for (const testing::BackendFactory& factory : testing::AllBackends()) {
    if (factory.name == name) return factory.make();
  }
  return FastF32();
}

inline void ExpectClose(const std::vector<float>& actual, const std::vector<float>& expected, const Loaded& loaded) {
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

}  // namespace kvlink::infer

#endif  // KVLINK_TESTS_WORKER_INFER_RANDOM_CASE_H_
