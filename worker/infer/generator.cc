#include "worker/infer/generator.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/status.h"
#include "kernels/device/device_checksums.h"
#include "worker/infer/engine_internal.h"

namespace kvlink::infer {
namespace {

// Each conversation may leave its last page partly empty.
constexpr int64_t kSparePages = 32;
constexpr int64_t kPageTokens = kBlockTokens;

absl::Status CheckLinkEmbeddings(const GeneratorOptions& options, const model::ModelConfig& config) {
  if (options.link_embeddings.empty()) return absl::OkStatus();
  const int64_t wanted = options.profile.slots * options.profile.links_per_document * config.hidden;
  const int64_t have = static_cast<int64_t>(options.link_embeddings.size());
  if (have == wanted) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "link embeddings of profile '", options.profile.name, "' have ", have, " elements; ", options.profile.slots,
      " slots of ", options.profile.links_per_document, " links, each ", config.hidden, " wide, need ", wanted));
}

absl::Status CheckWrapper(const GeneratorOptions& options, const model::ModelConfig& config) {
  const link::WrapperFile wanted = options.profile.wrapper.value_or(link::WrapperFile());
  const encode::Wrapper& have = options.wrapper;
  if (have.header == wanted.header && have.trailer == wanted.trailer &&
      static_cast<int64_t>(have.embeddings.size()) == have.tokens() * config.hidden) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("a wrapper of ", have.header, " + ", have.trailer, " tokens with ",
                                                 have.embeddings.size(), " elements; profile '", options.profile.name,
                                                 "' has ", wanted.header, " + ", wanted.trailer, " tokens, each ",
                                                 config.hidden, " wide"));
}

// A region of device memory, lent to the store.
absl::StatusOr<std::shared_ptr<store::DeviceBuffer>> OpenDeviceBuffer(store::Store* store, kernels::Backend* backend,
                                                                      int64_t bytes) {
  if (store == nullptr || bytes == 0) return absl::UnimplementedError("no device buffer was requested");
  KVLINK_ASSIGN_OR_RETURN(kernels::Buffer allocated, backend->AllocateForNetwork(bytes));
  const auto memory = std::make_shared<kernels::Buffer>(std::move(allocated));
  const auto checksums = std::make_shared<kernels::DeviceChecksums>(backend);
  auto* const data = static_cast<std::byte*>(memory->data());
  store::DeviceRegion region;
  region.device = backend->device().index;
  region.data = data;
  region.bytes = bytes;
  region.owner = memory;
  region.checksums = [checksums, data, bytes](absl::Span<const int64_t> offsets, absl::Span<const int64_t> lengths,
                                              absl::Span<uint64_t> out) {
    return checksums->Compute(data, bytes, offsets, lengths, out);
  };
  return store->OpenDeviceBuffer(region);
}

}  // namespace

Conversation::~Conversation() {
  reads_.clear();
  generator_->pool_.Trim();
}

