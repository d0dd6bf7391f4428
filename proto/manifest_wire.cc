// Bytes of a manifest (docs/formats.md "Manifest").
//
// Consecutive identical layers are one record with a count. Slab positions are not written, since each slab begins
// where the previous one ends.
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "proto/envelope.h"
#include "proto/kv.pb.h"
#include "proto/manifest.h"
#include "proto/wire.h"

namespace kvlink {
namespace {

using internal::BadManifest;
using internal::CopyDigest;

// "KVLM"
constexpr EnvelopeKind kManifestKind{0x4D4C564B, 2, 0, "manifest", /*oldest=*/2};
constexpr int kLayersField = 9;
constexpr int64_t kMaxRunBytes = 1024;
constexpr int kMaxComponents = 16;  // per layer: a count must not create many from few bytes

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

// Refuses a manifest whose writer transformed the bytes in a way this build does not know.
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

// Reads one layer of a run, at offset 0. `layer`: its number, for messages.
absl::StatusOr<LayerManifest> ReadLayer(const proto::LayerRun& message, Codec codec, size_t layer) {
  LayerManifest out;
  out.length = message.length();
  if (out.length < 0 || out.length > kMaxEncodingBytes)
    return BadManifest(absl::StrCat("layer ", layer, ": length ", out.length));
  if (message.components_size() > kMaxComponents) {
    return BadManifest(absl::StrCat("layer ", layer, ": ", message.components_size(), " components"));
  }
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
    if (from.rotation() < 1 || from.rotation() > 2)
      return BadManifest(absl::StrCat("layer ", layer, ": unknown rotation"));
    to.rotation = static_cast<Rotation>(from.rotation());
    to.offset = from.offset();
    to.length = from.length();
    if (to.offset < 0 || to.length < 0 || to.offset > out.length || to.length > out.length - to.offset) {
      return BadManifest(absl::StrCat("layer ", layer, ": a component ends beyond the slab"));
    }
    const bool known = to.kind == ComponentKind::kKey || to.kind == ComponentKind::kValue;
    if (known && (from.dtype() != static_cast<uint32_t>(DtypeOf(codec)) ||
                  from.scales() != static_cast<uint32_t>(ScalesOf(codec, to.kind)))) {
      return BadManifest(absl::StrCat("layer ", layer, ": dtype or scales do not match codec ", CodecName(codec)));
    }
    out.components.push_back(to);
  }
  return out;
}

// Moves a layer and its components.
void MoveTo(int64_t offset, LayerManifest* layer) {
  for (Component& component : layer->components) component.offset += offset - layer->offset;
  layer->offset = offset;
}

absl::Status ReadLayers(const proto::Manifest& message, Manifest* manifest) {
  int64_t layers = 0;
  for (const proto::LayerRun& run : message.layers()) {
    if (run.count() < 1 || run.count() > kMaxLayers - layers) {
      return BadManifest(
          absl::StrCat("a run of ", run.count(), " layers behind ", layers, "; there are at most ", kMaxLayers));
    }
    layers += run.count();
  }
  manifest->layers.reserve(layers);
  int64_t end = 0;
  for (const proto::LayerRun& run : message.layers()) {
    KVLINK_ASSIGN_OR_RETURN(LayerManifest layer, ReadLayer(run, manifest->codec, manifest->layers.size()));
    for (uint32_t i = 0; i < run.count(); ++i) {
      if (layer.length > kMaxEncodingBytes - end)
        return BadManifest(absl::StrCat("its slabs are more than ", kMaxEncodingBytes, " bytes"));
      MoveTo(end, &layer);
      end += layer.length;
      manifest->layers.push_back(layer);
    }
  }
  return absl::OkStatus();
}

// Whether two layers are equal except for their position.
bool Alike(const LayerManifest& a, const LayerManifest& b) {
  if (a.length != b.length || a.components.size() != b.components.size()) return false;
  for (size_t i = 0; i < a.components.size(); ++i) {
    const Component &left = a.components[i], &right = b.components[i];
    if (left.kind != right.kind || left.heads != right.heads || left.dim != right.dim ||
        left.rotary_dim != right.rotary_dim || left.rotation != right.rotation ||
        left.offset - a.offset != right.offset - b.offset || left.length != right.length) {
      return false;
    }
  }
  return true;
}

void WriteLayer(const LayerManifest& layer, Codec codec, proto::LayerRun* run) {
  run->set_length(layer.length);
  for (const Component& component : layer.components) {
    proto::Component* const to = run->add_components();
    to->set_kind(static_cast<uint32_t>(component.kind));
    to->set_heads(component.heads);
    to->set_dim(component.dim);
    to->set_rotary_dim(component.rotary_dim);
    to->set_dtype(static_cast<uint32_t>(DtypeOf(codec)));
    to->set_rotation(static_cast<uint32_t>(component.rotation));
    to->set_scales(static_cast<uint32_t>(ScalesOf(codec, component.kind)));
    to->set_offset(component.offset - layer.offset);
    to->set_length(component.length);
  }
}

}  // namespace

