// The link profiles built into the binary, as JSON text (docs/formats.md "Link profile").
// Thread-safety: constants.
#ifndef KVLINK_WORKER_LINK_SHIPPED_PROFILES_H_
#define KVLINK_WORKER_LINK_SHIPPED_PROFILES_H_

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace kvlink::link {

struct ShippedProfile {
  absl::string_view name;
  absl::string_view json;
};
absl::Span<const ShippedProfile> ShippedProfiles();

}  // namespace kvlink::link

#endif  // KVLINK_WORKER_LINK_SHIPPED_PROFILES_H_