absl::StatusOr<std::unique_ptr<Generator>> Generator::Create(const model::Model* model, const Fingerprint& fingerprint,
                                                             store::Store* store, GeneratorOptions options) {
  const model::ModelConfig& config = model->config();
  KVLINK_RETURN_IF_ERROR(link::CheckProfile(options.profile, config));
  if (options.link_embeddings.empty()) {
    KVLINK_ASSIGN_OR_RETURN(options.link_embeddings, link::LoadLinkEmbeddings(options.profile, config));
  }
  KVLINK_RETURN_IF_ERROR(CheckLinkEmbeddings(options, config));
  if (options.wrapper.tokens() == 0) {
    KVLINK_ASSIGN_OR_RETURN(options.wrapper, encode::LoadWrapper(options.profile, config));
  }
  KVLINK_RETURN_IF_ERROR(CheckWrapper(options, config));
  if (options.prefill_chunk < 1 || options.private_tokens < 0) {
    return absl::InvalidArgumentError(
        "generator: prefill_chunk must be positive, and private_tokens must not be negative");
  }
  const bool on_host = model->backend()->device().type == kernels::DeviceType::kCpu;
  if (options.host_bytes < 0 || (options.host_bytes > 0 && on_host)) {
    return absl::InvalidArgumentError("generator: host_bytes is for devices only");
  }
  if (options.device_buffer_bytes < 0 || (options.device_buffer_bytes > 0 && on_host)) {
    return absl::InvalidArgumentError("generator: device_buffer_bytes is for devices only");
  }
  if (options.private_tokens == 0) options.private_tokens = config.context;
  auto device_buffer = OpenDeviceBuffer(store, model->backend(), options.device_buffer_bytes);
  std::unique_ptr<Generator> generator(
      new Generator(model, fingerprint, store, std::move(options), std::move(device_buffer)));
  const int64_t pages = (generator->options_.private_tokens + kPageTokens - 1) / kPageTokens + kSparePages;
  KVLINK_ASSIGN_OR_RETURN(generator->pages_,
                          model::KvPages::Create(model->backend(), config, model->backend()->compute_dtype(), pages));
  KVLINK_RETURN_IF_ERROR(generator->UploadLinkEmbeddings());
  if (store != nullptr && generator->options_.write_back_bytes > 0) {
    WriteBack::Options write_back;
    write_back.ns = generator->options_.ns;
    write_back.queue_bytes = generator->options_.write_back_bytes;
    generator->write_back_ = std::make_unique<WriteBack>(store, write_back);
  }
  return generator;
}

Generator::Generator(const model::Model* model, const Fingerprint& fingerprint, store::Store* store,
                     GeneratorOptions options, absl::StatusOr<std::shared_ptr<store::DeviceBuffer>> device_buffer)
    : model_(model),
      fingerprint_(fingerprint),
      options_(std::move(options)),
      device_buffer_(device_buffer.status()),
      pool_(store, model, fingerprint,
            {options_.ns, options_.codec, options_.resident_budget_bytes, options_.load_timeout, options_.host_bytes,
             device_buffer.ok() ? *std::move(device_buffer) : nullptr}) {}

Generator::~Generator() = default;

absl::Status Generator::UploadLinkEmbeddings() {
  if (options_.link_embeddings.empty()) return absl::OkStatus();
  kernels::Backend& backend = *model_->backend();
  const int64_t bytes = static_cast<int64_t>(options_.link_embeddings.size() * sizeof(float));
  KVLINK_ASSIGN_OR_RETURN(link_embeddings_, backend.Allocate(bytes));
  const std::unique_ptr<kernels::Stream> stream = backend.NewStream();
  KVLINK_RETURN_IF_ERROR(backend.CopyIn(*stream, options_.link_embeddings.data(), link_embeddings_.data(), bytes));
  return stream->Synchronize();
}

bool Generator::IsEnd(int32_t token) const {
  const std::vector<int32_t>& ends = model_->config().end_of_sequence;
  return std::find(ends.begin(), ends.end(), token) != ends.end();
}

Identity Generator::IdentityOf(absl::Span<const int32_t> tokens, bool packet) const {
  return ComputeIdentity({fingerprint_, packet ? options_.wrapper.digest : "", tokens}, options_.tenant_secret);
}

bool Generator::DrainWriteBack(absl::Time deadline) { return write_back_ == nullptr || write_back_->Drain(deadline); }

Generator::Stats Generator::stats() const {
  Stats stats;
  {
    MutexLock lock(&mutex_);
    stats = stats_;
  }
  stats.pool = pool_.stats();
  if (write_back_ != nullptr) stats.write_back = write_back_->stats();
  return stats;
}

