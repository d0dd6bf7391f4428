// The manifest of an encoding: what its bytes are, where each layer lies and how each unit is checked. Written last; an
// encoding without one does not exist. Wire format: docs/formats.md "Manifest" (an envelope around
// kvlink.proto.Manifest, proto/kv.proto). Thread-safety: a plain value.
#ifndef KVLINK_PROTO_MANIFEST_H_
#define KVLINK_PROTO_MANIFEST_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "base/slab.h"
#include "proto/digest.h"

namespace kvlink {

enum class ComponentKind : uint8_t { kKey = 1, kValue = 2, kLatent = 3, kRopeKey = 4 };
enum class Rotation : uint8_t { kNone = 1, kLocal = 2 };

struct Component {
  ComponentKind kind = ComponentKind::kKey;
  int64_t heads = 0;
  int64_t dim = 0;
  int64_t rotary_dim = 0;
  Rotation rotation = Rotation::kLocal;
  // Range of the encoding's bytes that holds it. Keys and values interleave block by block, so they share one range.
  int64_t offset = 0;
  int64_t length = 0;
};

struct LayerManifest {
  std::vector<Component> components;  // empty: a layer without KV
  int64_t offset = 0;                 // of the slab within the encoding: where the layer before ends
  int64_t length = 0;                 // with padding
};

// Most bytes of a serialised manifest, its envelope included.
inline constexpr int64_t kMaxManifestBytes = int64_t{64} << 20;

struct Manifest {
  Identity identity;
  Fingerprint model;
  Codec codec = Codec::kRawBf16;
  Etag etag;
  int64_t tokens = 0;
  std::vector<LayerManifest> layers;
  std::vector<uint64_t> unit_checksums;  // in the order (layer, head, unit)
  std::string build;                     // which build wrote it; informative

  // A manifest for `layers` equal layers of `shape`, without checksums and etag.
  static Manifest Uniform(const SlabShape& shape, int64_t layers, int64_t rotary_dim);

  int64_t bytes() const;  // of all slabs, padding included
  // Shape of layer l's slab. REQUIRES: the layer has components.
  SlabShape shape(int64_t layer) const;
  // Index into unit_checksums of (layer, head, unit).
  int64_t unit_index(int64_t layer, int64_t head, int64_t unit) const;

  // Computes the checksums of one layer's units from its slab, or verifies them. Verify: DATA_LOSS naming layer, head,
  // unit. INVALID_ARGUMENT if the slab's size is not the layer's length.
  absl::Status ChecksumLayer(int64_t layer, absl::Span<const std::byte> slab);
  absl::Status VerifyLayer(int64_t layer, absl::Span<const std::byte> slab) const;
  // Sets etag: the hash of everything else but `build` (docs/formats.md "Etag"). The last thing a writer does to a
  // manifest; what is changed afterwards needs another etag.
  void Seal();

  // Shapes, offsets (each slab where the one before ends), lengths, number of checksums, etag == what Seal would set.
  absl::Status Validate() const;
};

// Envelope and message. Parse: INVALID_ARGUMENT for anything damaged, truncated or inconsistent (the envelope carries a
// checksum), or larger than kMaxManifestBytes; UNIMPLEMENTED naming the version for another major version, or for a
// component kind we do not know. Allocates no more than the bytes themselves take, and 1024 layers.
std::string SerializeManifest(const Manifest& manifest);
absl::StatusOr<Manifest> ParseManifest(absl::string_view bytes);

}  // namespace kvlink

#endif  // KVLINK_PROTO_MANIFEST_H_