std::string SerializeManifest(const Manifest& manifest) {
  proto::Manifest message;
  message.set_identity(manifest.identity.bytes.data(), manifest.identity.bytes.size());
  message.set_model(manifest.model.bytes.data(), manifest.model.bytes.size());
  message.set_codec(static_cast<uint32_t>(manifest.codec));
  message.set_etag(manifest.etag.bytes.data(), manifest.etag.bytes.size());
  message.set_tokens(manifest.tokens);
  const LayerManifest* of_run = nullptr;
  for (const LayerManifest& layer : manifest.layers) {
    if (of_run == nullptr || !Alike(*of_run, layer)) {
      of_run = &layer;
      WriteLayer(layer, manifest.codec, message.add_layers());
    }
    proto::LayerRun* const run = message.mutable_layers(message.layers_size() - 1);
    run->set_count(run->count() + 1);
  }
  message.mutable_unit_checksums()->Add(manifest.unit_checksums.begin(), manifest.unit_checksums.end());
  message.set_build(manifest.build);
  return WrapEnvelope(kManifestKind, message.SerializeAsString());
}

absl::StatusOr<Manifest> ParseManifest(absl::string_view bytes) {
  if (static_cast<int64_t>(bytes.size()) > kMaxManifestBytes) return BadManifest("too large");
  KVLINK_ASSIGN_OR_RETURN(const absl::string_view payload, OpenEnvelope(kManifestKind, bytes));
  KVLINK_RETURN_IF_ERROR(internal::CheckFieldBound("manifest", payload, {kLayersField, kMaxLayers, kMaxRunBytes}));
  proto::Manifest message;
  if (!message.ParseFromArray(payload.data(), static_cast<int>(payload.size()))) return BadManifest("malformed");
  KVLINK_RETURN_IF_ERROR(RefuseReserved(message));

  Manifest manifest;
  if (!CopyDigest(message.identity(), manifest.identity) || !CopyDigest(message.model(), manifest.model) ||
      !CopyDigest(message.etag(), manifest.etag)) {
    return BadManifest("the identity, model or etag has the wrong length");
  }
  if (message.codec() > 255 || CodecName(static_cast<Codec>(message.codec())) == "unknown") {
    return absl::UnimplementedError(
        absl::StrCat("manifest: codec number ", message.codec(), " is not known to this build; use a newer one"));
  }
  manifest.codec = static_cast<Codec>(message.codec());
  manifest.tokens = message.tokens();
  KVLINK_RETURN_IF_ERROR(ReadLayers(message, &manifest));
  manifest.unit_checksums.assign(message.unit_checksums().begin(), message.unit_checksums().end());
  manifest.build = message.build();
  KVLINK_RETURN_IF_ERROR(manifest.Validate());
  return manifest;
}

}  // namespace kvlink
