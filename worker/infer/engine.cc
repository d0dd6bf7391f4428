#include "worker/infer/engine.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "worker/infer/engine_internal.h"

namespace kvlink::infer {
namespace {

// Each conversation may leave its last page partly empty.
constexpr int64_t kSparePages = 32;
constexpr int64_t kPageTokens = kBlockTokens;

absl::Status CheckLinkEmbeddings(const EngineOptions& options, const model::ModelConfig& config) {
  if (options.link_embeddings.empty()) return absl::OkStatus();
  const int64_t wanted = options.profile.slots * options.profile.links_per_document * config.hidden;
  const int64_t have = static_cast<int64_t>(options.link_embeddings.size());
  if (have == wanted) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "link embeddings of profile '", options.profile.name, "' have ", have, " elements; ", options.profile.slots,
      " slots of ", options.profile.links_per_document, " links ", config.hidden, " wide make ", wanted));
}

}  // namespace

Conversation::~Conversation() {
  reads_.clear();
  engine_->pool_.Trim();
}

absl::StatusOr<std::unique_ptr<Engine>> Engine::Create(const model::Model* model, const Fingerprint& fingerprint,
                                                       store::Store* store, EngineOptions options) {
  const model::ModelConfig& config = model->config();
  KVLINK_RETURN_IF_ERROR(link::CheckProfile(options.profile, config));
  if (options.link_embeddings.empty()) {
    KVLINK_ASSIGN_OR_RETURN(options.link_embeddings, link::LoadLinkEmbeddings(options.profile, config));
  }
  KVLINK_RETURN_IF_ERROR(CheckLinkEmbeddings(options, config));
  if (options.prefill_chunk < 1 || options.private_tokens < 0) {
    return absl::InvalidArgumentError("engine: prefill_chunk must be positive and private_tokens not negative");
  }
  if (model->backend()->device().type != kernels::DeviceType::kCpu) {
    return absl::UnimplementedError("engine: encodings can only be read in the memory of a CPU backend");
  }
  if (options.private_tokens == 0) options.private_tokens = config.context;
  std::unique_ptr<Engine> engine(new Engine(model, fingerprint, store, std::move(options)));
  const int64_t pages = (engine->options_.private_tokens + kPageTokens - 1) / kPageTokens + kSparePages;
  KVLINK_ASSIGN_OR_RETURN(engine->pages_,
                          model::KvPages::Create(model->backend(), config, model->backend()->compute_dtype(), pages));
  if (store != nullptr && engine->options_.write_back_bytes > 0) {
    WriteBack::Options write_back;
    write_back.ns = engine->options_.ns;
    write_back.queue_bytes = engine->options_.write_back_bytes;
    engine->write_back_ = std::make_unique<WriteBack>(store, write_back);
  }
  return engine;
}

Engine::Engine(const model::Model* model, const Fingerprint& fingerprint, store::Store* store, EngineOptions options)
    : model_(model),
      fingerprint_(fingerprint),
      options_(std::move(options)),
      pool_(store, model, fingerprint, {options_.ns, options_.codec, options_.resident_budget_bytes}) {}

Engine::~Engine() = default;

bool Engine::IsEnd(int32_t token) const {
  const std::vector<int32_t>& ends = model_->config().end_of_sequence;
  return std::find(ends.begin(), ends.end(), token) != ends.end();
}

Identity Engine::IdentityOf(absl::Span<const int32_t> tokens) const {
  return ComputeIdentity({fingerprint_, "", tokens}, options_.tenant_secret);
}

bool Engine::DrainWriteBack(absl::Time deadline) { return write_back_ == nullptr || write_back_->Drain(deadline); }

Engine::Stats Engine::stats() const {
  Stats stats;
  {
    MutexLock lock(&mutex_);
    stats = stats_;
  }
  stats.pool = pool_.stats();
  if (write_back_ != nullptr) stats.write_back = write_back_->stats();
  return stats;
}

