// Bytes of a manifest (docs/formats.md "Manifest").
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "proto/envelope.h"
#include "proto/kv.pb.h"
#include "proto/manifest.h"
#include "proto/wire.h"

namespace kvlink {
namespace {

// "KVLM"
constexpr EnvelopeKind kManifestKind{0x4D4C564B, 1, 0, "manifest"};
constexpr int64_t kMaxBytes = int64_t{64} << 20;
constexpr int64_t kMaxLayers = 1024;
constexpr int64_t kMaxLayerBytes = 1024;

// The type of a component's elements, for readers that do not know the codec's number.
enum class StoredDtype : uint32_t { kBf16 = 1, kF32 = 2, kInt8 = 3, kNibbles = 4 };
enum class StoredScales : uint32_t { kNone = 1, kByToken = 2, kByChannel = 3 };

StoredDtype DtypeOf(Codec codec) {
  switch (codec) {
    case Codec::kRawBf16:
      return StoredDtype::kBf16;
    case Codec::kRawF32:
      return StoredDtype::kF32;
    case Codec::kQ8:
      return StoredDtype::kInt8;
    case Codec::kQ4:
      return StoredDtype::kNibbles;
  }
  return StoredDtype::kBf16;
}

StoredScales ScalesOf(Codec codec, ComponentKind kind) {
  switch (codec) {
    case Codec::kQ8:
      return StoredScales::kByToken;
    case Codec::kQ4:
      return kind == ComponentKind::kKey ? StoredScales::kByChannel : StoredScales::kByToken;
    default:
      return StoredScales::kNone;
  }
}

absl::Status Bad(absl::string_view what) { return absl::InvalidArgumentError(absl::StrCat("manifest: ", what)); }

template <int kBytes>
bool CopyDigest(const std::string& from, Digest<kBytes>& to) {
  if (from.size() != kBytes) return false;
  std::memcpy(to.bytes.data(), from.data(), kBytes);
  return true;
}

// A manifest of a writer that transforms bytes in ways this build does not know.
absl::Status RefuseReserved(const proto::Manifest& message) {
  if (message.cipher() != 0 || !message.data_key_id().empty() || !message.mac().empty()) {
    return absl::UnimplementedError(absl::StrCat("manifest: the encoding is encrypted (cipher ", message.cipher(),
                                                 "); this build cannot read it; use a newer one"));
  }
  if (message.stored_unit_lengths_size() != 0 || message.plain_unit_lengths_size() != 0) {
    return absl::UnimplementedError(
        "manifest: the encoding has units of their own lengths; this build cannot read it; use a newer one");
  }
  return absl::OkStatus();
}

absl::StatusOr<LayerManifest> ReadLayer(const proto::Layer& message, Codec codec, int64_t layer) {
  LayerManifest out;
  out.offset = message.offset();
  out.length = message.length();
  for (const proto::Component& from : message.components()) {
    if (from.kind() < 1 || from.kind() > 4) {
      return absl::UnimplementedError(absl::StrCat("manifest: layer ", layer, ": component kind ", from.kind(),
                                                   " is not known to this build; use a newer one"));
    }
    Component to;
    to.kind = static_cast<ComponentKind>(from.kind());
    to.heads = from.heads();
    to.dim = from.dim();
    to.rotary_dim = from.rotary_dim();
    if (from.rotation() < 1 || from.rotation() > 2) return Bad(absl::StrCat("layer ", layer, ": unknown rotation"));
    to.rotation = static_cast<Rotation>(from.rotation());
    to.offset = from.offset();
    to.length = from.length();
    const bool known = to.kind == ComponentKind::kKey || to.kind == ComponentKind::kValue;
    if (known && (from.dtype() != static_cast<uint32_t>(DtypeOf(codec)) ||
                  from.scales() != static_cast<uint32_t>(ScalesOf(codec, to.kind)))) {
      return Bad(absl::StrCat("layer ", layer, ": dtype or scales are not those of codec ", CodecName(codec)));
    }
    out.components.push_back(to);
  }
  return out;
}

}  // namespace

std::string SerializeManifest(const Manifest& manifest) {
  proto::Manifest message;
  message.set_identity(manifest.identity.bytes.data(), manifest.identity.bytes.size());
  message.set_model(manifest.model.bytes.data(), manifest.model.bytes.size());
  message.set_codec(static_cast<uint32_t>(manifest.codec));
  message.set_etag(manifest.etag.bytes.data(), manifest.etag.bytes.size());
  message.set_tokens(manifest.tokens);
  for (const LayerManifest& layer : manifest.layers) {
    proto::Layer* out = message.add_layers();
    out->set_offset(layer.offset);
    out->set_length(layer.length);
    for (const Component& component : layer.components) {
      proto::Component* to = out->add_components();
      to->set_kind(static_cast<uint32_t>(component.kind));
      to->set_heads(component.heads);
      to->set_dim(component.dim);
      to->set_rotary_dim(component.rotary_dim);
      to->set_dtype(static_cast<uint32_t>(DtypeOf(manifest.codec)));
      to->set_rotation(static_cast<uint32_t>(component.rotation));
      to->set_scales(static_cast<uint32_t>(ScalesOf(manifest.codec, component.kind)));
      to->set_offset(component.offset);
      to->set_length(component.length);
    }
  }
  message.mutable_unit_checksums()->Add(manifest.unit_checksums.begin(), manifest.unit_checksums.end());
  message.set_build(manifest.build);
  return WrapEnvelope(kManifestKind, message.SerializeAsString());
}

absl::StatusOr<Manifest> ParseManifest(absl::string_view bytes) {
  KVLINK_ASSIGN_OR_RETURN(const absl::string_view payload, OpenEnvelope(kManifestKind, bytes));
  if (static_cast<int64_t>(payload.size()) > kMaxBytes) return Bad("too large");
  KVLINK_RETURN_IF_ERROR(internal::CheckFieldBound("manifest", payload, {6, kMaxLayers, kMaxLayerBytes}));
  proto::Manifest message;
  if (!message.ParseFromArray(payload.data(), static_cast<int>(payload.size()))) return Bad("malformed");
  KVLINK_RETURN_IF_ERROR(RefuseReserved(message));

  Manifest manifest;
  if (!CopyDigest(message.identity(), manifest.identity) || !CopyDigest(message.model(), manifest.model) ||
      !CopyDigest(message.etag(), manifest.etag)) {
    return Bad("the identity, model or etag has another length");
  }
  if (message.codec() > 255 || CodecName(static_cast<Codec>(message.codec())) == "unknown") {
    return absl::UnimplementedError(
        absl::StrCat("manifest: codec number ", message.codec(), " is not known to this build; use a newer one"));
  }
  manifest.codec = static_cast<Codec>(message.codec());
  manifest.tokens = message.tokens();
  manifest.layers.reserve(message.layers_size());
  for (const proto::Layer& layer : message.layers()) {
    KVLINK_ASSIGN_OR_RETURN(LayerManifest read, ReadLayer(layer, manifest.codec, manifest.layers.size()));
    manifest.layers.push_back(std::move(read));
  }
  manifest.unit_checksums.assign(message.unit_checksums().begin(), message.unit_checksums().end());
  manifest.build = message.build();
  KVLINK_RETURN_IF_ERROR(manifest.Validate());
  return manifest;
}

}  // namespace kvlink
