// The documents of a conversation: found in the pool or the store, or encoded here, and replaced when they turn out to
// be unusable.
#include <algorithm>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/container/flat_hash_map.h"
#include "base/clock.h"
#include "base/status.h"
#include "worker/infer/engine_internal.h"

namespace kvlink::infer {
namespace {

// How often a call that waits for the encoder checks for cancellation.
constexpr absl::Duration kCheckEvery = absl::Milliseconds(50);

// Of documents that were read from `place`; nullptr: from no place that takes time.
Load* LoadFrom(int64_t RequestStats::*place, Phases* phases) {
  return place == &RequestStats::documents_host   ? &phases->host
         : place == &RequestStats::documents_dram ? &phases->dram
         : place == &RequestStats::documents_disk ? &phases->disk
                                                  : nullptr;
}

}  // namespace

Conversation::~Conversation() {
  reads_.clear();
  generator_->pool_.Trim();
}

bool Conversation::landed() const {
  return std::all_of(reads_.begin(), reads_.end(), [&](const Read& read) {
    return !needs(read) || (read.resident != nullptr && read.resident->ready());
  });
}

bool Conversation::holds_documents() const {
  return std::any_of(reads_.begin(), reads_.end(), [](const Read& read) { return read.resident != nullptr; });
}

bool Conversation::lacks_documents() const {
  return std::any_of(reads_.begin(), reads_.end(), [](const Read& read) { return read.resident == nullptr; });
}

void Conversation::Drop(Read& read) {
  read.resident = nullptr;
  // Only where the document is finally read counts.
  const Counted counted = std::exchange(counted_[read.document], {});
  --(stats_.*counted.place);
  stats_.documents_direct -= counted.direct ? 1 : 0;
}

bool Generator::Attach(Conversation& conversation) {
  if (conversation.landed()) return true;
  std::vector<ResidentPool::Wanted> wanted;
  std::vector<Conversation::Read*> reads;
  for (Conversation::Read& read : conversation.reads_) {
    if (read.resident != nullptr && read.resident->ready()) continue;
    if (read.resident != nullptr || conversation.replaced_.computed.contains(read.identity)) return false;
    wanted.push_back({read.identity, EncodedTokens(conversation.documents_[read.document], conversation.packet_)});
    reads.push_back(&read);
  }
  std::vector<std::shared_ptr<Resident>> found = pool_.FindAll(wanted);
  if (found.empty()) return false;
  for (size_t i = 0; i < reads.size(); ++i) {
    reads[i]->resident = std::move(found[i]);
    Conversation::Counted& counted = conversation.counted_[reads[i]->document];
    if (counted.place != nullptr) continue;
    counted.place = &RequestStats::documents_resident;
    ++conversation.stats_.documents_resident;
  }
  return true;
}

absl::Status Generator::ReadDocuments(Conversation& conversation, bool holds, const Call& call) {
  const absl::flat_hash_set<Identity>& computed = conversation.replaced_.computed;
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
  const absl::Time began = SteadyNow();
  KVLINK_ASSIGN_OR_RETURN(std::vector<ResidentPool::Acquired> acquired,
                          pool_.Acquire(wanted, {call.deadline, call.cancelled, holds}));
  const absl::Time acquired_at = SteadyNow();
  KVLINK_ASSIGN_OR_RETURN(std::vector<Missed> missed,
                          EncodeMissing(conversation, documents, wanted, absl::MakeSpan(acquired), call));
  RequestStats& stats = conversation.stats_;
  Phases later;
  Phases& phases = stats.time_to_first_token == absl::ZeroDuration() ? stats.phases : later;
  phases.land.Add(began, SteadyNow());
  for (const ResidentPool::Acquired& one : acquired) phases.lookup.Add(one.lookup);
  if (std::any_of(missed.begin(), missed.end(), [](Missed one) { return one != Missed::kNot; })) {
    phases.encode.Add(acquired_at, phases.land.ended);
  }
  for (Conversation::Read& read : conversation.reads_) {
    if (read.resident != nullptr) continue;
    const size_t i = index.at(read.identity);
    read.resident = acquired[i].resident;
    // A document that is read repeatedly is loaded or encoded once.
    const bool loaded = std::exchange(acquired[i].loaded, false);
    const Missed miss = std::exchange(missed[i], Missed::kNot);
    const bool host = read.resident->from_host(), dram = read.resident->source() == store::Tier::kDram;
    Conversation::Counted& counted = conversation.counted_[read.document];
    if (counted.place != nullptr) continue;  // before Restart
    counted.place = miss != Missed::kNot ? &RequestStats::documents_encoded
                    : !loaded            ? &RequestStats::documents_resident
                    : host               ? &RequestStats::documents_host
                    : dram               ? &RequestStats::documents_dram
                                         : &RequestStats::documents_disk;
    counted.direct = loaded && read.resident->received_on_device();
    counted.stored = miss == Missed::kStored;
    ++(stats.*counted.place);
    if (!loaded) continue;
    if (Load* const load = LoadFrom(counted.place, &phases); load != nullptr) {
      load->began = std::min(load->began, acquired[i].asked);
      load->waited = std::max(load->waited, acquired_at - acquired[i].asked);  // all are asked for together
    }
    stats.documents_direct += counted.direct ? 1 : 0;
    (host ? stats.bytes_host : dram ? stats.bytes_dram : stats.bytes_segments) += read.resident->stored_bytes();
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<Generator::Missed>> Generator::EncodeMissing(
    const Conversation& conversation, absl::Span<const absl::Span<const int32_t>> documents,
    absl::Span<const ResidentPool::Wanted> wanted, absl::Span<ResidentPool::Acquired> acquired, const Call& call) {
  const bool packet = conversation.packet_;
  std::vector<Missed> missed(acquired.size(), Missed::kNot);
  const auto is_missing = [](const ResidentPool::Acquired& one) { return one.resident == nullptr; };
  if (std::none_of(acquired.begin(), acquired.end(), is_missing)) return missed;
  KVLINK_RETURN_IF_ERROR(AwaitEncoder(call));
  const absl::Cleanup left = [this] { EncoderLeft(); };
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
    std::shared_ptr<Resident> there = pool_.Find(wanted[i].identity);
    if (there != nullptr && there->certain()) {
      acquired[i].resident = std::move(there);
      acquired[i].reservation = {};
    } else {
      missing.push_back(i);
    }
  }
  // In groups, so that what is encoded when a limit ends the call stays.
  for (size_t begin = 0; begin < missing.size();) {
    KVLINK_RETURN_IF_ERROR(call.Check());
    std::vector<absl::Span<const int32_t>> group;
    for (int64_t tokens = 0; begin + group.size() < missing.size() && tokens < encoder->options().batch_tokens;) {
      group.push_back(documents[missing[begin + group.size()]]);
      tokens += static_cast<int64_t>(group.back().size()) + (packet ? options_.wrapper.tokens() : 0);
    }
    absl::StatusOr<std::vector<encode::Encoded>> encoded = encoder->Encode(group, [&call] { return call.Check(); });
    if (absl::IsResourceExhausted(encoded.status())) encoders_ = {};  // they themselves may hold the memory
    KVLINK_RETURN_IF_ERROR(encoded.status());
    for (encode::Encoded& one : *encoded) {
      const size_t i = missing[begin++];
      if (one.manifest.identity != wanted[i].identity) {  // of a document with a secret of its own
        one.manifest.identity = wanted[i].identity;
        one.manifest.Seal();
      }
      const auto shared = std::make_shared<const encode::Encoded>(std::move(one));
      ResidentPool::Acquired& answer = acquired[i];
      answer.resident = pool_.Insert(shared, std::move(answer.reservation));
      const bool stored = write_back_ != nullptr && conversation.write_back_ && write_back_->Offer(shared);
      missed[i] = stored ? Missed::kStored : Missed::kEncoded;
    }
  }
  MutexLock stats_lock(&mutex_);
  stats_.encoded += static_cast<int64_t>(missing.size());
  return missed;
}

absl::Status Generator::AwaitEncoder(const Call& call) {
  while (true) {
    KVLINK_RETURN_IF_ERROR(call.Check());
    MutexLock lock(&encoder_mutex_);
    if (encoding_) encoder_free_.WaitUntil(&encoder_mutex_, std::min(call.deadline, SteadyNow() + kCheckEvery));
    if (!std::exchange(encoding_, true)) return absl::OkStatus();
  }
}

void Generator::EncoderLeft() {
  MutexLock lock(&encoder_mutex_);
  encoding_ = false;
  encoder_free_.Signal();
}

absl::Status Generator::WaitLayer(const Residents& residents, int64_t layer, const Call& call,
                                  Residents* useless) const {
  for (const std::shared_ptr<Resident>& resident : residents) {
    const absl::Time deadline = std::min(call.deadline, SteadyNow() + options_.load_timeout);
    const absl::Status arrived = resident->WaitLayer(layer, deadline);
    if (arrived.ok()) continue;
    KVLINK_RETURN_IF_ERROR(call.Check());
    // A document computed here has no fallback: then the device failed.
    if (resident->source() != store::Tier::kNone) useless->push_back(resident);
    return arrived;
  }
  return absl::OkStatus();
}

void Generator::Discard(const Residents& useless, const absl::Status& status,
                        absl::Span<Conversation* const> conversations) {
  for (const std::shared_ptr<Resident>& resident : useless) {
    const bool taken_back = !resident->intact();
    pool_.Drop(resident.get());
    for (Conversation* conversation : conversations) {
      bool read_it = false;
      for (Conversation::Read& read : conversation->reads_) {
        if (read.resident != resident) continue;
        conversation->Drop(read);
        read_it = true;
      }
      Conversation::Replaced& replaced = conversation->replaced_;
      if (read_it && (!taken_back || !replaced.lapsed.insert(resident->identity()).second)) {
        replaced.computed.insert(resident->identity());
      }
    }
    MutexLock lock(&mutex_);
    ++(taken_back ? stats_.lapsed : absl::IsDataLoss(status) ? stats_.damaged : stats_.late);
  }
}

void Generator::EndLoads(Conversation& conversation) {
  Phases& phases = conversation.stats_.phases;
  for (const Conversation::Read& read : conversation.reads_) {
    if (read.resident == nullptr || !read.resident->ready()) continue;  // hidden, and not waited for
    const absl::Time ready_at = read.resident->ready_at();
    phases.land.ended = std::max(phases.land.ended, ready_at);
    Load* const load = LoadFrom(conversation.counted_[read.document].place, &phases);
    if (load == nullptr) continue;
    load->ended = std::max(load->ended, ready_at);
    load->waited += read.resident->waited();
  }
}

absl::Status Generator::LandDocuments(Conversation& conversation, const Limits& limits) {
  const Call call(limits);
  Conversation* const alone = &conversation;
  while (true) {
    KVLINK_RETURN_IF_ERROR(ReadDocuments(conversation, /*holds=*/conversation.holds_documents(), call));
    Residents arriving, useless;
    for (const Conversation::Read& read : conversation.reads_) {
      if (conversation.needs(read) && !read.resident->ready()) arriving.push_back(read.resident);
    }
    absl::Status status = call.Check();
    for (int64_t layer = 0; layer < model_->config().layers && status.ok(); ++layer) {
      status = WaitLayer(arriving, layer, call, &useless);
      if (status.ok()) status = call.Check();
    }
    if (useless.empty()) return status;
    Discard(useless, status, {&alone, 1});
  }
}

}  // namespace kvlink::infer
