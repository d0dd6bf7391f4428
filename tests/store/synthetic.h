// Synthetic encodings and temporary directories for the store's tests.
#ifndef KVLINK_TESTS_STORE_SYNTHETIC_H_
#define KVLINK_TESTS_STORE_SYNTHETIC_H_

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <new>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/clock.h"
#include "proto/catalog.h"
#include "proto/envelope.h"
#include "proto/manifest.h"
#include "store/store.h"
#include "tests/support/scratch_directory.h"

namespace kvlink::testing {

// Memory on a page boundary, which a store writes without a copy, or elsewhere.
template <typename T>
struct SlabAllocator {
  using value_type = T;
  explicit SlabAllocator(bool on_page) : on_page(on_page) {}
  template <typename U>
  SlabAllocator(const SlabAllocator<U>& other) : on_page(other.on_page) {}
  T* allocate(size_t count) {
    return static_cast<T*>(::operator new (count * sizeof(T), std::align_val_t{on_page ? size_t{4096} : size_t{16}}));
  }
  void deallocate(T* data, size_t) { ::operator delete (data, std::align_val_t{on_page ? size_t{4096} : size_t{16}}); }
  template <typename U>
  bool operator==(const SlabAllocator<U>& other) const {
    return on_page == other.on_page;
  }
  bool on_page;
};
using Slab = std::vector<std::byte, SlabAllocator<std::byte>>;

struct Synthetic {
  Manifest manifest;
  std::vector<Slab> slabs;
  std::vector<int32_t> tokens;

