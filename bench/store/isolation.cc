// Fills the node's store before the node opens it, so that none of it is in DRAM when the bench begins.
#include "bench/store/isolation.h"

#include <sys/resource.h>
#include <sys/stat.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/status.h"
#include "bench/bench_common.h"
#include "bench/transfer/transfer.h"
#include "store/engine/engine.h"
#include "store/node/node.h"

namespace kvlink::bench::isolation {
namespace {

constexpr absl::Duration kPatience = absl::Seconds(60);

void WriteAccessFile(const std::string& path) {
  std::ofstream(path) << "tenant " << kTenantKey << " read " << kSmall.ns << "," << kResident.ns << "," << kOnDisk.ns
                      << "\nhostile " << kHostileKey << " write " << kLarge.ns << "," << kPushed << "\noperator "
                      << kOperatorKey << " admin *\n";
  if (chmod(path.c_str(), 0600) != 0) Die("the access file cannot be written");
}

}  // namespace

absl::Time Soon() { return SteadyNow() + kPatience; }

void BeNice() {
  if (setpriority(PRIO_PROCESS, 0, kNice) != 0) Die("setpriority");
}

Slabs::Slabs(std::byte* data) {
  FillRing(data, kEncodingBytes);
  manifest = Manifest::Uniform(kShape, kLayers, kShape.head_dim);
  for (int64_t layer = 0; layer < kLayers; ++layer) {
    spans.push_back(absl::MakeConstSpan(data + layer * kShape.slab_bytes(), kShape.slab_bytes()));
    MustBe(manifest.ChecksumLayer(layer, spans.back()));
  }
}

Manifest Named(Manifest manifest, uint64_t number) {
  std::memcpy(manifest.identity.bytes.data(), &number, sizeof(number));
  manifest.Seal();
  return manifest;
}

void Serve(const std::string& directory, absl::Span<const Set> sets) {
  store::node::NodeOptions options;
  options.directory = directory + "/store";
  options.engine.dram_bytes = kDramBytes;
  options.engine.capacity_bytes = int64_t{4} << 30;
  options.engine.share_memory = true;
  options.data_address = "127.0.0.1:0";
  options.local_socket = directory + "/socket";
  options.access_file = directory + "/access";
  options.log = [](absl::string_view) {};
  if (mkdir(directory.c_str(), 0700) != 0) Die(absl::StrCat("cannot make ", directory));
  WriteAccessFile(options.access_file);
  {
    const Memory memory(kEncodingBytes);
    const Slabs slabs(memory.as<std::byte>());
    const auto engine = Must(engine::Engine::Open(options.directory, options.engine));
    MustBe(engine->PutNamespace(std::string(kPushed), {.capacity_bytes = 60 * kEncodingBytes}).status());
    for (const Set& set : sets) {
      for (int i = set.first; i < set.first + set.count; ++i) {
        MustBe(engine->Put(std::string(set.ns), Named(slabs.manifest, i), slabs.spans, Soon()).status());
      }
    }
  }
  const auto node = Must(store::node::Node::Start(std::move(options)));
  ServeForever(node->addresses().control);
}

std::unique_ptr<store::client::RemoteStore> Connect(const std::string& address, absl::string_view key,
                                                    store::client::Carrier carrier) {
  store::client::RemoteOptions options;
  options.address = address;
  options.key = std::string(key);
  options.carrier = carrier;
  options.name = "bench";
  return Must(store::client::OpenRemote(options));
}

absl::StatusOr<store::Tier> Reader::Read() {
  const Manifest wanted = Named(manifest_, set_.first + next_++ % set_.count);
  KVLINK_ASSIGN_OR_RETURN(const auto found, store_->Lookup(set_.ns, {wanted.identity}, wanted.codec));
  if (!found[0].present) return absl::NotFoundError(absl::StrCat("an encoding of '", set_.ns, "' was evicted"));
  KVLINK_ASSIGN_OR_RETURN(const auto lease, store_->Read(set_.ns, wanted.identity, wanted.codec, wanted.etag, Soon()));
  for (int64_t layer = 0; layer < kLayers; ++layer) KVLINK_RETURN_IF_ERROR(lease->WaitLayer(layer, Soon()));
  return lease->source();
}

void Reader::ReadFrom(store::Tier tier, int reads, std::vector<double>* seconds) {
  for (int done = 0, tried = 0; done < reads; ++tried) {
    if (tried > 20 * reads) Die(absl::StrCat("pulls of '", set_.ns, "' come from another tier"));
    const double start = Now();
    const store::Tier from = Must(Read());
    if (from != tier) continue;
    seconds->push_back(Now() - start);
    ++done;
  }
}

}  // namespace kvlink::bench::isolation