absl::StatusOr<std::unique_ptr<Conversation>> Engine::Start(const Request& request) {
  link::PlanInput input;
  input.linker = request.linker;
  input.profile = &options_.profile;
  input.vocab = model_->config().vocab;
  input.context = model_->config().context;
  input.answer_tokens = request.answer_tokens;
  input.prompt = request.prompt;
  input.allow_untrained_links = request.allow_untrained_links;
  for (const RequestDocument& document : request.documents) input.documents.push_back(document.tokens);
  KVLINK_ASSIGN_OR_RETURN(const link::LinkPlan plan, link::MakePlan(input));
  return StartPlanned(plan, request);
}

absl::StatusOr<std::unique_ptr<Conversation>> Engine::StartPlanned(const link::LinkPlan& plan, const Request& request) {
  const absl::Time began = absl::Now();
  const Call call(request.limits);
  std::unique_ptr<Conversation> conversation(new Conversation(this, pages_.get()));
  conversation->sampling_ = request.sampling;
  conversation->keep_logits_ = request.keep_logits;
  conversation->documents_ = request.documents;
  std::vector<size_t> reads;
  for (const link::PlacedDocument& placed : plan.documents) {
    if (placed.document < 0 || placed.document >= static_cast<int64_t>(request.documents.size())) {
      return absl::InvalidArgumentError(absl::StrCat("plan: no document ", placed.document, " in the request"));
    }
    const RequestDocument& document = request.documents[placed.document];
    reads.push_back(conversation->reads_.size());
    conversation->reads_.push_back({nullptr, placed.offset, placed.document,
                                    document.identity ? *document.identity : IdentityOf(document.tokens)});
  }
  KVLINK_RETURN_IF_ERROR(ReadDocuments(*conversation, reads, call));
  KVLINK_RETURN_IF_ERROR(Prefill(*conversation, plan, call));
  RequestStats& stats = conversation->stats_;
  stats.prompt_tokens = plan.length;
  stats.fresh_tokens = static_cast<int64_t>(plan.fresh_tokens.size());
  stats.time_to_first_token = absl::Now() - began;
  MutexLock lock(&mutex_);
  ++stats_.requests;
  return conversation;
}

absl::Status Engine::ReadDocuments(Conversation& conversation, absl::Span<const size_t> reads, const Call& call) {
  if (reads.empty()) return absl::OkStatus();
  std::vector<Identity> identities;
  for (size_t index : reads) identities.push_back(conversation.reads_[index].identity);
  const absl::Time deadline = std::min(call.deadline, absl::Now() + options_.load_timeout);
  std::vector<ResidentPool::Acquired> acquired = pool_.Acquire(identities, deadline);
  RequestStats& stats = conversation.stats_;
  std::vector<size_t> missing;
  for (size_t i = 0; i < acquired.size(); ++i) {
    const std::shared_ptr<Resident>& resident = acquired[i].resident;
    Conversation::Read& read = conversation.reads_[reads[i]];
    const int64_t wanted = static_cast<int64_t>(conversation.documents_[read.document].tokens.size());
    if (resident == nullptr || resident->tokens() != wanted) {
      missing.push_back(reads[i]);
      continue;
    }
    read.resident = resident;
    if (!acquired[i].loaded) {
      ++stats.documents_resident;
    } else if (resident->source() == store::Tier::kDram) {
      ++stats.documents_dram;
      stats.bytes_dram += resident->manifest().bytes();
    } else {
      ++stats.documents_segments;
      stats.bytes_segments += resident->manifest().bytes();
    }
  }
  return EncodeDocuments(conversation, missing, call);
}