  std::vector<absl::Span<const std::byte>> spans() const {
    std::vector<absl::Span<const std::byte>> spans;
    for (const Slab& slab : slabs) spans.push_back(absl::MakeConstSpan(slab));
    return spans;
  }
  int64_t bytes() const { return manifest.bytes(); }
};

// The encoding of "document" number `number`: derived entirely from the arguments, so that a reader can recreate and
// compare it. Slabs of even numbers lie on pages.
inline Synthetic MakeSynthetic(uint64_t number, int64_t layers = 2, int64_t tokens = 40, int64_t kv_heads = 1,
                               int64_t head_dim = 32, Codec codec = Codec::kRawBf16) {
  Synthetic made;
  std::mt19937_64 random(number * 1000003 + 17);
  made.tokens = {static_cast<int32_t>(number), static_cast<int32_t>(tokens), 7};
  const SlabShape shape{codec, kv_heads, head_dim, tokens};
  made.manifest = Manifest::Uniform(shape, layers, head_dim);
  Fingerprint model;
  model.bytes[0] = 9;
  made.manifest.model = model;
  made.manifest.identity = ComputeIdentity({model, "", made.tokens}, "");
  for (int64_t layer = 0; layer < layers; ++layer) {
    Slab slab(made.manifest.layers[layer].length, std::byte{0}, SlabAllocator<std::byte>(number % 2 == 0));
    const int64_t used = shape.used_bytes();
    for (int64_t i = 0; i < used; i += 8) {
      const uint64_t word = random();
      std::memcpy(slab.data() + i, &word, static_cast<size_t>(std::min<int64_t>(8, used - i)));
    }
    made.slabs.push_back(std::move(slab));
    const absl::Status status = made.manifest.ChecksumLayer(layer, made.slabs.back());
    if (!status.ok()) std::abort();
  }
  made.manifest.Seal();
  return made;
}

inline CatalogEntry EntryOf(const std::vector<const Synthetic*>& parts, uint64_t generation, std::string title = "") {
  CatalogEntry entry;
  entry.generation = generation;
  entry.title = std::move(title);
  for (const Synthetic* part : parts) {
    entry.model = part->manifest.model;
    entry.parts.push_back({part->manifest.identity, part->tokens});
  }
  return entry;
}

// An entry as it was put: the store sets the time of writing.
inline std::string ContentOf(CatalogEntry entry) {
  entry.written_at_us = 0;
  return SerializeCatalogEntry(entry);
}

// Overwrites `needle` with `bytes`, of the same length, in the segments of the store at `path`. Returns the number of
// occurrences.
inline int CopyInSegments(const std::string& path, const std::string& bytes, const std::string& needle) {
  int found = 0;
  for (const auto& file : std::filesystem::directory_iterator(path + "/segments")) {
    std::fstream stream(file.path(), std::ios::in | std::ios::out | std::ios::binary);
    std::string all(file.file_size(), '\0');
    if (!stream.read(all.data(), static_cast<std::streamsize>(all.size()))) continue;
    const size_t at = all.find(needle);
    if (at == std::string::npos) continue;
    stream.seekp(static_cast<std::streamoff>(at));
    stream.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    ++found;
  }
  return found;
}

// Likewise flips a bit of these bytes.
inline int FlipInSegments(const std::string& path, const std::string& needle) {
  std::string flipped = needle;
  flipped[5] = static_cast<char>(flipped[5] ^ 1);
  return CopyInSegments(path, flipped, needle);
}

// Flips a bit of an encoding's bytes, or of the manifest before them.
inline int FlipOnDisk(const std::string& path, const Synthetic& encoding) {
  return FlipInSegments(path, std::string(reinterpret_cast<const char*>(encoding.slabs[0].data()), 64));
}
inline int FlipManifestOnDisk(const std::string& path, const Synthetic& encoding) {
  return FlipInSegments(path, SerializeManifest(encoding.manifest).substr(kEnvelopeBytes, 64));
}

// Compares a layer of a lease byte by byte. ABORTED: the bytes may no longer be the encoding's, and the lease says so
// (Lease::intact, called after the bytes were used, as its users do).
inline absl::Status CompareLayer(store::Lease* lease, const Synthetic& expected, size_t layer, absl::Time deadline) {
  const absl::Status arrived = lease->WaitLayer(static_cast<int64_t>(layer), deadline);
  if (!arrived.ok()) return arrived;
  const absl::Span<const std::byte> got = lease->layer(static_cast<int64_t>(layer));
  if (reinterpret_cast<uintptr_t>(got.data()) % 4096 != 0) return absl::InternalError("a slab is not aligned");
  const Slab& slab = expected.slabs[layer];
  const bool equal = got.size() == slab.size() && std::memcmp(got.data(), slab.data(), slab.size()) == 0;
  if (!lease->intact()) return absl::AbortedError("the lease lapsed");
  return equal ? absl::OkStatus() : absl::InternalError(absl::StrCat("WRONG BYTES in layer ", layer));
}

// Reads an encoding through a lease and compares every byte. NOT_FOUND: a miss.
inline absl::Status ReadAndCompare(store::Store* store, absl::string_view ns, const Synthetic& expected,
                                   store::Tier* source = nullptr,
                                   absl::Time deadline = SteadyNow() + absl::Seconds(60)) {
  auto found = store->Lookup(ns, {expected.manifest.identity}, expected.manifest.codec);
  if (!found.ok()) return found.status();
  if (!(*found)[0].present) return absl::NotFoundError("a miss");
  auto lease = store->Read(ns, expected.manifest.identity, expected.manifest.codec, (*found)[0].etag, deadline);
  if (!lease.ok()) return lease.status();
  if (source != nullptr) *source = (*lease)->source();
  for (size_t layer = 0; layer < expected.slabs.size(); ++layer) {
    const absl::Status status = CompareLayer(lease->get(), expected, layer, deadline);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

// Empties the DRAM tier; a node may still hold something briefly after it answered. False: it stays in use.
inline bool EmptyDramTier(store::Store* store) {
  const absl::Time limit = SteadyNow() + absl::Seconds(60);
  while (true) {
    store->DropDramTier();
    const auto stats = store->Stats();
    if (stats.ok() && stats->dram_bytes_used == 0) return true;
    if (SteadyNow() > limit) return false;
    absl::SleepFor(absl::Milliseconds(1));
  }
}

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_STORE_SYNTHETIC_H_
