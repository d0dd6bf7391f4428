#include "proto/manifest.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/little_endian.h"
#include "base/status.h"
#include "proto/wire.h"

namespace kvlink {
namespace {

using internal::BadManifest;

constexpr size_t kMaxBuild = 256;  // bytes of the name, which no budget counts
constexpr absl::string_view kEtagMagic = "KVLINKET";
constexpr uint32_t kEtagVersion = 2;

// Checks for the only layer layout this build knows: one K and one V component over the same range.
absl::Status ValidateComponents(const Manifest& manifest, int64_t layer) {
  const LayerManifest& record = manifest.layers[layer];
  const std::string where = absl::StrCat("layer ", layer, ": ");
  for (const Component& component : record.components) {
    switch (component.kind) {
      case ComponentKind::kKey:
      case ComponentKind::kValue:
        continue;
      case ComponentKind::kLatent:
      case ComponentKind::kRopeKey:
        break;
    }
    return absl::UnimplementedError(absl::StrCat("manifest: ", where, "component kind ",
                                                 static_cast<int>(component.kind),
                                                 " is not known to this build; use a newer one"));
  }
  if (record.components.size() != 2 || record.components[0].kind != ComponentKind::kKey ||
      record.components[1].kind != ComponentKind::kValue) {
    return BadManifest(absl::StrCat(where, "needs one key and one value component"));
  }
  const Component& key = record.components[0];
  const Component& value = record.components[1];
  const SlabShape shape = manifest.shape(layer);
  KVLINK_RETURN_IF_ERROR(Annotate(shape.Validate(), absl::StrCat("manifest: layer ", layer)));
  if (value.heads != key.heads || value.dim != key.dim)
    return BadManifest(absl::StrCat(where, "keys and values differ in shape"));
  if (key.rotary_dim < 0 || key.rotary_dim > key.dim || key.rotary_dim % 2 != 0 || value.rotary_dim != 0) {
    return BadManifest(absl::StrCat(where, "rotary dimension ", key.rotary_dim, " of ", key.dim));
  }
  if (key.rotation != (shape.keys_rotated() ? Rotation::kLocal : Rotation::kNone) ||
      value.rotation != Rotation::kNone) {
    return BadManifest(absl::StrCat(where, "rotation does not match codec ", CodecName(manifest.codec)));
  }
  if (record.length != shape.slab_bytes()) {
    return BadManifest(absl::StrCat(where, "length ", record.length, " where the shape needs ", shape.slab_bytes()));
  }
  for (const Component* component : {&key, &value}) {
    if (component->offset != record.offset || component->length != shape.used_bytes()) {
      return BadManifest(absl::StrCat(where, "a component's range does not match the layer"));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckSlab(const Manifest& manifest, int64_t layer, absl::Span<const std::byte> slab) {
  if (layer < 0 || layer >= static_cast<int64_t>(manifest.layers.size())) {
    return BadManifest(absl::StrCat("no layer ", layer, " among ", manifest.layers.size()));
  }
  if (static_cast<int64_t>(slab.size()) != manifest.layers[layer].length) {
    return BadManifest(absl::StrCat("slab of layer ", layer, " has ", slab.size(), " bytes, the manifest says ",
                                    manifest.layers[layer].length));
  }
  return absl::OkStatus();
}

uint64_t UnitChecksum(const SlabShape& shape, int64_t head, int64_t unit, absl::Span<const std::byte> slab) {
  return Checksum64(slab.subspan(shape.unit_offset(head, unit), shape.unit_bytes(unit)));
}

void AppendNumber(int64_t number, std::string* out) { AppendField(static_cast<uint64_t>(number), out); }

template <int kBytes>
void AppendDigest(const Digest<kBytes>& digest, std::string* out) {
  out->append(reinterpret_cast<const char*>(digest.bytes.data()), digest.bytes.size());
}

// docs/formats.md "Etag". The fields are a few thousand bytes at most; the checksums that follow are hashed in place.
Etag EtagOf(const Manifest& manifest) {
  std::string fields(kEtagMagic.data(), kEtagMagic.size());
  AppendField<uint32_t>(kEtagVersion, &fields);
  AppendDigest(manifest.identity, &fields);
  AppendDigest(manifest.model, &fields);
  AppendField<uint32_t>(static_cast<uint32_t>(manifest.codec), &fields);
  AppendNumber(manifest.tokens, &fields);
  AppendField<uint32_t>(static_cast<uint32_t>(manifest.layers.size()), &fields);
  for (const LayerManifest& layer : manifest.layers) {
    AppendNumber(layer.offset, &fields);
    AppendNumber(layer.length, &fields);
    AppendField<uint32_t>(static_cast<uint32_t>(layer.components.size()), &fields);
    for (const Component& component : layer.components) {
      AppendField<uint32_t>(static_cast<uint32_t>(component.kind), &fields);
      AppendNumber(component.heads, &fields);
      AppendNumber(component.dim, &fields);
      AppendNumber(component.rotary_dim, &fields);
      AppendField<uint32_t>(static_cast<uint32_t>(component.rotation), &fields);
      AppendNumber(component.offset, &fields);
      AppendNumber(component.length, &fields);
    }
  }
  AppendField<uint64_t>(manifest.unit_checksums.size(), &fields);
  return ComputeEtag(fields, manifest.unit_checksums);
}

int64_t LayerUnits(const Manifest& manifest, int64_t layer) {
  if (manifest.layers[layer].components.empty()) return 0;
  const SlabShape shape = manifest.shape(layer);
  return shape.kv_heads * shape.units_per_head();
}

}  // namespace

Manifest Manifest::Uniform(const SlabShape& shape, int64_t layers, int64_t rotary_dim) {
  Manifest manifest;
  manifest.codec = shape.codec;
  manifest.tokens = shape.tokens;
  manifest.layers.resize(layers);
  for (int64_t layer = 0; layer < layers; ++layer) {
    LayerManifest& record = manifest.layers[layer];
    record.offset = layer * shape.slab_bytes();
    record.length = shape.slab_bytes();
    Component component{.heads = shape.kv_heads,
                        .dim = shape.head_dim,
                        .rotary_dim = rotary_dim,
                        .rotation = shape.keys_rotated() ? Rotation::kLocal : Rotation::kNone,
                        .offset = record.offset,
                        .length = shape.used_bytes()};
    record.components.push_back(component);
    component.kind = ComponentKind::kValue;
    component.rotary_dim = 0;
    component.rotation = Rotation::kNone;
    record.components.push_back(component);
  }
  return manifest;
}

int64_t Manifest::bytes() const { return layers.empty() ? 0 : layers.back().offset + layers.back().length; }

SlabShape Manifest::shape(int64_t layer) const {
  const Component& component = layers[layer].components.front();
  return SlabShape{.codec = codec, .kv_heads = component.heads, .head_dim = component.dim, .tokens = tokens};
}

int64_t Manifest::unit_index(int64_t layer, int64_t head, int64_t unit) const {
  int64_t index = 0;
  for (int64_t l = 0; l < layer; ++l) index += LayerUnits(*this, l);
  return index + head * shape(layer).units_per_head() + unit;
}

absl::Status Manifest::ChecksumLayer(int64_t layer, absl::Span<const std::byte> slab) {
  KVLINK_RETURN_IF_ERROR(CheckSlab(*this, layer, slab));
  if (layers[layer].components.empty()) return absl::OkStatus();
  const SlabShape layer_shape = shape(layer);
  size_t index = static_cast<size_t>(unit_index(layer, 0, 0));
  const size_t end = index + LayerUnits(*this, layer);
  if (unit_checksums.size() < end) unit_checksums.resize(end);
  for (int64_t head = 0; head < layer_shape.kv_heads; ++head) {
    for (int64_t unit = 0; unit < layer_shape.units_per_head(); ++unit) {
      unit_checksums[index++] = UnitChecksum(layer_shape, head, unit, slab);
    }
  }
  return absl::OkStatus();
}

absl::Status Manifest::VerifyLayer(int64_t layer, absl::Span<const std::byte> slab) const {
  KVLINK_RETURN_IF_ERROR(CheckSlab(*this, layer, slab));
  if (layers[layer].components.empty()) return absl::OkStatus();
  const SlabShape layer_shape = shape(layer);
  size_t index = static_cast<size_t>(unit_index(layer, 0, 0));
  if (unit_checksums.size() < index + LayerUnits(*this, layer)) return BadManifest("checksums are missing");
  for (int64_t head = 0; head < layer_shape.kv_heads; ++head) {
    for (int64_t unit = 0; unit < layer_shape.units_per_head(); ++unit) {
      if (unit_checksums[index++] == UnitChecksum(layer_shape, head, unit, slab)) continue;
      return absl::DataLossError(absl::StrCat("encoding ", identity.Hex(), ": layer ", layer, ", head ", head,
                                              ", unit ", unit, " does not match its checksum"));
    }
  }
  return absl::OkStatus();
}

void Manifest::Seal() { etag = EtagOf(*this); }

absl::Status Manifest::Validate() const {
  if (layers.empty() || static_cast<int64_t>(layers.size()) > kMaxLayers) {
    return BadManifest(absl::StrCat(layers.size(), " layers, not 1 to ", kMaxLayers));
  }
  if (build.size() > kMaxBuild) return BadManifest(absl::StrCat("the name of a build has ", build.size(), " bytes"));
  if (CodecName(codec) == "unknown") return BadManifest(absl::StrCat("codec number ", static_cast<int>(codec)));
  int64_t end = 0;
  int64_t units = 0;
  for (size_t l = 0; l < layers.size(); ++l) {
    const LayerManifest& record = layers[l];
    if (record.offset != end) {
      return BadManifest(
          absl::StrCat("layer ", l, " at offset ", record.offset, " where the one before ends at ", end));
    }
    if (record.components.empty()) {
      if (record.length != 0) return BadManifest(absl::StrCat("layer ", l, " has bytes and no components"));
      continue;
    }
    KVLINK_RETURN_IF_ERROR(ValidateComponents(*this, l));
    if (record.length > kMaxEncodingBytes - end)
      return BadManifest(absl::StrCat("layer ", l, " ends beyond ", kMaxEncodingBytes, " bytes"));
    end += record.length;
    units += LayerUnits(*this, l);
  }
  if (units == 0) return BadManifest("no layer has keys and values");
  if (static_cast<int64_t>(unit_checksums.size()) != units) {
    return BadManifest(absl::StrCat(unit_checksums.size(), " unit checksums where the layers have ", units, " units"));
  }
  if (etag != EtagOf(*this)) return BadManifest("the etag does not match the content");
  return absl::OkStatus();
}

}  // namespace kvlink