absl::Status Engine::EncodeDocuments(Conversation& conversation, absl::Span<const size_t> reads, const Call& call) {
  if (reads.empty()) return absl::OkStatus();
  MutexLock lock(&encoder_mutex_);
  if (encoder_ == nullptr) {
    encode::EncoderOptions options;
    options.codec = options_.codec;
    options.tenant_secret = options_.tenant_secret;
    KVLINK_ASSIGN_OR_RETURN(encoder_, encode::Encoder::Create(model_, fingerprint_, options));
  }
  absl::flat_hash_map<Identity, std::shared_ptr<Resident>> residents;
  std::vector<Identity> identities;
  std::vector<absl::Span<const int32_t>> missing;
  for (size_t index : reads) {
    absl::Span<const int32_t> tokens = conversation.documents_[conversation.reads_[index].document].tokens;
    identities.push_back(encoder_->IdentityOf(tokens));
    const auto [it, is_new] = residents.try_emplace(identities.back(), nullptr);
    if (!is_new) continue;
    // Another request may have encoded it while this one waited for the encoder.
    std::shared_ptr<Resident> there = pool_.Find(identities.back());
    if (there != nullptr && there->ready()) {
      it->second = std::move(there);
    } else {
      missing.push_back(tokens);
    }
  }
  // In groups, so that the call's limits are looked at in between.
  for (size_t begin = 0; begin < missing.size();) {
    KVLINK_RETURN_IF_ERROR(call.Check());
    size_t end = begin;
    for (int64_t tokens = 0; end < missing.size() && tokens < encoder_->options().batch_tokens; ++end) {
      tokens += static_cast<int64_t>(missing[end].size());
    }
    KVLINK_ASSIGN_OR_RETURN(std::vector<encode::Encoded> encoded,
                            encoder_->Encode(absl::MakeConstSpan(missing).subspan(begin, end - begin)));
    begin = end;
    for (encode::Encoded& one : encoded) {
      const auto shared = std::make_shared<const encode::Encoded>(std::move(one));
      KVLINK_ASSIGN_OR_RETURN(residents[shared->manifest.identity], pool_.Insert(shared));
      if (write_back_ != nullptr) write_back_->Offer(shared);
    }
  }
  for (size_t i = 0; i < reads.size(); ++i) conversation.reads_[reads[i]].resident = residents[identities[i]];
  conversation.stats_.documents_encoded += static_cast<int64_t>(reads.size());
  MutexLock stats_lock(&mutex_);
  stats_.encoded += static_cast<int64_t>(missing.size());
  return absl::OkStatus();
}

absl::Status Engine::Replace(absl::Span<Rows> rows, const Resident* useless, bool anew, const Call& call) {
  pool_.Drop(useless);
  for (const Rows& one : rows) {
    Conversation& conversation = *one.conversation;
    std::vector<size_t> reads;
    for (size_t i = 0; i < conversation.reads_.size(); ++i) {
      if (conversation.reads_[i].resident.get() == useless) reads.push_back(i);
    }
    KVLINK_RETURN_IF_ERROR(anew ? ReadDocuments(conversation, reads, call)
                                : EncodeDocuments(conversation, reads, call));
  }
  return absl::OkStatus();
}

absl::Status Engine::Run(absl::Span<Rows> rows, const Call& call) {
  absl::flat_hash_set<Identity> lapsed;
  while (true) {
    std::vector<std::shared_ptr<Resident>> useless;
    const absl::Status status = Forward(rows, call, &useless);
    if (useless.empty()) return status;
    // An encoding is read anew once; then it is computed here, which cannot fail. So this ends after as many rounds as
    // there are documents, twice.
    for (const std::shared_ptr<Resident>& resident : useless) {
      const bool taken_back = !resident->intact();
      {
        MutexLock lock(&mutex_);
        ++(taken_back ? stats_.lapsed : absl::IsDataLoss(status) ? stats_.damaged : stats_.late);
      }
      const bool anew = taken_back && lapsed.insert(resident->identity()).second;
      KVLINK_RETURN_IF_ERROR(Replace(rows, resident.get(), anew, call));
    }
  }
}

absl::Status Engine::Prefill(Conversation& conversation, const link::LinkPlan& plan, const Call& call) {
  const int64_t fresh = static_cast<int64_t>(plan.fresh_tokens.size());
  for (int64_t begin = 0; begin < fresh; begin += options_.prefill_chunk) {
    const int64_t count = std::min(options_.prefill_chunk, fresh - begin);
    Rows rows;
    rows.conversation = &conversation;
    rows.tokens = absl::MakeConstSpan(plan.fresh_tokens).subspan(begin, count);
    rows.positions = absl::MakeConstSpan(plan.fresh_positions).subspan(begin, count);
    rows.sample = begin + count == fresh;
    KVLINK_ASSIGN_OR_RETURN(rows.slots, conversation.sequence_.Append(rows.positions));
    conversation.length_ = rows.positions.back() + 1;
    KVLINK_RETURN_IF_ERROR(Run(absl::MakeSpan(&rows, 1), call));
  }
  return absl::OkStatus();
}

