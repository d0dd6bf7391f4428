// The engine's pushes: encodings that arrive from elsewhere in tier memory and are written as they arrive. A push takes
// memory only shortly before its slabs arrive, so that one that announces much and sends nothing evicts little.
#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "store/engine/engine_impl.h"
#include "store/engine/group_commit.h"

namespace kvlink::engine {
namespace {

constexpr int64_t kMaxBytes = int64_t{1} << 48;  // per encoding; the limit of a location record

}  // namespace

absl::StatusOr<std::unique_ptr<StreamingPut>> EngineImpl::BeginPush(const EncodingKey& key,
                                                                    absl::Span<const int64_t> lengths, PutMode mode) {
  KVLINK_RETURN_IF_ERROR(Writable());
  KVLINK_RETURN_IF_ERROR(CheckRoomToWrite());
  // The only parts of a manifest needed to place the slabs; the real one comes later.
  auto places = std::make_shared<Manifest>();
  int64_t end = 0;
  for (const int64_t length : lengths) {
    if (length < 0 || length % kSlabAlignment != 0 || length > kMaxBytes - end) {
      return absl::InvalidArgumentError(absl::StrCat("push: a slab of ", length, " bytes"));
    }
    LayerManifest layer;
    layer.offset = end;
    layer.length = length;
    if (length > 0) layer.components.emplace_back();  // so that the layer counts as having bytes
    places->layers.push_back(layer);
    end += length;
  }
  if (end == 0 || static_cast<int64_t>(lengths.size()) > kMaxLayers) {
    return absl::InvalidArgumentError(absl::StrCat("push: ", end, " bytes in ", lengths.size(), " layers"));
  }
  KVLINK_RETURN_IF_ERROR(CheckSize(ManifestArea(1) + end));  // the manifest may be larger than that; Accept checks
  KVLINK_ASSIGN_OR_RETURN(std::shared_ptr<Residency> residency, tier_->MakeEmpty(key.ns, std::move(places)));
  ++counters_.pushes_open;
  std::unique_ptr<StreamingPut> push = std::make_unique<StreamingPutImpl>(this, key, mode, std::move(residency));
  // A push that finds no room at all fails here, before anything is sent.
  const auto first = std::find_if(lengths.begin(), lengths.end(), [](int64_t length) { return length > 0; });
  KVLINK_RETURN_IF_ERROR(push->Reserve(first - lengths.begin()));
  return push;
}

absl::Status StreamingPutImpl::Reserve(int64_t layer) {
  if (lengths_[layer] == 0 || reserved_[layer]) return absl::OkStatus();
  KVLINK_RETURN_IF_ERROR(engine_->tier_->TakeLayer(residency_.get(), layer, Eviction::kAnything));
  reserved_[layer] = true;
  return absl::OkStatus();
}

StreamingPutImpl::StreamingPutImpl(EngineImpl* engine, EncodingKey key, PutMode mode,
                                   std::shared_ptr<Residency> residency)
    : engine_(engine), key_(std::move(key)), mode_(mode), residency_(std::move(residency)) {
  const size_t layers = residency_->manifest().layers.size();
  for (size_t layer = 0; layer < layers; ++layer) lengths_.push_back(static_cast<int64_t>(slab(layer).size()));
  reserved_.resize(layers);
}

StreamingPutImpl::~StreamingPutImpl() {
  if (put_ != nullptr) {
    int64_t left = 0;
    const std::shared_ptr<PendingPut> put = Release(&left);
    residency_ = nullptr;
    engine_->EndPush(put, left, absl::CancelledError("the push was dropped"));
  }
  --engine_->counters_.pushes_open;
}

absl::Status StreamingPutImpl::Accept(const Manifest& manifest) {
  if (put_ != nullptr) return absl::InvalidArgumentError("push: it already has a manifest");
  KVLINK_RETURN_IF_ERROR(EngineImpl::CheckPut(manifest, lengths_));
  if (manifest.identity != key_.identity || manifest.codec != key_.codec) {
    return absl::InvalidArgumentError("push: the manifest is for another encoding than the push");
  }
  KVLINK_RETURN_IF_ERROR(engine_->CheckRoomToWrite());
  KVLINK_ASSIGN_OR_RETURN(std::shared_ptr<PendingPut> put, engine_->NewPut(key_, manifest, mode_));
  KVLINK_ASSIGN_OR_RETURN(put->location.runs, engine_->AllocateBlocks(key_.ns, put->location.blocks()));
  auto writes =
      std::make_unique<RequestCutter>(engine_->segments_.get(), put->location.runs, engine_->tier_->chunk_bytes(),
                                      /*write=*/true, engine_->WriteDone(put));
  // The manifest goes to disk with the first slab.
  const absl::Status cut = writes->Add(absl::MakeSpan(put->manifest.data(), put->manifest.size()));
  if (!cut.ok()) {
    engine_->table_.Free(key_.ns, put->location.runs);
    return cut;
  }
  writes_ = std::move(writes);
  residency_->SetManifest(std::make_shared<const Manifest>(manifest));
  put->source = residency_;
  put->kept = residency_;
  {
    MutexLock lock(&put->mutex);
    put->left = put->location.stored_bytes() + 1;  // the 1 is for EndPush
  }
  put_ = std::move(put);
  ++engine_->counters_.puts_in_flight;
  for (const int64_t length : lengths_) verified_.push_back(length == 0);
  return absl::OkStatus();
}

absl::Status StreamingPutImpl::WriteLayer(int64_t layer) {
  if (put_ == nullptr || verified_[layer] || slab(layer).data() == nullptr) {
    return absl::InvalidArgumentError("push: this layer cannot be written now");
  }
  // Bytes that no checksum covers must not expose the memory's previous contents.
  const absl::Span<std::byte> bytes = slab(layer);
  const int64_t used = residency_->manifest().shape(layer).used_bytes();
  std::memset(bytes.data() + used, 0, bytes.size() - used);
  const absl::Status verified = residency_->manifest().VerifyLayer(layer, bytes);
  if (!verified.ok()) {
    failure_ = absl::InvalidArgumentError(verified.message());
    return failure_;
  }
  residency_->SetVerified(layer);
  verified_[layer] = true;
  return SubmitVerified();
}

// Submits, in layer order so that one write can span several layers, everything before the first unverified layer.
absl::Status StreamingPutImpl::SubmitVerified() {
  for (; cut_layers_ < verified_.size() && verified_[cut_layers_]; ++cut_layers_) {
    if (lengths_[cut_layers_] == 0) continue;
    failure_ = writes_->Add(slab(static_cast<int64_t>(cut_layers_)));
    if (!failure_.ok()) return failure_;
  }
  std::vector<IoRequest> due = writes_->Take(/*all=*/cut_layers_ == verified_.size());
  for (const IoRequest& write : due) submitted_bytes_ += write.length;
  put_->Hold(due);
  if (!due.empty()) engine_->io_->Submit(std::move(due));
  return absl::OkStatus();
}

std::shared_ptr<PendingPut> StreamingPutImpl::Release(int64_t* left) {
  *left = put_->location.stored_bytes() - submitted_bytes_ + 1;
  return std::move(put_);
}

// The committer frees the blocks of a failed put, once its writes are done.
void EngineImpl::EndPush(const std::shared_ptr<PendingPut>& put, int64_t left, const absl::Status& status) {
  group_commit_->Begin();
  PartDone(put, left, status);
}

void EngineImpl::CommitPush(std::unique_ptr<StreamingPut> push, std::function<void(absl::StatusOr<PutOutcome>)> done,
                            std::function<absl::Status()> admit) {
  auto* const mine = static_cast<StreamingPutImpl*>(push.get());
  if (mine->put_ == nullptr) return done(absl::InvalidArgumentError("push: it has no manifest"));
  absl::Status status = mine->failure_;
  if (status.ok() && mine->cut_layers_ < mine->verified_.size()) {
    status = absl::InvalidArgumentError("push: not all layers have been written");
  }
  int64_t left = 0;
  const std::shared_ptr<PendingPut> put = mine->Release(&left);
  push = nullptr;
  put->admit = std::move(admit);
  put->on_done = [done = std::move(done)](const absl::Status& outcome, const Etag& etag, bool written) {
    if (outcome.ok()) return done(PutOutcome{etag, written});
    done(outcome);
  };
  EndPush(put, left, status);
}

}  // namespace kvlink::engine
