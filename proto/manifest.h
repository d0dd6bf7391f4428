// The manifest of an encoding: what its bytes are, where each layer lies, and the checksum of each unit. Written last;
// an encoding without a manifest does not exist. Wire format: docs/formats.md "Manifest" (an envelope around
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
  // The range of the encoding's bytes that holds it. Keys and values interleave block by block, so they share one
  // range.
  int64_t offset = 0;
  int64_t length = 0;
};

struct LayerManifest {
  std::vector<Component> components;  // empty: a layer without keys and values
  int64_t offset = 0;                 // of the slab within the encoding: the end of the previous layer
  int64_t length = 0;                 // including padding
};

inline constexpr int64_t kMaxLayers = 1024;
// Far beyond any real encoding, so that sums cannot overflow.
inline constexpr int64_t kMaxEncodingBytes = int64_t{1} << 50;
// Maximum size of a serialised manifest, including its envelope.
inline constexpr int64_t kMaxManifestBytes = int64_t{64} << 20;

struct Manifest {
  Identity identity;
  Fingerprint model;
  Codec codec = Codec::kRawBf16;
  Etag etag;
  int64_t tokens = 0;
  std::vector<LayerManifest> layers;
  std::vector<uint64_t> unit_checksums;  // ordered by (layer, head, unit)
  std::string build;                     // the build that wrote it; informative

  // Returns a manifest for `layers` equal layers of `shape`, without checksums or etag.
  static Manifest Uniform(const SlabShape& shape, int64_t layers, int64_t rotary_dim);

  int64_t bytes() const;  // of all slabs, including padding
  // The shape of a layer's slab. REQUIRES: the layer has components.
  SlabShape shape(int64_t layer) const;
  // The index into unit_checksums of (layer, head, unit).
  int64_t unit_index(int64_t layer, int64_t head, int64_t unit) const;

  // ChecksumLayer computes the checksums of one layer's units from its slab; VerifyLayer compares them and returns
  // DATA_LOSS, naming layer, head and unit, if one differs. INVALID_ARGUMENT: the slab's size is not the layer's
  // length.
  absl::Status ChecksumLayer(int64_t layer, absl::Span<const std::byte> slab);
  absl::Status VerifyLayer(int64_t layer, absl::Span<const std::byte> slab) const;
  // Sets etag to the hash of everything except `build` (docs/formats.md "Etag"). Writers call this last: any later
  // change requires another etag.
  void Seal();

  // Checks shapes, offsets (each slab starts where the previous one ends), lengths, the number of checksums, and that
  // the etag is the one Seal would set.
  absl::Status Validate() const;
};

// The envelope and the message in it. Parse returns INVALID_ARGUMENT for anything damaged (the envelope carries a
// checksum), truncated, inconsistent or larger than kMaxManifestBytes, and UNIMPLEMENTED, naming the version, for
// another major version or an unknown component kind. It allocates no more than the bytes themselves take, plus 1024
// layers.
std::string SerializeManifest(const Manifest& manifest);
absl::StatusOr<Manifest> ParseManifest(absl::string_view bytes);

}  // namespace kvlink

#endif  // KVLINK_PROTO_MANIFEST_H_