absl::Status Engine::CheckRoom(const Conversation& conversation, int64_t tokens) const {
  const int64_t context = model_->config().context;
  if (conversation.length_ + tokens <= context) return absl::OkStatus();
  return absl::OutOfRangeError(absl::StrCat("the context is full: ", conversation.length_, " tokens and ", tokens,
                                            " more, and the model takes ", context));
}

absl::Status Engine::Feed(absl::Span<Rows> rows, const Call& call) {
  absl::Status status;
  size_t appended = 0;
  for (; appended < rows.size() && status.ok(); ++appended) {
    auto slots = rows[appended].conversation->sequence_.Append(rows[appended].positions);
    status = slots.status();
    if (!slots.ok()) break;
    rows[appended].slots = *std::move(slots);
  }
  if (status.ok()) status = Run(rows, call);
  for (size_t i = 0; i < appended; ++i) {
    Conversation& conversation = *rows[i].conversation;
    if (status.ok()) {
      conversation.length_ = rows[i].positions.back() + 1;
    } else {
      conversation.sequence_.Truncate(conversation.sequence_.tokens() - static_cast<int64_t>(rows[i].slots.size()));
    }
  }
  return status;
}

absl::Status Engine::StepBatch(absl::Span<Conversation* const> conversations, const Limits& limits) {
  const absl::Time began = absl::Now();
  const Call call(limits);
  std::vector<Rows> rows(conversations.size());
  std::vector<int32_t> tokens(rows.size());
  std::vector<int64_t> positions(rows.size());
  for (size_t i = 0; i < conversations.size(); ++i) {
    KVLINK_RETURN_IF_ERROR(CheckRoom(*conversations[i], 1));
    rows[i].conversation = conversations[i];
    tokens[i] = conversations[i]->next_;
    positions[i] = conversations[i]->length_;
    rows[i].tokens = absl::MakeConstSpan(&tokens[i], 1);
    rows[i].positions = absl::MakeConstSpan(&positions[i], 1);
  }
  KVLINK_RETURN_IF_ERROR(Feed(absl::MakeSpan(rows), call));
  for (Conversation* conversation : conversations) {
    conversation->stats_.decode_time += absl::Now() - began;
    ++conversation->stats_.decoded_tokens;
  }
  return absl::OkStatus();
}

absl::Status Engine::Extend(Conversation& conversation, absl::Span<const int32_t> tokens, const Limits& limits) {
  return ExtendRows(conversation, tokens, limits, nullptr);
}

absl::StatusOr<std::vector<float>> Engine::Score(Conversation& conversation, absl::Span<const int32_t> tokens,
                                                 const Limits& limits) {
  std::vector<float> scores;
  KVLINK_RETURN_IF_ERROR(ExtendRows(conversation, tokens, limits, &scores));
  return scores;
}

absl::Status Engine::ExtendRows(Conversation& conversation, absl::Span<const int32_t> tokens, const Limits& limits,
                                std::vector<float>* scores) {
  if (tokens.empty()) return absl::InvalidArgumentError("engine: no tokens to feed");
  const Call call(limits);
  KVLINK_RETURN_IF_ERROR(CheckRoom(conversation, static_cast<int64_t>(tokens.size())));
  const int64_t tokens_before = conversation.sequence_.tokens();
  const int64_t length_before = conversation.length_;
  for (size_t begin = 0; begin < tokens.size(); begin += options_.prefill_chunk) {
    Rows rows;
    rows.conversation = &conversation;
    rows.tokens = tokens.subspan(begin, options_.prefill_chunk);
    rows.sample = begin + rows.tokens.size() == tokens.size();
    rows.scores = scores;
    std::vector<int64_t> positions(rows.tokens.size());
    for (size_t i = 0; i < positions.size(); ++i) positions[i] = conversation.length_ + static_cast<int64_t>(i);
    rows.positions = positions;
    const absl::Status status = Feed(absl::MakeSpan(&rows, 1), call);
    if (!status.ok()) {
      conversation.sequence_.Truncate(tokens_before);
      conversation.length_ = length_before;
      return status;
    }
  }
  return absl::OkStatus();
}

}  // namespace kvlink::infer
