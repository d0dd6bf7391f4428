// Shared by tests of the DRAM tier.
#ifndef KVLINK_TESTS_STORE_TIER_H_
#define KVLINK_TESTS_STORE_TIER_H_

#include <cstdint>
#include <initializer_list>
#include <memory>

#include "absl/types/span.h"
#include "proto/manifest.h"

namespace kvlink::testing {

// All the tier needs to know about an encoding: consecutive layers of these lengths.
inline std::shared_ptr<const Manifest> ManifestOf(absl::Span<const int64_t> lengths) {
  auto manifest = std::make_shared<Manifest>();
  int64_t end = 0;
  for (const int64_t length : lengths) {
    LayerManifest layer;
    layer.offset = end;
    layer.length = length;
    if (length > 0) layer.components.emplace_back();  // so that it counts
    manifest->layers.push_back(layer);
    end += length;
  }
  return manifest;
}
inline std::shared_ptr<const Manifest> ManifestOf(std::initializer_list<int64_t> lengths) {
  return ManifestOf(absl::MakeConstSpan(lengths.begin(), lengths.size()));
}

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_STORE_TIER_H_
