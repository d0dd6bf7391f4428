#include "bench/transfer_store.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/status.h"
#include "bench/bench_common.h"
#include "store/client/remote.h"
#include "store/node/node.h"

namespace kvlink::bench {
namespace {

constexpr absl::Duration kPatience = absl::Seconds(60);
constexpr char kNamespace[] = "bench";

absl::Time Soon() { return absl::Now() + kPatience; }

// A slab of so many bytes: heads of 64 bf16 numbers, blocks without a gap.
Manifest ManifestOf(const EncodingShape& shape) {
  const int64_t dim = 64, tokens = 512;
  const int64_t heads = shape.slab_bytes / (tokens * dim * 4);
  Manifest manifest = Manifest::Uniform({Codec::kRawBf16, heads, dim, tokens}, shape.layers, dim);
  return manifest;
}

// The encodings of one shape in the store, under names that count up.
struct Written {
  std::string shape;
  std::vector<Manifest> manifests;
  size_t next = 0;
};

class StoreMover : public Mover {
 public:
  StoreMover(std::unique_ptr<store::RemoteStore> remote, StoreMove move, std::string name, int64_t ring_bytes)
      : move_(move), name_(std::move(name)), ring_bytes_(ring_bytes), remote_(std::move(remote)) {}
  std::string name() const override { return name_; }

  absl::StatusOr<MoveTime> Move(const EncodingShape& shape) override {
    if (shape.name != written_.shape) KVLINK_RETURN_IF_ERROR(Write(shape));
    Manifest& next = written_.manifests[written_.next++ % written_.manifests.size()];
    return move_ == StoreMove::kPush ? Push(&next) : Read(next);
  }

 private:
  // Instead of what was there, so that the node's DRAM tier holds all of it.
  absl::Status Write(const EncodingShape& shape) {
    if (move_ != StoreMove::kPush) {
      for (const Manifest& one : written_.manifests) {
        KVLINK_RETURN_IF_ERROR(remote_->Remove(kNamespace, one.identity));
      }
    }
    const Manifest manifest = ManifestOf(shape);
    if (manifest.bytes() != shape.bytes()) return absl::InternalError("the shape has padding");
    const int64_t count = std::max<int64_t>(1, ring_bytes_ / shape.bytes());
    KVLINK_ASSIGN_OR_RETURN(slabs_, remote_->AllocateSlabs(shape.bytes()));
    uint64_t state = 88172645463325252;
    for (int64_t at = 0; at + 8 <= shape.bytes(); at += 8) {
      state ^= state << 13, state ^= state >> 7, state ^= state << 17;
      std::memcpy(slabs_->data() + at, &state, 8);
    }
    spans_.clear();
    Manifest sealed = manifest;
    for (int64_t layer = 0; layer < shape.layers; ++layer) {
      spans_.push_back(absl::MakeConstSpan(slabs_->data() + layer * shape.slab_bytes, shape.slab_bytes));
      KVLINK_RETURN_IF_ERROR(sealed.ChecksumLayer(layer, spans_.back()));
    }
    sealed.Seal();
    written_ = {shape.name, std::vector<Manifest>(count, sealed)};
    for (Manifest& one : written_.manifests) {
      Rename(&one);
      if (move_ == StoreMove::kPush) continue;
      KVLINK_RETURN_IF_ERROR(remote_->Put(kNamespace, one, spans_, Soon()).status());
    }
    return absl::OkStatus();
  }
  void Rename(Manifest* manifest) {
    const uint64_t number[2] = {static_cast<uint64_t>(getpid()) << 8 | static_cast<uint64_t>(move_), ++names_};
    std::memcpy(manifest->identity.bytes.data(), number, sizeof(number));
  }

  absl::StatusOr<MoveTime> Push(Manifest* manifest) {
    const double start = Now();
    KVLINK_ASSIGN_OR_RETURN(const auto put, remote_->Put(kNamespace, *manifest, spans_, Soon()));
    if (!put.written) return absl::InternalError("it was there already");
    const double took = Now() - start;
    KVLINK_RETURN_IF_ERROR(remote_->Remove(kNamespace, manifest->identity));
    Rename(manifest);
    return MoveTime{took, took};
  }

  absl::StatusOr<MoveTime> Read(const Manifest& manifest) {
    if (move_ == StoreMove::kPullSegments) remote_->DropDramTier();
    const double start = Now();
    KVLINK_ASSIGN_OR_RETURN(const auto found, remote_->Lookup(kNamespace, {manifest.identity}, manifest.codec));
    if (!found[0].present) return absl::NotFoundError("the node evicted it");
    KVLINK_ASSIGN_OR_RETURN(const auto lease,
                            remote_->Read(kNamespace, manifest.identity, manifest.codec, manifest.etag, Soon()));
    KVLINK_RETURN_IF_ERROR(lease->WaitLayer(0, Soon()));
    const double first = Now() - start;
    for (size_t layer = 1; layer < manifest.layers.size(); ++layer) {
      KVLINK_RETURN_IF_ERROR(lease->WaitLayer(static_cast<int64_t>(layer), Soon()));
    }
    return MoveTime{first, Now() - start};
  }

  const StoreMove move_;
  const std::string name_;
  const int64_t ring_bytes_;
  const std::unique_ptr<store::RemoteStore> remote_;
  Written written_;
  std::shared_ptr<transport::RegisteredBuffer> slabs_;
  std::vector<absl::Span<const std::byte>> spans_;
  uint64_t names_ = 0;
};

}  // namespace

std::string StoreScratch(pid_t bench) {
  return absl::StrCat(std::filesystem::temp_directory_path().string(), "/bench_transfer_", bench);
}

void ServeStore(int64_t ring_bytes) {
  const std::string directory = absl::StrCat(StoreScratch(getppid()), "/", getpid());
  store::NodeOptions options;
  options.directory = directory + "/store";
  std::filesystem::create_directories(directory);
  options.engine.dram_bytes = ring_bytes + ring_bytes / 4 + (int64_t{256} << 20);
  options.engine.capacity_bytes = 6 * ring_bytes;
  options.engine.share_memory = true;
  options.data_address = "127.0.0.1:0";
  options.local_socket = directory + "/socket";
  options.log = [](absl::string_view) {};
  const auto node = store::Node::Start(std::move(options));
  if (!node.ok()) {
    std::fprintf(stderr, "bench_transfer: %s\n", std::string(node.status().message()).c_str());
    std::exit(1);
  }
  ServeForever((*node)->addresses().control);
}

std::string StoreMoveName(StoreMove move, const std::string& carrier) {
  static constexpr const char* kNames[] = {"store pull from DRAM", "store pull from segments", "store mapped",
                                           "store push"};
  return absl::StrCat(kNames[static_cast<int>(move)], move == StoreMove::kMapped ? "" : absl::StrCat(", ", carrier));
}

absl::StatusOr<std::unique_ptr<Mover>> NewStoreMover(const std::string& address, StoreMove move,
                                                     const std::string& carrier, int64_t ring_bytes) {
  store::RemoteOptions options;
  options.address = address;
  options.landing_bytes = int64_t{256} << 20;
  options.sending_bytes = int64_t{128} << 20;
  options.name = "bench";
  KVLINK_ASSIGN_OR_RETURN(options.carrier, store::ParseCarrier(move == StoreMove::kMapped ? "mapped" : carrier));
  KVLINK_ASSIGN_OR_RETURN(auto remote, store::OpenRemote(options));
  return std::unique_ptr<Mover>(
      std::make_unique<StoreMover>(std::move(remote), move, StoreMoveName(move, carrier), ring_bytes));
}

}  // namespace kvlink::bench
