// Starts a node in a child process and moves encodings through the client, like a worker.
#include "bench/transfer/transfer_store.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/status.h"
#include "bench/bench_common.h"
#include "store/client/remote.h"
#include "store/node/node.h"

namespace kvlink::bench {
namespace {

constexpr absl::Duration kCallPatience = absl::Seconds(60);
constexpr char kNamespace[] = "bench";
constexpr int64_t kSourceBytes = int64_t{256} << 20;

absl::Time Soon() { return SteadyNow() + kCallPatience; }

// A slab of the given size: heads of 64 bf16 numbers, blocks without gaps.
Manifest ManifestOf(const EncodingShape& shape) {
  const int64_t dim = 64, tokens = 512;
  const int64_t heads = shape.slab_bytes / (tokens * dim * 4);
  Manifest manifest = Manifest::Uniform({Codec::kRawBf16, heads, dim, tokens}, shape.layers, dim);
  return manifest;
}

bool IsMapped(StoreMove move) { return move == StoreMove::kMapped || move == StoreMove::kMappedFirst; }

class StoreMover : public Mover {
 public:
  StoreMover(store::client::RemoteOptions options, StoreMove move, std::string name, int64_t ring_bytes)
      : options_(std::move(options)), move_(move), name_(std::move(name)), ring_bytes_(ring_bytes) {}
  std::string name() const override { return name_; }

  absl::Status Connect() {
    remote_ = nullptr;
    KVLINK_ASSIGN_OR_RETURN(remote_, store::client::OpenRemote(options_));
    return absl::OkStatus();
  }

  absl::StatusOr<MoveTime> Move(const EncodingShape& shape) override {
    if (shape.name != shape_) KVLINK_RETURN_IF_ERROR(Write(shape));
    const size_t count = static_cast<size_t>(shape.encodings);
    if (next_ + count > manifests_.size()) {
      next_ = 0;
      // A new connection has verified no memory yet.
      if (move_ == StoreMove::kMappedFirst) KVLINK_RETURN_IF_ERROR(Connect());
    }
    const absl::Span<Manifest> some = absl::MakeSpan(manifests_).subspan(next_, count);
    next_ += count;
    return IsPush() ? Push(some) : Read(some);
  }

 private:
  bool IsPush() const { return move_ == StoreMove::kPush || move_ == StoreMove::kPushMemory; }

  // Replaces the stored encodings by those of the shape, so that the node's DRAM tier holds all of them.
  absl::Status Write(const EncodingShape& shape) {
    if (!IsPush()) {
      for (const Manifest& one : manifests_) KVLINK_RETURN_IF_ERROR(remote_->Remove(kNamespace, one.identity));
    }
    Manifest manifest = ManifestOf(shape);
    if (manifest.bytes() != shape.encoding_bytes()) return absl::InternalError("the shape has padding");
    KVLINK_RETURN_IF_ERROR(MakeSources(shape));
    for (int64_t layer = 0; layer < shape.layers; ++layer) {
      KVLINK_RETURN_IF_ERROR(manifest.ChecksumLayer(layer, sources_[0][layer]));
    }
    shape_ = shape.name;
    next_ = 0;
    manifests_.assign(std::max(shape.encodings, ring_bytes_ / manifest.bytes()), manifest);
    for (Manifest& one : manifests_) {
      Rename(&one);
      if (!IsPush()) KVLINK_RETURN_IF_ERROR(remote_->Put(kNamespace, one, sources_[0], Soon()).status());
    }
    return absl::OkStatus();
  }
  // The sources of pushes: the same bytes in more places than any cache holds.
  absl::Status MakeSources(const EncodingShape& shape) {
    const int64_t places = std::max<int64_t>(shape.encodings, kSourceBytes / shape.encoding_bytes());
    sources_.clear();
    memory_ = nullptr;
    KVLINK_ASSIGN_OR_RETURN(memory_, remote_->AllocateSlabs(places * shape.encoding_bytes()));
    for (int64_t place = 0; place < places; ++place) {
      std::byte* const encoding = memory_->data() + place * shape.encoding_bytes();
      FillRing(encoding, shape.encoding_bytes());
      sources_.emplace_back();
      for (int64_t layer = 0; layer < shape.layers; ++layer) {
        sources_.back().push_back(absl::MakeConstSpan(encoding + layer * shape.slab_bytes, shape.slab_bytes));
      }
    }
    return absl::OkStatus();
  }
  void Rename(Manifest* manifest) {
    const uint64_t number[2] = {static_cast<uint64_t>(getpid()) << 8 | static_cast<uint64_t>(move_), ++names_};
    std::memcpy(manifest->identity.bytes.data(), number, sizeof(number));
    manifest->Seal();
  }