absl::Status Generator::ReadDocuments(Conversation& conversation, const Identities& computed, bool holds,
                                      const Call& call) {
  std::vector<ResidentPool::Wanted> wanted;  // each once, even if read repeatedly
  std::vector<absl::Span<const int32_t>> documents;
  absl::flat_hash_map<Identity, size_t> index;
  for (const Conversation::Read& read : conversation.reads_) {
    if (read.resident != nullptr || !index.try_emplace(read.identity, wanted.size()).second) continue;
    const RequestDocument& document = conversation.documents_[read.document];
    wanted.push_back({read.identity, EncodedTokens(document, conversation.packet_), !computed.contains(read.identity)});
    documents.push_back(document.tokens);
  }
  if (wanted.empty()) return absl::OkStatus();
  KVLINK_ASSIGN_OR_RETURN(std::vector<ResidentPool::Acquired> acquired,
                          pool_.Acquire(wanted, {call.deadline, call.cancelled, holds}));
  std::vector<bool> missed;
  for (const ResidentPool::Acquired& one : acquired) missed.push_back(one.resident == nullptr);
  KVLINK_RETURN_IF_ERROR(EncodeMissing(documents, conversation.packet_, absl::MakeSpan(acquired), call));
  RequestStats& stats = conversation.stats_;
  for (Conversation::Read& read : conversation.reads_) {
    if (read.resident != nullptr) continue;
    const size_t i = index.at(read.identity);
    read.resident = acquired[i].resident;
    const bool loaded = std::exchange(acquired[i].loaded, false);
    const bool host = read.resident->from_host(), dram = read.resident->source() == store::Tier::kDram;
    read.counted = missed[i] ? &RequestStats::documents_encoded
                   : !loaded ? &RequestStats::documents_resident
                   : host    ? &RequestStats::documents_host
                   : dram    ? &RequestStats::documents_dram
                             : &RequestStats::documents_disk;
    ++(stats.*read.counted);
    if (!loaded) continue;
    stats.documents_direct += read.resident->received_on_device() ? 1 : 0;
    (host ? stats.bytes_host : dram ? stats.bytes_dram : stats.bytes_segments) += read.resident->stored_bytes();
  }
  return absl::OkStatus();
}

absl::Status Generator::EncodeMissing(absl::Span<const absl::Span<const int32_t>> documents, bool packet,
                                      absl::Span<ResidentPool::Acquired> acquired, const Call& call) {
  const auto is_missing = [](const ResidentPool::Acquired& one) { return one.resident == nullptr; };
  if (std::none_of(acquired.begin(), acquired.end(), is_missing)) return absl::OkStatus();
  MutexLock lock(&encoder_mutex_);
  std::unique_ptr<encode::Encoder>& encoder = encoders_[packet ? 1 : 0];
  if (encoder == nullptr) {
    encode::EncoderOptions options;
    options.codec = options_.codec;
    options.tenant_secret = options_.tenant_secret;
    if (packet) options.wrapper = options_.wrapper;
    KVLINK_ASSIGN_OR_RETURN(encoder, encode::Encoder::Create(model_, fingerprint_, options));
  }
  std::vector<size_t> missing;
  for (size_t i = 0; i < acquired.size(); ++i) {
    if (!is_missing(acquired[i])) continue;
    // Another request may have encoded it while this one waited for the encoder.
    std::shared_ptr<Resident> there = pool_.Find(encoder->IdentityOf(documents[i]));
    if (there != nullptr && there->certain()) {
      acquired[i].resident = std::move(there);
      acquired[i].reservation = {};
    } else {
      missing.push_back(i);
    }
  }
  // In groups, so that the call's limits are checked in between.
  for (size_t begin = 0; begin < missing.size();) {
    KVLINK_RETURN_IF_ERROR(call.Check());
    std::vector<absl::Span<const int32_t>> group;
    for (int64_t tokens = 0; begin + group.size() < missing.size() && tokens < encoder->options().batch_tokens;) {
      group.push_back(documents[missing[begin + group.size()]]);
      tokens += static_cast<int64_t>(group.back().size()) + (packet ? options_.wrapper.tokens() : 0);
    }
    absl::StatusOr<std::vector<encode::Encoded>> encoded = encoder->Encode(group);
    if (absl::IsResourceExhausted(encoded.status())) encoders_ = {};  // they themselves may hold the memory
    KVLINK_RETURN_IF_ERROR(encoded.status());
    for (encode::Encoded& one : *encoded) {
      const auto shared = std::make_shared<const encode::Encoded>(std::move(one));
      ResidentPool::Acquired& answer = acquired[missing[begin++]];
      answer.resident = pool_.Insert(shared, std::move(answer.reservation));
      if (write_back_ != nullptr) write_back_->Offer(shared);
    }
  }
  MutexLock stats_lock(&mutex_);
  stats_.encoded += static_cast<int64_t>(missing.size());
  return absl::OkStatus();
}