  absl::StatusOr<MoveTime> Push(absl::Span<Manifest> manifests) {
    std::vector<absl::Status> outcomes(manifests.size());
    const double start = Now();
    {
      std::vector<std::thread> pushers;
      for (size_t i = 0; i < manifests.size(); ++i) {
        pushers.emplace_back([this, &outcomes, &manifests, i, &source = sources_[pushed_++ % sources_.size()]] {
          const auto put = remote_->Put(kNamespace, manifests[i], source, Soon());
          outcomes[i] = put.ok() && !put->written() ? absl::InternalError("it was there already") : put.status();
        });
      }
      for (std::thread& pusher : pushers) pusher.join();
    }
    const double took = Now() - start;
    for (size_t i = 0; i < manifests.size(); ++i) {
      KVLINK_RETURN_IF_ERROR(outcomes[i]);
      KVLINK_RETURN_IF_ERROR(remote_->Remove(kNamespace, manifests[i].identity));
      Rename(&manifests[i]);
    }
    return MoveTime{took, took};
  }

  absl::StatusOr<MoveTime> Read(absl::Span<const Manifest> manifests) {
    if (move_ == StoreMove::kPullSegments) remote_->DropDramTier();
    const double start = Now();
    std::vector<Identity> identities;
    for (const Manifest& manifest : manifests) identities.push_back(manifest.identity);
    KVLINK_ASSIGN_OR_RETURN(const auto found, remote_->Lookup(kNamespace, identities, manifests[0].codec));
    std::vector<store::ReadRequest> requests;
    for (size_t i = 0; i < manifests.size(); ++i) {
      if (!found[i].present) return absl::NotFoundError("the node evicted it");
      requests.push_back({identities[i], manifests[i].etag});
    }
    // Like a request, which needs all its documents.
    auto leases = remote_->ReadMany(nullptr, kNamespace, manifests[0].codec, requests, Soon());
    for (const auto& lease : leases) KVLINK_RETURN_IF_ERROR(lease.status());
    KVLINK_RETURN_IF_ERROR((*leases[0])->WaitLayer(0, Soon()));
    const double first = Now() - start;
    for (const auto& lease : leases) {
      for (size_t layer = 0; layer < (*lease)->manifest().layers.size(); ++layer) {
        KVLINK_RETURN_IF_ERROR((*lease)->WaitLayer(static_cast<int64_t>(layer), Soon()));
      }
    }
    return MoveTime{first, Now() - start};
  }

  const store::client::RemoteOptions options_;
  const StoreMove move_;
  const std::string name_;
  const int64_t ring_bytes_;
  std::unique_ptr<store::client::RemoteStore> remote_;
  std::string shape_;                // of the stored encodings
  std::vector<Manifest> manifests_;  // under ascending names
  size_t next_ = 0;
  std::shared_ptr<transport::RegisteredBuffer> memory_;
  std::vector<std::vector<absl::Span<const std::byte>>> sources_;  // the slabs of each place
  size_t pushed_ = 0;
  uint64_t names_ = 0;
};

}  // namespace

std::string StoreScratch(pid_t bench, bool in_memory) {
  const std::string root = in_memory ? "/dev/shm" : std::filesystem::temp_directory_path().string();
  return absl::StrCat(root, "/bench_transfer_", bench);
}

void ServeStore(int64_t ring_bytes, bool in_memory) {
  const std::string directory = absl::StrCat(StoreScratch(getppid(), in_memory), "/", getpid());
  store::node::NodeOptions options;
  options.directory = directory + "/store";
  std::filesystem::create_directories(directory);
  options.engine.dram_bytes = ring_bytes + ring_bytes / 4 + (int64_t{256} << 20);
  options.engine.capacity_bytes = 6 * ring_bytes;
  options.engine.share_memory = true;
  options.data_address = "127.0.0.1:0";
  options.local_socket = directory + "/socket";
  options.log = [](absl::string_view) {};
  const auto node = store::node::Node::Start(std::move(options));
  if (!node.ok()) {
    std::fprintf(stderr, "bench_transfer: %s\n", std::string(node.status().message()).c_str());
    std::exit(1);
  }
  ServeForever((*node)->addresses().control);
}

std::string StoreMoveName(StoreMove move, const std::string& carrier) {
  static constexpr const char* kNames[] = {
      "store pull from DRAM", "store pull from segments", "store mapped, first use", "store mapped",
      "store push",           "store push to memory"};
  return absl::StrCat(kNames[static_cast<int>(move)], IsMapped(move) ? "" : absl::StrCat(", ", carrier));
}

absl::StatusOr<std::unique_ptr<Mover>> NewStoreMover(const std::string& address, StoreMove move,
                                                     const std::string& carrier, int64_t ring_bytes) {
  store::client::RemoteOptions options;
  options.address = address;
  options.receive_bytes = int64_t{256} << 20;
  options.sending_bytes = int64_t{128} << 20;
  options.name = "bench";
  KVLINK_ASSIGN_OR_RETURN(options.carrier, store::client::ParseCarrier(IsMapped(move) ? "mapped" : carrier));
  auto mover = std::make_unique<StoreMover>(options, move, StoreMoveName(move, carrier), ring_bytes);
  KVLINK_RETURN_IF_ERROR(mover->Connect());
  return mover;
}

}  // namespace kvlink::bench