void Generator::Forget(absl::Span<Rows> rows, const Resident* useless) {
  pool_.Drop(useless);
  for (const Rows& one : rows) {
    for (Conversation::Read& read : one.conversation->reads_) {
      if (read.resident.get() != useless) continue;
      read.resident = nullptr;
      --(one.conversation->stats_.*read.counted);  // only where the document is finally read counts
    }
  }
}

absl::Status Generator::Run(absl::Span<Rows> rows, const Call& call) {
  // A lapsed encoding is read again once, then computed here; an unusable one is computed here at once. Computing
  // cannot fail in this way, so the loop ends after at most two rounds per document.
  Identities lapsed, computed;
  while (true) {
    for (const Rows& one : rows) {
      KVLINK_RETURN_IF_ERROR(ReadDocuments(*one.conversation, computed, /*holds=*/true, call));
    }
    std::vector<std::shared_ptr<Resident>> useless;
    const absl::Status status = Forward(rows, call, &useless);
    if (useless.empty()) return status;
    for (const std::shared_ptr<Resident>& resident : useless) {
      const bool taken_back = !resident->intact();
      if (!taken_back || !lapsed.insert(resident->identity()).second) computed.insert(resident->identity());
      Forget(rows, resident.get());
      MutexLock lock(&mutex_);
      ++(taken_back ? stats_.lapsed : absl::IsDataLoss(status) ? stats_.damaged : stats_.late);
    }
  }
}

absl::Status Generator::CheckRoom(const Conversation& conversation, int64_t tokens) const {
  const int64_t context = model_->config().context;
  if (conversation.length_ + tokens <= context) return absl::OkStatus();
  return absl::OutOfRangeError(absl::StrCat("the context is full: ", conversation.length_, " tokens and ", tokens,
                                            " more exceed the model's limit of ", context));
}

absl::Status Generator::Feed(absl::Span<Rows> rows, const Call& call) {
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

absl::Status Generator::StepBatch(absl::Span<Conversation* const> conversations, const Limits& limits) {
  const absl::Time began = SteadyNow();
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
    conversation->stats_.decode_time += SteadyNow() - began;
    ++conversation->stats_.decoded_tokens;
  }
  return absl::OkStatus();
}

absl::Status Generator::Extend(Conversation& conversation, absl::Span<const int32_t> tokens, const Limits& limits) {
  return ExtendRows(conversation, tokens, limits, nullptr);
}

absl::StatusOr<std::vector<float>> Generator::Score(Conversation& conversation, absl::Span<const int32_t> tokens,
                                                    const Limits& limits) {
  std::vector<float> scores;
  KVLINK_RETURN_IF_ERROR(ExtendRows(conversation, tokens, limits, &scores));
  return scores;
}

absl::Status Generator::Rewind(Conversation& conversation, int64_t length) {
  if (length < conversation.stats_.prompt_tokens || length > conversation.length_) {
    return absl::InvalidArgumentError(absl::StrCat("generator: cannot rewind to ", length, " tokens; the prompt has ",
                                                   conversation.stats_.prompt_tokens, ", the conversation ",
                                                   conversation.length_));
  }
  // After the prompt, each position has one token of the sequence.
  conversation.sequence_.Truncate(conversation.sequence_.tokens() - (conversation.length_ - length));
  conversation.length_ = length;
  return absl::OkStatus();
}

absl::Status Generator::ExtendRows(Conversation& conversation, absl::Span<const int32_t> tokens, const Limits& limits,
                                   std::vector<float>* scores) {
  if (tokens.empty()) return absl::InvalidArgumentError("generator: no tokens to feed");
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
